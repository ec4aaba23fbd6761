/**
 * @file What a loaded model is: the decoded graph, and payloads — tensor bytes that stay in their files until needed.
 */
import type { ModelProto, TensorProto } from './proto.ts'

/**
 * The raw little-endian bytes of one tensor, as `raw_data` or external data would hold them.
 *
 * - `memory`  they are here
 * - `file`    they lie at [offset, offset + byteLength) of the file at `path`
 * - `planned` they are not made (a dry run); only their number is known
 */
export type Payload =
  | { readonly kind: 'memory'; readonly byteLength: number; readonly bytes: Uint8Array }
  | { readonly kind: 'file'; readonly byteLength: number; readonly path: string; readonly offset: number }
  | { readonly kind: 'planned'; readonly byteLength: number }

/** One file that a model consists of. */
export interface ModelFile {
  readonly path: string
  readonly bytes: number
}

/**
 * A model as read from disk.
 *
 * Every tensor whose bytes are large (inline above {@link INLINE_LIMIT} or external) has an entry in `payloads` and
 * an empty `rawData` in `proto`; its external-data fields are cleared. Small tensors keep their data in `proto`.
 */
export interface OnnxModel {
  /** Path of the .onnx file as the user gave it. */
  readonly path: string
  readonly proto: ModelProto
  readonly payloads: Map<TensorProto, Payload>
  /** The .onnx file first, then external data files in order of first reference. */
  readonly files: readonly ModelFile[]
  /** The whole .onnx file in shared memory, where it was read at once; `memory` payloads are views into it. */
  readonly content?: Uint8Array
  /** What data file names are relative to, where that is not the directory of `path` (which then is a link). */
  readonly dataDirectory?: string
}

/** Inline tensors up to this many bytes are kept in the decoded message. */
export const INLINE_LIMIT = 1024

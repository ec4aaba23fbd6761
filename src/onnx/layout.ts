/**
 * @file What a saved model will consist of, to the byte, before any payload exists: which tensors go into the data
 * file and where, and which bytes and payloads make up the .onnx file.
 *
 * Source of the entries: onnx/onnx.proto (location, offset, length). Offsets are multiples of 4096 so that onnxruntime
 * can map the file; the file's name follows transformers.js (model.onnx_data).
 */
import path from 'node:path'
import { QtoolError } from '../errors.ts'
import { markerValue, type Piece, splice } from './excise.ts'
import { INLINE_LIMIT, type ModelFile, type OnnxModel, type Payload } from './model.ts'
import { DataLocation, encodeModel, type ModelProto, makeMetadata, type TensorProto } from './proto.ts'
import { forEachTensor } from './tensors.ts'
import { PAYLOAD_MARKER } from './wire.ts'

/** Start of every tensor in a data file, in bytes: a page. */
const ALIGNMENT = 4096

/** Models larger than this get a data file, unless they were told otherwise. */
export const INLINE_MODEL_LIMIT = 256 * 2 ** 20

/** Protobuf readers take no message of 2 GiB. */
const PROTOBUF_LIMIT = 2 ** 31 - 1

export type ExternalDataMode = 'auto' | 'always' | 'never'

interface Placed {
  readonly payload: Payload
  readonly offset: number
}

export interface Layout {
  /** The .onnx file: bytes and indices into `inline`. */
  readonly pieces: readonly Piece[]
  readonly inline: readonly Payload[]
  readonly onnxBytes: number
  /** The data file's tensors by rising offset, each stored once; empty when there is no data file. */
  readonly external: readonly Placed[]
  readonly dataBytes: number
  readonly dataPath: string
}

/** Sizes of a model that was not written. */
export interface OutputPlan {
  readonly onnxBytes: number
  readonly dataBytes: number
  readonly external: boolean
  /** The .onnx file first. */
  readonly files: readonly ModelFile[]
}

/**
 * The exact sizes that {@link saveModel} would produce. Payloads may be `planned`; only their lengths are used.
 *
 * The figures agree with what is saved when the same tensors, with payloads of the same lengths, are in the map in
 * the same order, and planned payloads are the ones that will be in the spool.
 * @throws QtoolError `usage` when `never` asks for a file that protobuf cannot hold.
 */
export function planOutput(
  proto: ModelProto,
  payloads: OnnxModel['payloads'],
  outPath: string,
  externalData: ExternalDataMode,
): OutputPlan {
  const { onnxBytes, dataBytes, dataPath, external } = layOut(proto, payloads, outPath, externalData, undefined)
  return {
    onnxBytes,
    dataBytes,
    external: external.length > 0,
    files: [
      { path: outPath, bytes: onnxBytes },
      ...(external.length > 0 ? [{ path: dataPath, bytes: dataBytes }] : []),
    ],
  }
}

/**
 * Decide where everything goes. `proto` is changed while this runs and restored before it returns.
 * @param spoolPath payloads in this file come first in the data file, in their order there.
 * @throws QtoolError `usage` when `never`, or what cannot be external, asks for a file that protobuf cannot hold.
 */
export function layOut(
  proto: ModelProto,
  payloads: OnnxModel['payloads'],
  outPath: string,
  externalData: ExternalDataMode,
  spoolPath: string | undefined,
): Layout {
  const dataPath = `${outPath}_data`
  if (externalData !== 'always') {
    const inline = assemble(proto, payloads, new Map(), '')
    if (externalData === 'never') {
      checkLimit(inline.onnxBytes, outPath, "allow external data ('auto' or 'always')")
    }
    if (externalData === 'never' || inline.onnxBytes <= INLINE_MODEL_LIMIT) {
      return { ...inline, external: [], dataBytes: 0, dataPath }
    }
  }
  const { offsets, external } = packExternal(proto, payloads, spoolPath)
  const last = external.at(-1)
  const dataBytes = last ? last.offset + last.payload.byteLength : 0
  const assembled = assemble(proto, payloads, offsets, path.basename(dataPath))
  checkLimit(assembled.onnxBytes, outPath, 'its attributes are too large for the ONNX format')
  return { ...assembled, external, dataBytes, dataPath }
}

function checkLimit(bytes: number, outPath: string, hint: string): void {
  if (bytes <= PROTOBUF_LIMIT) return
  throw new QtoolError('usage', `${outPath} would have ${bytes} bytes; an .onnx file holds at most ${PROTOBUF_LIMIT}`, {
    hint,
  })
}

/** Next multiple of {@link ALIGNMENT}. */
export function align(offset: number): number {
  return Math.ceil(offset / ALIGNMENT) * ALIGNMENT
}

/** Give every external tensor a place in the data file; tensors with the same bytes share one. */
function packExternal(proto: ModelProto, payloads: OnnxModel['payloads'], spoolPath: string | undefined) {
  const externalizable = new Set<TensorProto>()
  forEachTensor(proto, (tensor, { role }) => {
    const payload = payloads.get(tensor)
    // Onnxruntime resolves external data of initializers and Constant nodes, not of any attribute.
    if (payload && payload.byteLength > INLINE_LIMIT && role !== 'other') externalizable.add(tensor)
  })
  const tensors = [...payloads].filter(([tensor]) => externalizable.has(tensor))
  const inSpool = ([, payload]: (typeof tensors)[number]): boolean =>
    spoolPath === undefined ? payload.kind === 'planned' : payload.kind === 'file' && payload.path === spoolPath
  const spooled = tensors.filter(inSpool)
  if (spoolPath !== undefined) spooled.sort(([, a], [, b]) => fileOffset(a) - fileOffset(b))
  const others = tensors.filter((entry) => !inSpool(entry))

  const offsets = new Map<TensorProto, number>()
  const places = new Map<unknown, Placed>()
  let end = 0
  for (const [tensor, payload] of [...spooled, ...others]) {
    const key = payload.kind === 'file' ? `${payload.offset} ${payload.byteLength} ${payload.path}` : payload
    let place = places.get(key)
    if (!place) {
      place = { payload, offset: align(end) }
      places.set(key, place)
      end = place.offset + payload.byteLength
    }
    offsets.set(tensor, place.offset)
  }
  return { offsets, external: [...places.values()] }
}

function fileOffset(payload: Payload): number {
  return payload.kind === 'file' ? payload.offset : 0
}

/** Encode the model with markers for inline payloads and entries for external ones, and restore it. */
function assemble(
  proto: ModelProto,
  payloads: OnnxModel['payloads'],
  offsets: ReadonlyMap<TensorProto, number>,
  location: string,
): Pick<Layout, 'pieces' | 'inline' | 'onnxBytes'> {
  const inline: Payload[] = []
  const restore: (() => void)[] = []
  try {
    forEachTensor(proto, (tensor) => {
      const payload = payloads.get(tensor)
      if (!payload) return
      const offset = offsets.get(tensor)
      if (offset === undefined) {
        restore.push(putMarker(tensor, inline.length))
        inline.push(payload)
      } else restore.push(putExternal(tensor, location, offset, payload.byteLength))
    })
    const lengths = inline.map(({ byteLength }) => byteLength)
    const { pieces, totalBytes } = splice(encodeModel(proto), lengths)
    return { pieces, inline, onnxBytes: totalBytes }
  } finally {
    // Backwards, because one tensor object may occur at several places.
    for (const undo of restore.reverse()) undo()
  }
}

/** @returns how to undo it. */
function putMarker(tensor: TensorProto, index: number): () => void {
  const before = tensor.$unknown
  const marker = { no: PAYLOAD_MARKER, wireType: 0, data: markerValue(index) }
  // Where one tensor object occurs twice, the later marker replaces the earlier one; both mean the same payload.
  tensor.$unknown = [...(before ?? []).filter(({ no }) => no !== PAYLOAD_MARKER), marker]
  return () => {
    if (before) tensor.$unknown = before
    else delete tensor.$unknown
  }
}

/** @returns how to undo it. */
function putExternal(tensor: TensorProto, location: string, offset: number, length: number): () => void {
  const before = tensor.externalData
  tensor.dataLocation = DataLocation.EXTERNAL
  tensor.externalData = [
    makeMetadata('location', location),
    makeMetadata('offset', String(offset)),
    makeMetadata('length', String(length)),
  ]
  return () => {
    tensor.externalData = before
    // Back to not set: assigning the default would write the field.
    Reflect.deleteProperty(tensor, 'dataLocation')
  }
}

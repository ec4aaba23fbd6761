/** @file What a tap is: where the inputs that a layer sums over come from, and how they are laid out there. */
import type { NodeProto } from '../onnx/proto.ts'
import type { ConvGeometry } from './unfold.ts'

/** Statistics of the vectors x that a weight is multiplied with: one x per position, `cols` numbers each. */
export interface Tap {
  /** Equal keys mean equal statistics: layers with the same key share them. */
  readonly key: string
  /**
   * Gram matrices: groups of a Conv, directions of a recurrent layer, matrices of a batched product. The layer's rows
   * are split evenly and contiguously among them. 1 where all rows see the same vectors.
   */
  readonly blocks: number
  /** Numbers in one x, in the order of the layer's columns. */
  readonly cols: number
  /** Names in the main graph that the statistics are computed from; those of recurrent weights need all inputs of their node. */
  readonly reads: readonly string[]
  /** `rows`: the positions are all but the last axis of `reads[0]`, in order, so that they may be matched with tokens. */
  readonly positions: 'rows' | 'other'
  readonly source: TapSource
}

/** How x lies in what is read. */
type TapSource =
  /** Along the last axis. */
  | { readonly kind: 'rows' }
  /** Along the last axis but one. */
  | { readonly kind: 'columns' }
  /** One matrix for each index of the weight's batch axes; `transposed`: x along the last axis but one. */
  | { readonly kind: 'batches'; readonly batch: readonly number[]; readonly transposed: boolean }
  /** Along axis 1 of [N, C, …], in groups. */
  | { readonly kind: 'channels'; readonly groups: number }
  /** What a convolution's window sees. */
  | { readonly kind: 'patches'; readonly geometry: ConvGeometry }
  /** Input [steps, batch, cols] of a recurrent node; padding, if lengths are given, does not count. */
  | { readonly kind: 'steps'; readonly lengths: string }
  /** The state that a recurrent node starts each step from. */
  | { readonly kind: 'states'; readonly node: NodeProto }

/** Why a weight has no statistics, in words that follow "quantized without calibration: ". */
export interface NoTap {
  readonly reason: string
}

/** What {@link makeTap} completes to a {@link Tap}. */
export interface TapDraft {
  readonly blocks: number
  readonly reads: readonly string[]
  readonly positions?: 'rows'
  readonly source: TapSource
  /** Tells sources apart that read the same tensors in different ways; the kind, the reads and the positions do so by themselves. */
  readonly identity?: readonly (string | number | readonly number[])[]
}

export function makeTap(cols: number, draft: TapDraft): Tap {
  const { blocks, reads, positions = 'other', source, identity = [] } = draft
  // Positions are part of it, since only `rows` are weighted by tokens.
  const key = JSON.stringify([source.kind, positions, reads, identity])
  return { key, blocks, cols, reads, positions, source }
}

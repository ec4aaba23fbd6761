/** @file What a set of channels is: the layers that have them as rows, and every stored tensor that has them along an axis. */
import type { Constant } from '../../onnx/graph.ts'
import type { WeightedLayer } from '../../onnx/layers.ts'

/**
 * Where the channels lie along an axis of a stored tensor: channel c of a run takes the places
 * [start + c·block, start + (c + 1)·block). Places in no run are no part of the set.
 */
export interface ChannelAxis {
  readonly constant: Constant
  /** Of the tensor as stored, counted from the front. */
  readonly axis: number
  /** First place of each run; [0] but for attention heads. */
  readonly starts: readonly number[]
  /** Places of one channel: above 1 where a Flatten has put the positions of a channel side by side. */
  readonly block: number
}

/**
 * Channels that may be put into any order, as long as all of these axes get the same one: then the network computes the
 * same, up to the order in which the readers of the channels sum over them.
 */
export interface ChannelSet {
  /** Weighted layers whose output channels these are, in the order of the model; at least one. */
  readonly layers: readonly WeightedLayer[]
  /** Number of channels, at least 2: the length of an order. */
  readonly channels: number
  /** Each pair of constant and axis once. */
  readonly axes: readonly ChannelAxis[]
}

/**
 * An order of the channels as an order of the places along an axis.
 * @param width of the axis.
 * @param order [channels]: new channel i is the old channel order[i].
 * @returns [width]: new place p is the old place result[p].
 * @throws RangeError when a run does not fit into the axis.
 */
export function orderAlong(
  { starts, block }: Pick<ChannelAxis, 'starts' | 'block'>,
  width: number,
  order: ArrayLike<number>,
): Uint32Array {
  const places = Uint32Array.from({ length: width }, (_, place) => place)
  for (const start of starts) {
    if (start + order.length * block > width)
      throw new RangeError(`${order.length} channels do not fit ${width} places`)
    for (let c = 0; c < order.length; c++) {
      const [to, from] = [start + c * block, start + order[c]! * block]
      for (let i = 0; i < block; i++) places[to + i] = from + i
    }
  }
  return places
}

/**
 * An order of the channels as an order of a layer's rows, as the solver counts them.
 * @param layer one of the set's.
 * @returns [rows]: new row r is the old row result[r]. Rows that are no channels of the set keep their places.
 * @throws RangeError for other layers.
 */
export function orderOfRows({ axes }: ChannelSet, layer: WeightedLayer, order: ArrayLike<number>): Uint32Array {
  const { constant, dims, view } = layer
  const rows = view.outer * view.inner
  // A square weight may have the channels on both sides: then they lie alike on both.
  const found = axes.find((each) => each.constant.name === constant.name && dims[each.axis] === rows)
  if (!found) throw new RangeError(`layer '${layer.name}' is not in this set`)
  return orderAlong(found, rows, order)
}

/**
 * @file Channels of attention heads that may be permuted: inside of each head, all heads alike, since keys and values may be
 * shared by several queries and nothing proves which head of the projection is which one of the reader.
 */
import { readersOf } from '../../calibration/graphPaths.ts'
import type { MainGraph } from '../../calibration/mainGraph.ts'
import { storedTensor } from '../../calibration/storedTensor.ts'
import type { Constant } from '../../onnx/graph.ts'
import type { WeightedLayer } from '../../onnx/layers.ts'
import type { NodeProto } from '../../onnx/proto.ts'
import type { ChannelSet } from './channelSet.ts'
import { isReadOnlyBy } from './soleReaders.ts'

/** One attention, as the search for heads to rotate finds it. */
interface Heads {
  /** The node that multiplies probabilities with values. */
  readonly node: NodeProto
  readonly headSize: number
  /** Axes with heads: runs of `headSize` places from each of `starts` on. Makers and readers. */
  readonly uses: readonly {
    readonly node: NodeProto
    readonly inputIndex: number
    readonly constant: Constant
    readonly axis: number
    readonly starts: readonly number[]
  }[]
}

/**
 * Sets of channels of heads: an order of such a set has the length of a head.
 * @param heads all the attentions of this graph whose uses are proved to be all that its values meet.
 * @param layers of the model.
 * @returns without attentions whose constants something else reads.
 */
export function headChannels(
  graph: MainGraph,
  heads: readonly Heads[],
  layers: readonly WeightedLayer[],
): ChannelSet[] {
  const readers = readersOf(graph)
  return heads.flatMap(({ node: attention, headSize, uses }) => {
    const isAlone = uses.every(({ constant }) => {
      const own = uses.filter((use) => use.constant.name === constant.name)
      const path = new Set(
        own.flatMap(({ node, inputIndex }) => storedTensor(graph, node.input[inputIndex]!)?.path ?? []),
      )
      const isSame = own.every((use) => use.axis === own[0]!.axis && use.starts.join() === own[0]!.starts.join())
      return isSame && isReadOnlyBy(graph, readers, constant, own, path)
    })
    if (!isAlone) return []
    const axes = new Map(
      uses.map(({ constant, axis, starts }) => [constant.name, { constant, axis, starts, block: 1 }] as const),
    )
    // Values come in at the attention; what lies behind it reads them.
    const place = (node: NodeProto) => graph.nodes.indexOf(node)
    const makers = new Set(uses.map(({ node }) => node).filter((node) => place(node) <= place(attention)))
    const own = layers.filter((layer) =>
      layer.uses.some((use) => makers.has(use.node) && axes.has(layer.constant.name)),
    )
    return own.length > 0 ? [{ layers: own, channels: headSize, axes: [...axes.values()] }] : []
  })
}

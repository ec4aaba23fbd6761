/**
 * @file Layers whose rows may be put into another order at no cost: what has the same channels is permuted along, rows and
 * biases of the layers that make them, columns of those that read them, vectors in between. Found from the graph; names mean
 * nothing.
 *
 * This is what lets rows that share a table lie next to each other without a stored index (JLCM, Yvinec, Dapogny & Bailly
 * 2023, who re-order neurons). A residual stream would tie most layers of a model to one order, which suits none of them:
 * such layers are refused, though the order of a whole stream could be changed as well.
 */
import type { MainGraph } from '../../calibration/mainGraph.ts'
import type { WeightedLayer } from '../../onnx/layers.ts'
import type { ChannelSet } from './channelSet.ts'
import { Closure, type Network, networkOf } from './closure.ts'
import { productOf } from './products.ts'

/** A layer whose rows stay where they are. */
interface FixedLayer {
  readonly layer: WeightedLayer
  /** A sentence without a full stop, for users. */
  readonly reason: string
}

interface Permutable {
  /** In the order of their first layers. A layer is in at most one of them. */
  readonly sets: readonly ChannelSet[]
  /** The layers that are in no set, in the order of the model. */
  readonly fixed: readonly FixedLayer[]
}

/**
 * Find the layers whose rows may be permuted: MatMul, Gemm and Conv of the main graph, through activations, gates, batch
 * norms, depthwise convolutions, pools and Flatten, to all layers that read them.
 * @param layers of the model that the graph is of.
 */
export function findPermutable(graph: MainGraph, layers: readonly WeightedLayer[]): Permutable {
  const network = networkOf(graph)
  const sets: ChannelSet[] = []
  const reasons = new Map<WeightedLayer, string>()
  const taken = new Set<WeightedLayer>()
  for (const layer of layers) {
    if (taken.has(layer)) continue
    const found = setOf(network, layer, layers)
    if (typeof found === 'string') {
      reasons.set(layer, `not permuted: ${found}`)
      continue
    }
    sets.push(found)
    for (const own of found.layers) taken.add(own)
  }
  // What is followed from one layer of a set may fail where it succeeds from another one.
  const fixed = layers.filter((layer) => !taken.has(layer)).map((layer) => ({ layer, reason: reasons.get(layer)! }))
  const place = new Map(layers.map((layer, i) => [layer, i]))
  return { sets: sets.sort((a, b) => place.get(a.layers[0]!)! - place.get(b.layers[0]!)!), fixed }
}

function setOf(network: Network, layer: WeightedLayer, layers: readonly WeightedLayer[]): ChannelSet | string {
  const { graph } = network
  const [use] = layer.uses
  if (!use || layer.uses.length > 1 || layer.hasOtherReaders) return 'its weight is used elsewhere as well'
  if (use.scope !== graph.scope || use.inFunction) return 'it is in a subgraph or a function'
  const { node } = use
  const product = use.inputIndex === 1 ? productOf(graph, node) : undefined
  if (product?.outputAxis === undefined) return `the rows of a ${node.opType} like this are not channels of its output`
  if (!use.aligned) return 'its rows are not those of the stored weight'
  const channels = product.weight.dims[product.outputAxis]!
  if (channels < 2) return 'it has one row'
  const closure = new Closure(network, channels)
  const reason = closure.follow(node.output[0]!, { axis: product.channelAxis, block: 1 })
  if (reason) return reason
  // Others have the channels, too, but in rows that are cut otherwise: they go along.
  const own = layers.filter(({ uses }) => uses.length === 1 && uses[0]!.aligned && closure.makers.has(uses[0]!.node))
  return { layers: own, channels, axes: closure.axes }
}

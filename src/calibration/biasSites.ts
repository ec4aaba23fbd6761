/**
 * @file Where a layer's mean output error can be taken back: a bias that the network has, or can be given: as an input of its own
 * operator (Conv, Gemm, recurrent layers; in onnxruntime's low-bit form a Gemm without one gets an Add), or of an Add that follows.
 *
 * With a bias, the least-squares weights are those for centred inputs, and the bias makes up for the means:
 * min over Ŵ, b of E‖W x_f + b₀ − Ŵ x_q − b‖² has b = b₀ + W E[x_f] − Ŵ E[x_q], and what is left is the same objective
 * with covariances in place of second moments. This is bias correction and solver in one; the papers do them in turn.
 */
import { floatAttribute, intAttribute } from '../onnx/attributes.ts'
import type { WeightedLayer, WeightUse } from '../onnx/layers.ts'
import { cloneNode, DataType, type NodeProto } from '../onnx/proto.ts'
import type { MainGraph } from './mainGraph.ts'
import { ADDED_INPUT } from './stageModel.ts'

export interface BiasSite {
  /** The node that adds the bias. */
  readonly node: NodeProto
  readonly inputIndex: number
  /** Name of the input that the node has during calibration. */
  readonly added: string
  /** The constant that is there; undefined where there is none yet. */
  readonly original: string | undefined
  readonly dims: readonly number[]
  /** ONNX element type, FLOAT or FLOAT16. */
  readonly dataType: number
  /** Element of the bias that belongs to row 0 of the layer, and the steps between rows of a direction and between directions. */
  readonly elementOf: (row: number) => number
}

/** The site of a layer, or undefined where a bias would cost a node. */
export function findBiasSite(graph: MainGraph, layer: WeightedLayer, use: WeightUse): BiasSite | undefined {
  if (layer.uses.length !== 1 || layer.hasOtherReaders || use.scope !== graph.scope || use.inFunction) return undefined
  // Rows of a weight that is cut up or joined on the way are not the outputs.
  if (!use.dims || !use.aligned) return undefined
  if (use.dataType !== DataType.FLOAT && use.dataType !== DataType.FLOAT16) return undefined
  const rows = layer.view.outer * layer.view.inner
  const { node } = use
  if (node.domain !== '' && node.domain !== 'ai.onnx') return undefined
  switch (node.opType) {
    case 'Conv':
      return ownInput(graph, node, 2, [rows], use.dataType)
    case 'Gemm':
      if (floatAttribute(node, 'alpha', 1) !== 1 || floatAttribute(node, 'beta', 1) !== 1) return undefined
      return use.inputIndex === 1 ? ownInput(graph, node, 2, [rows], use.dataType) : undefined
    case 'MatMul':
      return use.inputIndex === 1 ? followingAdd(graph, node, rows, use.dataType) : undefined
    case 'LSTM':
    case 'GRU':
    case 'RNN':
      return recurrentBias(graph, node, use, rows)
  }
  return undefined
}

function ownInput(
  graph: MainGraph,
  node: NodeProto,
  inputIndex: number,
  dims: readonly number[],
  dataType: number,
): BiasSite | undefined {
  const original = node.input[inputIndex] || undefined
  const site = { node, inputIndex, added: `${ADDED_INPUT}${node.output[0]}`, dataType, elementOf: (row: number) => row }
  if (original === undefined) return { ...site, original, dims }
  const tensor = graph.scope.constants.get(original)?.tensor
  const length = dims.reduce((a, b) => a * b, 1)
  if (!tensor || tensor.dataType !== dataType) return undefined
  const own = tensor.dims.map(Number)
  if (own.at(-1) !== dims.at(-1) || own.reduce((a, b) => a * b, 1) !== length) return undefined
  return { ...site, original, dims: own }
}

/** MatMul followed by nothing but the addition of a constant vector. */
function followingAdd(graph: MainGraph, node: NodeProto, rows: number, dataType: number): BiasSite | undefined {
  const product = node.output[0]!
  const readers = graph.scope.readers.get(product) ?? []
  const add = readers[0]?.node
  if (readers.length !== 1 || add?.opType !== 'Add' || graph.outputs.includes(product)) return undefined
  if (readers[0]!.scope !== graph.scope) return undefined
  const inputIndex = add.input[0] === product ? 1 : 0
  const tensor = graph.scope.constants.get(add.input[inputIndex]!)?.tensor
  return tensor && ownInput(graph, add, inputIndex, [rows], dataType)
}

/** B [directions, 2·n·H]: the biases of the input come first, then those of the hidden state. */
function recurrentBias(graph: MainGraph, node: NodeProto, use: WeightUse, rows: number): BiasSite | undefined {
  // GRU's candidate gate sees the reset hidden state, whose mean is not that of the statistics.
  if (node.opType === 'GRU' && use.inputIndex === 2 && intAttribute(node, 'linear_before_reset', 0) === 0)
    return undefined
  const directions = use.dims![0]!
  const gates = rows / directions
  const site = ownInput(graph, node, 3, [directions, 2 * gates], use.dataType)
  const offset = use.inputIndex === 2 ? gates : 0
  return site && { ...site, elementOf: (row) => Math.floor(row / gates) * 2 * gates + offset + (row % gates) }
}

/** The node with its bias read from the added input. */
export function withAddedBias(site: BiasSite): NodeProto {
  const node = cloneNode(site.node)
  while (node.input.length <= site.inputIndex) node.input.push('')
  node.input[site.inputIndex] = site.added
  return node
}

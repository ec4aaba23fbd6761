/** @file Products of data with a stored weight: which axis of the weight meets the data, and which one the output. */
import type { MainGraph } from '../calibration/mainGraph.ts'
import { type StoredTensor, storedTensor } from '../calibration/storedTensor.ts'
import { hasReferencedAttribute, intAttribute } from '../onnx/attributes.ts'
import type { Constant } from '../onnx/graph.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { isDefaultDomain } from '../onnx/ranks.ts'

/** Axes of a product's right operand, counted from the end. */
interface RightAxes {
  /** Meets the last axis of the data. */
  readonly summed: -1 | -2
  /** Becomes the last axis of the output. */
  readonly kept: -1 | -2
}

/** The operator as `domain.Name` for contributed operators. */
const operatorOf = ({ domain, opType }: NodeProto) => (isDefaultDomain(domain) ? opType : `${domain}.${opType}`)
const hasFlag = (node: NodeProto, name: string) => intAttribute(node, name, 0) !== 0

/** Where input 1 of a node is multiplied with; undefined for nodes that are no product with it. */
export function rightAxes(node: NodeProto): RightAxes | undefined {
  if (hasReferencedAttribute(node)) return undefined
  switch (operatorOf(node)) {
    case 'MatMul':
    case 'com.microsoft.Attention':
      return { summed: -2, kept: -1 }
    case 'Gemm':
    case 'com.microsoft.FusedGemm':
    case 'com.microsoft.FusedMatMul':
      if (hasFlag(node, 'transBatchB')) return undefined
      return hasFlag(node, 'transB') ? { summed: -1, kept: -2 } : { summed: -2, kept: -1 }
  }
  return undefined
}

/** Operators that work on with the sums before they give them away. */
const WORKS_ON = new Set(['com.microsoft.FusedGemm', 'com.microsoft.Attention'])

interface Product {
  readonly weight: StoredTensor
  /** As in {@link RightAxes}; a vector has one axis only, which is summed over. */
  readonly summed: number
  /** Undefined where the output is not the sums themselves. */
  readonly kept: number | undefined
}

/** Sums over the last axis of the data; undefined where that is transposed. */
function productAt(graph: MainGraph, node: NodeProto): Product | undefined {
  const axes = rightAxes(node)
  const isTurned = hasFlag(node, 'transA') || hasFlag(node, 'transBatchA')
  if (!axes || isTurned || node.input[0] === node.input[1]) return undefined
  const weight = storedTensor(graph, node.input[1] ?? '')
  if (!weight || weight.dims.length === 0) return undefined
  if (weight.dims.length === 1) return { weight, summed: -1, kept: undefined }
  return { weight, summed: axes.summed, kept: WORKS_ON.has(operatorOf(node)) ? undefined : axes.kept }
}

/** A stored tensor at an input of a node, and the axis of it, as stored, that has the channels. */
export interface Place {
  readonly weight: StoredTensor
  readonly node: NodeProto
  readonly inputIndex: number
  readonly axis: number
}

/** A node's stored weight with `width` channels along an axis. */
function placeOf({ weight }: Product, node: NodeProto, seen: number | undefined, width: number): Place | undefined {
  if (seen === undefined || weight.dims.at(seen) !== width) return undefined
  const axis = weight.axisOf(seen)
  return axis === undefined ? undefined : { weight, node, inputIndex: 1, axis }
}

/** The weight with which a node sums over the channels of its first input. @param width number of channels. */
export function readerAt(graph: MainGraph, node: NodeProto, inputIndex: number, width: number): Place | undefined {
  const product = inputIndex === 0 ? productAt(graph, node) : undefined
  return product && placeOf(product, node, product.summed, width)
}

/**
 * The weight whose outputs are the channels that a node gives. Gemm's bias at input 2 is the caller's to add.
 * @param width number of channels.
 */
export function writerAt(graph: MainGraph, node: NodeProto, width: number): Place | undefined {
  const product = productAt(graph, node)
  return product && placeOf(product, node, product.kept, width)
}

/** y = x·W (+ b): MatMul, Gemm or FusedMatMul whose second input is a stored matrix, and whose first is data. */
export interface Projection {
  readonly node: NodeProto
  /** A float tensor of the main graph; the node may read it through nodes that only change its shape or type. */
  readonly constant: Constant
  /** Axes of the stored tensor. */
  readonly inputAxis: number
  readonly outputAxis: number
  readonly inputs: number
  readonly outputs: number
}

/** The projection that a node is; undefined for other nodes, and where the data is on the right or transposed. */
export function projectionOf(graph: MainGraph, node: NodeProto): Projection | undefined {
  const product = productAt(graph, node)
  if (product?.kept === undefined || graph.scope.constants.has(node.input[0]!)) return undefined
  const { weight, summed, kept } = product
  const [inputAxis, outputAxis] = [weight.axisOf(summed), weight.axisOf(kept)]
  if (weight.dims.length !== 2 || inputAxis === undefined || outputAxis === undefined) return undefined
  const [inputs, outputs] = [weight.dims.at(summed)!, weight.dims.at(kept)!]
  return { node, constant: weight.constant, inputAxis, outputAxis, inputs, outputs }
}

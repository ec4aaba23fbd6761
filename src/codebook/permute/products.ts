/** @file Nodes that multiply data with a stored weight: where the weight has the channels of the data, and those of the result. */
import type { MainGraph } from '../../calibration/mainGraph.ts'
import { type StoredTensor, storedTensor } from '../../calibration/storedTensor.ts'
import { intAttribute } from '../../onnx/attributes.ts'
import type { NodeProto } from '../../onnx/proto.ts'
import { isDefaultDomain } from '../../onnx/ranks.ts'

/** Input 0 is data, input 1 the weight. */
export interface Product {
  readonly weight: StoredTensor
  /** Axis of data and result that has channels, counted from the end: −1, or that of channels in a convolution. */
  readonly channelAxis: number
  /** Axes of the weight as the node sees it, from the front. */
  readonly inputAxis: number
  /** Undefined for ConvTranspose, whose rows are not its channels. */
  readonly outputAxis: number | undefined
  readonly groups: number
  /** Outputs for each input channel where every channel is a group of its own; undefined otherwise. */
  readonly multiplier: number | undefined
  /** Input 2 is added to the result: its last axis has the channels. */
  readonly hasBias: boolean
}

/** The product that a node is; undefined for all others, and for products of data with data. */
export function productOf(graph: MainGraph, node: NodeProto): Product | undefined {
  if (!isDefaultDomain(node.domain)) return undefined
  const weight = PRODUCTS.has(node.opType) ? storedTensor(graph, node.input[1] ?? '') : undefined
  if (!weight || storedTensor(graph, node.input[0] ?? '')) return undefined
  const rank = weight.dims.length
  const hasBias = Boolean(node.input[2])
  const plain = { weight, channelAxis: -1, groups: 1, multiplier: undefined, hasBias }
  switch (node.opType) {
    case 'MatMul':
      return rank === 2 ? { ...plain, inputAxis: 0, outputAxis: 1 } : undefined
    case 'Gemm': {
      if (rank !== 2 || intAttribute(node, 'transA', 0) !== 0) return undefined
      const inputAxis = intAttribute(node, 'transB', 0) !== 0 ? 1 : 0
      return { ...plain, inputAxis, outputAxis: 1 - inputAxis }
    }
    case 'Conv': {
      if (rank < 3) return undefined
      const groups = intAttribute(node, 'group', 1)
      const outputs = weight.dims[0]! / groups
      const multiplier = groups > 1 && weight.dims[1] === 1 && Number.isInteger(outputs) ? outputs : undefined
      return { ...plain, channelAxis: 1 - rank, groups, multiplier, inputAxis: 1, outputAxis: 0 }
    }
    default:
      if (rank < 3) return undefined
      return {
        ...plain,
        channelAxis: 1 - rank,
        groups: intAttribute(node, 'group', 1),
        inputAxis: 0,
        outputAxis: undefined,
      }
  }
}

const PRODUCTS = new Set(['MatMul', 'Gemm', 'Conv', 'ConvTranspose'])

/**
 * @file Which inputs of which operators are weights, and how the weight is seen by the operator.
 *
 * A weight is viewed as [outer, reduction, inner] over its flat row-major elements: the operator sums over `reduction`,
 * and every (outer, inner) pair is one output row. Conv [Cout, Cin/g, kh, kw] is [Cout, Cin/g·kh·kw, 1]; the right
 * operand of MatMul [K, N] is [1, K, N].
 */
import { hasReferencedAttribute, intAttribute } from './attributes.ts'
import type { NodeProto } from './proto.ts'

/** Flat view of a weight; outer · reduction · inner = number of elements. */
export interface WeightView {
  readonly outer: number
  readonly reduction: number
  readonly inner: number
}

/** A low-bit operator that can take the place of the consumer. */
export type KernelKind = 'matmul' | 'gather'

export interface WeightSlot {
  readonly view: WeightView
  readonly kernel: KernelKind | undefined
}

const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

/** View in which axes [from, to) are summed over. */
function viewOf(dims: readonly number[], from: number, to: number): WeightView {
  return {
    outer: product(dims.slice(0, from)),
    reduction: product(dims.slice(from, to)),
    inner: product(dims.slice(to)),
  }
}

/** Fewest input channels per group for which a ConvTranspose weight is grouped along them. */
const CONV_TRANSPOSE_MIN_INPUTS = 16

/** W [Cin, Cout/g, k…]: along the input channels of a group, or along everything else where those are few (depthwise). */
function convTransposeView(node: NodeProto, dims: readonly number[]): WeightView {
  const groups = intAttribute(node, 'group', 1)
  const inputs = dims[0]! / groups
  const rest = product(dims.slice(1))
  // The caller of a function may say the number of groups; then it is not known here.
  if (Number.isInteger(inputs) && inputs >= CONV_TRANSPOSE_MIN_INPUTS)
    return { outer: groups, reduction: inputs, inner: rest }
  return { outer: dims[0]!, reduction: rest, inner: 1 }
}

function matMulSlot(dims: readonly number[], index: number, kernel: boolean): WeightSlot | undefined {
  if (index > 1 || dims.length < 1) return undefined
  if (dims.length === 1) return { view: viewOf(dims, 0, 1), kernel: undefined }
  const axis = index === 1 ? dims.length - 2 : dims.length - 1
  return {
    view: viewOf(dims, axis, axis + 1),
    kernel: kernel && index === 1 && dims.length === 2 ? 'matmul' : undefined,
  }
}

function gemmSlot(node: NodeProto, dims: readonly number[], index: number): WeightSlot | undefined {
  if (index > 1 || dims.length !== 2) return undefined
  const transposed = intAttribute(node, index === 1 ? 'transB' : 'transA', 0) !== 0
  const axis = (index === 1) === transposed ? 1 : 0
  return { view: viewOf(dims, axis, axis + 1), kernel: index === 1 ? 'matmul' : undefined }
}

function fusedMatMulSlot(node: NodeProto, dims: readonly number[], index: number): WeightSlot | undefined {
  if (index > 1 || dims.length < 2) return undefined
  const transposed = intAttribute(node, index === 1 ? 'transB' : 'transA', 0) !== 0
  const last = dims.length - 1
  const axis = (index === 1) === transposed ? last : last - 1
  const plain = ['transA', 'transBatchA', 'transBatchB'].every((name) => intAttribute(node, name, 0) === 0)
  return {
    view: viewOf(dims, axis, axis + 1),
    kernel: plain && index === 1 && dims.length === 2 ? 'matmul' : undefined,
  }
}

function gatherSlot(node: NodeProto, dims: readonly number[], index: number): WeightSlot | undefined {
  if (index !== 0 || dims.length < 2) return undefined
  if (intAttribute(node, 'axis', 0) !== 0)
    return { view: viewOf(dims, dims.length - 1, dims.length), kernel: undefined }
  return { view: viewOf(dims, 1, dims.length), kernel: dims.length === 2 ? 'gather' : undefined }
}

/** Last axis is summed over, for the inputs listed. */
function lastAxis(dims: readonly number[], index: number, inputs: readonly number[]): WeightSlot | undefined {
  if (!inputs.includes(index) || dims.length < 2) return undefined
  return { view: viewOf(dims, dims.length - 1, dims.length), kernel: undefined }
}

/**
 * How `node` uses its input `index` as a weight of shape `dims`; undefined when that input is not a weight.
 * Operators: ONNX 1.20 and com.microsoft contrib operators.
 */
export function weightSlot(node: NodeProto, index: number, dims: readonly number[]): WeightSlot | undefined {
  if (node.domain === '' || node.domain === 'ai.onnx') {
    const known = !hasReferencedAttribute(node)
    switch (node.opType) {
      case 'MatMul':
        return matMulSlot(dims, index, known)
      case 'Gemm':
        return known ? gemmSlot(node, dims, index) : undefined
      case 'Conv':
        return index === 1 && dims.length >= 3 ? { view: viewOf(dims, 1, dims.length), kernel: undefined } : undefined
      case 'ConvTranspose':
        return index === 1 && dims.length >= 3 ? { view: convTransposeView(node, dims), kernel: undefined } : undefined
      case 'Gather':
        return known ? gatherSlot(node, dims, index) : undefined
      case 'LSTM':
      case 'GRU':
      case 'RNN':
        return lastAxis(dims, index, [1, 2])
    }
    return undefined
  }
  if (node.domain !== 'com.microsoft') return undefined
  switch (node.opType) {
    case 'FusedMatMul':
      return hasReferencedAttribute(node) ? undefined : fusedMatMulSlot(node, dims, index)
    case 'FusedGemm': {
      const slot = gemmSlot(node, dims, index)
      return slot && { view: slot.view, kernel: undefined }
    }
    case 'FusedConv':
      return index === 1 && dims.length >= 3 ? { view: viewOf(dims, 1, dims.length), kernel: undefined } : undefined
    case 'Attention':
      return index === 1 && dims.length === 2 ? { view: viewOf(dims, 0, 1), kernel: undefined } : undefined
    case 'EmbedLayerNormalization':
      return lastAxis(dims, index, [2, 3, 4])
  }
  return undefined
}

/** True when input `index` of `node` is a weight for some shape of it; for weights whose shape there is not known. */
export function isWeightInput(node: NodeProto, index: number): boolean {
  return [2, 3, 4, 5].some(
    (rank) =>
      weightSlot(
        node,
        index,
        Array.from({ length: rank }, () => 64),
      ) !== undefined,
  )
}

const QUANTIZED_OPERATORS = new Set([
  'DequantizeLinear',
  'QLinearConv',
  'QLinearMatMul',
  'MatMulInteger',
  'ConvInteger',
  'MatMulNBits',
  'MatMulBnb4',
  'GatherBlockQuantized',
  'MatMulIntegerToFloat',
  'DynamicQuantizeMatMul',
  'DynamicQuantizeLSTM',
  'QGemm',
  'QAttention',
  'QOrderedMatMul',
  'QMoE',
  'QEmbedLayerNormalization',
  'QLinearAdd',
])

/** True for operators whose weights are integers already. */
export function isQuantizedOperator(node: NodeProto): boolean {
  return QUANTIZED_OPERATORS.has(node.opType)
}

/** True for operators that put values on a quantization grid, so that a float weight they read is quantized in effect. */
export function isQuantizer(node: NodeProto): boolean {
  return node.opType === 'QuantizeLinear' || node.opType === 'DynamicQuantizeLinear' || node.opType === 'FakeQuant'
}

/** @file What stands in the way of turning a stream, in words for users. */
import type { NodeProto } from '../onnx/proto.ts'
import { isDefaultDomain } from '../onnx/ranks.ts'
import { describeNode } from '../onnx/tensors.ts'
import type { AxisFacts } from './axisFacts.ts'
import type { Findings } from './findings.ts'
import { oddNorm } from './norms.ts'
import { passageOf } from './passages.ts'

const CONVOLUTIONAL = new Set(
  `Conv ConvTranspose BatchNormalization InstanceNormalization GroupNormalization MaxPool AveragePool GlobalAveragePool
  GlobalMaxPool Resize DepthToSpace SpaceToDepth FusedConv NhwcFusedConv`.split(/\s+/),
)
const PRODUCTS = new Set('MatMul Gemm FusedMatMul FusedGemm Einsum Attention LSTM GRU RNN Conv1D'.split(' '))
const QUANTIZED =
  /^(MatMulNBits|MatMulInteger|DynamicQuantize|QLinear|QGemm|QAttention|GatherBlockQuantized|Dequantize)/
const BY_CHANNEL = new Set(['Mul', 'Div', 'Pow', 'Where', 'PRelu'])

/** Why a stream ends at a node that reads it, or reads it behind a norm. @param what `the stream`, or what is read. */
export function readerReason(node: NodeProto, what: string): string {
  const name = describeNode(node)
  if (CONVOLUTIONAL.has(node.opType)) return `convolutional stream: ${name} works on neighbouring pixels of ${what}`
  if (QUANTIZED.test(node.opType)) return `${name} reads ${what} with a weight that is quantized already`
  if (PRODUCTS.has(node.opType))
    return `${name} multiplies ${what} by something that is not a stored weight over its channels`
  if (BY_CHANNEL.has(node.opType)) return `${name} multiplies single channels of ${what}, which a rotation would mix`
  return `${name} works on single channels of ${what}, which a rotation would mix`
}

/** Why a stream cannot begin at a node. */
export function producerReason(node: NodeProto): string {
  const name = describeNode(node)
  if (CONVOLUTIONAL.has(node.opType)) return `convolutional stream: ${name} adds to it`
  if (QUANTIZED.test(node.opType)) return `${name} adds to the stream with a weight that is quantized already`
  if (BY_CHANNEL.has(node.opType))
    return `${name} multiplies single channels of what it adds, which a rotation would mix`
  return `what ${name} adds to the stream does not come from a stored weight that could be turned`
}

/** @param node the norm, which the stream itself passes. */
export function postNormReason(node: NodeProto): string {
  return `post-norm: the stream itself passes a norm, ${describeNode(node)}, whose gain belongs to single channels`
}

/** @param node the norm, at the end of a branch. */
export function sandwichReason(node: NodeProto): string {
  return `sandwich norm: ${describeNode(node)} norms what a branch adds to the stream, and its gain belongs to single channels`
}

/** True for nodes that add up all their inputs, or take one from the other. */
export function isSum({ domain, opType }: NodeProto): boolean {
  return isDefaultDomain(domain) && ['Add', 'Sum', 'Sub'].includes(opType)
}

/** Refuses a node that reads the stream and is none of those that may. */
export function refuseReader(
  facts: AxisFacts,
  found: Findings,
  node: NodeProto,
  inputIndex: number,
  what: string,
): void {
  const passage = passageOf(facts, node, found.width)
  const odd = inputIndex === 0 ? oddNorm(facts, node) : undefined
  if (odd) found.refuse(node, `${describeNode(node)} ${odd}`)
  else if (passage && 'does' in passage) found.refuse(node, `${describeNode(node)} ${passage.does} of ${what}`)
  else found.refuse(node, readerReason(node, what))
}

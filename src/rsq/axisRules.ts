/** @file What operators do to the number of axes and to the size of the last one, as far as both follow from their inputs. */

import { storedTensor } from '../calibration/storedTensor.ts'
import { intAttribute, intsAttribute } from '../onnx/attributes.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { isDefaultDomain } from '../onnx/ranks.ts'
import type { AxisFacts } from './axisFacts.ts'
import { pieceOf } from './pieces.ts'
import { rightAxes } from './products.ts'
import { lastAfterReshape, shapeEndOf } from './shapeEnds.ts'

const BINARY = new Set('Add Sub Mul Div Pow Max Min Sum Mean Where And Or Equal Greater Less'.split(' '))
/** The first output has the axes of the first input, and so has the sum of skip norms. */
const SAME = new Set(
  `Cast Identity Dropout Softmax Sin Cos Relu Sigmoid Tanh Erf Gelu FastGelu BiasGelu QuickGelu Neg Abs Not Sqrt Reciprocal Exp
  Log Clip LayerNormalization SimplifiedLayerNormalization RMSNormalization SkipLayerNormalization
  SkipSimplifiedLayerNormalization LpNormalization RotaryEmbedding`.split(/\s+/),
)
const SAME_RANK = new Set([...SAME, 'Slice', 'Split', 'Tile', 'Attention'])
/** Contributed attention gives [batch, tokens, channels], however its inputs are packed. */
const ATTENTION = new Set(['MultiHeadAttention', 'GroupQueryAttention'])

const isKnownDomain = ({ domain }: NodeProto) => isDefaultDomain(domain) || domain === 'com.microsoft'

/** Output of the contributed skip norms that has the axes of the first one. */
export const skippedSum = ({ opType, output }: NodeProto) => (opType.startsWith('Skip') ? output[3] : undefined)

/** Number of axes of a node's output, where `inferRanks` does not tell it: behind contributed operators. */
export function ranksAddedAt(facts: AxisFacts, node: NodeProto): number | undefined {
  const { opType } = node
  const [data = '', second = ''] = node.input
  if (!isKnownDomain(node)) return undefined
  if (SAME_RANK.has(opType)) return facts.rank(data)
  if (ATTENTION.has(opType)) return 3
  if (BINARY.has(opType)) {
    const ranks = node.input.map((name) => facts.rank(name))
    return ranks.includes(undefined) ? undefined : Math.max(...(ranks as number[]))
  }
  switch (opType) {
    case 'MatMul':
    case 'FusedMatMul':
      return facts.rank(second) === 2 ? facts.rank(data) : undefined
    case 'Range':
      return 1
    case 'Constant':
      return intsAttribute(node, 'value_ints') ? 1 : facts.integers(node.output[0]) && 0
    case 'Concat':
      return node.input.map((name) => facts.rank(name)).find((rank) => rank !== undefined)
    case 'Transpose':
      return intsAttribute(node, 'perm')?.length
    case 'Reshape': {
      const { values, isWhole } = shapeEndOf(facts, node)
      return isWhole ? values.length : undefined
    }
    case 'Expand': {
      const [{ values, isWhole }, rank] = [shapeEndOf(facts, node), facts.rank(data)]
      return isWhole && rank !== undefined ? Math.max(rank, values.length) : undefined
    }
    case 'Unsqueeze': {
      const [rank, added] = [facts.rank(data), facts.axes(node)?.length]
      return rank === undefined || added === undefined ? undefined : rank + added
    }
  }
  return undefined
}

/** Size of the last axis of a node's output. @param output its name: one of several for Split. */
export function lastAxisOf(facts: AxisFacts, node: NodeProto, output: string): number | undefined {
  const { opType } = node
  const [data = '', second = ''] = node.input
  if (!isKnownDomain(node)) return undefined
  if (SAME.has(opType)) return facts.last(data)
  if (BINARY.has(opType)) {
    const sizes = node.input.map((name) => facts.last(name))
    return sizes.find((size) => size !== undefined && size > 1) ?? (sizes.includes(undefined) ? undefined : 1)
  }
  if (rightAxes(node)) return productColumns(facts, node)
  const areLast = (axes: readonly number[] | undefined, name: string) =>
    axes?.map((axis) => facts.isLast(axis, facts.rank(name)))
  switch (opType) {
    case 'MultiHeadAttention':
    case 'GroupQueryAttention':
      return attentionWidth(facts, node)
    case 'Gather':
      return facts.isLast(intAttribute(node, 'axis', 0), facts.rank(data)) === false ? facts.last(data) : undefined
    case 'Unsqueeze': {
      const added = areLast(facts.axes(node), output)
      if (added?.includes(true)) return 1
      return added?.every((last) => last === false) ? facts.last(data) : undefined
    }
    case 'Squeeze': {
      const size = facts.last(data)
      // Without axes those of size one go.
      if (!node.input[1] && !facts.axes(node)) return size !== undefined && size > 1 ? size : undefined
      return areLast(facts.axes(node), data)?.every((last) => last === false) ? size : undefined
    }
    case 'Concat':
      return joined(facts, node, output)
    case 'Transpose': {
      const perm = intsAttribute(node, 'perm')
      return perm?.at(-1) === (perm?.length ?? 0) - 1 ? facts.last(data) : undefined
    }
    case 'Reshape':
      return lastAfterReshape(facts, node)
    case 'Expand':
      return facts.last(data) === 1 ? undefined : facts.last(data)
    case 'Tile':
      return facts.integers(second)?.at(-1) === 1 ? facts.last(data) : undefined
    case 'Slice':
    case 'Split':
      return part(facts, node, output)
  }
  return opType.startsWith('Reduce') ? reduced(facts, node, areLast(facts.axes(node), data)) : undefined
}

/** Columns of a product. Attention, which holds one, gives something else. */
function productColumns(facts: AxisFacts, node: NodeProto): number | undefined {
  const [, right = ''] = node.input
  const { kept } = rightAxes(node)!
  if (node.opType === 'Attention') return undefined
  const dims = storedTensor(facts.graph, right)?.dims
  // A vector leaves no axis behind.
  if (dims) return dims.length > 1 ? dims.at(kept) : undefined
  return kept === -1 && (facts.rank(right) ?? 0) > 1 ? facts.last(right) : undefined
}

/** Heads times their channels; keys and values may be packed with the queries, [.., 3, channels], or with each other. */
function attentionWidth(facts: AxisFacts, node: NodeProto): number | undefined {
  const [queries = '', keys, values] = node.input
  const heads = intAttribute(node, 'num_heads', 0)
  if (node.opType === 'GroupQueryAttention') {
    const last = facts.last(queries)
    const own = intAttribute(node, 'kv_num_heads', heads)
    return keys || last === undefined ? last : (last * heads) / (heads + 2 * own)
  }
  const source = values || keys || queries
  const [rank, last] = [facts.rank(source), facts.last(source)]
  if (rank === undefined || last === undefined) return undefined
  return rank === 3 ? last : heads * last
}

function joined(facts: AxisFacts, node: NodeProto, output: string): number | undefined {
  const isLast = facts.isLast(intAttribute(node, 'axis', 0), facts.rank(output))
  return isLast === false ? node.input.map((name) => facts.last(name)).find((size) => size !== undefined) : undefined
}

function part(facts: AxisFacts, node: NodeProto, output: string): number | undefined {
  const [data = ''] = node.input
  const piece = pieceOf(facts, node, output)
  if (piece?.axis === -1) return piece.to - piece.from
  const named = node.input[3] ? facts.integers(node.input[3]) : intsAttribute(node, 'axes')
  const axes = node.opType === 'Split' ? [intAttribute(node, 'axis', 0)] : named
  const isKept = axes?.every((axis) => facts.isLast(axis, facts.rank(data)) === false)
  return isKept ? facts.last(data) : undefined
}

function reduced(facts: AxisFacts, node: NodeProto, areLast: readonly (boolean | undefined)[] | undefined) {
  if (areLast?.every((last) => last === false)) return facts.last(node.input[0]!)
  return areLast?.includes(true) && intAttribute(node, 'keepdims', 1) !== 0 ? 1 : undefined
}

/**
 * @file The number of dimensions of values, as far as the model proves it: declared types, initializers, and one pass
 * through the nodes in their order. Dimensions themselves are not followed, except the lengths of the vectors that hold
 * shapes: the length of Reshape's shape is the rank of its result.
 *
 * Cost O(nodes). A value that no rule reaches has no rank; nothing is guessed.
 */
import { hasReferencedAttribute, intAttribute, intsAttribute } from './attributes.ts'
import { definingScope, type ModelIndex, nodesOf, type Scope } from './graph.ts'
import type { NodeProto, ValueInfoProto } from './proto.ts'

/** Operators whose first output has the rank of the first input. */
const SAME_RANK = new Set(
  `Abs Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat Conv ConvTranspose
  Cos Cosh CumSum DepthToSpace DequantizeLinear Dropout Elu Erf Exp Floor Gelu GlobalAveragePool GlobalLpPool
  GlobalMaxPool HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu
  Log LogSoftmax LpNormalization LpPool MaxPool MeanVarianceNormalization Mish Neg Not Pad QuantizeLinear Reciprocal
  Relu Resize Round ScatterElements ScatterND Selu Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth
  Split Sqrt Tan Tanh ThresholdedRelu Tile TopK Trilu Upsample`.split(/\s+/),
)

/** Operators that broadcast their inputs: the largest rank wins. */
const BROADCAST = new Set(
  `Add And BitShift Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where
  Xor`.split(/\s+/),
)

/**
 * Ranks of the values of a model.
 *
 * @returns a function of a scope and a name visible there: the rank, or undefined when it is not proved.
 */
export function inferRanks(index: ModelIndex): (scope: Scope, name: string) => number | undefined {
  const ranks = new Map<Scope, Map<string, number>>()
  const lengths = new Map<Scope, Map<string, number>>()
  const rankOf = (scope: Scope, name: string): number | undefined => {
    const owner = definingScope(scope, name)
    return owner && (ranks.get(owner)?.get(name) ?? owner.constants.get(name)?.tensor.dims.length)
  }
  const lengthOf = (scope: Scope, name: string): number | undefined => {
    const owner = definingScope(scope, name)
    const dims = owner?.constants.get(name)?.tensor.dims
    return dims?.length === 1 ? Number(dims[0]) : owner && lengths.get(owner)?.get(name)
  }
  // `index.scopes` lists a graph before its subgraphs, so what a body reads from outside is known when its turn comes.
  for (const scope of index.scopes) {
    const here = new Map<string, number>()
    const lengthsHere = new Map<string, number>()
    ranks.set(scope, here)
    lengths.set(scope, lengthsHere)
    for (const value of declarations(scope)) {
      const rank = declaredRank(value)
      if (rank !== undefined) here.set(value.name, rank)
    }
    const known: Known = { rank: (name) => rankOf(scope, name), length: (name) => lengthOf(scope, name) }
    for (const node of nodesOf(scope)) {
      // Attributes of a function's caller are not known in its body.
      if (!isDefaultDomain(node.domain) || hasReferencedAttribute(node)) continue
      const rank = outputRank(node, known)
      const same = node.opType === 'Split' ? node.output : node.output.slice(0, 1)
      if (rank !== undefined) for (const name of same) if (name && !here.has(name)) here.set(name, rank)
      const length = vectorLength(node, known)
      if (length !== undefined) lengthsHere.set(node.output[0]!, length)
    }
  }
  return rankOf
}

/** The standard's own domain has two spellings. */
export function isDefaultDomain(domain: string): boolean {
  return domain === '' || domain === 'ai.onnx'
}

/** The values whose types a graph or a function writes down. */
export function declarations(scope: Scope): ValueInfoProto[] {
  const { graph, fn } = scope
  return graph ? [...graph.input, ...graph.valueInfo, ...graph.output] : fn!.valueInfo
}

function declaredRank(value: ValueInfoProto): number | undefined {
  const type = value.type?.value
  return type?.case === 'tensorType' ? type.value.shape?.dim.length : undefined
}

/** What is proved so far of the names that a node reads. */
interface Known {
  rank(name: string): number | undefined
  /** Number of elements of a vector. */
  length(name: string): number | undefined
}

function outputRank(node: NodeProto, known: Known): number | undefined {
  const operator = node.opType
  const [data = '', second = ''] = node.input
  const rank = known.rank(data)
  if (operator === 'Transpose') return intsAttribute(node, 'perm')?.length ?? rank
  if (operator === 'Conv' || operator === 'ConvTranspose') return rank ?? known.rank(second)
  if (operator === 'Flatten' || operator === 'Gemm') return 2
  if (operator === 'Shape') return 1
  if (operator === 'Size') return 0
  if (operator === 'Reshape') return known.length(second)
  if (SAME_RANK.has(operator)) return rank
  if (BROADCAST.has(operator)) return largest(node.input.map(known.rank))
  if (operator === 'MatMul') {
    // A vector operand is widened for the product and squeezed from the result.
    const both = [rank, known.rank(second)]
    return both.every((r) => r !== undefined && r > 1) ? largest(both) : undefined
  }
  if (operator === 'Gather') return sum([rank, known.rank(second), -1])
  if (operator === 'Unsqueeze' || operator === 'Squeeze' || operator.startsWith('Reduce')) {
    if (operator.startsWith('Reduce') && intAttribute(node, 'keepdims', 1) !== 0) return rank
    const count = intsAttribute(node, 'axes')?.length ?? known.length(second)
    // No axes mean all of them (Reduce) or all of size one (Squeeze).
    return count ? sum([rank, operator === 'Unsqueeze' ? count : -count]) : undefined
  }
  return undefined
}

/** Length of the node's first output when that is a vector and its length follows from the inputs. */
function vectorLength(node: NodeProto, known: Known): number | undefined {
  const [data = '', second = ''] = node.input
  switch (node.opType) {
    case 'Shape':
      // `start` and `end` cut it.
      return node.attribute.length > 0 ? undefined : known.rank(data)
    case 'Cast':
    case 'Identity':
      return known.length(data)
    case 'Concat':
      return sum(node.input.map(known.length))
    case 'Unsqueeze':
      return known.rank(data) === 0 && outputRank(node, known) === 1 ? 1 : undefined
    case 'Gather':
      return known.rank(data) === 1 ? known.length(second) : undefined
    case 'Slice': {
      // Before opset 10, with attributes.
      const length = known.length(data)
      const [start, end] = [intsAttribute(node, 'starts')?.[0], intsAttribute(node, 'ends')?.[0]]
      if (length === undefined || start === undefined || end === undefined) return undefined
      const from = (index: number) => Math.min(Math.max(index < 0 ? index + length : index, 0), length)
      return Math.max(from(end) - from(start), 0)
    }
    default:
      return undefined
  }
}

function sum(terms: readonly (number | undefined)[]): number | undefined {
  let total = 0
  for (const term of terms) {
    if (term === undefined) return undefined
    total += term
  }
  return total
}

function largest(ranks: readonly (number | undefined)[]): number | undefined {
  let most = 0
  for (const rank of ranks) {
    if (rank === undefined) return undefined
    most = Math.max(most, rank)
  }
  return most
}

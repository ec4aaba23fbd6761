/**
 * @file Constants seen through shape-only operators: a weight read as Transpose(W), Cast(W), Reshape(W, const), …
 *
 * Forward: the shape and type that reach the consumer. Backward: the consumer's view of the weight, expressed on the
 * stored tensor.
 */
import { intAttribute, intsAttribute } from './attributes.ts'
import { definingScope, findConstant, type Scope } from './graph.ts'
import { integerValues } from './integers.ts'
import type { WeightView } from './operators.ts'
import { DataType, type NodeProto } from './proto.ts'

/** One step from the stored tensor towards the consumer. */
export interface ChainStep {
  readonly node: NodeProto
  readonly scope: Scope
  /** Shape before the step. */
  readonly from: readonly number[]
  /** Shape after the step. */
  readonly to: readonly number[]
  /** Element type after the step, an onnx DataType. */
  readonly dataType: number
}

const FLOATS: readonly number[] = [DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16, DataType.DOUBLE]

/** True for the element types that qtool quantizes. */
export function isFloatType(dataType: number): boolean {
  return FLOATS.includes(dataType)
}

/**
 * The step that `node` makes from a tensor of this shape and type at input 0, or undefined when the node is not
 * shape-only, or its shape is not known when the model is read.
 */
export function chainStep(
  node: NodeProto,
  scope: Scope,
  from: readonly number[],
  dataType: number,
): ChainStep | undefined {
  if (node.domain !== '' && node.domain !== 'ai.onnx') return undefined
  const step = (to: readonly number[], type = dataType): ChainStep => ({ node, scope, from, to, dataType: type })
  switch (node.opType) {
    case 'Identity':
      return step(from)
    case 'Cast': {
      const type = intAttribute(node, 'to', 0)
      return isFloatType(type) ? step(from, type) : undefined
    }
    case 'Transpose':
      return step(permutation(node, from.length).map((axis) => from[axis]!))
    case 'Flatten': {
      const axis = intAttribute(node, 'axis', 1)
      const at = axis < 0 ? axis + from.length : axis
      return step([product(from.slice(0, at)), product(from.slice(at))])
    }
    case 'Reshape':
    case 'Squeeze':
    case 'Unsqueeze': {
      const to = reshaped(node, scope, from)
      return to && product(to) === product(from) ? step(to) : undefined
    }
  }
  return undefined
}

const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

function permutation(node: NodeProto, rank: number): readonly number[] {
  return intsAttribute(node, 'perm') ?? Array.from({ length: rank }, (_, i) => rank - 1 - i)
}

function reshaped(node: NodeProto, scope: Scope, from: readonly number[]): readonly number[] | undefined {
  const second = node.input[1] ? findConstant(scope, node.input[1]) : undefined
  const values = second
    ? integerValues(second.tensor)
    : intsAttribute(node, node.opType === 'Reshape' ? 'shape' : 'axes')
  if (node.input[1] && !values) return undefined
  if (node.opType === 'Reshape') {
    if (!values) return undefined
    const dims = values.map((d, i) => (d === 0 && intAttribute(node, 'allowzero', 0) === 0 ? from[i]! : d))
    const known = product(dims.filter((d) => d !== -1))
    return dims.map((d) => (d === -1 ? product(from) / known : d))
  }
  if (node.opType === 'Squeeze') {
    const axes = values?.map((a) => (a < 0 ? a + from.length : a))
    return from.filter((d, i) => (axes ? !axes.includes(i) : d !== 1))
  }
  if (!values) return undefined
  const rank = from.length + values.length
  const axes = values.map((a) => (a < 0 ? a + rank : a))
  const rest = [...from]
  return Array.from({ length: rank }, (_, i) => (axes.includes(i) ? 1 : rest.shift()!))
}

const MOVERS = new Set([
  'Slice',
  'Concat',
  'Split',
  'Transpose',
  'Reshape',
  'Squeeze',
  'Unsqueeze',
  'Identity',
  'Flatten',
])

/** True for a node that only moves elements about and whose inputs are all constants or made from constants alike. */
export function movesConstantsOnly(node: NodeProto, scope: Scope, depth = 0): boolean {
  if ((node.domain !== '' && node.domain !== 'ai.onnx') || !MOVERS.has(node.opType) || depth > MAX_DEPTH) return false
  return node.input.every((name) => {
    if (!name || findConstant(scope, name)) return true
    const owner = definingScope(scope, name)
    const producer = owner?.producers.get(name)
    return owner !== undefined && producer !== undefined && movesConstantsOnly(producer, owner, depth + 1)
  })
}

/** Longest chain of moves that is followed; real exporters use two or three. */
const MAX_DEPTH = 16

/**
 * Express a view of the tensor after `steps` on the stored tensor before them.
 * @returns the view, and whether its rows (outer, inner) are the consumer's rows in the same order. Where a Transpose
 *   tears the reduction apart, the view along its longest axis is returned with `sameRows` false: still a valid
 *   grouping of the stored tensor, but no kernel can read it directly.
 */
export function pullBack(view: WeightView, steps: readonly ChainStep[]): { view: WeightView; sameRows: boolean } {
  let current = view
  let sameRows = true
  for (const step of [...steps].reverse()) {
    if (step.node.opType !== 'Transpose') continue
    const perm = permutation(step.node, step.from.length)
    const range = axisRange(step.to, current)
    let axes = range ? perm.slice(range[0], range[1]) : [step.from.length - 1]
    if (!range || axes.some((axis, i) => axis !== axes[0]! + i)) {
      axes = [axes.reduce((best, axis) => (step.from[axis]! > step.from[best]! ? axis : best), axes[0]!)]
      sameRows = false
    }
    const first = axes[0]!
    const next = {
      outer: product(step.from.slice(0, first)),
      reduction: product(axes.map((axis) => step.from[axis]!)),
      inner: product(step.from.slice(first + axes.length)),
    }
    // Rows keep their order only where one side of the reduction is trivial before and after.
    const trivial = (v: WeightView) => v.outer === 1 || v.inner === 1
    const otherAxes = perm.filter((axis) => !axes.includes(axis) && step.from[axis]! > 1)
    const ordered = otherAxes.every((axis, i) => i === 0 || axis > otherAxes[i - 1]!)
    if (!trivial(current) || !trivial(next) || !ordered) sameRows = false
    current = next
  }
  return { view: current, sameRows }
}

/** Axes [from, to) of `dims` that make up the view's reduction, or undefined. */
function axisRange(dims: readonly number[], view: WeightView): [number, number] | undefined {
  for (let from = 0; from < dims.length; from++) {
    if (product(dims.slice(0, from)) !== view.outer) continue
    for (let to = from + 1; to <= dims.length; to++) {
      if (product(dims.slice(from, to)) === view.reduction && product(dims.slice(to)) === view.inner) return [from, to]
    }
  }
  return undefined
}

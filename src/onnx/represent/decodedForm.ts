/**
 * @file Type and shape of what a decode node gives, from those of its inputs: for the operators that this folder writes,
 * with small integer inputs (shapes, axes, repeats) as the model stores them.
 */
import { intAttribute, intsAttribute } from '../attributes.ts'
import { chainStep } from '../chain.ts'
import { findConstant, type Scope } from '../graph.ts'
import { integerValues } from '../integers.ts'
import { DataType, type NodeProto } from '../proto.ts'
import { isDefaultDomain } from '../ranks.ts'

export interface TensorForm {
  /** An onnx DataType. */
  readonly dataType: number
  readonly dims: readonly number[]
}

/** Give one value for each pair of values, shapes broadcast. */
const ELEMENTWISE = new Set(['Add', 'Sub', 'Mul', 'Div', 'Mod', 'BitShift', 'BitwiseAnd', 'BitwiseOr'])

/** Every other operator that {@link decodedForm} knows. */
const OTHERS = new Set([
  ...['Cast', 'Reshape', 'Transpose', 'Gather', 'GatherElements', 'Concat', 'Tile', 'Slice', 'ReduceSum', 'CumSum'],
  ...['OneHot', 'Shape'],
])

/** True for operators whose results {@link decodedForm} tells, as long as their shapes are stored and not computed. */
export function knowsForm(opType: string): boolean {
  return ELEMENTWISE.has(opType) || OTHERS.has(opType)
}

/**
 * What a node gives.
 * @param inputs in the node's order; undefined for one that is left out.
 * @returns undefined for operators that are not known, DequantizeLinear among them, and for shapes that are not stored but
 *   computed.
 */
export function decodedForm(
  node: NodeProto,
  scope: Scope,
  inputs: readonly (TensorForm | undefined)[],
): TensorForm | undefined {
  const [first, second] = inputs
  if (!isDefaultDomain(node.domain) || node.output.length !== 1 || !first) return undefined
  const { dataType, dims } = first
  const shaped = (to: readonly number[] | undefined) => to && { dataType, dims: to }
  const integers = (index: number, attribute: string) => integersOf(node, scope, index, attribute)
  if (ELEMENTWISE.has(node.opType)) return shaped(second && broadcast(dims, second.dims))
  switch (node.opType) {
    case 'Cast':
      return { dataType: intAttribute(node, 'to', 0), dims }
    case 'Reshape':
    case 'Transpose':
      return shaped(chainStep(node, scope, dims, dataType)?.to)
    case 'Gather': {
      const axis = fromStart(intAttribute(node, 'axis', 0), dims.length)
      return shaped(second && [...dims.slice(0, axis), ...second.dims, ...dims.slice(axis + 1)])
    }
    case 'GatherElements':
      return shaped(second?.dims)
    case 'Concat': {
      const axis = fromStart(intAttribute(node, 'axis', 0), dims.length)
      const parts = inputs.filter((input) => input !== undefined)
      return shaped(dims.map((size, i) => (i === axis ? parts.reduce((sum, part) => sum + part.dims[i]!, 0) : size)))
    }
    case 'Tile':
      return shaped(integers(1, 'repeats')?.map((times, i) => times * dims[i]!))
    case 'Slice':
      return shaped(sliced(dims, integers(1, 'starts'), integers(2, 'ends'), integers(3, 'axes'), node.input[4]))
    case 'ReduceSum': {
      const axes = integers(1, 'axes')?.map((axis) => fromStart(axis, dims.length))
      if (!axes) return undefined
      const kept = intAttribute(node, 'keepdims', 1) !== 0
      return shaped(dims.flatMap((size, i) => (axes.includes(i) ? (kept ? [1] : []) : [size])))
    }
    case 'CumSum':
      return first
    case 'OneHot': {
      const depth = storedScalar(scope, node.input[1]!)
      if (depth === undefined || !inputs[2]) return undefined
      const axis = fromStart(intAttribute(node, 'axis', -1), dims.length + 1)
      return { dataType: inputs[2].dataType, dims: [...dims.slice(0, axis), depth, ...dims.slice(axis)] }
    }
    case 'Shape':
      return { dataType: DataType.INT64, dims: [dims.length] }
  }
  return undefined
}

const fromStart = (axis: number, rank: number) => (axis < 0 ? axis + rank : axis)

function integersOf(node: NodeProto, scope: Scope, index: number, attribute: string): readonly number[] | undefined {
  const name = node.input[index]
  if (!name) return intsAttribute(node, attribute)
  const constant = findConstant(scope, name)
  return constant && integerValues(constant.tensor)
}

/** A float32 number stored in the model. */
function storedScalar(scope: Scope, name: string): number | undefined {
  const tensor = findConstant(scope, name)?.tensor
  if (tensor?.dataType !== DataType.FLOAT || tensor.rawData.length !== 4) return undefined
  const { buffer, byteOffset } = tensor.rawData
  return new DataView(buffer, byteOffset).getFloat32(0, true)
}

function broadcast(a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length)
  const size = (dims: readonly number[], i: number) => dims[i - rank + dims.length] ?? 1
  return Array.from({ length: rank }, (_, i) => (size(a, i) === 1 ? size(b, i) : size(a, i)))
}

/** @param steps name of the input with steps, of which there is none here. */
function sliced(
  dims: readonly number[],
  starts: readonly number[] | undefined,
  ends: readonly number[] | undefined,
  axes: readonly number[] | undefined,
  steps: string | undefined,
): number[] | undefined {
  if (!starts || !ends || !axes || steps) return undefined
  const clamped = (at: number, size: number) => Math.max(0, Math.min(at < 0 ? at + size : at, size))
  return dims.map((size, axis) => {
    const i = axes.findIndex((a) => fromStart(a, dims.length) === axis)
    return i < 0 ? size : Math.max(0, clamped(ends[i]!, size) - clamped(starts[i]!, size))
  })
}

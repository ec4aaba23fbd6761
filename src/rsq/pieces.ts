/** @file Parts of a tensor along one axis, as Split, Slice and Gather take them. */
import { intAttribute, intsAttribute } from '../onnx/attributes.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { isDefaultDomain } from '../onnx/ranks.ts'
import type { AxisFacts } from './axisFacts.ts'

/** Entries [from, to) along an axis of a node's first input. */
export interface Piece {
  /** Counted from the end of the input's shape, −1 for the last. */
  readonly axis: number
  readonly from: number
  readonly to: number
}

/** What a node's output is of its first input; undefined where the node takes no part, or the model does not say which. */
export function pieceOf(facts: AxisFacts, node: NodeProto, output: string): Piece | undefined {
  if (!isDefaultDomain(node.domain)) return undefined
  switch (node.opType) {
    case 'Split':
      return splitPiece(facts, node, output)
    case 'Slice':
      return slicePiece(facts, node)
    case 'Gather': {
      const [index, ...more] = facts.integers(node.input[1]) ?? []
      const axis = facts.fromEnd(intAttribute(node, 'axis', 0), facts.rank(node.input[0]!))
      if (index === undefined || index < 0 || more.length > 0 || axis === undefined) return undefined
      // A scalar removes the axis; a list of one entry keeps it.
      return facts.rank(node.input[1]!) === 0 ? { axis, from: index, to: index + 1 } : undefined
    }
  }
  return undefined
}

function splitPiece(facts: AxisFacts, node: NodeProto, output: string): Piece | undefined {
  const [data = '', lengths = ''] = node.input
  const axis = facts.fromEnd(intAttribute(node, 'axis', 0), facts.rank(data))
  if (axis === undefined) return undefined
  const given = lengths ? facts.integers(lengths) : intsAttribute(node, 'split')
  const whole = axis === -1 ? facts.last(data) : undefined
  const equal = whole === undefined || whole % node.output.length !== 0 ? undefined : whole / node.output.length
  const sizes = given ?? (lengths || equal === undefined ? undefined : node.output.map(() => equal))
  const at = node.output.indexOf(output)
  if (!sizes || sizes[at] === undefined) return undefined
  const from = sizes.slice(0, at).reduce((a, b) => a + b, 0)
  return { axis, from, to: from + sizes[at] }
}

/** One step of one along the last axis; others are not told. */
function slicePiece(facts: AxisFacts, node: NodeProto): Piece | undefined {
  const [data = '', starts = '', stops = '', axes = '', steps = ''] = node.input
  const [start, ...others] = facts.integers(starts) ?? intsAttribute(node, 'starts') ?? []
  const [stop] = facts.integers(stops) ?? intsAttribute(node, 'ends') ?? []
  const [given] = axes ? (facts.integers(axes) ?? []) : (intsAttribute(node, 'axes') ?? [0])
  const [step] = steps ? (facts.integers(steps) ?? []) : [1]
  const size = facts.last(data)
  if (start === undefined || stop === undefined || given === undefined || others.length > 0) return undefined
  if (step !== 1 || size === undefined || facts.isLast(given, facts.rank(data)) !== true) return undefined
  const place = (index: number) => Math.min(Math.max(index < 0 ? index + size : index, 0), size)
  const from = place(start)
  return { axis: -1, from, to: Math.max(place(stop), from) }
}

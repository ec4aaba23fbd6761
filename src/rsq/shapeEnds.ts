/**
 * @file The constant ends of the shapes that Reshape and Expand get, behind batch and length that are only known when the model runs:
 * stored integers, and what exporters put together from `Shape` of other values.
 */
import { intAttribute, intsAttribute } from '../onnx/attributes.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { isDefaultDomain } from '../onnx/ranks.ts'
import type { AxisFacts } from './axisFacts.ts'

/** The end of a shape: all of it where `isWhole`. */
interface ShapeEnd {
  readonly values: readonly (number | undefined)[]
  readonly isWhole: boolean
}

const UNKNOWN: ShapeEnd = { values: [], isWhole: false }
/** Nodes that are followed; exporters write four or five. */
const MOST_STEPS = 24

/** The end of the shape that a Reshape or an Expand is given, with 0 and −1 as they stand there. */
export function shapeEndOf(facts: AxisFacts, node: NodeProto): ShapeEnd {
  const shape = node.input[1]
  if (shape) return endOf(facts, shape)
  const values = intsAttribute(node, 'shape')
  return values ? { values, isWhole: true } : UNKNOWN
}

/** The last axis that a Reshape gives. */
export function lastAfterReshape(facts: AxisFacts, node: NodeProto): number | undefined {
  const { values, isWhole } = shapeEndOf(facts, node)
  const end = values.at(-1)
  if (end === undefined || end > 0) return end
  // 0 copies a dimension, and −1 is what is left of the last one, where zeros copy all the others.
  const [data = ''] = node.input
  const [rank, size] = [facts.rank(data), facts.last(data)]
  if (!isWhole || size === undefined || intAttribute(node, 'allowzero', 0) !== 0) return undefined
  if (end === 0) return rank === values.length ? size : undefined
  const zeros = values.findIndex((value) => value !== 0)
  const middle = values.slice(zeros, -1)
  if (rank !== zeros + 1 || !middle.every((value) => value !== undefined && value > 0)) return undefined
  return size / middle.reduce<number>((product, value) => product * value!, 1)
}

/** @param name a shape or a part of one: a vector, or a single number of it. */
function endOf(facts: AxisFacts, name: string, steps = 0): ShapeEnd {
  const known = facts.integers(name)
  if (known) return { values: known, isWhole: true }
  const node = facts.graph.scope.producers.get(name)
  if (!node || !isDefaultDomain(node.domain) || steps > MOST_STEPS) return UNKNOWN
  const [data = ''] = node.input
  switch (node.opType) {
    case 'Identity':
    case 'Cast':
      return endOf(facts, data, steps + 1)
    case 'Concat':
      return joined(node.input.map((piece) => endOf(facts, piece, steps + 1)))
    case 'Unsqueeze':
      // What becomes a vector has been one number.
      return { values: [endOf(facts, data, steps + 1).values.at(-1)], isWhole: true }
    case 'Gather': {
      const index = facts.integers(node.input[1])
      return index && facts.rank(data) === 1 ? picked(facts, data, index) : UNKNOWN
    }
    case 'Slice':
      return cut(facts, node, endOf(facts, data, steps + 1))
    case 'Shape': {
      if (node.attribute.length > 0) return UNKNOWN
      const rank = facts.rank(data)
      if (rank === undefined) return { values: [facts.last(data)], isWhole: false }
      const last = rank > 0 ? [facts.last(data)] : []
      return { values: [...Array<undefined>(rank - last.length).fill(undefined), ...last], isWhole: true }
    }
  }
  return UNKNOWN
}

function joined(pieces: readonly ShapeEnd[]): ShapeEnd {
  let all: ShapeEnd = { values: [], isWhole: true }
  for (const { values, isWhole } of pieces) {
    all = isWhole ? { values: [...all.values, ...values], isWhole: all.isWhole } : { values, isWhole }
  }
  return all
}

/** Entries next to each other of a vector; exporters cut shapes before they put others together. */
function cut(facts: AxisFacts, { input }: NodeProto, { values, isWhole }: ShapeEnd): ShapeEnd {
  const [[start], [stop]] = [facts.integers(input[1]) ?? [], facts.integers(input[2]) ?? []]
  const step = input[4] ? facts.integers(input[4])?.[0] : 1
  if (!isWhole || start === undefined || stop === undefined || step !== 1) return UNKNOWN
  return { values: values.slice(start, stop), isWhole: true }
}

/** Single numbers of a vector: of those of a shape the last is known. */
function picked(facts: AxisFacts, vector: string, index: readonly number[]): ShapeEnd {
  const made = facts.graph.scope.producers.get(vector)
  const of = made?.opType === 'Shape' && made.attribute.length === 0 ? made.input[0]! : undefined
  const sizeAt = (axis: number) => (of !== undefined && facts.isLast(axis, facts.rank(of)) ? facts.last(of) : undefined)
  return { values: index.map(sizeAt), isWhole: true }
}

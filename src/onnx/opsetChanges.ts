/**
 * @file The ways in which a new version of an operator can differ from the one before, and what a node needs to keep
 * its meaning: nothing, a small edit, or a refusal. `opsetHistory.ts` says which operator changed in which way when.
 *
 * Every edit is exact: the node computes the same values from the same inputs, only written as the new version wants it.
 */
import { hasAttribute, intAttribute, intsAttribute, setAttributeInPlace } from './attributes.ts'
import type { OpsetFacts } from './opsetFacts.ts'
import { AttributeType, DataType, type NodeProto } from './proto.ts'

/** Adds a constant to the scope of the node being edited (or finds an equal one) and returns its name. */
export type AddConstant = (
  label: string,
  type: typeof DataType.FLOAT | typeof DataType.INT64,
  dims: readonly number[],
  values: readonly (number | bigint)[],
) => string

/** One incompatible change of one operator. */
export interface OpsetChange {
  /** Why this node cannot follow the change; undefined when it can. */
  readonly refuses?: (node: NodeProto, facts: OpsetFacts) => string | undefined
  /** What it takes to follow, in place. Only called when nothing refuses. */
  readonly edit?: (node: NodeProto, facts: OpsetFacts, addConstant: AddConstant) => void
}

/** The change concerns every use. */
export function always(reason: string): OpsetChange {
  return { refuses: () => reason }
}

/** The change concerns only the nodes for which `applies` is true; others go through untouched. */
export function when(applies: (node: NodeProto) => boolean, reason: string): OpsetChange {
  return { refuses: (node) => (applies(node) ? reason : undefined) }
}

/** Attributes of one or more integers turned into int64 vectors, inputs at the given positions; what was absent stays absent. */
export function integersToInputs(positions: Readonly<Record<string, number>>): OpsetChange {
  return {
    edit: (node, _facts, addConstant) => {
      for (const [name, position] of Object.entries(positions)) {
        const attribute = takeAttribute(node, name)
        if (!attribute) continue
        const values = attribute.type === AttributeType.INT ? [attribute.i] : attribute.ints
        setInput(node, position, addConstant(name, DataType.INT64, [values.length], values))
      }
    },
  }
}

/** Float attributes turned into scalar inputs of the data's type; `needless` values equal the input's absence. */
export function floatsToInputs(
  positions: Readonly<Record<string, number>>,
  needless: (value: number, node: NodeProto) => boolean,
): OpsetChange {
  const needed = (node: NodeProto) =>
    Object.entries(positions).flatMap(([name, position]) => {
      const attribute = node.attribute.find((a) => a.name === name)
      return attribute && !needless(attribute.f, node) ? [{ name, position, value: attribute.f }] : []
    })
  return {
    refuses: (node, facts) =>
      needed(node).length > 0 && !facts.isFloat32(node.input[0] ?? '')
        ? `${Object.keys(positions).join(' and ')} must become inputs of the data's type, which is not proved to be float32`
        : undefined,
    edit: (node, _facts, addConstant) => {
      const inputs = needed(node)
      for (const name of Object.keys(positions)) takeAttribute(node, name)
      for (const { name, position, value } of inputs) {
        setInput(node, position, addConstant(name, DataType.FLOAT, [], [value]))
      }
    },
  }
}

/** Several changes that came with one version. */
export function all(...changes: readonly OpsetChange[]): OpsetChange {
  return {
    refuses: (node, facts) => {
      for (const change of changes) {
        const reason = change.refuses?.(node, facts)
        if (reason !== undefined) return reason
      }
      return undefined
    },
    edit: (node, facts, addConstant) => {
      for (const change of changes) change.edit?.(node, facts, addConstant)
    },
  }
}

/**
 * Softmax, LogSoftmax and Hardmax took the input for a matrix of shape [dims before `axis`, dims from `axis` on]
 * (default axis 1); since 13 they work along the one dimension `axis` (default −1). The same only for the last dimension.
 */
export const softmaxAlongOneAxis: OpsetChange = {
  refuses: (node, facts) => {
    const axis = intAttribute(node, 'axis', 1)
    if (axis === -1) return undefined
    const rank = facts.rank(node.input[0] ?? '')
    if (rank === undefined)
      return `axis ${axis} is not known to be the last dimension: the rank of the input is not known`
    if (axis === rank - 1) return undefined
    return `it normalizes over all dimensions from ${axis} on (rank ${rank}), later versions over one`
  },
  edit: (node) => setAttributeInPlace(node, 'axis', -1),
}

/** `spatial` went; its value 1 is what remains. */
export const onlySpatialStatistics: OpsetChange = {
  refuses: (node) => (intAttribute(node, 'spatial', 1) === 0 ? 'spatial = 0 is no longer available' : undefined),
  edit: (node) => void takeAttribute(node, 'spatial'),
}

/** The second output of Dropout changed its type (10) and its values outside training (12). */
export const dropoutMask: OpsetChange = {
  refuses: (node, facts) =>
    node.output[1] && facts.isUsed(node.output[1]) ? 'the mask output changed and is used' : undefined,
  edit: (node) => void node.output.splice(1),
}

/** Without the `training_mode` input Dropout copies its input; the ratio has no part in that. */
export const dropoutRatio: OpsetChange = { edit: (node) => void takeAttribute(node, 'ratio') }

/** Without `split` the number of equal parts must be said. */
export const splitCount: OpsetChange = {
  edit: (node) => {
    if (!node.input[1]) setAttributeInPlace(node, 'num_outputs', node.output.length)
  },
}

/** `sizes` came with an empty `scales` tensor; since 13 with none. `tf_half_pixel_for_nn` went. */
export const resizeScalesOrSizes: OpsetChange = {
  refuses: (node) =>
    textAttribute(node, 'coordinate_transformation_mode') === 'tf_half_pixel_for_nn'
      ? 'coordinate_transformation_mode tf_half_pixel_for_nn is no longer available'
      : undefined,
  edit: (node) => {
    if (node.input[3]) node.input[2] = ''
  },
}

/** The interpolation modes lost their two-dimensional names. */
export const gridSampleModes: OpsetChange = {
  edit: (node) => {
    const renamed = { bilinear: 'linear', bicubic: 'cubic' }[textAttribute(node, 'mode') ?? '']
    if (renamed !== undefined) setAttributeInPlace(node, 'mode', renamed)
  },
}

/** The default shifts the regions by half a pixel; the old behaviour has a name. */
export const roiAlignUnshifted: OpsetChange = {
  edit: (node) => setAttributeInPlace(node, 'coordinate_transformation_mode', 'output_half_pixel'),
}

/** `axis` (default 1) became a scalar input with default −2. */
export const dftAxis: OpsetChange = {
  edit: (node, _facts, addConstant) => {
    const axis = BigInt(intAttribute(node, 'axis', 1))
    takeAttribute(node, 'axis')
    setInput(node, 2, addConstant('axis', DataType.INT64, [], [axis]))
  },
}

/** The same operator under another name. */
export function renamed(opType: string): OpsetChange {
  return {
    edit: (node) => {
      node.opType = opType
    },
  }
}

/** A string attribute, or undefined. */
export function textAttribute(node: NodeProto, name: string): string | undefined {
  const attribute = node.attribute.find((a) => a.name === name)
  return attribute && new TextDecoder().decode(attribute.s)
}

/** True for an attribute that is there and not zero. */
export function isSet(node: NodeProto, name: string): boolean {
  return hasAttribute(node, name) && intAttribute(node, name, 0) !== 0
}

/** True when the node names its output at `position` or a later one. */
export function hasOutputFrom(node: NodeProto, position: number): boolean {
  return node.output.slice(position).some((name) => name !== '')
}

/** True when an integer list attribute is there and not empty. */
export function isListed(node: NodeProto, name: string): boolean {
  return (intsAttribute(node, name)?.length ?? 0) > 0
}

function takeAttribute(node: NodeProto, name: string) {
  const at = node.attribute.findIndex((a) => a.name === name)
  return at < 0 ? undefined : node.attribute.splice(at, 1)[0]
}

/** Missing optional inputs in between are written as empty names. */
function setInput(node: NodeProto, position: number, name: string): void {
  while (node.input.length < position) node.input.push('')
  node.input[position] = name
}

/**
 * @file Changes of stored constants, planned for each of their uses and made all at once: one rounding, and one copy for all uses
 * that want the same. A constant whose uses all want the same keeps its name.
 */
import type { Constant } from '../onnx/graph.ts'
import { cloneNode, DataType, makeTensor, type NodeProto } from '../onnx/proto.ts'
import { tensorByteLength } from '../onnx/tensorData.ts'
import { editVectors } from './constantVectors.ts'
import type { ModelDraft } from './modelDraft.ts'
import type { Rotation } from './rotation.ts'

/** What happens to each vector v along an axis. */
type VectorEdit =
  /** v + vector. */
  | { readonly kind: 'add'; readonly vector: Float64Array }
  /** v ∘ gain. */
  | { readonly kind: 'scale'; readonly gain: Float64Array }
  /** v − mean(v). */
  | { readonly kind: 'centre' }
  /** v·Q. */
  | { readonly kind: 'rotate'; readonly rotation: Rotation }

/** Edits of a constant for one use, in this order; those on different axes commute, but for `add`, which comes first. */
interface PlannedUse {
  readonly node: NodeProto
  readonly inputIndex: number
  readonly constant: Constant
  readonly edits: { readonly axis: number; readonly edit: VectorEdit }[]
}

/** A constant that was stored once more, since its uses do not want the same. */
export interface CopiedConstant {
  readonly constant: string
  readonly copy: string
  readonly bytes: number
  /** Names of the nodes that read the copy, or their outputs. */
  readonly nodes: readonly string[]
}

/** Apply one edit to vectors [n, width], in place. */
function editInPlace(vectors: Float64Array, width: number, edit: VectorEdit): void {
  if (edit.kind === 'rotate') {
    edit.rotation.applyInPlace(vectors)
    return
  }
  for (let at = 0; at < vectors.length; at += width) {
    if (edit.kind === 'add') for (let k = 0; k < width; k++) vectors[at + k]! += edit.vector[k]!
    else if (edit.kind === 'scale') for (let k = 0; k < width; k++) vectors[at + k]! *= edit.gain[k]!
    else {
      let sum = 0
      for (let k = 0; k < width; k++) sum += vectors[at + k]!
      const mean = sum / width
      for (let k = 0; k < width; k++) vectors[at + k]! -= mean
    }
  }
}

/** The edits of all uses. */
export class EditPlan {
  readonly #uses = new Map<NodeProto, Map<number, PlannedUse>>()

  get uses(): PlannedUse[] {
    return [...this.#uses.values()].flatMap((inputs) => [...inputs.values()])
  }

  /** @param node, constant of the draft. */
  add(node: NodeProto, inputIndex: number, constant: Constant, axis: number, edit: VectorEdit): void {
    const inputs = this.#uses.get(node) ?? new Map<number, PlannedUse>()
    this.#uses.set(node, inputs)
    const use = inputs.get(inputIndex) ?? { node, inputIndex, constant, edits: [] }
    inputs.set(inputIndex, use)
    use.edits.push({ axis, edit })
  }
}

/** A text that is the same for edits that do the same. */
function keyMaker(): (use: PlannedUse) => string {
  const rotations = new Map<Rotation, number>()
  const numberOf = (rotation: Rotation) => {
    if (!rotations.has(rotation)) rotations.set(rotation, rotations.size)
    return rotations.get(rotation)!
  }
  const text = (edit: VectorEdit) => {
    if (edit.kind === 'add') return `add ${edit.vector.join()}`
    if (edit.kind === 'scale') return `scale ${edit.gain.join()}`
    return edit.kind === 'centre' ? 'centre' : `rotate ${numberOf(edit.rotation)}`
  }
  // In the order of axes: edits of different axes commute.
  return ({ edits }) => {
    const sorted = edits.map(({ axis, edit }) => ({ axis, text: text(edit) })).sort((a, b) => a.axis - b.axis)
    return sorted.map((each) => `${each.axis}: ${each.text}`).join('; ')
  }
}

/**
 * Make the planned edits in the draft.
 * @returns the constants that were copied, with the bytes that this takes.
 * @throws QtoolError `numeric` when a number does not fit its type.
 */
export function applyEditsInPlace(draft: ModelDraft, plan: EditPlan): CopiedConstant[] {
  const keyOf = keyMaker()
  const byConstant = new Map<string, PlannedUse[]>()
  for (const use of plan.uses) {
    const known = byConstant.get(use.constant.name)
    if (known) known.push(use)
    else byConstant.set(use.constant.name, [use])
  }
  const copies: CopiedConstant[] = []
  for (const [name, uses] of byConstant) {
    const groups = new Map<string, PlannedUse[]>()
    for (const use of uses) groups.set(keyOf(use), [...(groups.get(keyOf(use)) ?? []), use])
    // What is not tied to a norm's gain keeps the place, so that a table stays and the head is copied.
    const isScaled = ([use]: readonly PlannedUse[]) => (use!.edits.some((each) => each.edit.kind === 'scale') ? 1 : 0)
    const [first, ...rest] = [...groups.values()].sort((a, b) => isScaled(a) - isScaled(b))
    // Copies first: the others take the place of what they are made from.
    const keepsPlace = isReadOnlyBy(draft, name, uses)
    for (const group of keepsPlace ? rest : groups.values()) {
      copies.push(copyFor(draft, group))
    }
    if (keepsPlace) {
      const { constant, edits } = first![0]!
      const target = draft.makeInitializer(constant)
      edit(draft, constant, target, edits)
      if (target !== constant) draft.model.payloads.delete(constant.tensor)
    }
  }
  return copies
}

/** True when a constant reaches nothing but these uses. */
function isReadOnlyBy(draft: ModelDraft, constant: string, uses: readonly PlannedUse[]): boolean {
  const paths = uses.map(({ node, inputIndex }) => draft.pathTo(node, inputIndex, constant))
  const steps = new Set(paths.flat())
  const isUse = (node: NodeProto, inputIndex: number) =>
    uses.some((use) => use.node === node && use.inputIndex === inputIndex)
  const isOurs = (name: string): boolean =>
    draft.index.scopes.every(({ outputs }) => !outputs.has(name)) &&
    (draft.scope.readers.get(name) ?? []).every(
      ({ node, inputIndex }) => isUse(node, inputIndex) || (steps.has(node) && node.output.every(isOurs)),
    )
  return isOurs(constant)
}

function copyFor(draft: ModelDraft, group: readonly PlannedUse[]): CopiedConstant {
  const { constant, edits } = group[0]!
  const { dataType, dims } = constant.tensor
  const copy = draft.addTensor(`${constant.name}/rotated`, dataType, dims.map(Number))
  edit(draft, constant, copy, edits)
  // Uses behind the same steps share the copies of these, too.
  const moved = new Map<string, string>([[constant.name, copy.name]])
  for (const { node, inputIndex } of group) {
    const path = draft.pathTo(node, inputIndex, constant.name)
    for (const step of path) {
      if (moved.has(step.output[0]!)) continue
      const again = cloneNode(step)
      again.name = draft.freshName(`${step.name || step.output[0]}/rotated`)
      again.input = step.input.map((name) => moved.get(name) ?? name)
      again.output[0] = draft.freshName(`${step.output[0]}/rotated`)
      moved.set(step.output[0]!, again.output[0])
      // Beside the original, which runs before all its uses.
      draft.insertBefore(step, [again])
    }
    node.input[inputIndex] = moved.get(node.input[inputIndex]!)!
  }
  return {
    constant: constant.name,
    copy: copy.name,
    bytes: tensorByteLength(copy.tensor),
    nodes: group.map(({ node }) => node.name || node.output[0] || ''),
  }
}

/** Edits on one axis are made slab by slab; between two axes the tensor is in float64 as a whole. */
function edit(draft: ModelDraft, from: Constant, to: Constant, edits: PlannedUse['edits']): void {
  const axes = [...new Set(edits.map(({ axis }) => axis))]
  let source = from.tensor
  for (const [i, axis] of axes.entries()) {
    const isLast = i === axes.length - 1
    const target = isLast ? to.tensor : makeTensor({ dataType: DataType.DOUBLE, dims: source.dims })
    const width = Number(source.dims[axis])
    const own = edits.filter((each) => each.axis === axis)
    editVectors(draft.model, source, target, axis, (vectors) => {
      for (const { edit: change } of own) editInPlace(vectors, width, change)
    })
    if (source !== from.tensor) draft.model.payloads.delete(source)
    source = target
  }
}

/**
 * @file A vector that is added to what a layer computes: to the bias that it has, where that is a constant of its own, or as
 * a new one. Vectors are [n], one number for each vector of the layer's weight along the axis that it sums over.
 */

import { QtoolError } from '../errors.ts'
import { floatAttribute, intAttribute, intsAttribute } from '../onnx/attributes.ts'
import type { Constant } from '../onnx/graph.ts'
import { quoted } from '../onnx/names.ts'
import type { NodeProto } from '../onnx/proto.ts'
import type { EditPlan } from './constantEdits.ts'
import type { ModelDraft } from './modelDraft.ts'

/** A layer of the draft: its node, the stored weight, and the axis of that which is summed over. */
interface BiasedLayer {
  readonly node: NodeProto
  readonly inputIndex: number
  readonly constant: Constant
  readonly axis: number
}

/** A new bias; the existing one was taken where it is undefined. */
export interface AddedBias {
  readonly node: NodeProto
  readonly inputIndex: number
  readonly constant: Constant
}

/** Where a vector goes. */
type Place =
  /** An input of a node that holds a bias, or may hold one. */
  | { readonly kind: 'input'; readonly node: NodeProto; readonly inputIndex: number; readonly scale: number }
  /** A new Add behind the layer; the vector as a tensor of these dimensions. */
  | { readonly kind: 'after'; readonly dims: readonly number[]; readonly scale: number }

/**
 * Add `vector` to the output of a layer. A new bias has its contents at once; an existing one is an edit of the plan.
 * @param count n: the vector's length.
 * @throws QtoolError `model` for a layer whose outputs cannot be matched with the vectors of its weight.
 */
export function addBias(
  draft: ModelDraft,
  plan: EditPlan,
  layer: BiasedLayer,
  vector: Float64Array,
): AddedBias | undefined {
  const { node, inputIndex, constant } = layer
  checkOrder(draft, layer)
  const place = findPlace(draft, layer, vector.length)
  if (place.scale !== 1) vector = vector.map((value) => value * place.scale)
  const label = node.name || node.output[0]!
  if (place.kind === 'input') {
    const own = place.node.input[place.inputIndex]
    const old = own ? draft.scope.constants.get(own) : undefined
    if (old) {
      plan.add(place.node, place.inputIndex, old, old.tensor.dims.length - 1, { kind: 'add', vector })
      return undefined
    }
    const type = draft.typeAt(draft.pathTo(node, inputIndex, constant.name), constant)
    const added = draft.addConstant(`${label}/bias`, type, [vector.length], vector)
    while (place.node.input.length <= place.inputIndex) place.node.input.push('')
    place.node.input[place.inputIndex] = added.name
    return { node: place.node, inputIndex: place.inputIndex, constant: added }
  }
  const type = draft.typeAt(draft.pathTo(node, inputIndex, constant.name), constant)
  const added = draft.addConstant(`${label}/bias`, type, place.dims, vector)
  return { node: draft.addAfter(node, added.name, 'biased'), inputIndex: 1, constant: added }
}

/** A reordering of the other axes on the way to the node would reorder the outputs. */
function checkOrder(draft: ModelDraft, { node, inputIndex, constant, axis }: BiasedLayer): void {
  const { dims } = constant.tensor
  const isOther = (i: number) => i !== axis && dims[i] !== 1n
  let order = dims.map((_, i) => i)
  if (order.filter(isOther).length < 2) return
  for (const step of draft.pathTo(node, inputIndex, constant.name)) {
    if (step.opType !== 'Transpose') continue
    const perm = intsAttribute(step, 'perm') ?? order.map((_, i) => order.length - 1 - i)
    // After a change of rank the axes are not those of the stored tensor any more.
    if (perm.length !== order.length) throw cannotAdd(node)
    order = perm.map((i) => order[i]!)
  }
  if (order.filter(isOther).some((at, i, all) => i > 0 && at < all[i - 1]!)) throw cannotAdd(node)
}

function cannotAdd(node: NodeProto): QtoolError {
  return new QtoolError(
    'model',
    `node ${quoted(node.name || node.output[0] || '')} (${node.opType}): the bias of the norm before it cannot be moved into it`,
    { hint: 'quantize without rotation' },
  )
}

function findPlace(draft: ModelDraft, layer: BiasedLayer, count: number): Place {
  const { node, inputIndex } = layer
  const isOwn = node.domain === '' || node.domain === 'ai.onnx'
  if (isOwn && node.opType === 'MatMul') return ofProduct(draft, layer, count, 1)
  if (node.domain === 'com.microsoft' && node.opType === 'FusedMatMul') {
    return ofProduct(draft, layer, count, floatAttribute(node, 'alpha', 1))
  }
  const isFusedGemm = node.domain === 'com.microsoft' && node.opType === 'FusedGemm'
  if ((isOwn && node.opType === 'Gemm') || isFusedGemm) {
    const alpha = floatAttribute(node, 'alpha', 1)
    const beta = floatAttribute(node, 'beta', 1)
    if (inputIndex === 1 && beta !== 0 && canHold(draft, node, 2, count)) {
      return { kind: 'input', node, inputIndex: 2, scale: alpha / beta }
    }
    // Behind a fused activation it is too late.
    if (isFusedGemm) throw cannotAdd(node)
    return { kind: 'after', dims: inputIndex === 1 ? [count] : [count, 1], scale: alpha }
  }
  if (node.domain === 'com.microsoft' && node.opType === 'Attention' && canHold(draft, node, 2, count)) {
    return { kind: 'input', node, inputIndex: 2, scale: 1 }
  }
  if (isOwn && node.opType === 'Conv' && isPointwise(layer) && canHold(draft, node, 2, count)) {
    return { kind: 'input', node, inputIndex: 2, scale: 1 }
  }
  throw cannotAdd(node)
}

/** A product: the Add of a constant that follows it, or a new one. */
function ofProduct(draft: ModelDraft, layer: BiasedLayer, count: number, scale: number): Place {
  const { node, inputIndex, constant, axis } = layer
  const output = node.output[0]!
  if (inputIndex === 1) {
    const readers = draft.scope.readers.get(output) ?? []
    const add = readers[0]?.node
    const isOutput = draft.index.scopes.some(({ outputs }) => outputs.has(output))
    if (readers.length === 1 && add?.opType === 'Add' && add.domain === '' && !isOutput) {
      const other = add.input[0] === output ? 1 : 0
      if (draft.scope.constants.has(add.input[other]!) && canHold(draft, add, other, count)) {
        return { kind: 'input', node: add, inputIndex: other, scale }
      }
    }
  }
  // [.., n] for x·W, [.., n, 1] for W·x, with the axes of batched weights before them.
  const rest = constant.tensor.dims.map(Number).filter((_, i) => i !== axis)
  const batch = rest.length > 1 ? rest.slice(0, -1) : []
  const path = draft.pathTo(node, inputIndex, constant.name)
  const isStored = path.every(({ opType }) => opType === 'Transpose' || opType === 'Cast' || opType === 'Identity')
  if (batch.length > 0 && !isStored) throw cannotAdd(node)
  if (rest.length === 0) return { kind: 'after', dims: [], scale }
  const last = count / batch.reduce((a, b) => a * b, 1)
  const dims = inputIndex === 0 ? [...batch, last, 1] : batch.length > 0 ? [...batch, 1, last] : [last]
  return { kind: 'after', dims, scale }
}

/** True where an input is empty, or a constant whose last axis has `count` numbers. */
function canHold(draft: ModelDraft, node: NodeProto, inputIndex: number, count: number): boolean {
  const name = node.input[inputIndex]
  if (!name) return true
  const tensor = draft.scope.constants.get(name)?.tensor
  return tensor !== undefined && Number(tensor.dims.at(-1) ?? 0) === count
}

/** A convolution that sums over the channels of one place. */
function isPointwise({ node, constant, axis }: BiasedLayer): boolean {
  const dims = constant.tensor.dims
  const pads = node.attribute.find(({ name }) => name === 'pads')?.ints ?? []
  return (
    axis === 1 &&
    dims.slice(2).every((dim) => dim === 1n) &&
    pads.every((pad) => pad === 0n) &&
    intAttribute(node, 'group', 1) === 1
  )
}

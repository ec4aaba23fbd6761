/**
 * @file Puts quantized layers into a model: new constants and nodes in, replaced nodes, old weights and the shape-only
 * nodes that nothing reads any more out. Edits the decoded model in place; call it on a model of your own.
 */

import type { RepresentationName } from '../../report.ts'
import { type Constant, enclosingFunction, indexModel, makeFreshNames, nodesOf, type Scope } from '../graph.ts'
import type { OnnxModel, Payload } from '../model.ts'
import { opsetOf } from '../opset.ts'
import { cloneNode, DataType, makeOpset, type NodeProto } from '../proto.ts'
import { isDefaultDomain } from '../ranks.ts'
import { emitDequantizedProduct, emitDequantizedTensor } from './dequantize.ts'
import { type EmitContext, makeEmitter } from './emitter.ts'
import { emitFolded } from './folded.ts'
import { emitGatherBlockQuantized, emitGatherRows } from './gather.ts'
import { emitLevels } from './indices.ts'
import { emitKernelInputs, emitMatMulNBits, type KernelInputs } from './matMul.ts'
import { emitByteScales, typedScales } from './packScales.ts'
import type { LayerPlan } from './plan.ts'
import type { StoredRole, StoredTensor } from './stored.ts'

/** A layer ready to be written: its plan, and where the bytes of each stored tensor are. */
export interface PackedLayer {
  readonly plan: LayerPlan
  readonly tensors: readonly StoredTensor[]
  /** One per tensor, in order. */
  readonly payloads: readonly Payload[]
}

/** Something in the written model that computes with a quantized weight, and can be run on its own to check it. */
export interface WrittenUse {
  readonly plan: LayerPlan
  readonly representation: RepresentationName
  /** Position of the scope in the index of the written model. */
  readonly scope: number
  /** Name to compute. */
  readonly output: string
  /**
   * What the name holds: the weight `tensor` itself, its columns [K, N], the looked-up `rows` for indices given as
   * `input`, or the `product` of activations given as `input` with the weight.
   */
  readonly gives: 'tensor' | 'columns' | 'rows' | 'product'
  readonly input: string | undefined
  /** Element type in which the use computes, an onnx DataType. */
  readonly dataType: number
}

/** First IR version in which initializers need not be graph inputs. */
const IR_FREE_INITIALIZERS = 4n
const CONTRIB_DOMAIN = 'com.microsoft'

/**
 * Rewrite `model.proto` and `model.payloads` so that every layer reads its quantized form. The caller has raised the
 * opset already.
 * @returns what was written, for verification.
 */
export function applyLayersInPlace(
  model: OnnxModel,
  packed: readonly PackedLayer[],
  accuracyLevel: 0 | 4,
): WrittenUse[] {
  const { proto, payloads } = model
  const opset = (scope: Scope) => opsetOf(proto, scope)
  const context: EmitContext = { opset, unused: makeFreshNames(proto), payloads, shared: new Map() }
  const fronts = new Map<Scope, NodeProto[]>()
  const replaced = new Map<NodeProto, { scope: Scope; own: NodeProto[] }>()
  const contribScopes = new Set<Scope>()
  const written: (Omit<WrittenUse, 'scope'> & { in: Scope })[] = []

  for (const [number, { plan, tensors, payloads: bytes }] of packed.entries()) {
    const { constant, uses } = plan.layer
    const front = fronts.get(constant.scope) ?? []
    fronts.set(constant.scope, front)
    const sink: NodeProto[] = []
    const to = makeEmitter(context, constant.scope, String(number), sink)
    const names: Partial<Record<StoredRole | 'levels', string>> = {}
    tensors.forEach(({ role, dataType, dims, sharedAs }, i) => {
      names[role] =
        sharedAs === undefined ? to.tensor(role, dataType, dims, bytes[i]!) : to.sharedTensor(sharedAs, dims, bytes[i]!)
    })
    const readsAll = plan.decodesTensor || plan.uses.some((use) => use !== 'gather-rows')
    if (plan.storage === 'indices' && readsAll) names.levels = emitLevels(to, plan, names)
    let scaleType = tensors.find((tensor) => tensor.role === 'scales')!.dataType
    if (names.step !== undefined) {
      names.scales = emitByteScales(to, names.scales!, names.step)
      scaleType = DataType.FLOAT
    }

    const kernel: KernelInputs | undefined = plan.uses.includes('MatMulNBits')
      ? emitKernelInputs(to, plan, names, scaleType)
      : undefined
    uses.forEach((use, i) => {
      const representation = plan.uses[i]!
      if (representation === 'folded' || !use.kernel || (representation === 'DequantizeLinear' && plan.decodesTensor))
        return
      let scales = names.scales!
      if (representation === 'GatherBlockQuantized') {
        scales = kernel?.scales(use.dataType) ?? typedScales(to, names, scaleType, use.dataType)
      }
      // What is emitted from here on takes the place of the consumer, in the consumer's scope.
      const own: NodeProto[] = []
      const here = makeEmitter(context, use.scope, String(number), own)
      const done = { plan, representation, in: use.scope, dataType: use.dataType }
      const output = use.node.output[0]!
      if (representation === 'MatMulNBits') {
        const { activations, product } = emitMatMulNBits(here, plan, use, kernel!, accuracyLevel)
        written.push({ ...done, output: product, gives: 'product', input: activations })
      } else if (representation === 'DequantizeLinear') {
        const columns = emitDequantizedProduct(here, plan, use, names, scaleType, cloneNode(use.node))
        written.push({ ...done, output: columns, gives: 'columns', input: undefined })
      } else {
        if (representation === 'gather-rows') emitGatherRows(here, plan, use, names, scaleType)
        else emitGatherBlockQuantized(here, plan, use, names, scales)
        written.push({ ...done, output, gives: 'rows', input: use.node.input[1]! })
      }
      if (representation === 'MatMulNBits' || representation === 'GatherBlockQuantized') contribScopes.add(use.scope)
      replaced.set(use.node, { scope: use.scope, own })
    })
    removeConstant(constant, payloads, model)
    if (plan.decodesTensor) {
      if (plan.storage === 'integer') emitDequantizedTensor(to, plan, names, scaleType, constant.name)
      else emitFolded(to, plan, names, scaleType, constant.name)
      const representation = plan.storage === 'integer' ? 'DequantizeLinear' : 'folded'
      const { dataType } = constant.tensor
      const gives = { gives: 'tensor', input: undefined, dataType } as const
      written.push({ plan, representation, in: constant.scope, output: constant.name, ...gives })
    }
    front.push(...sink)
  }

  for (const [node, { scope, own }] of replaced) {
    const nodes = nodesOf(scope)
    nodes.splice(nodes.indexOf(node), 1, ...own)
  }
  for (const [scope, front] of fronts) {
    const nodes = nodesOf(scope)
    const constants = nodes.findIndex((node) => node.opType !== 'Constant')
    nodes.splice(constants < 0 ? nodes.length : constants, 0, ...front)
  }
  dropUnreadMoves(model)
  if (proto.irVersion < IR_FREE_INITIALIZERS) proto.irVersion = IR_FREE_INITIALIZERS
  for (const scope of contribScopes) importContrib(scope, model)
  const order = indexModel(proto).scopes.map((scope) => scope.graph ?? scope.fn)
  return written.map(({ in: scope, ...use }) => ({ ...use, scope: order.indexOf(scope.graph ?? scope.fn) }))
}

function importContrib(scope: Scope, model: OnnxModel): void {
  const fn = enclosingFunction(scope)
  const imports = [model.proto.opsetImport, ...(fn ? [fn.opsetImport] : [])]
  for (const list of imports) {
    if (!list.some((entry) => entry.domain === CONTRIB_DOMAIN)) list.push(makeOpset(CONTRIB_DOMAIN, 1))
  }
}

function removeConstant(constant: Constant, payloads: Map<unknown, Payload>, model: OnnxModel): void {
  const { scope, node, tensor, name } = constant
  payloads.delete(tensor)
  if (node) {
    const nodes = nodesOf(scope)
    nodes.splice(nodes.indexOf(node), 1)
    return
  }
  const graph = scope.graph!
  graph.initializer.splice(graph.initializer.indexOf(tensor), 1)
  // A weight that is also a graph input may be overridden at run time; a quantized one may not.
  if (scope.graph === model.proto.graph) {
    const input = graph.input.findIndex((value) => value.name === name)
    if (input >= 0) graph.input.splice(input, 1)
  }
  const value = graph.valueInfo.findIndex((info) => info.name === name)
  if (value >= 0) graph.valueInfo.splice(value, 1)
}

/** Remove Transpose, Cast, … nodes that lost their last reader (and those before them). */
function dropUnreadMoves(model: OnnxModel): void {
  for (let changed = true; changed; ) {
    changed = false
    const index = indexModel(model.proto)
    for (const scope of index.scopes) {
      const nodes = nodesOf(scope)
      const dead = nodes.filter((node) => isMove(node) && missesInput(node, scope))
      for (const node of dead) nodes.splice(nodes.indexOf(node), 1)
      if (dead.length > 0) changed = true
    }
  }
}

const MOVES = new Set(['Transpose', 'Cast', 'Identity', 'Reshape', 'Squeeze', 'Unsqueeze', 'Flatten'])

function isMove(node: NodeProto): boolean {
  return isDefaultDomain(node.domain) && MOVES.has(node.opType)
}

/** True when the node's first input was a weight that is gone. */
function missesInput(node: NodeProto, scope: Scope): boolean {
  const name = node.input[0]!
  for (let s: Scope | undefined = scope; s; s = s.parent) {
    if (s.constants.has(name) || s.producers.has(name) || s.graph?.input.some((input) => input.name === name))
      return false
    if (s.fn?.input.includes(name)) return false
  }
  return true
}

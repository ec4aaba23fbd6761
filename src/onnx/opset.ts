/**
 * @file Raising the opset of the default domain without changing what a model computes.
 *
 * A quantized representation may need a newer opset than the model has (4-bit types 21, BitwiseAnd 18, BitShift 11).
 * The import may be raised when each node, in the main graph, in subgraphs and in local functions, either keeps its
 * meaning under the new version of its operator or can be rewritten to keep it (`opsetHistory.ts`).
 */
import { QtoolError } from '../errors.ts'
import { hasReferencedAttribute } from './attributes.ts'
import { enclosingFunction, indexModel, makeFreshNames, nodesOf, type Scope } from './graph.ts'
import { quoted } from './names.ts'
import type { AddConstant } from './opsetChanges.ts'
import { type OpsetFacts, opsetFacts } from './opsetFacts.ts'
import { changesBetween, irVersionOf, isKnownOperator, LATEST_OPSET, OLDEST_OPSET } from './opsetHistory.ts'
import {
  DataType,
  type ModelProto,
  makeNode,
  makeOpset,
  makeTensor,
  type NodeProto,
  type TensorProto,
} from './proto.ts'
import { isDefaultDomain } from './ranks.ts'

/** A node that keeps the model at its opset. */
export interface OpsetBlocker {
  readonly operator: string
  /** Name of the node, or of its first output when it has none. */
  readonly node: string
  /** The opset whose version of the operator the node cannot follow. */
  readonly version: number
  readonly reason: string
}

export interface OpsetPlan {
  /** Opset of the default domain that the model imports; 0 when it imports none. */
  readonly from: number
  /** The wanted opset, or `from` when the model is already there. */
  readonly to: number
  /** Empty when {@link raiseOpset} will succeed. */
  readonly blockers: readonly OpsetBlocker[]
}

/**
 * What raising the default domain to `wanted` takes. Local functions import opsets of their own and are judged from those.
 *
 * @param wanted at most 26, the newest opset whose changes are known.
 * @throws {QtoolError} `usage` when `wanted` is newer than that.
 */
export function planOpset(model: ModelProto, wanted: number): OpsetPlan {
  if (wanted > LATEST_OPSET) {
    throw new QtoolError('usage', `opset ${wanted}: wanted at most ${LATEST_OPSET}, the newest whose changes are known`)
  }
  const from = importedVersion(model)
  const index = indexModel(model)
  const factsOf = opsetFacts(index)
  const blockers = index.scopes.flatMap((scope) => {
    const facts = factsOf(scope)
    const version = scopeVersion(scope, from)
    return nodesOf(scope).flatMap((node) => nodeBlockers(node, facts, version, wanted))
  })
  if (model.trainingInfo.length > 0 && wanted > from) {
    const reason = 'graphs for training are not followed'
    blockers.push({ operator: '', node: 'training_info', version: from + 1, reason })
  }
  return { from, to: Math.max(from, wanted), blockers }
}

/**
 * Raise the default domain to `to`, in place: the imports of the model and of its local functions, `ir_version` as far
 * as the opset needs it, and the nodes whose operators are written otherwise there. Their attributes become initializers
 * of the graph (Constant nodes in a function and its subgraphs). Imports that are newer already stay.
 *
 * When `ir_version` passes 4, inputs of the graph that only repeat an initializer go: before 4 every initializer had to
 * be listed so, afterwards it would turn a constant into a default that a caller may override.
 *
 * @throws {QtoolError} `model` when {@link planOpset} finds blockers; the model is then untouched.
 */
export function raiseOpset(model: ModelProto, to: number): void {
  const plan = planOpset(model, to)
  const first = plan.blockers[0]
  if (first) {
    const others = plan.blockers.length > 1 ? ` (and ${plan.blockers.length - 1} more)` : ''
    throw new QtoolError(
      'model',
      `node ${quoted(first.node)} (${quoted(first.operator)}): wanted opset ${to}, found one that cannot leave ${first.version - 1}: ` +
        `${first.reason}${others}`,
      { hint: 'export the model again with a newer opset' },
    )
  }
  const index = indexModel(model)
  const factsOf = opsetFacts(index)
  const freshName = makeFreshNames(model)
  for (const scope of index.scopes) {
    const version = scopeVersion(scope, plan.from)
    const facts = factsOf(scope)
    const addConstant = constantAdder(scope, freshName)
    for (const node of [...nodesOf(scope)]) {
      if (!isDefaultDomain(node.domain)) continue
      for (const { change } of changesBetween(node.opType, version, to)) change.edit?.(node, facts, addConstant)
    }
  }
  for (const holder of [model, ...model.functions]) raiseImport(holder, to)
  if (plan.from >= to) return
  const irVersion = irVersionOf(to)
  if (model.irVersion < 4n && irVersion >= 4) dropRepeatedInputs(model)
  if (model.irVersion < irVersion) model.irVersion = BigInt(irVersion)
}

type Importing = Pick<ModelProto, 'opsetImport'>

function importedVersion(holder: Importing): number {
  return Number(holder.opsetImport.find((o) => isDefaultDomain(o.domain))?.version ?? 0)
}

/** Opset of the default domain that the nodes of a scope are written in. */
export function opsetOf(model: ModelProto, scope: Scope): number {
  return scopeVersion(scope, importedVersion(model))
}

/** A function and the subgraphs in it follow the function's own import. */
function scopeVersion(scope: Scope, modelVersion: number): number {
  const fn = enclosingFunction(scope)
  return fn ? importedVersion(fn) : modelVersion
}

function raiseImport(holder: Importing, to: number): void {
  const entry = holder.opsetImport.find((o) => isDefaultDomain(o.domain))
  if (!entry) holder.opsetImport.push(makeOpset('', to))
  else if (entry.version < to) entry.version = BigInt(to)
}

function nodeBlockers(node: NodeProto, facts: OpsetFacts, from: number, to: number): OpsetBlocker[] {
  if (!isDefaultDomain(node.domain) || to <= from) return []
  const blocker = (version: number, reason: string): OpsetBlocker => {
    return { operator: node.opType, node: node.name || node.output[0] || '', version, reason }
  }
  if (from < OLDEST_OPSET) return [blocker(from + 1, `changes before opset ${OLDEST_OPSET} are not known`)]
  if (!isKnownOperator(node.opType)) return [blocker(from + 1, 'not a standard operator: its changes are not known')]
  return changesBetween(node.opType, from, to).flatMap(({ version, change }) => {
    const reason = hasReferencedAttribute(node)
      ? 'its attributes come from the caller of the function'
      : change.refuses?.(node, facts)
    return reason === undefined ? [] : [blocker(version, reason)]
  })
}

function constantAdder(scope: Scope, freshName: (wanted: string) => string): AddConstant {
  const made = new Map<string, string>()
  return (label, type, dims, values) => {
    const text = `${label}[${values.join(',')}]`
    const key = `${text}:${dims.length}`
    const known = made.get(key)
    if (known !== undefined) return known
    const name = freshName(text)
    made.set(key, name)
    const data = type === DataType.FLOAT ? { floatData: values.map(Number) } : { int64Data: values.map(BigInt) }
    addTensor(scope, makeTensor({ name, dataType: type, dims: dims.map(BigInt), ...data }))
    return name
  }
}

function addTensor(scope: Scope, tensor: TensorProto): void {
  if (scope.graph && !enclosingFunction(scope)) scope.graph.initializer.push(tensor)
  else nodesOf(scope).unshift(makeNode('Constant', [], [tensor.name], { attributes: { value: tensor } }))
}

function dropRepeatedInputs(model: ModelProto): void {
  const graph = model.graph
  if (!graph) return
  const initializers = new Set(graph.initializer.map((tensor) => tensor.name))
  graph.input = graph.input.filter((input) => !initializers.has(input.name))
}

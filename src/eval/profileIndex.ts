/** @file Finds the executed nodes that belong to a node of the model, under the names that optimizations give them. */
import { nodesOf, type Scope } from '../onnx/graph.ts'
import type { NodeProto } from '../onnx/proto.ts'
import type { ExecutedNode } from './profile.ts'

/** Operators that compute on the codes themselves. MatMulBnb4 is not one: it decodes its weight in every run. */
const LOW_BIT =
  /^(MatMulNBits|GatherBlockQuantized|QLinear\w+|QGemm|QAttention|QMoE|QOrdered\w+|QEmbed\w+|MatMulInteger\w*|ConvInteger|Dynamic(QuantizeMatMul|QuantizeLSTM))$/

export function isLowBit(operator: string): boolean {
  return LOW_BIT.test(operator)
}

/** Executed nodes by the model's nodes. */
export class ProfileIndex {
  readonly #operators = new Map<string, string[]>()
  readonly #positions = new Map<Scope, Map<NodeProto, number>>()
  readonly #entered = new Map<Scope, boolean>()

  constructor(executed: readonly ExecutedNode[]) {
    for (const { name, operator } of executed) {
      const list = this.#operators.get(name)
      if (!list) this.#operators.set(name, [operator])
      else if (!list.includes(operator)) list.push(operator)
    }
  }

  /** Operators that ran in place of a node: none when it was folded, fused into another, or not reached. */
  find(node: NodeProto, scope: Scope): readonly string[] {
    if (!node.name) return this.#findUnnamed(node, scope)
    const exact = this.#operators.get(node.name)
    if (exact) return exact
    const operators: string[] = []
    for (const [name, ran] of this.#operators) {
      if (scope.fn ? isInlined(name, node.name, scope.fn.name) : isSuccessor(name, node.name)) operators.push(...ran)
    }
    return operators
  }

  /** True when the scope's nodes were executed. The main graph always is. */
  entered(scope: Scope): boolean {
    if (!scope.parent && !scope.fn) return true
    let entered = this.#entered.get(scope)
    if (entered === undefined) {
      entered = nodesOf(scope).some((node) => this.find(node, scope).length > 0)
      this.#entered.set(scope, entered)
    }
    return entered
  }

  /**
   * Nodes without a name run as `<operator>_<index>`. A fused one has an operator and an index of its own, beyond the
   * last node's; which of the fused nodes it is cannot be told, so any fused product is taken for it.
   */
  #findUnnamed(node: NodeProto, scope: Scope): readonly string[] {
    const positions = this.#positionsOf(scope)
    const own = this.#operators.get(`${node.opType}_${positions.get(node)}`)
    if (own) return own
    if (node.opType !== 'MatMul' && node.opType !== 'Gemm' && node.opType !== 'Conv') return []
    const operators: string[] = []
    for (const [name, ran] of this.#operators) {
      const index = /^[A-Za-z0-9]+_(\d+)$/.exec(name)?.[1]
      if (index !== undefined && Number(index) >= positions.size && ran.some((operator) => isLowBit(operator))) {
        operators.push(...ran)
      }
    }
    return operators
  }

  #positionsOf(scope: Scope): Map<NodeProto, number> {
    let positions = this.#positions.get(scope)
    if (!positions) {
      positions = new Map()
      for (const node of nodesOf(scope)) if (node.opType !== 'Constant') positions.set(node, positions.size)
      this.#positions.set(scope, positions)
    }
    return positions
  }
}

/** True for a node's own name and for those that optimizations derive from it. */
function isSuccessor(executed: string, name: string): boolean {
  if (executed === name || executed === `fused ${name}`) return true
  if (!executed.startsWith(name)) return false
  const rest = executed.slice(name.length)
  return /^\/\w+Fusion\/?/.test(rest) || /^(_token_\d+|_nchwc)/.test(rest)
}

/** True for a node of a local function's body after inlining: `_inlfunc_<function>_<node>`, nested or numbered. */
function isInlined(executed: string, name: string, fn: string): boolean {
  const at = executed.indexOf(`_inlfunc_${fn}`)
  if (at < 0) return false
  const rest = executed.slice(at + '_inlfunc_'.length + fn.length)
  const found = rest.indexOf(`_${name}`)
  return found >= 0 && isSuccessor(rest.slice(found + 1), name)
}

/** @file A layer Hessian made fit for the solver: damped, ordered, factored. */
import { factorUpper } from '../linalg/factor.ts'
import type { Products } from '../runtime/products.ts'
import { activationOrder, greedyOrder, mixedOrder, naturalOrder } from './order.ts'

/**
 * - natural: as in the model;
 * - activation: largest diag H_d first (GPTQ's act-order);
 * - greedy: of the columns left, the one first that the others can compensate least: the smallest diagonal of the
 *   inverse of their H_d. This is the detection order of V-BLAST (Wolniansky et al., 1998), which makes the
 *   smallest diagonal of the factor as large as it can be. Costs about five times the factorisation.
 */
export type Order = 'natural' | 'activation' | 'greedy' | `mixed ${number}`

export interface HessianOptions {
  /** λ as a share of the mean of diag H over live inputs; ≥ 0. GPTQ's percdamp, 0.01 there. */
  readonly damping: number
  readonly order: Order
}

export interface PreparedHessian {
  /** K. */
  readonly cols: number
  readonly order: Order
  /** Place in the order → column. */
  readonly permutation: Int32Array
  /** H_d = H + λI in natural order, [K, K]; the row and column of a dead input hold only its diagonal. */
  readonly damped: Float32Array
  /** Upper triangular T of the permuted H_d = T·Tᵀ, in permuted order, [K, K]. */
  readonly factor: Float32Array
  /** λ that was used, absolute. */
  readonly damping: number
  /** How many λ were tried; 1 = the first was enough. */
  readonly dampingTries: number
  /** Columns whose input is always zero (or constant, when centred), ascending. */
  readonly dead: Int32Array
}

/** No λ of the ladder helped; the caller rounds to nearest instead, and says so. */
export interface FailedHessian {
  readonly failed: 'not finite' | 'not positive definite'
  /** The last λ tried, absolute. */
  readonly damping: number
  readonly dampingTries: number
}

const LADDER_STEPS = 6
/** From one λ of the ladder to the next. */
export const LADDER_GROWTH = 10
/** Where the ladder goes on from λ = 0, as a share of the mean of diag H. */
const LEAST_DAMPING = 1e-6
/** What a dead input gets on the diagonal where λ is 0, as a share of the same mean. */
const DEAD_SHARE = 1e-2

/**
 * Damp, order and factor H. λ = damping · mean(diag H), then ten times as much, up to six times more, until H + λI is
 * positive definite in floating point. A sum of squares needs the ladder only for its rounding errors.
 *
 * A dead input has λ on the diagonal, like the others, and nothing else: in the solver it is rounded to nearest, and
 * weighs next to nothing in its group's scale. The result scales with H: c·H gives c·H_d and √c·T.
 *
 * @param hessian H, symmetric [K, K]; not modified.
 * @throws RangeError when H does not fit K or the damping is negative.
 */
export async function prepareHessian(
  hessian: Float64Array,
  cols: number,
  { damping, order }: HessianOptions,
  products: Products,
): Promise<PreparedHessian | FailedHessian> {
  if (hessian.length !== cols * cols || !(damping >= 0)) {
    throw new RangeError(
      `hessian: want ${cols} × ${cols} numbers and damping ≥ 0, got ${hessian.length} and ${damping}`,
    )
  }
  if (!isFiniteArray(hessian)) return { failed: 'not finite', damping: 0, dampingTries: 0 }
  const dead = deadInputs(hessian, cols)
  const live = cols - dead.length
  let total = 0
  for (let k = 0; k < cols; k++) total += Math.max(0, hessian[k * cols + k]!)
  const mean = live ? total / live : 1

  let lambda = damping * mean
  for (let tries = 1; ; tries++) {
    const damped = damp(hessian, cols, dead, lambda, lambda || DEAD_SHARE * mean)
    const ordered = await factorInOrder(damped, cols, order, products)
    if (ordered) {
      const { permutation, factor } = ordered
      return {
        cols,
        order,
        permutation,
        damped: new Float32Array(damped),
        factor: new Float32Array(factor),
        damping: lambda,
        dampingTries: tries,
        dead,
      }
    }
    if (tries > LADDER_STEPS) return { failed: 'not positive definite', damping: lambda, dampingTries: tries }
    lambda = lambda ? lambda * LADDER_GROWTH : LEAST_DAMPING * mean
  }
}

/** A loop: a callback for each of K² numbers takes ten times as long. */
function isFiniteArray(values: Float64Array): boolean {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]! - values[i]!
  return sum === 0
}

/** A variance is not below 0 but for rounding. */
function deadInputs(hessian: Float64Array, cols: number): Int32Array {
  const dead: number[] = []
  for (let k = 0; k < cols; k++) if (!(hessian[k * cols + k]! > 0)) dead.push(k)
  return Int32Array.from(dead)
}

/** H_d: λ on the diagonal of live inputs; a dead input has `deadDiagonal` there, and nothing else. */
export function damp(
  hessian: Float64Array,
  cols: number,
  dead: Int32Array,
  lambda: number,
  deadDiagonal: number,
): Float64Array {
  const damped = hessian.slice()
  for (const k of dead) {
    damped.fill(0, k * cols, (k + 1) * cols)
    for (let i = 0; i < cols; i++) damped[i * cols + k] = 0
  }
  for (let k = 0; k < cols; k++) damped[k * cols + k]! += lambda
  for (const k of dead) damped[k * cols + k] = deadDiagonal
  return damped
}

/** The order and its factor; undefined when the matrix is not positive definite. */
async function factorInOrder(
  damped: Float64Array,
  cols: number,
  order: Order,
  products: Products,
): Promise<{ permutation: Int32Array; factor: Float64Array } | undefined> {
  let permutation = naturalOrder(cols)
  if (order === 'activation') permutation = activationOrder(damped, cols)
  if (order.startsWith('mixed')) permutation = mixedOrder(damped, cols, Number(order.slice('mixed '.length)))
  if (order === 'greedy') {
    const found = await greedyOrder(damped, cols, products)
    if (!found) return undefined
    permutation = found
  }
  const permuted = order === 'natural' ? damped : permuteBoth(damped, cols, permutation)
  const result = await factorUpper(permuted, cols, products)
  if (!('factor' in result) || !isFactor(result.factor, cols)) return undefined
  return { permutation, factor: result.factor }
}

/** Whether the diagonal survives the rounding to float32, in which the solver divides by it. */
function isFactor(factor: Float64Array, cols: number): boolean {
  for (let k = 0; k < cols; k++) {
    const root = Math.fround(factor[k * cols + k]!)
    if (!(root > 0 && Number.isFinite(root))) return false
  }
  return true
}

/** B[i, j] = A[permutation[i], permutation[j]]. */
function permuteBoth(matrix: Float64Array, cols: number, permutation: Int32Array): Float64Array {
  const permuted = new Float64Array(cols * cols)
  for (let i = 0; i < cols; i++) {
    const row = permutation[i]! * cols
    const base = i * cols
    for (let j = 0; j < cols; j++) permuted[base + j] = matrix[row + permutation[j]!]!
  }
  return permuted
}

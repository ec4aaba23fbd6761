/** @file In which order the solver decides the columns: those decided first are corrected by those that follow. */
import { factorUpper } from '../linalg/factor.ts'
import { solveWithFactor } from '../linalg/solve.ts'
import { makeRandom } from '../random.ts'
import type { Products } from '../runtime/products.ts'

export function naturalOrder(cols: number): Int32Array {
  return Int32Array.from({ length: cols }, (_, k) => k)
}

/** Descending diagonal; of equal ones, the first column first. */
export function activationOrder(damped: Float64Array, cols: number): Int32Array {
  const diagonal = Float64Array.from({ length: cols }, (_, k) => damped[k * cols + k]!)
  return naturalOrder(cols).sort((a, b) => diagonal[b]! - diagonal[a]! || a - b)
}

/** Standard deviation of the noise on the logarithm of the diagonal, about. */
const MIXING = 1.5

/**
 * The activation order with noise: another start for the solver, whose result depends on the order.
 * @param number tells the orders apart; the same number gives the same order.
 */
export function mixedOrder(damped: Float64Array, cols: number, number: number): Int32Array {
  const random = makeRandom(number)
  const keys = Float64Array.from({ length: cols }, (_, k) => {
    return Math.log(damped[k * cols + k]!) + MIXING * (random.uniform() + random.uniform() - 1)
  })
  return naturalOrder(cols).sort((a, b) => keys[b]! - keys[a]! || a - b)
}

/** Columns eliminated between two updates of the whole matrix. */
const PANEL = 64

/**
 * The greedy order of H_d: elimination on the inverse M with the smallest pivot next, since M − m mᵀ / m_jj on the columns
 * left is the inverse of their H_d. Within a panel only the diagonal and the pivot's column are brought up to date; the rest
 * follows as one product (the blocking of LAPACK's dpstrf).
 * @returns place → column; undefined when the matrix is not positive definite.
 */
export async function greedyOrder(
  damped: Float64Array,
  cols: number,
  products: Products,
): Promise<Int32Array | undefined> {
  const factored = await factorUpper(damped, cols, products)
  if (!('factor' in factored)) return undefined
  const identity = new Float64Array(cols * cols)
  for (let k = 0; k < cols; k++) identity[k * cols + k] = 1
  let inverse = await solveWithFactor(factored.factor, cols, identity, cols, products)

  const diagonal = Float64Array.from({ length: cols }, (_, k) => inverse[k * cols + k]!)
  const order = new Int32Array(cols)
  const isTaken = new Uint8Array(cols)
  for (let from = 0; from < cols; from += PANEL) {
    const width = Math.min(PANEL, cols - from)
    // Row i: the i-th pivot's column of M, eliminated so far, over the root of the pivot.
    const panel = new Float64Array(width * cols)
    for (let i = 0; i < width; i++) {
      const pivot = leastOf(diagonal, isTaken)
      if (pivot === undefined) return undefined
      order[from + i] = pivot
      isTaken[pivot] = 1
      const column = panel.subarray(i * cols, (i + 1) * cols)
      column.set(inverse.subarray(pivot * cols, (pivot + 1) * cols))
      for (let before = 0; before < i; before++) {
        const factor = panel[before * cols + pivot]!
        const base = before * cols
        for (let k = 0; k < cols; k++) column[k]! -= factor * panel[base + k]!
      }
      const root = Math.sqrt(diagonal[pivot]!)
      for (let k = 0; k < cols; k++) {
        column[k]! /= root
        diagonal[k]! -= column[k]! * column[k]!
      }
    }
    if (from + width === cols) break
    inverse = await products.multiply({
      a: panel,
      aRows: width,
      aCols: cols,
      b: panel,
      bRows: width,
      bCols: cols,
      transA: true,
      add: inverse,
      alpha: -1,
    })
  }
  return order
}

/** The column of least diagonal that is not taken; undefined when it is not above 0. */
function leastOf(diagonal: Float64Array, isTaken: Uint8Array): number | undefined {
  let best = -1
  for (let k = 0; k < diagonal.length; k++) {
    if (!isTaken[k] && (best < 0 || diagonal[k]! < diagonal[best]!)) best = k
  }
  return diagonal[best]! > 0 ? best : undefined
}

/**
 * @file Hadamard matrices, H·Hᵀ = m·I with entries ±1, as Kronecker products of Paley's and Sylvester's (the Walsh–Hadamard
 * matrices of powers of two), and products with them in place.
 *
 * Of the multiples of 4 up to 4096 they reach 692 of 1024 (92, 116 and 156 are the first without one), and of those of 32, as
 * widths of networks are, all but 1888, 2336, 3232, 3424, 3488, 3616, 3776 and 4064.
 */
import { isPaleyOrder, paleyMatrix } from './paley.ts'

/** Factors with what a product with one vector costs for each of its entries. */
interface Factors {
  /** Orders of Paley matrices, ascending. */
  readonly paley: readonly number[]
  /** The power of two that is left. */
  readonly sylvester: number
  readonly cost: number
}

const knownFactors = new Map<number, Factors | undefined>()
const knownMatrices = new Map<number, Int8Array>()

/** The cheapest factors of an order; undefined where there are none. */
function factorsOf(order: number): Factors | undefined {
  if (!knownFactors.has(order)) knownFactors.set(order, cheapest(order, 12))
  return knownFactors.get(order)
}

/** @param least smallest order of a Paley matrix that may be taken: each product is looked at once. */
function cheapest(order: number, least: number): Factors | undefined {
  const bits = Math.log2(order)
  if (Number.isInteger(bits)) return { paley: [], sylvester: order, cost: bits }
  if (order % 4 !== 0) return undefined
  let best: Factors | undefined
  for (let m = least; m <= order; m += 4) {
    if (order % m !== 0 || !isPaleyOrder(m)) continue
    const rest = cheapest(order / m, m)
    if (!rest || (best && rest.cost + m >= best.cost)) continue
    best = { paley: [m, ...rest.paley], sylvester: rest.sylvester, cost: rest.cost + m }
  }
  return best
}

/** True for orders that have a matrix here: 1, 2, and most multiples of 4. */
export function isHadamardOrder(order: number): boolean {
  return Number.isInteger(order) && order >= 1 && factorsOf(order) !== undefined
}

/** The largest order that divides a width and is at most `most`; 1 where there is no other. */
export function largestHadamardDivisor(width: number, most = width): number {
  for (let order = Math.min(most, width); order > 1; order--) {
    if (width % order === 0 && isHadamardOrder(order)) return order
  }
  return 1
}

/**
 * Multiply row vectors by H, or by Hᵀ: v ← v·H, not normalised: each grows by √order.
 *
 * The power-of-two factor is a fast Walsh–Hadamard transform, a Paley factor of order m costs m additions an entry.
 * @param vectors [n, order], overwritten.
 * @throws RangeError where there is no such matrix, or the vectors have another width.
 */
export function multiplyByHadamardInPlace(vectors: Float64Array, order: number, transposed = false): void {
  const factors = isHadamardOrder(order) ? factorsOf(order) : undefined
  if (!factors) throw new RangeError(`there is no Hadamard matrix of order ${order}`)
  if (vectors.length % order !== 0) throw new RangeError(`${vectors.length} numbers are no vectors of ${order}`)
  walshInPlace(vectors, factors.sylvester)
  let inner = factors.sylvester
  for (const m of [...factors.paley].reverse()) {
    multiplyAxisInPlace(vectors, m, inner, transposed)
    inner *= m
  }
}

/** The innermost factor: runs of `size` entries by Sylvester's matrix, which is symmetric. */
function walshInPlace(values: Float64Array, size: number): void {
  for (let half = 1; half < size; half *= 2) {
    for (let start = 0; start < values.length; start += 2 * half) {
      for (let i = start; i < start + half; i++) {
        const a = values[i]!
        const b = values[i + half]!
        values[i] = a + b
        values[i + half] = a - b
      }
    }
  }
}

/** Multiply along the middle axis of [·, m, inner]. */
function multiplyAxisInPlace(values: Float64Array, m: number, inner: number, transposed: boolean): void {
  const matrix = matrixOfPaley(m)
  const [rowStep, columnStep] = transposed ? [1, m] : [m, 1]
  const block = m * inner
  const from = new Float64Array(block)
  for (let start = 0; start < values.length; start += block) {
    from.set(values.subarray(start, start + block))
    values.fill(0, start, start + block)
    for (let column = 0; column < m; column++) {
      const to = start + column * inner
      for (let row = 0; row < m; row++) {
        const sign = matrix[row * rowStep + column * columnStep]!
        for (let i = 0; i < inner; i++) values[to + i]! += sign * from[row * inner + i]!
      }
    }
  }
}

function matrixOfPaley(order: number): Int8Array {
  const matrix = knownMatrices.get(order) ?? paleyMatrix(order)
  knownMatrices.set(order, matrix)
  return matrix
}

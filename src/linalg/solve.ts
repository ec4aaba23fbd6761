/** @file Solutions of X·H = B from the triangular factor of H, in blocks. */
import type { Products } from '../runtime/products.ts'
import { BLOCK, copyColumns, invertUpperBlock, transpose } from './blocks.ts'

/**
 * X with X·H = B, given the factor of H = T·Tᵀ from `factorUpper`. Two triangular solves of rows · n² multiply-adds
 * together: Y·Tᵀ = B from the last column to the first, then X·T = Y from the first to the last. Both run on the
 * transposes, where the columns solved so far are contiguous, so that each block is one product with a long inner
 * axis. The bits do not depend on the number of threads of `products`.
 *
 * @param factor T [n, n] row-major, upper triangular with a nonzero diagonal. Not modified.
 * @param b B [rows, n] row-major. Not modified.
 * @returns X [rows, n], new.
 * @throws RangeError when the arrays do not have these sizes.
 */
export async function solveWithFactor(
  factor: Float64Array,
  n: number,
  b: Float64Array,
  rows: number,
  products: Products,
): Promise<Float64Array> {
  if (factor.length !== n * n) throw new RangeError(`solveWithFactor: ${factor.length} numbers are not ${n} × ${n}`)
  if (b.length !== rows * n) throw new RangeError(`solveWithFactor: ${b.length} numbers are not ${rows} × ${n}`)
  if (b.length === 0) return new Float64Array(0)
  const unknown = transpose(b, rows, n)
  const system = { factor, n, rows, products, unknown, solved: new Float64Array(Math.min(n, BLOCK) * rows) }
  const last = Math.floor((n - 1) / BLOCK) * BLOCK
  for (let start = last; start >= 0; start -= BLOCK) await solveBackwardInPlace(system, start)
  for (let start = 0; start < n; start += BLOCK) await solveForwardInPlace(system, start)
  return transpose(unknown, n, rows)
}

interface System {
  readonly factor: Float64Array
  readonly n: number
  readonly rows: number
  readonly products: Products
  /** Bᵀ at first, then row by row Yᵀ, then Xᵀ; [n, rows]. */
  readonly unknown: Float64Array
  /** Room for one block of it. */
  readonly solved: Float64Array
}

/** Rows [start, start + BLOCK) of Yᵀ: T[J,J]·Yᵀ[J] = Bᵀ[J] − T[J, later]·Yᵀ[later]. */
async function solveBackwardInPlace(system: System, start: number): Promise<void> {
  const { factor, n, rows, products, unknown } = system
  const end = Math.min(start + BLOCK, n)
  const width = end - start
  const mine = unknown.subarray(start * rows, end * rows)
  const band = factor.subarray(start * n, end * n)
  if (end < n) {
    const a = copyColumns(band, n, width, end, n)
    const later = { b: unknown.subarray(end * rows), bRows: n - end, bCols: rows }
    await products.multiply({ a, aRows: width, aCols: n - end, ...later, alpha: -1, add: mine, out: mine })
  }
  const block = copyColumns(band, n, width, start, end)
  await solveBlockInPlace(system, block, invertUpperBlock(block, width), mine)
}

/** Rows [start, start + BLOCK) of Xᵀ: T[J,J]ᵀ·Xᵀ[J] = Yᵀ[J] − T[earlier, J]ᵀ·Xᵀ[earlier]. */
async function solveForwardInPlace(system: System, start: number): Promise<void> {
  const { factor, n, rows, products, unknown } = system
  const end = Math.min(start + BLOCK, n)
  const width = end - start
  const mine = unknown.subarray(start * rows, end * rows)
  const columns = copyColumns(factor, n, end, start, end)
  if (start > 0) {
    // Transposed here once; the runtime would do it again for every strip of columns.
    const a = transpose(columns.subarray(0, start * width), start, width)
    const earlier = { b: unknown.subarray(0, start * rows), bRows: start, bCols: rows }
    await products.multiply({ a, aRows: width, aCols: start, ...earlier, alpha: -1, add: mine, out: mine })
  }
  const block = columns.subarray(start * width)
  const inverse = transpose(invertUpperBlock(block, width), width, width)
  await solveBlockInPlace(system, transpose(block, width, width), inverse, mine)
}

/**
 * Solve L·Z = V for a triangular block, in place of V [width, rows]: by the inverse, corrected once by the residual,
 * which makes it as accurate as substitution.
 */
async function solveBlockInPlace(
  { rows, products, solved }: System,
  block: Float64Array,
  inverse: Float64Array,
  v: Float64Array,
): Promise<void> {
  const width = v.length / rows
  const size = { aRows: width, aCols: width, bRows: width, bCols: rows }
  const out = solved.subarray(0, v.length)
  await products.multiply({ a: inverse, b: v, ...size, out })
  await products.multiply({ a: block, b: out, ...size, alpha: -1, add: v, out: v })
  await products.multiply({ a: inverse, b: v, ...size, add: out, out })
  v.set(out)
}

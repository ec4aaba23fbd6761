/** @file The triangular factor of a symmetric positive definite matrix, in blocks. */
import type { Products } from '../runtime/products.ts'
import { BLOCK, copyColumns, factorBlockInPlace, invertUpperBlock } from './blocks.ts'

/** At most {@link BLOCK} columns [start, end) of T and the rows [0, end), below which they are zero; row-major [end, end − start]. */
interface Panel {
  readonly start: number
  readonly end: number
  readonly values: Float64Array
}

/**
 * Upper triangular T with a positive diagonal and H = T·Tᵀ: with rows and columns in reverse order, T is the Cholesky factor of H
 * (as used for GPTQ in place of the factor of H⁻¹).
 *
 * Left-looking over panels of columns, from the last to the first. A panel is contiguous, so what the later ones
 * contribute to it are products of n³/3 multiply-adds in all; the triangular solve of the rows above a diagonal block is
 * a product with its inverse, corrected once by its residual, which makes it as accurate as substitution.
 * The bits do not depend on the number of threads of `products`.
 *
 * @param h symmetric, [n, n] row-major; only the upper triangle is read. Not modified.
 * @returns T [n, n], new; or the index in H of the pivot that was not a positive finite number: H is then indefinite, singular
 * to working precision, or holds NaN.
 * @throws RangeError when `h` is not n × n.
 */
export async function factorUpper(
  h: Float64Array,
  n: number,
  products: Products,
): Promise<{ readonly factor: Float64Array } | { readonly failedPivot: number }> {
  if (h.length !== n * n) throw new RangeError(`factorUpper: ${h.length} numbers are not ${n} × ${n}`)
  const done: Panel[] = []
  for (let end = n; end > 0; ) {
    const start = Math.floor((end - 1) / BLOCK) * BLOCK
    const panel = { start, end, values: copyColumns(h, n, end, start, end) }
    for (const later of done) await subtractInPlace(panel, later, products)
    const failed = await finishInPlace(panel, products)
    if (failed >= 0) return { failedPivot: start + failed }
    done.push(panel)
    end = start
  }
  return { factor: assemble(done, n) }
}

/** Subtract from `panel` the product of `later` with its own rows at the panel's columns, transposed. */
async function subtractInPlace(panel: Panel, later: Panel, products: Products): Promise<void> {
  const { start, end, values } = panel
  const inner = later.end - later.start
  await products.multiply({
    a: later.values.subarray(0, end * inner),
    aRows: end,
    aCols: inner,
    b: later.values.subarray(start * inner, end * inner),
    bRows: end - start,
    bCols: inner,
    transB: true,
    alpha: -1,
    add: values,
    out: values,
  })
}

/** Turn the Schur complement in a panel into columns of T. Returns the pivot that failed, within the block, or −1. */
async function finishInPlace({ start, end, values }: Panel, products: Products): Promise<number> {
  const width = end - start
  const block = values.subarray(start * width)
  const failed = factorBlockInPlace(block, width)
  if (failed >= 0 || start === 0) return failed
  const above = values.subarray(0, start * width)
  const size = { aRows: start, aCols: width, bRows: width, bCols: width, transB: true } as const
  const inverse = invertUpperBlock(block, width)
  const solved = await products.multiply({ a: above, b: inverse, ...size })
  const residual = await products.multiply({ a: solved, b: block, ...size, alpha: -1, add: above, out: above })
  const corrected = await products.multiply({ a: residual, b: inverse, ...size, add: solved, out: solved })
  above.set(corrected)
  return -1
}

function assemble(panels: readonly Panel[], n: number): Float64Array {
  const factor = new Float64Array(n * n)
  for (const { start, end, values } of panels) {
    const width = end - start
    for (let i = 0; i < end; i++) factor.set(values.subarray(i * width, (i + 1) * width), i * n + start)
  }
  return factor
}

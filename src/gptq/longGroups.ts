/** @file Refit of the grids of long groups (a whole row, as a rule) over a layer. */
import { type Descent, residualsOf } from './descent.ts'
import { FORMS, longGroupTask } from './longGroupKernel.ts'

/**
 * Refit scale and zero point of every group, one place in the row after the other, for fixed codes. The loss of no row
 * rises. Costs two products: R, and levels times H_d inside each group.
 * @returns grids changed.
 */
export async function refitLongGroups(descent: Descent): Promise<number> {
  const { layer, means, damped, errors, width } = descent
  const { rows, cols, groupSize, groups } = layer
  const { pool, products, signal } = means
  const levels = new Float32Array(Math.min(groupSize, cols) * rows)
  const panel = new Float32Array(width * Math.min(groupSize, cols))
  const forms = new Float64Array(new SharedArrayBuffer(rows * FORMS * 8))
  const blockProducts = new Float32Array(new SharedArrayBuffer(rows * width * 4))
  let refits = 0
  for (let group = 0; group < groups; group++) {
    const start = group * groupSize
    const size = Math.min(groupSize, cols - start)
    const blocks = Array.from({ length: Math.ceil(size / width) }, (_, i) => {
      const from = start + i * width
      return { from, count: Math.min(width, start + size - from) }
    })
    for (const { from, count } of blocks) {
      const block = descent.blockErrors.subarray(0, count * rows)
      await pool.run(longGroupTask({ kind: 'levels', layer, group, from, levels: block }), signal)
      levels.set(block, (from - start) * rows)
    }
    forms.fill(0)
    let oneOne = 0
    for (const { from, count } of blocks) {
      const residuals = await residualsOf(descent, from, count, descent.blockResiduals.subarray(0, rows * count))
      for (let i = 0; i < count; i++) {
        const at = (from + i) * cols + start
        panel.set(damped.subarray(at, at + size), i * size)
      }
      for (let i = 0; i < count * size; i++) oneOne += panel[i]!
      const ofLevels = await products.multiply<Float32Array>({
        a: levels.subarray(0, size * rows),
        aRows: size,
        aCols: rows,
        transA: true,
        b: panel.subarray(0, count * size),
        bRows: count,
        bCols: size,
        transB: true,
        out: blockProducts.subarray(0, rows * count),
      })
      const job = { kind: 'forms', layer, group, from, residuals, products: ofLevels, forms } as const
      await pool.run(longGroupTask(job), signal)
    }
    const changed = await pool.run(longGroupTask({ kind: 'decide', layer, group, forms, oneOne }), signal)
    for (const count of changed) refits += count
    for (const { from, count } of blocks) {
      const block = descent.blockErrors.subarray(0, count * rows)
      const place = errors.subarray(from * rows, (from + count) * rows)
      block.set(place)
      await pool.run(longGroupTask({ kind: 'errors', layer, group, from, errors: block }), signal)
      place.set(block)
    }
  }
  return refits
}

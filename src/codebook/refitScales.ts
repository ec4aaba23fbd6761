/** @file The best scales for the codes as they are, one group of columns after the other. */
import { type Descent, residualsOf } from '../gptq/descent.ts'
import { roundScale } from '../quant/grid.ts'
import type { CodebookLayer } from './codebookLayer.ts'
import { codebookColumns } from './columns.ts'

/** Columns of H_d that are multiplied at a time. */
const PANEL = 256
/** A gain smaller than this part of its terms' magnitude is rounding. */
const NOISE = 2 ** -20

/**
 * With levels q of a group, R = E·H_d on its columns and H its block of H_d, a change of the scale by d changes the loss of
 * the row by −2d·(q·Rᵀ) + d²·q·H·qᵀ: least at d = q·Rᵀ / q·H·qᵀ. Rounded to the stored type before it is judged; the loss of
 * no row rises. Costs two products.
 * @returns scales changed.
 */
export async function refitScales(descent: Descent<CodebookLayer>): Promise<number> {
  const { layer } = descent
  let changed = 0
  for (let group = 0; group < layer.groups; group++) changed += await refitGroup(descent, group)
  return changed
}

async function refitGroup(descent: Descent<CodebookLayer>, group: number): Promise<number> {
  const { layer, errors } = descent
  const { rows, cols, groupSize, groups, scales, scaleType, target, rowLoss, rowSquares } = layer
  const start = group * groupSize
  const size = Math.min(groupSize, cols - start)
  const levels = levelsOf(layer, start, size)
  const { square, slope } = await formsOf(descent, levels, start, size)
  let changed = 0
  for (let row = 0; row < rows; row++) {
    const at = row * groups + group
    const scale = scales[at]!
    if (!(square[row]! > 0)) continue
    const trial = roundScale(scale + slope[row]! / square[row]!, scaleType)
    const step = trial - scale
    const gain = step * (2 * slope[row]! - step * square[row]!)
    if (!(trial > 0) || !(gain > NOISE * scale * scale * square[row]!)) {
      continue
    }
    scales[at] = trial
    rowLoss[row]! -= gain
    changed++
    let squares = 0
    for (let k = 0; k < size; k++) {
      const place = (start + k) * rows + row
      const before = errors[place]!
      const error = Math.fround(target[row * cols + start + k]! - Math.fround(levels[k * rows + row]! * trial))
      squares += error * error - before * before
      errors[place] = error
    }
    rowSquares[row]! += squares
  }
  return changed
}

/** Levels of some columns, [columns, N]. */
function levelsOf(layer: CodebookLayer, start: number, size: number): Float32Array {
  const { rows } = layer
  const levels = new Float32Array(size * rows)
  const ofColumn = new Float64Array(rows)
  const columns = codebookColumns(layer)
  for (let k = 0; k < size; k++) {
    columns.levels(start + k, 0, rows, ofColumn)
    levels.set(ofColumn, k * rows)
  }
  return levels
}

/** q·H·qᵀ and q·Rᵀ of each row. @param levels q, [size, N]. */
async function formsOf(descent: Descent<CodebookLayer>, levels: Float32Array, start: number, size: number) {
  const { layer, means, damped } = descent
  const { rows, cols } = layer
  const square = new Float64Array(rows)
  const slope = new Float64Array(rows)
  const panel = new Float32Array(PANEL * size)
  const ofLevels = new Float32Array(rows * PANEL)
  const residuals = new Float32Array(rows * PANEL)
  for (let from = 0; from < size; from += PANEL) {
    const count = Math.min(PANEL, size - from)
    for (let i = 0; i < count; i++) {
      const at = (start + from + i) * cols + start
      panel.set(damped.subarray(at, at + size), i * size)
    }
    const products = await means.products.multiply({
      a: levels,
      aRows: size,
      aCols: rows,
      transA: true,
      b: panel.subarray(0, count * size),
      bRows: count,
      bCols: size,
      transB: true,
      out: ofLevels.subarray(0, rows * count),
    })
    const ofErrors = await residualsOf(descent, start + from, count, residuals.subarray(0, rows * count))
    for (let k = 0; k < count; k++) {
      const own = (from + k) * rows
      for (let row = 0; row < rows; row++) {
        const level = levels[own + row]!
        square[row]! += level * products[row * count + k]!
        slope[row]! += level * ofErrors[row * count + k]!
      }
    }
  }
  return { square, slope }
}

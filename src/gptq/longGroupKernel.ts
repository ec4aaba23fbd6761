/**
 * @file Refit of groups too long for a block, one group of all rows at a time: the forms of `refit.ts` are summed block
 * by block from products, then every row decides.
 */
import { symmetricZeroPoint } from '../quant/quantizedWeight.ts'
import type { Task } from '../threads/kernel.ts'
import { type Layer, rowUnits } from './layer.ts'
import { type GroupForms, type Refit, refitGrid } from './refit.ts'

interface GroupJob {
  readonly layer: Layer
  /** The group's place in its row. */
  readonly group: number
}

/** Write the levels of some of the group's columns. */
interface LevelsJob extends GroupJob {
  readonly kind: 'levels'
  readonly from: number
  /** [columns, N]; written. */
  readonly levels: Float32Array
}

/** Add what some of the group's columns contribute to the forms. */
interface FormsJob extends GroupJob {
  readonly kind: 'forms'
  readonly from: number
  /** R and k·H on those columns, [N, columns]. */
  readonly residuals: Float32Array
  readonly products: Float32Array
  /** k·H·k, k·H·1, k·R, 1·R of each row, [N, 4]. */
  readonly forms: Float64Array
}

/** Decide the grids. Per unit: grids changed. */
interface DecideJob extends GroupJob {
  readonly kind: 'decide'
  readonly forms: Float64Array
  /** 1·H·1ᵀ of the group. */
  readonly oneOne: number
}

/** Write the errors of some of the group's columns and add their squares' change to the rows'. */
interface ErrorsJob extends GroupJob {
  readonly kind: 'errors'
  readonly from: number
  /** W* − Ŵ, [columns, N]; read and written. */
  readonly errors: Float32Array
}

export type LongGroupJob = LevelsJob | FormsJob | DecideJob | ErrorsJob

export const FORMS = 4

/** Cheap work per row: one unit costs about as much as the hand-over. */
function sizesOf(job: LongGroupJob) {
  const { rows } = job.layer
  const columns = job.kind === 'decide' ? 8 : (job.kind === 'forms' ? job.residuals : arrayOf(job)).length / rows
  return rowUnits(rows, 8 * columns)
}

function arrayOf(job: LevelsJob | ErrorsJob): Float32Array {
  return job.kind === 'levels' ? job.levels : job.errors
}

export function longGroupTask(job: LongGroupJob): Task<LongGroupJob> {
  const { units } = sizesOf(job)
  return { kernel: { module: import.meta.url, runUnit }, job, units, sums: 1 }
}

export function runUnit(job: LongGroupJob, unit: number, results: Float64Array): void {
  const { size } = sizesOf(job)
  const start = unit * size
  const end = Math.min(job.layer.rows, start + size)
  if (job.kind === 'levels') writeLevels(job, start, end)
  else if (job.kind === 'forms') addForms(job, start, end)
  else if (job.kind === 'errors') writeErrors(job, start, end)
  else results[unit] = decide(job, start, end)
}

function zeroPointAt(layer: Layer, at: number): number {
  return layer.zeroPoints ? layer.zeroPoints[at]! : symmetricZeroPoint(layer.bits)
}

function writeLevels({ layer, group, from, levels }: LevelsJob, start: number, end: number): void {
  const { rows, cols, groups, codes } = layer
  const width = levels.length / rows
  for (let row = start; row < end; row++) {
    const zeroPoint = zeroPointAt(layer, row * groups + group)
    for (let j = 0; j < width; j++) levels[j * rows + row] = codes[row * cols + from + j]! - zeroPoint
  }
}

function addForms({ layer, group, from, residuals, products, forms }: FormsJob, start: number, end: number): void {
  const { rows, cols, groups, codes } = layer
  const width = residuals.length / rows
  for (let row = start; row < end; row++) {
    const zeroPoint = zeroPointAt(layer, row * groups + group)
    let levelLevel = 0
    let levelOne = 0
    let levelResidual = 0
    let oneResidual = 0
    for (let j = 0; j < width; j++) {
      const level = codes[row * cols + from + j]! - zeroPoint
      const product = products[row * width + j]!
      const residual = residuals[row * width + j]!
      levelLevel += level * product
      levelOne += product
      levelResidual += level * residual
      oneResidual += residual
    }
    forms[row * FORMS]! += levelLevel
    forms[row * FORMS + 1]! += levelOne
    forms[row * FORMS + 2]! += levelResidual
    forms[row * FORMS + 3]! += oneResidual
  }
}

function decide({ layer, group, forms, oneOne }: DecideJob, start: number, end: number): number {
  const { groups, scales, zeroPoints, scaleType, bits, rowLoss } = layer
  const ofRow: GroupForms = { levelLevel: 0, levelOne: 0, oneOne, levelResidual: 0, oneResidual: 0 }
  const found: Refit = { scale: 1, shift: 0, gain: 0 }
  let refits = 0
  for (let row = start; row < end; row++) {
    const at = row * groups + group
    ofRow.levelLevel = forms[row * FORMS]!
    ofRow.levelOne = forms[row * FORMS + 1]!
    ofRow.levelResidual = forms[row * FORMS + 2]!
    ofRow.oneResidual = forms[row * FORMS + 3]!
    if (!refitGrid(ofRow, scales[at]!, scaleType, zeroPoints?.[at], (1 << bits) - 1, found)) continue
    scales[at] = found.scale
    if (zeroPoints) zeroPoints[at]! += found.shift
    rowLoss[row]! -= found.gain
    refits++
  }
  return refits
}

function writeErrors({ layer, group, from, errors }: ErrorsJob, start: number, end: number): void {
  const { rows, cols, groups, codes, scales, target, rowSquares } = layer
  const width = errors.length / rows
  for (let row = start; row < end; row++) {
    const scale = scales[row * groups + group]!
    const zeroPoint = zeroPointAt(layer, row * groups + group)
    let change = 0
    for (let j = 0; j < width; j++) {
      const at = row * cols + from + j
      const before = errors[j * rows + row]!
      const error = Math.fround(target[at]! - Math.fround((codes[at]! - zeroPoint) * scale))
      errors[j * rows + row] = error
      change += error * error - before * before
    }
    rowSquares[row]! += change
  }
}

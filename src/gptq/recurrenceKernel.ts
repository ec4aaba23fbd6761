/** @file The column recurrence inside a block, for a range of rows: each column is rounded at its conditional optimum. */
import { clamp, ROUNDER } from '../quant/grid.ts'
import { symmetricZeroPoint } from '../quant/quantizedWeight.ts'
import type { Task } from '../threads/kernel.ts'
import { addRowInPlace, addRowsInPlace } from './addRows.ts'
import { type Layer, rowUnits } from './layer.ts'

export interface RecurrenceJob {
  readonly layer: Layer
  /** The block's columns in the order in which they are decided, [B]. */
  readonly columns: Int32Array
  /** T of the block, [B, B], upper triangular. */
  readonly factor: Float32Array
  /** E·T of the columns decided before the block, [N, B]; undefined in the first block. */
  readonly earlier: Float32Array | undefined
  /** The block's errors W* − Ŵ, [B, N]; written. */
  readonly errors: Float32Array
}

export function recurrenceTask(job: RecurrenceJob): Task<RecurrenceJob> {
  const { units } = unitsOf(job)
  return { kernel: { module: import.meta.url, runUnit }, job, units, sums: 0 }
}

function unitsOf({ layer, columns }: RecurrenceJob) {
  return rowUnits(layer.rows, columns.length * (columns.length / 2 + 8))
}

let sums = new Float64Array(0)
let rowErrors = new Float64Array(0)
/** Columns whose errors reach the later columns together. */
const STRIP = 4

/**
 * t_j = W*_j + (Σ_{i<j} E_i T_ij) / T_jj is the target of column j given what was decided: with it, column j's term
 * (Σ_{i≤j} E_i T_ij)² of the loss E·H_d·Eᵀ = Σ_j (E·T)_j² is least. The codes are GPTQ's (Babai's nearest plane).
 */
export function runUnit(job: RecurrenceJob, unit: number): void {
  const { layer, columns, factor, earlier, errors } = job
  const { rows, cols, bits, groupSize, groups, target, codes, scales, zeroPoints, rowLoss, rowSquares } = layer
  const width = columns.length
  const { size } = unitsOf(job)
  const largest = (1 << bits) - 1
  const middle = symmetricZeroPoint(bits)
  if (sums.length < width) {
    sums = new Float64Array(width)
    rowErrors = new Float64Array(width)
  }
  const end = Math.min(rows, (unit + 1) * size)
  for (let row = unit * size; row < end; row++) {
    for (let j = 0; j < width; j++) sums[j] = earlier ? earlier[row * width + j]! : 0
    let loss = 0
    let squares = 0
    for (let j = 0; j < width; j++) {
      const column = columns[j]!
      const weight = target[row * cols + column]!
      const group = row * groups + ((column / groupSize) | 0)
      const scale = scales[group]!
      const zeroPoint = zeroPoints ? zeroPoints[group]! : middle
      const root = factor[j * width + j]!
      const sum = sums[j]!
      const nearest = (weight + sum / root) / scale + ROUNDER - ROUNDER
      const level = clamp(nearest, -zeroPoint, largest - zeroPoint)
      const error = Math.fround(weight - Math.fround(level * scale))
      codes[row * cols + column] = level + zeroPoint
      errors[j * rows + row] = error
      squares += error * error
      const own = sum + error * root
      loss += own * own
      rowErrors[j] = error
      const strip = j - (j % STRIP)
      const next = Math.min(width, strip + STRIP)
      if (j + 1 < next) addRowInPlace(sums, j + 1, next, factor, width, j, error)
      else if (next < width) addRowsInPlace(sums, next, width, factor, width, rowErrors, strip, next)
    }
    rowLoss[row]! += loss
    rowSquares[row]! += squares
  }
}

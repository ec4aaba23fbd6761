/** @file Grids as column quantizers: each weight goes to the nearest level of its group. */
import { clamp, ROUNDER } from '../quant/grid.ts'
import { symmetricZeroPoint } from '../quant/quantizedWeight.ts'
import type { Task } from '../threads/kernel.ts'
import { type Layer, rowUnits } from './layer.ts'
import { type ColumnQuantizer, decideColumns, type RecurrenceBlock } from './recurrenceKernel.ts'

interface GridJob {
  readonly layer: Layer
  readonly block: RecurrenceBlock
}

/** The recurrence on a block, as work for threads. */
export function gridTask(layer: Layer, block: RecurrenceBlock): Task<GridJob> {
  const job = { layer, block }
  return { kernel: { module: import.meta.url, runUnit }, job, units: unitsOf(job).units, sums: 0 }
}

function unitsOf({ layer, block }: GridJob) {
  return rowUnits(layer.rows, block.columns.length * (block.columns.length / 2 + 8))
}

export function runUnit(job: GridJob, unit: number): void {
  const { layer, block } = job
  const { size } = unitsOf(job)
  decideColumns(layer, block, unit * size, Math.min(layer.rows, (unit + 1) * size), gridColumns(layer))
}

function gridColumns({ cols, bits, groupSize, groups, codes, scales, zeroPoints }: Layer): ColumnQuantizer {
  const largest = (1 << bits) - 1
  const middle = symmetricZeroPoint(bits)
  return {
    round(column, first, end, targets, values) {
      let group = first * groups + ((column / groupSize) | 0)
      for (let row = first; row < end; row++, group += groups) {
        const scale = scales[group]!
        const zeroPoint = zeroPoints ? zeroPoints[group]! : middle
        const nearest = targets[row - first]! / scale + ROUNDER - ROUNDER
        const level = clamp(nearest, -zeroPoint, largest - zeroPoint)
        codes[row * cols + column] = level + zeroPoint
        values[row - first] = Math.fround(level * scale)
      }
    },
  }
}

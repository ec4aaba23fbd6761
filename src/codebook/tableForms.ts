/** @file The normal equations of a table for fixed codes, summed over rows in threads. */
import type { Task } from '../threads/kernel.ts'

export interface TableFormsJob {
  readonly cols: number
  /** Unknowns of a system: entries of a table. */
  readonly entries: number
  /** Systems of a table: components of a vector, 1 for others. */
  readonly dim: number
  /** H_d, [K, K]. */
  readonly hessian: Float32Array
  /** R = E·H_d of the sampled rows, [n, K]. */
  readonly residuals: Float32Array
  /** Where each weight finds its level in its table, [n, K]. */
  readonly places: Uint16Array
  /** Scales of the weights, [n, groups]. */
  readonly scales: Float32Array
  readonly groupSize: number
  /** Sampled rows [starts[u], starts[u + 1]) belong to unit u; those of a unit have one table. */
  readonly starts: Int32Array
}

/** Numbers of one system: the matrix, then the right side. */
export function formLength(entries: number): number {
  return entries * (entries + 1)
}

/** Per unit: for each component, Σ s·Aᵀ·H_d·A·s and Σ s·Aᵀ·R, A the indicator of the codes, s the scales. */
export function tableFormsTask(job: TableFormsJob): Task<TableFormsJob> {
  const sums = job.dim * formLength(job.entries)
  return { kernel: { module: import.meta.url, runUnit }, job, units: job.starts.length - 1, sums }
}

let gathered = new Float64Array(0)

export function runUnit(job: TableFormsJob, unit: number, results: Float64Array): void {
  const { cols, entries, dim, hessian, residuals, places, scales, groupSize, starts } = job
  const groups = Math.ceil(cols / groupSize)
  const length = formLength(entries)
  const base = unit * dim * length
  if (gathered.length < entries * cols) gathered = new Float64Array(entries * cols)
  for (let row = starts[unit]!; row < starts[unit + 1]!; row++) {
    const own = row * cols
    const component = places[own]! % dim
    const matrix = base + component * length
    const right = matrix + entries * entries
    gathered.fill(0, 0, entries * cols)
    for (let k = 0; k < cols; k++) {
      const entry = Math.floor(places[own + k]! / dim)
      const scale = scales[row * groups + Math.floor(k / groupSize)]!
      results[right + entry]! += scale * residuals[own + k]!
      const to = entry * cols
      const from = k * cols
      for (let l = 0; l < cols; l++) gathered[to + l]! += scale * hessian[from + l]!
    }
    for (let l = 0; l < cols; l++) {
      const scale = scales[row * groups + Math.floor(l / groupSize)]!
      const column = matrix + Math.floor(places[own + l]! / dim)
      for (let e = 0; e < entries; e++) results[column + e * entries]! += scale * gathered[e * cols + l]!
    }
  }
}

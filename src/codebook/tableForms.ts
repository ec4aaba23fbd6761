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
/** Up to this many entries, rows of H_d are first summed by entry; above, most entries would have a row or two. */
const FEW_ENTRIES = 32

export function runUnit(job: TableFormsJob, unit: number, results: Float64Array): void {
  const { cols, entries, dim, residuals, places, starts } = job
  const length = formLength(entries)
  const scales = new Float64Array(cols)
  const entryOf = new Int32Array(cols)
  for (let row = starts[unit]!; row < starts[unit + 1]!; row++) {
    const own = row * cols
    const matrix = (unit * dim + (places[own]! % dim)) * length
    const right = matrix + entries * entries
    for (let k = 0; k < cols; k++) {
      scales[k] = scaleAt(job, row, k)
      entryOf[k] = Math.floor(places[own + k]! / dim)
      results[right + entryOf[k]!]! += scales[k]! * residuals[own + k]!
    }
    if (entries <= FEW_ENTRIES) addByEntry(job, matrix, scales, entryOf, results)
    else addPairs(job, matrix, scales, entryOf, results)
  }
}

function scaleAt({ cols, scales, groupSize }: TableFormsJob, row: number, k: number): number {
  return scales[row * Math.ceil(cols / groupSize) + Math.floor(k / groupSize)]!
}

function addByEntry(
  { cols, entries, hessian }: TableFormsJob,
  matrix: number,
  scales: Float64Array,
  entryOf: Int32Array,
  results: Float64Array,
): void {
  if (gathered.length < entries * cols) gathered = new Float64Array(entries * cols)
  gathered.fill(0, 0, entries * cols)
  for (let k = 0; k < cols; k++) {
    const to = entryOf[k]! * cols
    const from = k * cols
    const scale = scales[k]!
    for (let l = 0; l < cols; l++) gathered[to + l]! += scale * hessian[from + l]!
  }
  for (let l = 0; l < cols; l++) {
    const column = matrix + entryOf[l]!
    const scale = scales[l]!
    for (let e = 0; e < entries; e++) results[column + e * entries]! += scale * gathered[e * cols + l]!
  }
}

function addPairs(
  { cols, entries, hessian }: TableFormsJob,
  matrix: number,
  scales: Float64Array,
  entryOf: Int32Array,
  results: Float64Array,
): void {
  for (let k = 0; k < cols; k++) {
    const to = matrix + entryOf[k]! * entries
    const from = k * cols
    const scale = scales[k]!
    for (let l = 0; l < cols; l++) results[to + entryOf[l]!]! += scale * scales[l]! * hessian[from + l]!
  }
}

/**
 * @file The work of one unit: a range of rows of a weight tensor, read, fitted and rounded. Where a unit begins and ends
 * follows from the tensor alone (`src/threads/kernel.ts`).
 */
import type { Task } from '../threads/kernel.ts'
import { fitGroup } from './fitGroup.ts'
import { assignCodes, type Grid, type GridSpec, type GroupSums, measureGroup } from './grid.ts'
import { groupsPerRow } from './quantizedWeight.ts'
import { type GroupScan, scanGroup } from './scan.ts'
import { readTile, rowsOf, type StoredWeight } from './storedWeight.ts'

/** Quantize every row onto one kind of grid. Per unit: Σ (ŵ − w)², Σ w², Σ (ŵ − w)² of groups whose scale does not fit. */
interface QuantizeJob {
  readonly kind: 'quantize'
  readonly weight: StoredWeight
  readonly groupSize: number
  readonly spec: GridSpec
  /** As in GridWeight, which they become. */
  readonly codes: Uint8Array
  readonly scales: Float32Array
  readonly zeroPoints: Uint8Array | undefined
}

/**
 * Find what several kinds of grid would cost. Per unit: Σ w², then for each spec Σ (ŵ − w)² and the part of it
 * in groups whose scale does not fit its type.
 */
interface MeasureJob {
  readonly kind: 'measure'
  readonly weight: StoredWeight
  readonly groupSize: number
  readonly specs: readonly GridSpec[]
  /** Look at every stride-th group, counted row by row; 1 = all. */
  readonly stride: number
}

export type KernelJob = QuantizeJob | MeasureJob

/** Weights in a unit. Measuring costs ten times as much per weight, mostly on samples, which must be spread as well. */
const UNIT_WEIGHTS = { quantize: 1 << 20, measure: 1 << 16 }
/** Rows that a transposed read takes at a time at least: one cache line. */
const LINE = 16
/** A tile, what a unit reads at a time, stays in the second-level cache. */
const TILE_WEIGHTS = 1 << 16
const TILE_SIDE = 256

/** Rows (or, in a sample, groups) per unit, and how many there are. */
function partition(job: KernelJob): { size: number; total: number } {
  const [, reduction, inner] = job.weight.shape
  const rows = rowsOf(job.weight)
  const wanted = UNIT_WEIGHTS[job.kind]
  if (job.kind === 'measure' && job.stride > 1) {
    const groups = Math.ceil((rows * groupsPerRow(reduction, job.groupSize)) / job.stride)
    return { size: Math.ceil(wanted / 8 / Math.min(job.groupSize, reduction)), total: groups }
  }
  const size = Math.max(1, Math.round(wanted / reduction))
  return { size: inner === 1 ? size : Math.ceil(size / LINE) * LINE, total: rows }
}

/** A job as a pool takes it. */
export function kernelTask(job: KernelJob): Task<KernelJob> {
  const { size, total } = partition(job)
  return {
    kernel: { module: import.meta.url, runUnit },
    job,
    units: Math.ceil(total / size),
    sums: sumsOf(job),
  }
}

/** Numbers that each unit leaves. */
export function sumsOf(job: KernelJob): number {
  return job.kind === 'quantize' ? 3 : 1 + 2 * job.specs.length
}

let tile = new Float32Array(0)
let tileWords = new Int32Array(0)
const scan: GroupScan = { lo: 0, hi: 0, squaredNorm: 0 }
const grid: Grid = { scale: 1, zeroPoint: 0, fits: true }
const groupSums: GroupSums = { squaredError: 0, weightLevel: 0, levelLevel: 0 }

/** Call visit(start, end, row, col) for every group of rows [from, to): weights tile[start … end), column col of the row. */
function forEachGroup(
  weight: StoredWeight,
  groupSize: number,
  from: number,
  to: number,
  visit: (start: number, end: number, row: number, col: number) => void,
): void {
  const [, reduction, inner] = weight.shape
  const width = Math.min(reduction, Math.max(1, Math.floor(TILE_SIDE / groupSize)) * groupSize)
  const least = inner > 1 && width <= TILE_WEIGHTS ? LINE : 1
  const height = Math.max(least, Math.floor(TILE_WEIGHTS / width))
  reserveTile(Math.min(height, to - from) * width)
  for (let row = from; row < to; row += height) {
    const rows = Math.min(height, to - row)
    for (let col = 0; col < reduction; col += width) {
      const cols = Math.min(width, reduction - col)
      readTile(weight, row, rows, col, cols, tile)
      for (let r = 0; r < rows; r++) {
        const base = r * cols
        for (let k = 0; k < cols; k += groupSize) {
          visit(base + k, base + Math.min(k + groupSize, cols), row + r, col + k)
        }
      }
    }
  }
}

function reserveTile(length: number): void {
  if (tile.length >= length) return
  tile = new Float32Array(length)
  tileWords = new Int32Array(tile.buffer)
}

/**
 * Do unit `unit` of a job and leave its sums in results[unit · sumsOf(job) …]. Weights that are not finite show as a
 * norm that is not finite; codes and scales are then meaningless.
 */
export function runUnit(job: KernelJob, unit: number, results: Float64Array): void {
  const { size, total } = partition(job)
  const from = unit * size
  const to = Math.min(from + size, total)
  const sums = results.subarray(unit * sumsOf(job), (unit + 1) * sumsOf(job))
  if (job.kind === 'quantize') quantizeRows(job, from, to, sums)
  else if (job.stride === 1) measureRows(job, from, to, sums)
  else measureSample(job, from, to, sums)
}

function quantizeRows(job: QuantizeJob, from: number, to: number, sums: Float64Array): void {
  const { weight, groupSize, spec, codes, scales, zeroPoints } = job
  const reduction = weight.shape[1]
  const groups = groupsPerRow(reduction, groupSize)
  forEachGroup(weight, groupSize, from, to, (start, end, row, col) => {
    scanGroup(tile, tileWords, start, end, scan)
    fitGroup(tile, start, end, spec, scan, grid)
    // Straight into the array: a captured number would be boxed anew at every group.
    const squaredError = assignCodes(tile, start, end, spec.bits, grid, codes, row * reduction + col)
    sums[0]! += squaredError
    sums[1]! += scan.squaredNorm
    if (!grid.fits) sums[2]! += squaredError
    const group = row * groups + col / groupSize
    scales[group] = grid.scale
    if (zeroPoints) zeroPoints[group] = grid.zeroPoint
  })
}

function measureRows(job: MeasureJob, from: number, to: number, sums: Float64Array): void {
  forEachGroup(job.weight, job.groupSize, from, to, (start, end) => measureGroupOnAll(job.specs, start, end, sums))
}

function measureSample(job: MeasureJob, from: number, to: number, sums: Float64Array): void {
  const { weight, groupSize, specs, stride } = job
  const reduction = weight.shape[1]
  const groups = groupsPerRow(reduction, groupSize)
  reserveTile(Math.min(groupSize, reduction))
  for (let sample = from; sample < to; sample++) {
    const row = Math.floor((sample * stride) / groups)
    const col = ((sample * stride) % groups) * groupSize
    const cols = Math.min(groupSize, reduction - col)
    readTile(weight, row, 1, col, cols, tile)
    measureGroupOnAll(specs, 0, cols, sums)
  }
}

function measureGroupOnAll(specs: readonly GridSpec[], start: number, end: number, sums: Float64Array): void {
  scanGroup(tile, tileWords, start, end, scan)
  sums[0]! += scan.squaredNorm
  for (let i = 0; i < specs.length; i++) {
    const spec = specs[i]!
    fitGroup(tile, start, end, spec, scan, grid)
    measureGroup(tile, start, end, spec.bits, grid.scale, grid.zeroPoint, groupSums)
    sums[1 + 2 * i]! += groupSums.squaredError
    if (!grid.fits) sums[2 + 2 * i]! += groupSums.squaredError
  }
}

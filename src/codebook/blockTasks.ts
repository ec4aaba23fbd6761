/** @file Work on a block of columns for threads: the recurrence and coordinate descent with codes of a codebook. */
import { addRowInPlace } from '../gptq/addRows.ts'
import type { DescentBlock } from '../gptq/descent.ts'
import { decideColumns, type RecurrenceBlock } from '../gptq/recurrenceKernel.ts'
import type { Task } from '../threads/kernel.ts'
import type { CodebookLayer } from './codebookLayer.ts'
import { type CodebookColumns, codebookColumns } from './columns.ts'

type Job =
  | { readonly kind: 'decide'; readonly layer: CodebookLayer; readonly block: RecurrenceBlock }
  | { readonly kind: 'descend'; readonly layer: CodebookLayer; readonly block: DescentBlock }

/** The recurrence on a block. */
export function decideTask(layer: CodebookLayer, block: RecurrenceBlock): Task<Job> {
  return taskOf({ kind: 'decide', layer, block })
}

/** Coordinate descent on a block; leaves the number of codes that moved. */
export function descendTask(layer: CodebookLayer, block: DescentBlock): Task<Job> {
  return taskOf({ kind: 'descend', layer, block })
}

function taskOf(job: Job): Task<Job> {
  const units = Math.ceil((job.layer.laneStarts.length - 1) / lanesInUnit(job.layer))
  return { kernel: { module: import.meta.url, runUnit }, job, units, sums: 1 }
}

/** Rows of a unit, about: many enough for cache lines of their own, few enough for the sums of a block to stay in the cache. */
const UNIT_ROWS = 64

function lanesInUnit({ rows, laneStarts }: CodebookLayer): number {
  return Math.max(1, Math.floor(UNIT_ROWS / Math.ceil(rows / (laneStarts.length - 1))))
}

export function runUnit(job: Job, unit: number, results: Float64Array): void {
  const { layer } = job
  const { laneStarts } = layer
  const lanes = lanesInUnit(layer)
  const first = laneStarts[unit * lanes]!
  const lastLane = Math.min(laneStarts.length - 1, (unit + 1) * lanes)
  const columns = codebookColumns(layer)
  if (job.kind === 'decide') decideColumns(layer, job.block, first, laneStarts[lastLane]!, columns)
  else results[unit] = descend(layer, job.block, columns, unit * lanes, lastLane)
}

/** float32 sums of K products are off by about this part of the norms' product at most. */
const ROUNDING = 2 ** -21
/** Passes over a block before the next one. Another pass of single weights is cheap; a path costs as much every time. */
const PASSES = { scalar: 3, vector: 2, trellis: 1 }

/** One unit: residuals [rows, B], values [B, rows]. */
let residual = new Float64Array(0)
let value = new Float64Array(0)
let targets = new Float64Array(0)
let wanted = new Float64Array(0)
let noise = new Float64Array(0)

/**
 * Column by column, the codes that are best with all other columns fixed: J restricted to column j is H_jj·Σ (t − v)² plus a
 * constant with t = v + R_j / H_jj, so that what is nearest to t is least. A lane moves where that lowers its loss by more
 * than rounding.
 * @returns lanes that moved, over all columns.
 */
function descend(
  layer: CodebookLayer,
  block: DescentBlock,
  columns: CodebookColumns,
  fromLane: number,
  toLane: number,
): number {
  const { laneStarts } = layer
  const first = laneStarts[fromLane]!
  const end = laneStarts[toLane]!
  const count = end - first
  const width = block.norms.length
  load(layer, block, columns, first, end)
  let moves = 0
  for (let pass = 0; pass < PASSES[layer.coding.kind]; pass++) {
    const before = moves
    for (let j = 0; j < width; j++) {
      const diagonal = block.hessian[j * width + j]!
      const own = j * count
      for (let r = 0; r < count; r++) targets[r] = value[own + r]! + residual[r * width + j]! / diagonal
      columns.propose(block.from + j, first, end, targets, wanted)
      for (let lane = fromLane; lane < toLane; lane++) {
        const from = laneStarts[lane]!
        const to = laneStarts[lane + 1]!
        if (!gains(block, j, from - first, to - first, count)) continue
        columns.keep(block.from + j, from, to)
        move(layer, block, j, first, from, to, count)
        moves++
      }
    }
    if (moves === before) break
  }
  store(layer, block, first, end)
  return moves
}

function load(layer: CodebookLayer, block: DescentBlock, columns: CodebookColumns, first: number, end: number): void {
  const { groups, groupSize, scales, rowSquares } = layer
  const width = block.norms.length
  const count = end - first
  if (residual.length < count * width) {
    residual = new Float64Array(count * width)
    value = new Float64Array(count * width)
  }
  if (targets.length < count) {
    targets = new Float64Array(count)
    wanted = new Float64Array(count)
    noise = new Float64Array(count)
  }
  for (let i = 0; i < count * width; i++) residual[i] = block.residuals[first * width + i]!
  for (let r = 0; r < count; r++) noise[r] = ROUNDING * Math.sqrt(rowSquares[first + r]!)
  for (let j = 0; j < width; j++) {
    columns.levels(block.from + j, first, end, wanted)
    const group = ((block.from + j) / groupSize) | 0
    for (let r = 0; r < count; r++) {
      value[j * count + r] = Math.fround(wanted[r]! * scales[(first + r) * groups + group]!)
    }
  }
}

/** Whether the lane of rows [from, to) gains by what was proposed for column j. */
function gains({ hessian, norms }: DescentBlock, j: number, from: number, to: number, count: number): boolean {
  const width = norms.length
  const diagonal = hessian[j * width + j]!
  let gain = 0
  let doubt = 0
  for (let r = from; r < to; r++) {
    const step = wanted[r]! - value[j * count + r]!
    gain += step * (2 * residual[r * width + j]! - step * diagonal)
    doubt += Math.abs(step) * noise[r]!
  }
  return gain > 2 * doubt * norms[j]!
}

function move(
  { rowLoss }: CodebookLayer,
  { hessian, norms }: DescentBlock,
  j: number,
  first: number,
  fromRow: number,
  toRow: number,
  count: number,
): void {
  const width = norms.length
  const diagonal = hessian[j * width + j]!
  for (let row = fromRow; row < toRow; row++) {
    const r = row - first
    const step = wanted[r]! - value[j * count + r]!
    if (step === 0) continue
    rowLoss[row]! -= step * (2 * residual[r * width + j]! - step * diagonal)
    value[j * count + r] = wanted[r]!
    addRowInPlace(residual.subarray(r * width, (r + 1) * width), 0, width, hessian, width, j, -step)
  }
}

function store(layer: CodebookLayer, { from, norms, errors }: DescentBlock, first: number, end: number): void {
  const { rows, cols, target, rowSquares } = layer
  const count = end - first
  for (let j = 0; j < norms.length; j++) {
    for (let row = first; row < end; row++) {
      const error = Math.fround(target[row * cols + from + j]! - value[j * count + row - first]!)
      const before = errors[j * rows + row]!
      rowSquares[row]! += error * error - before * before
      errors[j * rows + row] = error
    }
  }
}

/** @file Sweeps of coordinate descent over a whole layer, block by block. */

import type { Task } from '../threads/kernel.ts'
import { descentTask } from './descentKernel.ts'
import { groupsFitBlocks, type Layer, type SolvedRows, sharedFloats, total } from './layer.ts'
import type { Means } from './recurrence.ts'

/** What sweeps need beside the layer; made once for a layer. */
export interface Descent<L extends SolvedRows = Layer> {
  readonly layer: L
  readonly means: Means
  /** H_d, [K, K]. */
  readonly damped: Float32Array
  /** E = W* − Ŵ, [K, N]; written. */
  readonly errors: Float32Array
  /** ‖H_d[:, j]‖₂, [K]. */
  readonly norms: Float64Array
  /** Columns in a block. */
  readonly width: number
  /** Memory shared with the threads: R and E of a block, H_d of a block. */
  readonly blockResiduals: Float32Array
  readonly blockErrors: Float32Array
  readonly blockHessian: Float32Array
}

/**
 * @param errors E of the layer as it is, which the sweeps go on writing.
 * @param width  columns in a block.
 */
export function startDescent<L extends SolvedRows>(
  layer: L,
  damped: Float32Array,
  errors: Float32Array,
  means: Means,
  width: number,
): Descent<L> {
  const { rows, cols } = layer
  const norms = new Float64Array(cols)
  for (let j = 0; j < cols; j++) {
    let sum = 0
    for (let i = j * cols; i < (j + 1) * cols; i++) sum += damped[i]! * damped[i]!
    norms[j] = Math.sqrt(sum)
  }
  return {
    layer,
    means,
    damped,
    errors,
    norms,
    width,
    blockResiduals: sharedFloats(rows * width),
    blockErrors: sharedFloats(width * rows),
    blockHessian: sharedFloats(width * width),
  }
}

/** R = E·H_d on columns [from, from + count), [N, count]. H_d is symmetric: its rows are the columns. */
export function residualsOf(
  { layer, means, damped, errors }: Descent<SolvedRows>,
  from: number,
  count: number,
  out: Float32Array,
): Promise<Float32Array> {
  const { rows, cols } = layer
  return means.products.multiply({
    a: errors,
    aRows: cols,
    aCols: rows,
    transA: true,
    b: damped.subarray(from * cols, (from + count) * cols),
    bRows: count,
    bCols: cols,
    transB: true,
    out,
  })
}

/** Trying scales costs 5 · g multiplications per weight, at g = 64 about as much as all else together. */
const LONGEST_SEARCHED = 64

/** 1·H·1ᵀ of the groups that lie in columns [from, from + count) of a block matrix H. */
function onesForms(hessian: Float32Array, count: number, groupSize: number): Float64Array {
  const ones = new Float64Array(Math.ceil(count / groupSize))
  for (let g = 0; g < ones.length; g++) {
    const end = Math.min(count, (g + 1) * groupSize)
    let sum = 0
    for (let i = g * groupSize; i < end; i++) {
      for (let j = g * groupSize; j < end; j++) sum += hessian[i * count + j]!
    }
    ones[g] = sum
  }
  return ones
}

/** A block of columns on which codes may move. */
export interface DescentBlock {
  /** First column of the block. */
  readonly from: number
  /** H_d of the block, [B, B]. */
  readonly hessian: Float32Array
  /** ‖H_d[:, j]‖₂ of the block's columns, [B]. */
  readonly norms: Float64Array
  /** R = E·H_d on the block's columns, [N, B]. */
  readonly residuals: Float32Array
  /** The block's errors W* − Ŵ, [B, N]; written. */
  readonly errors: Float32Array
}

/**
 * Visit every block once. R is a fresh product at each visit, so rounding errors do not build up.
 * @param taskOf what is done on a block; writes its errors and keeps the layer's rowLoss and rowSquares up to date.
 * @returns what the units of all tasks left, column by column.
 */
export async function visitBlocks<L extends SolvedRows, Job>(
  descent: Descent<L>,
  taskOf: (layer: L, block: DescentBlock) => Task<Job>,
): Promise<number[]> {
  const { layer, means, damped, errors, norms, width } = descent
  const { rows, cols } = layer
  const left: number[] = []
  for (let from = 0; from < cols; from += width) {
    const count = Math.min(width, cols - from)
    const residuals = descent.blockResiduals.subarray(0, rows * count)
    const blockErrors = descent.blockErrors.subarray(0, count * rows)
    const hessian = descent.blockHessian.subarray(0, count * count)
    await residualsOf(descent, from, count, residuals)
    blockErrors.set(errors.subarray(from * rows, (from + count) * rows))
    for (let i = 0; i < count; i++) {
      const start = (from + i) * cols + from
      hessian.set(damped.subarray(start, start + count), i * count)
    }
    const block = { from, hessian, norms: norms.subarray(from, from + count), residuals, errors: blockErrors }
    const task = taskOf(layer, block)
    const sums = await means.pool.run(task, means.signal)
    sums.forEach((sum, i) => {
      left[i % task.sums] = (left[i % task.sums] ?? 0) + sum
    })
    errors.set(blockErrors, from * rows)
  }
  return left
}

/**
 * Move codes to better levels and refit grids, block by block. The loss of no row rises.
 * @param refit refit the grids as well; only where whole groups fit a block.
 * @param search try other scales before a refit; groups of up to 64 columns.
 * @returns what changed.
 */
export async function sweep(
  descent: Descent,
  refit: boolean,
  search = false,
): Promise<{ moves: number; refits: number }> {
  const { groupSize, cols } = descent.layer
  const willRefit = refit && groupsFitBlocks(descent.layer)
  const [moves, refits] = await visitBlocks(descent, (layer, block) =>
    descentTask({
      ...block,
      layer,
      ones: willRefit ? onesForms(block.hessian, block.norms.length, groupSize) : new Float64Array(0),
      refit: willRefit,
      search: search && Math.min(groupSize, cols) <= LONGEST_SEARCHED,
    }),
  )
  return { moves: moves!, refits: refits! }
}

/** Σ of the rows' losses. */
export function lossOf(descent: Descent<SolvedRows>): number {
  return total(descent.layer.rowLoss)
}

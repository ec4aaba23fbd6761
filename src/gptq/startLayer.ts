/** @file What the solver is asked, and the layer as it starts from there. */
import type { PreparedHessian } from '../hessian/prepare.ts'
import type { GridCandidate } from '../quant/candidates.ts'
import { type Bits, groupsPerRow, type ScaleType } from '../quant/quantizedWeight.ts'
import { quantizeTensor } from '../quant/quantizeTensor.ts'
import type { Layer } from './layer.ts'
import type { Means } from './recurrence.ts'

export interface LayerProblem {
  /** W*, [N, K], row-major. Copied unless it lies at the start of shared memory. */
  readonly target: Float32Array
  readonly rows: number
  readonly cols: number
  readonly hessian: PreparedHessian
}

export interface SolverOptions {
  readonly bits: Bits
  /** Input columns that share a scale; K for one scale per row. The last group may be short. */
  readonly groupSize: number
  /** How the first grids are found, from W* alone. */
  readonly grid: GridCandidate
  /** 'auto': float16 unless it cannot hold the scales. */
  readonly scaleType: ScaleType | 'auto'
  /** Most sweeps of coordinate descent after the recurrence; default 1. */
  readonly descentSweeps?: number
  /** Most rounds of refitting scales and zero points, each followed by descent; default 3. */
  readonly refits?: number
}

/**
 * The layer on its first grids; codes are those of rounding to nearest.
 * @throws NonFiniteWeightError when a target is NaN or infinite.
 * @throws RangeError when shapes do not fit together.
 */
export async function startLayer(
  { target, rows, cols, hessian }: LayerProblem,
  { bits, groupSize, grid, scaleType }: SolverOptions,
  { pool, signal }: Means,
): Promise<Layer> {
  if (target.length !== rows * cols || hessian.cols !== cols) {
    throw new RangeError(`layer: ${target.length} targets for [${rows}, ${cols}], Hessian of ${hessian.cols}`)
  }
  const shared = inSharedMemory(target)
  const { weight } = await quantizeTensor(
    { bytes: shared.buffer, elementType: 'float32', shape: [rows, cols, 1] },
    { bits, groupSize, candidates: [grid], ...(scaleType === 'auto' ? {} : { scaleType }) },
    pool,
    signal,
  )
  return {
    rows,
    cols,
    bits,
    groupSize,
    groups: groupsPerRow(cols, groupSize),
    scaleType: weight.scaleType,
    target: shared,
    codes: weight.codes,
    scales: weight.scales,
    zeroPoints: weight.zeroPoints,
    rowLoss: new Float64Array(new SharedArrayBuffer(rows * 8)),
    rowSquares: new Float64Array(new SharedArrayBuffer(rows * 8)),
  }
}

function inSharedMemory(values: Float32Array): Float32Array<SharedArrayBuffer> {
  const { buffer } = values
  if (buffer instanceof SharedArrayBuffer && values.byteOffset === 0) return new Float32Array(buffer, 0, values.length)
  const shared = new Float32Array(new SharedArrayBuffer(values.length * 4))
  shared.set(values)
  return shared
}

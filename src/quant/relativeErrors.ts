/** @file What round-to-nearest would cost a tensor at several widths, found in one reading of it. */
import type { KernelPool } from '../threads/pool.ts'
import { gridCandidates, sampleStride } from './candidates.ts'
import type { GridSpec } from './grid.ts'
import { kernelTask, sumsOf } from './kernel.ts'
import { type Bits, type GridScheme, groupsPerRow, type ScaleType } from './quantizedWeight.ts'
import { checkNorm, isNegligible, totalOf } from './quantizeTensor.ts'
import { checkStoredWeight, rowsOf, type StoredWeight } from './storedWeight.ts'

export interface WidthErrors {
  /** In the order asked for. */
  readonly widths: readonly WidthError[]
  /** Σ w². An estimate when `sampled`. */
  readonly squaredNorm: number
  /** True when the tensor was so large that only a part of its groups was looked at. */
  readonly sampled: boolean
}

/** The best min-max grid of one width. */
interface WidthError {
  readonly bits: Bits
  /** Σ (ŵ − w)². An estimate when `sampled`. */
  readonly squaredError: number
  readonly scheme: GridScheme
  readonly scaleType: ScaleType
}

/** Up to 2^26 weights every group is looked at; beyond, about 2^24 weights. */
const LARGEST_FULL = 2 ** 26
const SAMPLED_WEIGHTS = 2 ** 24

/**
 * Squared errors of round-to-nearest with the better of symmetric and asymmetric min-max grids, the same figures that
 * `quantizeTensor` with method 'rtn' would end with.
 *
 * @param groupSize input columns that share a scale, ≥ 1.
 * @throws NonFiniteWeightError when a weight is NaN, infinite or too large for float32 (and not passed over in a sample).
 * @throws QtoolError `interrupted` when the signal aborts.
 */
export async function relativeErrors(
  weight: StoredWeight,
  groupSize: number,
  bitsList: readonly Bits[],
  pool: KernelPool,
  signal?: AbortSignal,
): Promise<WidthErrors> {
  checkStoredWeight(weight)
  const rows = rowsOf(weight)
  const cols = weight.shape[1]
  const groups = groupsPerRow(cols, groupSize)
  const sampled = rows * cols > LARGEST_FULL
  const stride = sampled ? sampleStride(rows, groups, Math.ceil(SAMPLED_WEIGHTS / Math.min(groupSize, cols))) : 1
  const candidates = gridCandidates('rtn', 'auto')
  const specs = bitsList.flatMap((bits) =>
    candidates.map((candidate): GridSpec => ({ ...candidate, bits, scaleType: 'float16' })),
  )
  const job = { kind: 'measure', weight, groupSize, specs, stride } as const
  const sums = await pool.run(kernelTask(job), signal)
  const width = sumsOf(job)
  const squaredNorm = totalOf(sums, width, 0)
  checkNorm(weight, squaredNorm)
  const errors = specs.map((_, i) => totalOf(sums, width, 1 + 2 * i))

  // Where float16 cannot hold a scale, the tensor would be written with float32 scales.
  const misfits = specs.flatMap((_, i) => (isNegligible(totalOf(sums, width, 2 + 2 * i), errors[i]!) ? [] : [i]))
  if (misfits.length) {
    const again = { ...job, specs: misfits.map((i): GridSpec => ({ ...specs[i]!, scaleType: 'float32' })) }
    const sumsAgain = await pool.run(kernelTask(again), signal)
    misfits.forEach((spec, i) => {
      errors[spec] = totalOf(sumsAgain, sumsOf(again), 1 + 2 * i)
    })
  }

  const share = Math.ceil((rows * groups) / stride) / (rows * groups)
  const widths = bitsList.map((bits, i): WidthError => {
    const first = i * candidates.length
    const ofWidth = errors.slice(first, first + candidates.length)
    const least = Math.min(...ofWidth)
    const best = ofWidth.indexOf(least)
    const scaleType = misfits.includes(first + best) ? 'float32' : 'float16'
    return { bits, squaredError: least / share, scheme: candidates[best]!.scheme, scaleType }
  })
  return { widths, squaredNorm: squaredNorm / share, sampled }
}

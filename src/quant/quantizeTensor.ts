/**
 * @file A stored weight tensor to a GridWeight: candidates are compared on a sample of the groups, the winner does
 * the whole tensor.
 */
import type { KernelPool } from '../threads/pool.ts'
import { type GridCandidate, sampleStride } from './candidates.ts'
import type { GridMethod } from './grid.ts'
import { kernelTask, sumsOf } from './kernel.ts'
import type { Bits, GridScheme, GridWeight, ScaleType } from './quantizedWeight.ts'
import { groupsPerRow } from './quantizedWeight.ts'
import { checkStoredWeight, findNonFinite, rowsOf, type StoredWeight } from './storedWeight.ts'
import { Workspace } from './workspace.ts'

export interface TensorOptions {
  readonly bits: Bits
  /** Input columns that share a scale, ≥ 1; the reduction axis for one scale per row. */
  readonly groupSize: number
  /** From `gridCandidates`. */
  readonly candidates: readonly [GridCandidate, ...GridCandidate[]]
  /** Scales of this type, with the nearest that it can hold where one does not fit; chosen by the weights when absent. */
  readonly scaleType?: ScaleType
  /** Where the result's arrays lie, until the next call with the same one; memory of their own when absent. */
  readonly workspace?: Workspace
}

export interface QuantizedTensor {
  /** [outer · inner, reduction]; its arrays lie in shared memory. */
  readonly weight: GridWeight & { readonly scaleType: ScaleType }
  readonly scheme: GridScheme
  readonly method: GridMethod
  /** Σ (ŵ − w)² and Σ w² over the whole tensor, w in float32 after the multiplier. */
  readonly squaredError: number
  readonly squaredNorm: number
}

/** A tensor of up to twice this many weights is compared in full. */
const SAMPLED_WEIGHTS = 65536
/** Long groups (whole rows) differ too much for a handful to speak for all. */
const SAMPLED_GROUPS = 64

/** Sum column `column` of [units, width] sums in unit order. */
export function totalOf(sums: Float64Array, width: number, column: number): number {
  let total = 0
  for (let i = column; i < sums.length; i += width) total += sums[i]!
  return total
}

/** @throws NonFiniteWeightError when a norm says that a weight is not finite. */
export function checkNorm(weight: StoredWeight, squaredNorm: number): void {
  if (Number.isFinite(squaredNorm)) return
  throw findNonFinite(weight) ?? new Error('the norm is not finite, but all weights are')
}

/** Of a tensor's squared error, what groups whose scale float16 cannot hold may cause: dead channels, as a rule. */
const NEGLIGIBLE_SHARE = 0.01

/** Whether the error of groups that the scale type does not fit matters for their tensor. */
export function isNegligible(unfitError: number, squaredError: number): boolean {
  return unfitError <= NEGLIGIBLE_SHARE * squaredError
}

/** The candidate of least squared error on the sample, and whether float16 can hold all of its scales there. */
async function chooseCandidate(
  weight: StoredWeight,
  { bits, groupSize, candidates }: TensorOptions,
  scaleType: ScaleType,
  pool: KernelPool,
  signal: AbortSignal | undefined,
): Promise<{ candidate: GridCandidate; fits: boolean }> {
  if (candidates.length === 1) return { candidate: candidates[0], fits: true }
  const reduction = weight.shape[1]
  const wanted = Math.max(SAMPLED_GROUPS, Math.ceil(SAMPLED_WEIGHTS / Math.min(groupSize, reduction)))
  const stride = sampleStride(rowsOf(weight), groupsPerRow(reduction, groupSize), wanted)
  const specs = candidates.map((candidate) => ({ ...candidate, bits, scaleType }))
  const job = { kind: 'measure', weight, groupSize, specs, stride } as const
  const sums = await pool.run(kernelTask(job), signal)
  checkNorm(weight, totalOf(sums, sumsOf(job), 0))
  const errors = candidates.map((_, i) => totalOf(sums, sumsOf(job), 1 + 2 * i))
  const best = errors.indexOf(Math.min(...errors))
  return { candidate: candidates[best]!, fits: isNegligible(totalOf(sums, sumsOf(job), 2 + 2 * best), errors[best]!) }
}

/**
 * Quantize a tensor. Scales are float16 values. Where one of the winner's would be below 2^−17 or above 65504 in
 * magnitude it takes the nearest of these, if that makes at most a hundredth of the tensor's squared error; else all
 * of the tensor's scales are float32.
 *
 * The result depends on the weights and the options only, not on the number of threads.
 *
 * @throws NonFiniteWeightError when a weight is NaN, infinite or too large for float32.
 * @throws QtoolError `interrupted` when the signal aborts.
 */
export async function quantizeTensor(
  weight: StoredWeight,
  options: TensorOptions,
  pool: KernelPool,
  signal?: AbortSignal,
): Promise<QuantizedTensor> {
  checkStoredWeight(weight)
  if (options.scaleType) return (await quantizeWith(options.scaleType, weight, options, pool, signal))!
  const half = await quantizeWith('float16', weight, options, pool, signal)
  const result = half ?? (await quantizeWith('float32', weight, options, pool, signal))
  if (!result) throw new Error('a scale does not fit float32')
  return result
}

/** As {@link quantizeTensor} with a given scale type; undefined when it cannot hold a scale. */
async function quantizeWith(
  scaleType: ScaleType,
  weight: StoredWeight,
  options: TensorOptions,
  pool: KernelPool,
  signal: AbortSignal | undefined,
): Promise<QuantizedTensor | undefined> {
  const { bits, groupSize, workspace = new Workspace() } = options
  const { candidate, fits } = await chooseCandidate(weight, options, scaleType, pool, signal)
  if (!fits && !options.scaleType) return undefined
  const rows = rowsOf(weight)
  const cols = weight.shape[1]
  const groups = rows * groupsPerRow(cols, groupSize)
  const job = {
    kind: 'quantize',
    weight,
    groupSize,
    spec: { ...candidate, bits, scaleType },
    codes: new Uint8Array(workspace.take('codes', rows * cols), 0, rows * cols),
    scales: new Float32Array(workspace.take('scales', groups * 4), 0, groups),
    zeroPoints:
      candidate.scheme === 'asymmetric' ? new Uint8Array(workspace.take('zeroPoints', groups), 0, groups) : undefined,
  } as const
  const sums = await pool.run(kernelTask(job), signal)
  const squaredNorm = totalOf(sums, sumsOf(job), 1)
  checkNorm(weight, squaredNorm)
  const squaredError = totalOf(sums, sumsOf(job), 0)
  if (!options.scaleType && scaleType === 'float16' && !isNegligible(totalOf(sums, sumsOf(job), 2), squaredError))
    return undefined
  const { codes, scales, zeroPoints } = job
  return {
    weight: { rows, cols, bits, groupSize, codes, scales, zeroPoints, scaleType },
    ...candidate,
    squaredError,
    squaredNorm,
  }
}

/**
 * @file The uniform grid of one group of weights: scale and zero point from the group's range, and the rounding of the
 * group onto it. real = (code − zeroPoint) · scale, code in 0 … 2^bits − 1, so that the levels are
 * (−zeroPoint … 2^bits − 1 − zeroPoint) · scale.
 */
import { roundToHalf } from './float16.ts'
import type { Bits, GridScheme, ScaleType } from './quantizedWeight.ts'

/** How scales are found: from the range alone, by error-minimising clip (p = 2.4), or with HQQ zero points. */
export type GridMethod = 'minmax' | 'clip' | 'hqq'

/** Everything that decides the grid of a group, apart from its weights. */
export interface GridSpec {
  readonly bits: Bits
  readonly scheme: GridScheme
  readonly method: GridMethod
  readonly scaleType: ScaleType
}

/** A grid under construction; the functions that fit it write into it, so that no group costs an allocation. */
export interface Grid {
  /** Exactly representable in the scale type; never 0. */
  scale: number
  /** Integer in 0 … 2^bits − 1. */
  zeroPoint: number
  /** False when float16 cannot hold the group's range-based scale well enough (|s| < 2^−17 or > 65504). */
  fits: boolean
}

/** Adding and subtracting 1.5·2^52 rounds |x| < 2^51 to an integer, ties to even. */
export const ROUNDER = 6755399441055744

/**
 * Below 2^−14 a float16 loses a bit with every halving. At 2^−17 eight are left: a scale is off by at most 0.4 %, half a
 * step at the end of an 8-bit grid, and codes are chosen for the rounded scale. float32 would cost 16 bits per group.
 */
const LEAST_HALF = 2 ** -17
const LARGEST_HALF = 65504
/** Processors may take smaller numbers for zero. */
const LEAST_FLOAT = 2 ** -126

/** Whether a magnitude that is already rounded to float16 has at least 8 significant bits and is finite. */
function isPreciseHalf(magnitude: number): boolean {
  return magnitude >= LEAST_HALF && magnitude <= LARGEST_HALF
}

/**
 * Round a scale to its stored type.
 * @returns the rounded scale, or 0 where the type cannot hold it: outside the useful range of float16, or
 *          outside the normal range of float32.
 */
export function roundScale(scale: number, scaleType: ScaleType): number {
  if (scaleType === 'float32') {
    const rounded = Math.fround(scale)
    return Number.isFinite(rounded) && Math.abs(rounded) >= LEAST_FLOAT ? rounded : 0
  }
  const rounded = roundToHalf(scale)
  return isPreciseHalf(Math.abs(rounded)) ? rounded : 0
}

/**
 * The unrounded scale that spans the range lo ≤ 0 ≤ hi (not both 0), m = 2^bits − 1, a = max(−lo, hi):
 *
 * - symmetric       2a / m (GPTQ): levels −2^(b−1) … 2^(b−1) − 1, where +a saturates half a step early;
 * - symmetric-full  ±a / 2^(b−1), signed so that the weight of largest magnitude is the lowest level (code 0); when both
 *                   ends are equally far, the positive one;
 * - asymmetric      (hi − lo) / m.
 */
export function spanningScale(scheme: GridScheme, bits: Bits, lo: number, hi: number): number {
  const largest = (1 << bits) - 1
  if (scheme === 'asymmetric') return (hi - lo) / largest
  if (scheme === 'symmetric') return (2 * Math.max(-lo, hi)) / largest
  return (hi >= -lo ? -hi : -lo) / (1 << (bits - 1))
}

/**
 * The grid that spans lo ≤ 0 ≤ hi. The scale is rounded to its stored type first; an asymmetric zero point follows
 * from the rounded scale. A group of zeros gets scale 1 and the middle zero point. Where float16 cannot hold the scale,
 * `fits` is false and the scale is the nearest that it can: the caller decides whether that matters.
 */
export function minMaxGrid(spec: GridSpec, lo: number, hi: number, grid: Grid): void {
  const { bits, scheme, scaleType } = spec
  grid.fits = true
  grid.zeroPoint = 1 << (bits - 1)
  if (lo === 0 && hi === 0) {
    grid.scale = 1
    return
  }
  const exact = spanningScale(scheme, bits, lo, hi)
  let scale = roundScale(exact, scaleType)
  if (scale === 0) {
    grid.fits = scaleType === 'float32'
    const [least, largest] = grid.fits ? [LEAST_FLOAT, 2 ** 127] : [LEAST_HALF, LARGEST_HALF]
    scale = Math.sign(exact) * Math.min(Math.max(Math.abs(exact), least), largest)
  }
  grid.scale = scale
  if (scheme === 'asymmetric') grid.zeroPoint = Math.min(-lo / scale + ROUNDER - ROUNDER, (1 << bits) - 1)
}

/** A comparison at a time: Math.min and Math.max would look for NaN and −0 as well. */
export function clamp(x: number, low: number, high: number): number {
  if (x < low) return low
  if (x > high) return high
  return x
}

/** Sums over a group on a grid: what the least-squares refit and the choice between grids need. */
export interface GroupSums {
  /** Σ (ŵ − w)², ŵ rounded to float32 as onnxruntime does. */
  squaredError: number
  /** Σ w·level, with level = code − zeroPoint. */
  weightLevel: number
  /** Σ level². */
  levelLevel: number
}

export function copySums(from: GroupSums, to: GroupSums): void {
  to.squaredError = from.squaredError
  to.weightLevel = from.weightLevel
  to.levelLevel = from.levelLevel
}

/** Fill `sums` for weights[start … end) on a grid; codes are rounded half to even and clamped. */
export function measureGroup(
  weights: Float32Array,
  start: number,
  end: number,
  bits: Bits,
  scale: number,
  zeroPoint: number,
  sums: GroupSums,
): void {
  const low = -zeroPoint
  const high = (1 << bits) - 1 - zeroPoint
  let squaredError = 0
  let weightLevel = 0
  let levelLevel = 0
  for (let i = start; i < end; i++) {
    const w = weights[i]!
    const nearest = w / scale + ROUNDER - ROUNDER
    const level = clamp(nearest, low, high)
    const error = Math.fround(level * scale) - w
    squaredError += error * error
    weightLevel += w * level
    levelLevel += level * level
  }
  sums.squaredError = squaredError
  sums.weightLevel = weightLevel
  sums.levelLevel = levelLevel
}

/**
 * Write the codes of weights[start … end) on a grid to codes[at …].
 * @returns Σ (ŵ − w)², the same number as {@link measureGroup} gives.
 */
export function assignCodes(
  weights: Float32Array,
  start: number,
  end: number,
  bits: Bits,
  grid: Grid,
  codes: Uint8Array,
  at: number,
): number {
  const { scale, zeroPoint } = grid
  const low = -zeroPoint
  const high = (1 << bits) - 1 - zeroPoint
  const shift = at - start
  let squaredError = 0
  for (let i = start; i < end; i++) {
    const w = weights[i]!
    // A division, not a product with 1/scale: only the quotient tells a tie from its neighbours.
    const nearest = w / scale + ROUNDER - ROUNDER
    const level = clamp(nearest, low, high)
    const error = Math.fround(level * scale) - w
    squaredError += error * error
    codes[i + shift] = level + zeroPoint
  }
  return squaredError
}

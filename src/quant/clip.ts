/**
 * @file Error-minimising clip: shrink the scale of a group until what is saved in rounding no longer pays for what is cut
 * off at the ends, measured by Σ |ŵ − w|^2.4 (the exponent of GPTQ's and QuaRot's weight clipping).
 *
 * The reference tries 80 factors, 1.00 down to 0.21. The error falls and then rises, but for the noise of small groups,
 * so a walk in steps of 0.05 that gives up after two steps without gain, then a look at ±0.02 around the best, is
 * enough: together with the least-squares scale that follows (`fitGroup.ts`), the squared error of a tensor is within 1 %
 * of what all 80 factors and the same refit give, and mostly within 0.2 % (groups of 32 and 1024, 2 to 8 bits, Gaussian
 * and heavy tails), for 4 to 6 trials at 4 bits instead of 80.
 */
import type { Grid, GridSpec } from './grid.ts'
import { ROUNDER, roundScale, spanningScale } from './grid.ts'
import { interpolate, TABLE_END, tabulatePower } from './powerTable.ts'
import type { ScaleType } from './quantizedWeight.ts'

const EXPONENT = 2.4
/** Factors in hundredths. */
const LEAST_FACTOR = 21
const COARSE_STEP = 5
const PATIENCE = 2
const FINE_STEP = 2

const powers = tabulatePower(EXPONENT)

/** magnitude^2.4 for magnitude ≥ 0. */
function power(magnitude: number): number {
  return magnitude < TABLE_END ? interpolate(powers, magnitude) : magnitude ** EXPONENT
}

/**
 * Σ |level − w / scale|^2.4 over weights[start … end), in units of the grid step.
 *
 * The distance to the nearest level is the larger of the rounding error and of how far a weight lies outside the grid.
 * max(a, b) = (a + b + |a − b|) / 2 keeps the loop free of branches, which clipping would make unpredictable.
 */
function powerError(
  weights: Float32Array,
  start: number,
  end: number,
  scale: number,
  low: number,
  high: number,
): number {
  const inverse = 1 / scale
  const middle = (low + high) / 2
  const reach = (high - low) / 2
  let sum = 0
  for (let i = start; i < end; i++) {
    const place = weights[i]! * inverse
    const rounding = Math.abs(place + ROUNDER - ROUNDER - place)
    const outside = Math.abs(place - middle) - reach
    sum += power((rounding + outside + Math.abs(rounding - outside)) / 2)
  }
  return sum
}

/** Where the search of one group stands. */
interface Walk {
  /** The unrounded scale that spans the group's range: factor 100. */
  readonly spanning: number
  readonly scaleType: ScaleType
  /** The group's min-max scale; errors are compared in units of its step. */
  readonly unit: number
  readonly low: number
  readonly high: number
  least: number
  factor: number
  scale: number
}

/** Try the scale of a factor in hundredths; the walk moves there and the answer is true if the error is the least so far. */
function tryFactor(weights: Float32Array, start: number, end: number, walk: Walk, factor: number): boolean {
  const scale = roundScale((factor / 100) * walk.spanning, walk.scaleType)
  if (scale === 0) return false
  // An error in units of this scale's step is (scale / unit)^2.4 times as large in the walk's.
  const conversion = power(scale / walk.unit)
  const error = conversion * powerError(weights, start, end, scale, walk.low, walk.high)
  if (!(error < walk.least)) return false
  walk.least = error
  walk.factor = factor
  walk.scale = scale
  return true
}

/**
 * The shrunk scale of least power error for weights[start … end). The zero point stays, since both ends shrink by
 * the same factor. Factors whose scale the scale type cannot hold are passed over.
 *
 * @param lo, hi  the group's range, not both 0.
 * @param grid    the group's min-max grid, which `fits`. Not modified.
 */
export function shrunkScale(
  weights: Float32Array,
  start: number,
  end: number,
  spec: GridSpec,
  lo: number,
  hi: number,
  grid: Grid,
): number {
  const { scheme, bits, scaleType } = spec
  const low = -grid.zeroPoint
  const high = (1 << bits) - 1 - grid.zeroPoint
  const walk: Walk = {
    spanning: spanningScale(scheme, bits, lo, hi),
    scaleType,
    unit: grid.scale,
    low,
    high,
    least: powerError(weights, start, end, grid.scale, low, high),
    factor: 100,
    scale: grid.scale,
  }
  let misses = 0
  for (let factor = 100 - COARSE_STEP; factor >= LEAST_FACTOR && misses < PATIENCE; factor -= COARSE_STEP) {
    misses = tryFactor(weights, start, end, walk, factor) ? 0 : misses + 1
  }
  const centre = walk.factor
  // Around 1, look at 0.99 and 0.98.
  tryFactor(weights, start, end, walk, Math.min(centre + FINE_STEP, 99))
  tryFactor(weights, start, end, walk, centre - FINE_STEP)
  return walk.scale
}

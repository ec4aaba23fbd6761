/**
 * @file The configurations that an allocation chooses from, and what each is expected to cost in precision before any
 * weight is looked at.
 *
 * Prior: weights are independent normal numbers with one scale. Round-to-nearest on a grid of 2^b points that spans the
 * range R of a group has step R / (2^b − 1) and mean squared error step² / 12 (Bennett 1948, uniform noise within a
 * cell), so the squared error relative to the variance is E[R²] / (12 (2^b − 1)²), where R is the range of n standard
 * normal numbers.
 */
import { BITS, type Bits } from '../quant/quantizedWeight.ts'
import type { Budget } from './budget.ts'

/** Input columns that share a scale, smallest first. `channel` (the whole row) is the largest. */
export const GROUP_SIZES: readonly number[] = [16, 32, 64, 128, 256]

export interface Configuration {
  readonly bits: Bits
  readonly groupSize: number | 'channel'
}

/**
 * The uniform configurations that a budget lets us choose from.
 *
 * Without a budget there is one. A budget on the mean width says nothing about scales, so the group size stays what the
 * user or the defaults say; every other budget counts scales, and the group size is free unless the user fixed it.
 *
 * @param fixed what the user fixed.
 */
export function uniformCandidates(
  budget: Budget | undefined,
  fixed: { readonly bits?: Bits | undefined; readonly groupSize?: number | 'channel' | undefined },
  defaults: Configuration,
): Configuration[] {
  if (budget === undefined) {
    return [{ bits: fixed.bits ?? defaults.bits, groupSize: fixed.groupSize ?? defaults.groupSize }]
  }
  const widths = fixed.bits === undefined ? BITS : [fixed.bits]
  const groupSizes =
    fixed.groupSize !== undefined
      ? [fixed.groupSize]
      : budget.kind === 'meanBits'
        ? [defaults.groupSize]
        : ([...GROUP_SIZES, 'channel'] as const)
  return widths.flatMap((bits) => groupSizes.map((groupSize) => ({ bits, groupSize })))
}

/**
 * Expected ‖W − Ŵ‖² / ‖W‖² of min-max round-to-nearest for normal weights; see the head of this file.
 *
 * @param bits width of a code, at least 1.
 * @param groupSize columns that share a scale, at least 1; the last group of a row may be shorter.
 * @param cols input columns K, at least 1.
 * @returns at least 0; 0 when groups have one member.
 */
export function expectedError(bits: number, groupSize: number | 'channel', cols: number): number {
  const size = groupSize === 'channel' ? cols : Math.min(groupSize, cols)
  const full = Math.floor(cols / size)
  const rest = cols - full * size
  const squaredRange = (full * size * meanSquaredRange(size) + rest * meanSquaredRange(rest)) / cols
  return squaredRange / (12 * (2 ** bits - 1) ** 2)
}

const SPAN = 9
const STEPS = 360
const squaredRanges = new Map<number, number>()

/**
 * E[R²] for the range R of n standard normal numbers, by integrating over the joint density of the smallest (x) and
 * largest (y): n (n − 1) φ(x) φ(y) (Φ(y) − Φ(x))^(n−2). Source: David & Nagaraja, Order Statistics, section 2.3.
 * Trapezoidal on [−9, 9]², which is exact to about 10 digits for smooth densities that vanish at the ends.
 */
function meanSquaredRange(n: number): number {
  if (n < 2) return 0
  const known = squaredRanges.get(n)
  if (known !== undefined) return known
  const step = (2 * SPAN) / STEPS
  const density = new Float64Array(STEPS + 1)
  const below = new Float64Array(STEPS + 1)
  for (let i = 0; i <= STEPS; i++) {
    const x = -SPAN + i * step
    density[i] = Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI)
    below[i] = i === 0 ? 0 : below[i - 1]! + (step * (density[i]! + density[i - 1]!)) / 2
  }
  let sum = 0
  for (let i = 0; i < STEPS; i++) {
    for (let j = i + 1; j <= STEPS; j++) {
      const inside = Math.min(1, below[j]! - below[i]!)
      sum += density[i]! * density[j]! * inside ** (n - 2) * ((j - i) * step) ** 2
    }
  }
  const mean = n * (n - 1) * sum * step * step
  squaredRanges.set(n, mean)
  return mean
}

/** @file Monte Carlo: the error of min-max rounding to nearest on normal numbers, measured by doing it. */
import type { Random } from '../../src/random.ts'

/**
 * ‖x − x̂‖² / ‖x‖² over `groups` groups of `size` standard normal numbers, each on an asymmetric grid of 2^bits points
 * that includes zero and spans the group.
 */
export function measuredRoundingError(bits: number, size: number, groups: number, random: Random): number {
  const top = 2 ** bits - 1
  let error = 0
  let power = 0
  for (let g = 0; g < groups; g++) {
    const values: number[] = []
    for (let i = 0; i < size; i++) values.push(random.normal())
    const low = Math.min(0, ...values)
    const scale = (Math.max(0, ...values) - low) / top
    const zero = Math.round(-low / scale)
    for (const value of values) {
      const code = Math.max(0, Math.min(top, Math.round(value / scale) + zero))
      error += (value - (code - zero) * scale) ** 2
      power += value ** 2
    }
  }
  return error / power
}

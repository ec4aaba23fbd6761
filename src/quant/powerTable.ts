/**
 * @file Fractional powers by table: Math.pow takes 20 to 70 ns, an interpolation 2. The clip search and the zero-point
 * refinement raise every rounding error of every trial to a power, and most errors are below half a grid step.
 */

const SAMPLES = 1024

/** Tables cover [0, TABLE_END); beyond, use `**`. */
export const TABLE_END = 8

/** x^exponent at the multiples of 2^−10 in [0, 8]. */
export function tabulatePower(exponent: number): Float64Array {
  return Float64Array.from({ length: TABLE_END * SAMPLES + 1 }, (_, i) => (i / SAMPLES) ** exponent)
}

/**
 * The tabulated power at 0 ≤ x < TABLE_END, linear between samples: off by at most |f″|·2^−23, which for the exponent 2.4
 * and x ≤ 8 is below 2·10^−6.
 */
export function interpolate(table: Float64Array, x: number): number {
  const place = x * SAMPLES
  const index = place | 0
  const below = table[index]!
  return below + (table[index + 1]! - below) * (place - index)
}

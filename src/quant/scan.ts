/** @file One look at a group of weights: its range and its norm. */

/** What one pass over a group finds. `lo` ≤ 0 ≤ `hi`: zero is always inside, as every grid must represent it. */
export interface GroupScan {
  lo: number
  hi: number
  /** Σ w². Not finite exactly when a weight is NaN or infinite: squares of float32 never overflow float64. */
  squaredNorm: number
}

const pattern = new Int32Array(2)
const value = new Float32Array(pattern.buffer)

/**
 * Scan weights[start … end) into `scan`.
 *
 * Non-negative floats order like their bit patterns, so the range is found on integers with max(a, b) =
 * a − min(a − b, 0), without a branch: in random weights, a comparison for a new extreme is mispredicted so often that
 * it would cost more than rounding the weights does. NaN patterns are above infinity and end up in the range.
 *
 * @param words the bytes of `weights` seen as integers.
 */
export function scanGroup(weights: Float32Array, words: Int32Array, start: number, end: number, scan: GroupScan): void {
  let positive = 0
  let negative = 0
  let squaredNorm = 0
  for (let i = start; i < end; i++) {
    const w = weights[i]!
    squaredNorm += w * w
    const word = words[i]!
    const sign = word >> 31
    const below = (positive - (word & ~sign)) | 0
    positive = (positive - (below & (below >> 31))) | 0
    const above = (negative - (word & sign & 0x7fffffff)) | 0
    negative = (negative - (above & (above >> 31))) | 0
  }
  pattern[0] = positive
  pattern[1] = negative
  scan.hi = value[0]!
  scan.lo = negative === 0 ? 0 : -value[1]!
  scan.squaredNorm = squaredNorm
}

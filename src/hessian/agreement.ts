/** @file How well predicted losses agree with measured ones: as numbers, in their order, and in their logarithms. */

/**
 * R² = 1 − Σ (m − p)² / Σ (m − m̄)²: the share of the measured variance that predictions explain, as they stand, without
 * a line fitted to them. In (−∞, 1]; 1: exact, 0: as good as the mean, below: worse than it.
 * @returns undefined for fewer than two values or measured ones that are all equal.
 * @throws RangeError when the lengths differ.
 */
export function rSquared(predicted: ArrayLike<number>, measured: ArrayLike<number>): number | undefined {
  checkLengths(predicted, measured)
  if (allEqual(measured)) return undefined
  const mean = meanOf(measured)
  let residual = 0
  let total = 0
  for (let i = 0; i < measured.length; i++) {
    residual += (measured[i]! - predicted[i]!) ** 2
    total += (measured[i]! - mean) ** 2
  }
  return 1 - residual / total
}

/**
 * Spearman's rank correlation: Pearson's of the ranks, equal values sharing the mean of their ranks. In [−1, 1]; 1: the
 * order is right, whatever the numbers.
 * @returns undefined for fewer than two values or values that are all equal on a side.
 * @throws RangeError when the lengths differ.
 */
export function spearman(predicted: ArrayLike<number>, measured: ArrayLike<number>): number | undefined {
  checkLengths(predicted, measured)
  return pearson(midRanks(predicted), midRanks(measured))
}

/** Correlation of logarithms, and over how many pairs. */
export interface LogCorrelation {
  /** In [−1, 1]; 1: measured = a·predicted^b with b > 0. Undefined for fewer than two pairs, or equal values on a side. */
  readonly correlation: number | undefined
  /** Pairs whose values are both finite and above 0; the others have no finite logarithm and are left out. */
  readonly pairs: number
}

/**
 * Pearson's correlation of ln(predicted) with ln(measured): agreement over orders of magnitude, where the largest losses do
 * not decide alone.
 * @throws RangeError when the lengths differ.
 */
export function logCorrelation(predicted: ArrayLike<number>, measured: ArrayLike<number>): LogCorrelation {
  checkLengths(predicted, measured)
  const left: number[] = []
  const right: number[] = []
  for (let i = 0; i < measured.length; i++) {
    const a = Math.log(predicted[i]!)
    const b = Math.log(measured[i]!)
    if (!Number.isFinite(a) || !Number.isFinite(b)) continue
    left.push(a)
    right.push(b)
  }
  return { correlation: pearson(left, right), pairs: left.length }
}

function pearson(left: ArrayLike<number>, right: ArrayLike<number>): number | undefined {
  if (allEqual(left) || allEqual(right)) return undefined
  const leftMean = meanOf(left)
  const rightMean = meanOf(right)
  let product = 0
  let leftSquares = 0
  let rightSquares = 0
  for (let i = 0; i < left.length; i++) {
    const a = left[i]! - leftMean
    const b = right[i]! - rightMean
    product += a * b
    leftSquares += a * a
    rightSquares += b * b
  }
  return Math.max(-1, Math.min(1, product / Math.sqrt(leftSquares * rightSquares)))
}

/** Ranks from 1; equal values have the mean of theirs. */
function midRanks(values: ArrayLike<number>): Float64Array {
  // A model may predict infinity twice: their difference is NaN, which sorting takes for equal.
  const order = Uint32Array.from({ length: values.length }, (_, i) => i).sort((a, b) => values[a]! - values[b]!)
  const ranks = new Float64Array(values.length)
  for (let start = 0; start < order.length; ) {
    let end = start + 1
    while (end < order.length && values[order[end]!] === values[order[start]!]) end++
    for (let i = start; i < end; i++) ranks[order[i]!] = (start + 1 + end) / 2
    start = end
  }
  return ranks
}

/** Also of none or one. Compared as they are: a mean is not exact, and would leave a variance of rounding errors. */
function allEqual(values: ArrayLike<number>): boolean {
  for (let i = 1; i < values.length; i++) if (values[i] !== values[0]) return false
  return true
}

function meanOf(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]!
  return sum / values.length
}

function checkLengths(predicted: ArrayLike<number>, measured: ArrayLike<number>): void {
  if (predicted.length !== measured.length) {
    throw new RangeError(`agreement: ${predicted.length} predicted values, ${measured.length} measured`)
  }
}

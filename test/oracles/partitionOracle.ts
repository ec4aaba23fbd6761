/** @file Weighted k-means by trying every way to cut the sorted values. */

/** Least Σ weight · (value − mean)² over all partitions of the sorted values into at most k intervals. */
export function leastPartitionError(values: readonly number[], weights: readonly number[], k: number): number {
  const pairs = values.map((value, i) => ({ value, weight: weights[i]! })).sort((a, b) => a.value - b.value)
  const best = (from: number, left: number): number => {
    if (from === pairs.length) return 0
    if (left === 0) return Number.POSITIVE_INFINITY
    let least = Number.POSITIVE_INFINITY
    for (let end = from + 1; end <= pairs.length; end++) {
      least = Math.min(least, spread(pairs.slice(from, end)) + best(end, left - 1))
    }
    return least
  }
  return best(0, k)
}

function spread(pairs: readonly { value: number; weight: number }[]): number {
  const total = pairs.reduce((sum, { weight }) => sum + weight, 0)
  if (total === 0) return 0
  const mean = pairs.reduce((sum, { value, weight }) => sum + weight * value, 0) / total
  return pairs.reduce((sum, { value, weight }) => sum + weight * (value - mean) ** 2, 0)
}

/** Σ weight · (value − nearest centre)². */
export function nearestError(
  values: ArrayLike<number>,
  weights: ArrayLike<number>,
  centres: ArrayLike<number>,
): number {
  let error = 0
  for (let i = 0; i < values.length; i++) {
    let nearest = Number.POSITIVE_INFINITY
    for (let c = 0; c < centres.length; c++) nearest = Math.min(nearest, (values[i]! - centres[c]!) ** 2)
    error += weights[i]! * nearest
  }
  return error
}

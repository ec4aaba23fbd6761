/**
 * @file Optimal clusters of weighted numbers, by dynamic programming.
 *
 * An optimal cluster is an interval of the sorted values, so the best error of the first j values in c clusters follows
 * from that in c − 1, and its last cluster starts no earlier as j grows (Wang & Song 2011; divide and conquer after Wu
 * 1991): O(k · n · log n) instead of the local optimum of Lloyd's iteration.
 */
import { type Bins, binValues } from './valueBins.ts'

/** Most clusters: what an index of one byte can name. */
const MOST_CLUSTERS = 256

export interface Clusters {
  /** Weighted means of the clusters, ascending, [k]. */
  readonly centres: Float64Array
  /** Σ weight · (value − centre of its cluster)². */
  readonly error: number
}

/**
 * The k centres of least Σ weight · (value − nearest centre)².
 *
 * Exact up to 4096 values. Of more, clusters are made of 2047 bins that are not cut, and means and error are exact for
 * these clusters: on normal, Laplace and heavy-tailed values the error is within 0.1 % of the least.
 *
 * @param values finite, at least one.
 * @param weights as many, ≥ 0: a weight of 2 counts as the value twice, and of 0 as none; where all are 0, all count the same.
 * @param k 1 … 256. With fewer distinct values than k the centres are these values, the largest repeated.
 * @returns ascending, [k].
 * @throws RangeError when an argument is not as described.
 */
export function weightedKMeans(values: ArrayLike<number>, weights: ArrayLike<number>, k: number): Float64Array {
  return weightedClusters(values, weights, k).centres
}

/** As {@link weightedKMeans}, with the error. */
export function weightedClusters(values: ArrayLike<number>, weights: ArrayLike<number>, k: number): Clusters {
  if (!Number.isInteger(k) || k < 1 || k > MOST_CLUSTERS) throw new RangeError(`k-means with ${k} clusters`)
  const bins = binValues(values, weights)
  const used = Math.min(k, bins.count)
  const sums = prefixSums(bins)
  const ends = used === bins.count ? bins.weight.map((_, bin) => bin + 1) : bestEnds(sums, bins.count, used)
  let error = 0
  let start = 0
  const centres = new Float64Array(k)
  for (let c = 0; c < k; c++) {
    const end = ends[Math.min(c, used - 1)]!
    if (c < used) error += costOf(sums, start, end)
    centres[c] = c < used ? bins.centre + meanOf(sums, start, end) : centres[c - 1]!
    start = end
  }
  // Means of values that differ by rounding only may come out in the wrong order.
  return { centres: centres.sort(), error }
}

/** Sums over the bins before one, [count + 1] each. */
interface Sums {
  readonly weight: Float64Array
  readonly first: Float64Array
  readonly second: Float64Array
}

function prefixSums(bins: Bins): Sums {
  const before = (terms: Float64Array) => {
    const sums = new Float64Array(terms.length + 1)
    for (let i = 0; i < terms.length; i++) sums[i + 1] = sums[i]! + terms[i]!
    return sums
  }
  return { weight: before(bins.weight), first: before(bins.first), second: before(bins.second) }
}

function meanOf({ weight, first }: Sums, start: number, end: number): number {
  return (first[end]! - first[start]!) / (weight[end]! - weight[start]!)
}

/** Error of the bins start … end − 1 around their mean. */
function costOf({ weight, first, second }: Sums, start: number, end: number): number {
  const sum = first[end]! - first[start]!
  const cost = second[end]! - second[start]! - (sum * sum) / (weight[end]! - weight[start]!)
  // A difference of nearly equal sums may come out below 0; a weight that vanished in its sum makes it NaN.
  return cost > 0 ? cost : 0
}

/** Where each of the k clusters ends, with 1 ≤ k < count. */
function bestEnds(sums: Sums, count: number, k: number): Float64Array {
  let last = Float64Array.from({ length: count + 1 }, (_, end) => (end === 0 ? 0 : costOf(sums, 0, end)))
  let best = new Float64Array(count + 1)
  /** Where the last of c + 1 clusters of the bins before `end` starts, at c · (count + 1) + end. */
  const starts = new Uint16Array(k * (count + 1))
  for (let c = 1; c < k; c++) {
    const row = c * (count + 1)
    const solve = (low: number, high: number, least: number, most: number): void => {
      if (low > high) return
      const end = (low + high) >> 1
      let lowest = Number.POSITIVE_INFINITY
      let at = least
      for (let start = Math.max(c, least); start <= Math.min(most, end - 1); start++) {
        const error = last[start]! + costOf(sums, start, end)
        if (error < lowest) {
          lowest = error
          at = start
        }
      }
      best[end] = lowest
      starts[row + end] = at
      solve(low, end - 1, least, at)
      solve(end + 1, high, at, most)
    }
    solve(c + 1, count, c, count - 1)
    const swap = last
    last = best
    best = swap
  }
  const ends = new Float64Array(k)
  let end = count
  for (let c = k - 1; c >= 0; c--) {
    ends[c] = end
    end = starts[c * (count + 1) + end]!
  }
  return ends
}

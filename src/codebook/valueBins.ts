/**
 * @file Weighted values in ascending bins: each distinct value a bin of its own where there are few, and intervals where
 * there are many.
 */

import { spreadPlaces } from './spreadPlaces.ts'

/** Up to so many values are sorted, and none share a bin unless they are equal. */
const SORTED_UP_TO = 4096
/** Bins of the same width over the whole range, for outliers, and as many that hold the same share of the values. */
const HALF_THE_BINS = 1024
/** Values that tell where these are. */
const SAMPLE = 16 * HALF_THE_BINS

/** Ascending, each with weight above 0. Sums are about `centre`, so that little is lost where values are far from 0. */
export interface Bins {
  readonly count: number
  /** The weighted mean of all values. */
  readonly centre: number
  /** Σ weight, Σ weight·x, Σ weight·x² with x = value − centre; [count] each. */
  readonly weight: Float64Array
  readonly first: Float64Array
  readonly second: Float64Array
}

/**
 * @param values finite, at least one.
 * @param weights as many, finite and ≥ 0; where all are 0, all values count the same.
 * @throws RangeError when there are none, or one is not as described.
 */
export function binValues(values: ArrayLike<number>, weights: ArrayLike<number>): Bins {
  const centre = checkedMean(values, weights)
  const isIdle = Number.isNaN(centre)
  if (isIdle) return binValues(values, new Uint8Array(values.length).fill(1))
  const binOf = values.length <= SORTED_UP_TO ? distinctValues(values) : intervals(values)
  const weight = new Float64Array(binOf.count)
  const first = new Float64Array(binOf.count)
  const second = new Float64Array(binOf.count)
  for (let i = 0; i < values.length; i++) {
    const x = values[i]! - centre
    const w = weights[i]!
    const bin = binOf.of(i)
    weight[bin] = weight[bin]! + w
    first[bin] = first[bin]! + w * x
    second[bin] = second[bin]! + w * x * x
  }
  const used = weight.reduce((count, w) => count + Number(w > 0), 0)
  const keep = (sums: Float64Array) => (used === sums.length ? sums : sums.filter((_, bin) => weight[bin]! > 0))
  return { count: used, centre, weight: keep(weight), first: keep(first), second: keep(second) }
}

/** NaN where all weights are 0. */
function checkedMean(values: ArrayLike<number>, weights: ArrayLike<number>): number {
  if (values.length === 0 || weights.length !== values.length) {
    throw new RangeError(`k-means of ${values.length} values with ${weights.length} weights`)
  }
  let total = 0
  let sum = 0
  for (let i = 0; i < values.length; i++) {
    const w = weights[i]!
    if (!(w >= 0)) throw new RangeError(`k-means: weight ${w}`)
    total += w
    sum += w * values[i]!
  }
  if (!Number.isFinite(total) || !Number.isFinite(sum)) throw new RangeError('k-means of values that are not finite')
  return sum / total
}

interface BinOf {
  readonly count: number
  /** The bin of the value at a place. */
  of(place: number): number
}

function distinctValues(values: ArrayLike<number>): BinOf {
  const order = Uint16Array.from({ length: values.length }, (_, i) => i).sort((a, b) => values[a]! - values[b]!)
  const bins = new Uint16Array(values.length)
  let bin = 0
  for (let i = 1; i < order.length; i++) {
    if (values[order[i]!]! > values[order[i - 1]!]!) bin++
    bins[order[i]!] = bin
  }
  return { count: bin + 1, of: (place) => bins[place]! }
}

function intervals(values: ArrayLike<number>): BinOf {
  const places = spreadPlaces(Math.min(values.length, SAMPLE), values.length)
  const sample = Float64Array.from(places, (place) => values[place]!).sort()
  let low = values[0]!
  let high = low
  for (let i = 1; i < values.length; i++) {
    low = Math.min(low, values[i]!)
    high = Math.max(high, values[i]!)
  }
  const edges = new Float64Array(2 * HALF_THE_BINS - 2)
  for (let i = 1; i < HALF_THE_BINS; i++) {
    edges[2 * i - 2] = low + ((high - low) * i) / HALF_THE_BINS
    edges[2 * i - 1] = sample[Math.floor((sample.length * i) / HALF_THE_BINS)]!
  }
  edges.sort()
  return { count: edges.length + 1, of: (place) => countUpTo(edges, values[place]!) }
}

/** How many of the ascending edges are ≤ value. */
function countUpTo(edges: Float64Array, value: number): number {
  let low = 0
  let high = edges.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (edges[middle]! <= value) low = middle + 1
    else high = middle
  }
  return low
}

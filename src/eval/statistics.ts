/**
 * @file Statistics of per-position figures that come in streams: a mean with its standard error over samples, and
 * percentiles. Memory is bounded; nothing depends on how the stream was cut into batches.
 */
import type { Distribution } from '../report.ts'

/** Up to this many positions percentiles are exact; beyond, they come from a histogram. */
const EXACT_POSITIONS = 2_000_000

/** Histogram bins per factor of two: a value is known to within a factor 2^(±1/128), that is ±0.55 %. */
const BINS_PER_OCTAVE = 64
/** Values up to 2^LEAST_OCTAVE count as 0 in the histogram (1e-12), values from 2^MOST_OCTAVE up as infinite. */
const LEAST_OCTAVE = -40
const MOST_OCTAVE = 24

/**
 * A mean over all positions with its standard error over samples.
 *
 * Positions of one sequence are not independent, so the error is that of the ratio Σ sums / Σ counts, with samples as
 * the units: SE² = S/(S−1) · Σ (sumₛ − mean·countₛ)² / (Σ countₛ)². With equal counts this is the standard error of the
 * per-sample means. NaN with fewer than two samples.
 *
 * @param sums   one per sample: the sum over its positions
 * @param counts one per sample: its positions, ≥ 0; samples without positions do not count
 * Source: Cochran, Sampling Techniques, 3rd ed., eq. 6.13 (ratio estimator) without finite-population correction.
 */
export function ratioEstimate(
  sums: readonly number[],
  counts: readonly number[],
): { readonly mean: number; readonly standardError: number } {
  let sum = 0
  let count = 0
  let samples = 0
  sums.forEach((value, s) => {
    sum += value
    count += counts[s]!
    if (counts[s]! > 0) samples++
  })
  const mean = sum / count
  if (samples < 2) return { mean, standardError: Number.NaN }
  let squares = 0
  sums.forEach((value, s) => {
    squares += (value - mean * counts[s]!) ** 2
  })
  return { mean, standardError: Math.sqrt((samples / (samples - 1)) * squares) / count }
}

/** Percentiles of a stream of non-negative numbers (infinity allowed). */
export class Percentiles {
  readonly #limit: number
  #values = new Float64Array(1024)
  #count = 0
  #bins: Float64Array | undefined

  /** @param limit positions up to which percentiles are exact (linear interpolation between order statistics) */
  constructor(limit = EXACT_POSITIONS) {
    this.#limit = limit
  }

  add(value: number): void {
    if (this.#bins) this.#bins[binOf(value)]! += 1
    else if (this.#count === this.#limit) {
      this.#bins = new Float64Array((MOST_OCTAVE - LEAST_OCTAVE) * BINS_PER_OCTAVE + 2)
      for (const earlier of this.#values.subarray(0, this.#count)) this.#bins[binOf(earlier)]! += 1
      this.#bins[binOf(value)]! += 1
      this.#values = new Float64Array(0)
    } else {
      if (this.#count === this.#values.length) {
        const larger = new Float64Array(Math.min(this.#limit, 2 * this.#count))
        larger.set(this.#values)
        this.#values = larger
      }
      this.#values[this.#count] = value
    }
    this.#count++
  }

  /** @param shares each in [0, 1]; 0.5 is the median. @returns one value each; NaN when nothing was added. */
  at(shares: readonly number[]): number[] {
    if (this.#count === 0) return shares.map(() => Number.NaN)
    if (this.#bins) {
      const bins = this.#bins
      return shares.map((share) => this.#fromBins(bins, share))
    }
    const sorted = this.#values.slice(0, this.#count).sort()
    return shares.map((share) => {
      const at = share * (sorted.length - 1)
      const low = sorted[Math.floor(at)]!
      const high = sorted[Math.ceil(at)]!
      // Not low + (high − low)·t: that is NaN between two infinities.
      return low === high ? low : low + (high - low) * (at - Math.floor(at))
    })
  }

  #fromBins(bins: Float64Array, share: number): number {
    const rank = share * (this.#count - 1)
    let below = 0
    for (let bin = 0; bin < bins.length; bin++) {
      below += bins[bin]!
      if (below > rank) return centreOf(bin, bins.length)
    }
    return Number.POSITIVE_INFINITY
  }
}

function binOf(value: number): number {
  if (value <= 2 ** LEAST_OCTAVE) return 0
  const bin = 1 + Math.floor((Math.log2(value) - LEAST_OCTAVE) * BINS_PER_OCTAVE)
  return Math.min(bin, (MOST_OCTAVE - LEAST_OCTAVE) * BINS_PER_OCTAVE + 1)
}

function centreOf(bin: number, bins: number): number {
  if (bin === 0) return 0
  return bin === bins - 1 ? Number.POSITIVE_INFINITY : 2 ** (LEAST_OCTAVE + (bin - 0.5) / BINS_PER_OCTAVE)
}

/** Gathers one figure per position, position by position, into a {@link Distribution}. Figures are ≥ 0. */
export class DistributionAccumulator {
  readonly #percentiles = new Percentiles()
  readonly #sums: number[] = []
  readonly #counts: number[] = []
  #max = 0

  /** Add the figures of one sample's positions. A NaN makes every figure of the result NaN. */
  addSample(figures: Iterable<number>): void {
    let sum = 0
    let count = 0
    for (const figure of figures) {
      sum += figure
      count++
      if (figure > this.#max) this.#max = figure
      this.#percentiles.add(figure)
    }
    this.#sums.push(sum)
    this.#counts.push(count)
  }

  /** Mean figure of each sample; 0 for one without positions that count. */
  sampleMeans(): number[] {
    return this.#sums.map((sum, i) => (this.#counts[i]! > 0 ? sum / this.#counts[i]! : 0))
  }

  result(): Distribution {
    const { mean, standardError } = ratioEstimate(this.#sums, this.#counts)
    if (Number.isNaN(mean)) return { mean, standardError: mean, median: mean, p95: mean, p99: mean, max: mean }
    const [median, p95, p99] = this.#percentiles.at([0.5, 0.95, 0.99]) as [number, number, number]
    return { mean, standardError, median, p95, p99, max: this.#max }
  }
}

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DistributionAccumulator, Percentiles, ratioEstimate } from '../../src/eval/statistics.ts'
import { makeRandom } from '../../src/random.ts'
import { percentile, standardErrorOfMean } from '../oracles/metricsOracle.ts'

const figures = fc.array(fc.double({ min: 0, max: 1e6, noNaN: true }), { minLength: 2, maxLength: 60 })

describe('ratioEstimate', () => {
  it('is the mean and standard error of per-sample means when all counts are equal', () => {
    fc.assert(
      fc.property(figures, fc.integer({ min: 1, max: 9 }), (sums, n) => {
        const { mean, standardError } = ratioEstimate(
          sums,
          sums.map(() => n),
        )
        const means = sums.map((s) => s / n)
        expect(mean).toBeCloseTo(means.reduce((a, b) => a + b, 0) / means.length, 5)
        const expected = standardErrorOfMean(means)
        expect(Math.abs(standardError - expected)).toBeLessThanOrEqual(1e-9 * (1 + expected))
      }),
    )
  })

  it('weighs samples by their positions and passes over empty ones', () => {
    const { mean, standardError } = ratioEstimate([10, 2, 0], [10, 1, 0])
    expect(mean).toBeCloseTo(12 / 11, 12)
    const residuals = (10 - 120 / 11) ** 2 + (2 - 12 / 11) ** 2
    expect(standardError).toBeCloseTo(Math.sqrt(2 * residuals) / 11, 12)
  })

  it('estimates the spread of the mean that resampling shows', () => {
    const random = makeRandom(3)
    const draw = () => {
      const counts = Array.from({ length: 40 }, () => 1 + random.below(20))
      // A level of its own for each sample: positions of a sample are not independent.
      const sums = counts.map((n) => n * (1 + 0.3 * random.normal()) + 0.1 * Math.sqrt(n) * random.normal())
      return ratioEstimate(sums, counts)
    }
    const runs = Array.from({ length: 400 }, draw)
    const means = runs.map((r) => r.mean)
    const spread = standardErrorOfMean(means) * Math.sqrt(means.length)
    const claimed = runs.reduce((a, r) => a + r.standardError, 0) / runs.length
    expect(claimed / spread).toBeGreaterThan(0.85)
    expect(claimed / spread).toBeLessThan(1.15)
  })

  it('has no standard error with one sample', () => {
    expect(ratioEstimate([3], [2])).toEqual({ mean: 1.5, standardError: Number.NaN })
  })
})

describe('Percentiles', () => {
  const shares = [0, 0.25, 0.5, 0.95, 0.99, 1]

  it('interpolates between order statistics', () => {
    fc.assert(
      fc.property(figures, (values) => {
        const percentiles = new Percentiles()
        for (const value of values) percentiles.add(value)
        percentiles.at(shares).forEach((got, i) => {
          expect(got).toBeCloseTo(percentile(values, shares[i]!), 6)
        })
      }),
    )
  })

  it('keeps to 0.6 per cent beyond the exact range, whatever came before', () => {
    const random = makeRandom(1)
    const values = Array.from({ length: 20_000 }, () => Math.exp(4 * random.normal() - 6))
    const percentiles = new Percentiles(1000)
    for (const value of values) percentiles.add(value)
    percentiles.at(shares.slice(1)).forEach((got, i) => {
      expect(Math.abs(got / percentile(values, shares[i + 1]!) - 1)).toBeLessThan(0.006)
    })
  })

  it('grows past its first buffer and knows zero and infinity', () => {
    const exact = new Percentiles()
    const coarse = new Percentiles(10)
    for (let i = 0; i < 5000; i++) {
      for (const p of [exact, coarse]) p.add(i < 2000 ? 0 : i < 4000 ? 1 : Number.POSITIVE_INFINITY)
    }
    expect(exact.at([0.1, 0.5, 1])).toEqual([0, 1, Number.POSITIVE_INFINITY])
    expect(coarse.at([0.1, 1])).toEqual([0, Number.POSITIVE_INFINITY])
    expect(coarse.at([0.5])[0]).toBeCloseTo(1, 1)
    expect(new Percentiles().at([0.5])).toEqual([Number.NaN])
  })
})

describe('DistributionAccumulator', () => {
  it('turns one NaN into NaN everywhere', () => {
    const distribution = new DistributionAccumulator()
    distribution.addSample([1, 2])
    distribution.addSample([Number.NaN])
    expect(Object.values(distribution.result()).every(Number.isNaN)).toBe(true)
  })

  it('summarises positions, with samples as the units of the error', () => {
    const distribution = new DistributionAccumulator()
    distribution.addSample([1, 3])
    distribution.addSample([2, 6])
    const [p95, p99] = [expect.closeTo(5.55, 10), expect.closeTo(5.91, 10)]
    expect(distribution.result()).toEqual({ mean: 3, standardError: 1, median: 2.5, p95, p99, max: 6 })
  })
})

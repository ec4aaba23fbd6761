/** Exact weighted k-means, beside brute force. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { weightedClusters, weightedKMeans } from '../../src/codebook/weightedKMeans.ts'
import { makeRandom } from '../../src/random.ts'
import { leastPartitionError, nearestError } from '../oracles/partitionOracle.ts'

const points = fc.array(
  fc.record({ value: fc.double({ min: -100, max: 100, noNaN: true }), weight: fc.integer({ min: 0, max: 9 }) }),
  { minLength: 1, maxLength: 10 },
)
const split = (list: readonly { value: number; weight: number }[]) => ({
  values: list.map(({ value }) => value),
  weights: list.map(({ weight }) => weight),
})

const random = makeRandom(5)
/** Normal to heavy-tailed, by the power. */
const drawn = (count: number, power: number) =>
  Float64Array.from({ length: count }, () => {
    const x = random.normal()
    return Math.sign(x) * Math.abs(x) ** power
  })

describe('weightedKMeans', () => {
  it('is as good as the best of all partitions', () => {
    fc.assert(
      fc.property(points, fc.integer({ min: 1, max: 5 }), (list, k) => {
        const { values, weights } = split(list)
        const counted = weights.some((weight) => weight > 0) ? weights : weights.map(() => 1)
        const { centres, error } = weightedClusters(values, weights, k)
        const least = leastPartitionError(values, counted, k)
        expect(centres).toHaveLength(k)
        expect([...centres]).toEqual([...centres].sort((a, b) => a - b))
        expect(nearestError(values, counted, centres)).toBeLessThanOrEqual(least + 1e-9 * (1 + least))
        expect(Math.abs(error - least)).toBeLessThanOrEqual(1e-9 * 1e5)
      }),
      { numRuns: 300 },
    )
  })

  it('takes a weight of two as a value twice, and of zero as none', () => {
    const values = [3, -1, 4, 1, -5, 9, 2, 6, -5.5, 0.5]
    const doubled = weightedKMeans([...values, 4, 9, -1], new Array(13).fill(1), 4)
    const weights = values.map((value) => (value === 4 || value === 9 || value === -1 ? 2 : 1))
    expect([...weightedKMeans([...values, 77], [...weights, 0], 4)]).toEqual([...doubled])
  })

  it('moves and stretches with the values', () => {
    const values = drawn(500, 1.5)
    const weights = Float64Array.from(values, () => random.uniform())
    const centres = weightedKMeans(values, weights, 8)
    const moved = weightedKMeans(
      values.map((value) => -8 * value + 1e5),
      weights,
      8,
    )
    const expected = [...centres].reverse().map((centre) => -8 * centre + 1e5)
    for (const [i, centre] of moved.entries()) expect(Math.abs(centre - expected[i]!)).toBeLessThan(1e-8)
  })

  it('leaves no value on the wrong side of the middle of two centres', () => {
    const values = drawn(3000, 1)
    const weights = Float64Array.from(values, () => random.uniform())
    const { centres, error } = weightedClusters(values, weights, 16)
    expect(nearestError(values, weights, centres)).toBeCloseTo(error, 8)
  })

  it('gives the values themselves, the largest repeated, where there are fewer than clusters', () => {
    expect([...weightedKMeans([2, -1, 2, 2], [1, 1, 5, 1], 4)]).toEqual([-1, 2, 2, 2])
    expect([...weightedKMeans(new Float32Array(9000).fill(0.5), new Float32Array(9000).fill(1), 3)]).toEqual([
      0.5, 0.5, 0.5,
    ])
  })

  it.each([1, 2, 4])('is within 0.1 % of the least error when it bins values, power %d', (power) => {
    // Each value five times, with weights that differ: 20000 are binned, 4000 with the summed weight are not.
    const distinct = drawn(4000, power)
    const values = Float32Array.from({ length: 20000 }, (_, i) => distinct[i % 4000]!)
    const weights = Float32Array.from({ length: 20000 }, (_, i) => 1 + (i % 3))
    const summed = distinct.map((_, i) => [0, 1, 2, 3, 4].reduce((sum, n) => sum + weights[n * 4000 + i]!, 0))
    for (const k of [4, 16]) {
      const { error } = weightedClusters(values, weights, k)
      const least = weightedClusters(Float32Array.from(distinct), summed, k).error
      expect(error / least).toBeGreaterThan(1 - 1e-9)
      expect(error / least).toBeLessThan(1.001)
    }
  })

  it('refuses what is no data', () => {
    expect(() => weightedKMeans([], [], 2)).toThrow(RangeError)
    expect(() => weightedKMeans([1, 2], [1], 2)).toThrow(RangeError)
    expect(() => weightedKMeans([1, Number.NaN], [1, 1], 2)).toThrow(RangeError)
    expect(() => weightedKMeans([1, 2], [1, -1], 2)).toThrow(RangeError)
    expect(() => weightedKMeans([1, 2], [1, 1], 257)).toThrow(RangeError)
  })
})

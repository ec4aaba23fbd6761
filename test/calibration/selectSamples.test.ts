import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { el2nScore, klScore, selectSamples } from '../../src/calibration/selectSamples.ts'
import { makeRandom } from '../../src/random.ts'

/** Softmax and the scores by their definitions. */
function softmax(logits: readonly number[]): number[] {
  const sum = logits.reduce((total, x) => total + Math.exp(x), 0)
  return logits.map((x) => Math.exp(x) / sum)
}
const SLOW = {
  el2n: (p: number[], q: number[]) => Math.hypot(...p.map((x, i) => x - q[i]!)),
  kl: (p: number[], q: number[]) => p.reduce((sum, x, i) => sum + x * Math.log(x / q[i]!), 0),
}

describe.each([
  ['el2n', el2nScore, SLOW.el2n],
  ['kl', klScore, SLOW.kl],
] as const)('%s', (_, score, slow) => {
  const logits = fc.float({ min: -8, max: 8, noNaN: true })
  const rows = (count: number, classes: number) =>
    fc.array(fc.array(logits, { minLength: classes, maxLength: classes }), { minLength: count, maxLength: count })
  const shape = fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 6 }))
  const pair = shape.chain(([n, c]) =>
    fc.tuple(rows(n, c), rows(n, c), fc.array(fc.integer({ min: 0, max: 3 }), { minLength: n, maxLength: n })),
  )

  test('the weighted mean over positions of its definition', () => {
    fc.assert(
      fc.property(pair, ([p, q, weights]) => {
        fc.pre(weights.some((weight) => weight > 0))
        const classes = p[0]!.length
        const each = p.map((row, r) => slow(softmax(row), softmax(q[r]!)))
        const flat = (some: number[][]) => Float32Array.from(some.flat())
        const total = weights.reduce((sum, weight) => sum + weight, 0)
        const weighted = each.reduce((sum, value, r) => sum + weights[r]! * value, 0) / total
        const plain = each.reduce((sum, value) => sum + value, 0) / each.length
        expect(score(flat(p), flat(q), classes, Float32Array.from(weights))).toBeCloseTo(weighted, 9)
        expect(score(flat(p), flat(q), classes)).toBeCloseTo(plain, 9)
      }),
    )
  })

  test('0 for identical models', () => {
    const same = Float32Array.of(1, 2, 3, 700, -5, 0)
    expect(score(same, same.slice(), 3)).toBeCloseTo(0, 12)
  })

  test('a position without weight may hold anything; one that counts makes NaN', () => {
    const p = Float32Array.of(1, 2, Number.NaN, 0)
    const q = Float32Array.of(2, 1, 0, 0)
    expect(score(p, q, 2, Float32Array.of(1, 0))).toBeGreaterThan(0)
    expect(score(p, q, 2)).toBeNaN()
    expect(score(p, q, 2, Float32Array.of(0, 0))).toBeNaN()
  })

  test('shapes that do not fit are refused', () => {
    const values = new Float32Array(6)
    expect(() => score(values, values.subarray(1), 3)).toThrow(RangeError)
    expect(() => score(values, values, 4)).toThrow(RangeError)
    expect(() => score(values, values, 3, new Float32Array(3))).toThrow(RangeError)
  })
})

test('el2n of two different certain answers is √2', () => {
  expect(el2nScore(Float32Array.of(1000, 0, 0), Float32Array.of(0, 1000, 0), 3)).toBeCloseTo(Math.SQRT2, 12)
})

describe('selectSamples', () => {
  const normals = (n: number, seed = 3) => Float64Array.from({ length: n }, makeRandom(seed).normal)
  const scores = fc.array(fc.oneof(fc.double(), fc.integer({ min: 0, max: 3 })), { maxLength: 150 })

  test('`count` different places, ascending, the same for the same seed', () => {
    fc.assert(
      fc.property(scores, fc.nat(1000), fc.integer(), (list, part, seed) => {
        const count = Math.round((list.length * part) / 1000)
        const chosen = selectSamples(Float64Array.from(list), count, seed)
        expect(chosen).toHaveLength(count)
        for (const [i, sample] of chosen.entries()) {
          expect(sample).toBeGreaterThan(i === 0 ? -1 : chosen[i - 1]!)
          expect(sample).toBeLessThan(list.length)
        }
        expect(selectSamples(Float64Array.from(list), count, seed)).toEqual(chosen)
      }),
    )
    expect(selectSamples(normals(500), 50, 1)).not.toEqual(selectSamples(normals(500), 50, 2))
  })

  test('outliers are not taken unless needed, and then the least extreme first', () => {
    const list = normals(200)
    list[17] = Number.NaN
    list[80] = Infinity
    list[120] = 1e9
    list[199] = 50
    for (let seed = 0; seed < 30; seed++) {
      for (const count of [20, 196]) {
        const chosen = new Set(selectSamples(list, count, seed))
        expect([17, 80, 120, 199].filter((sample) => chosen.has(sample))).toEqual([])
      }
      expect(selectSamples(list, 197, seed)).toContain(199)
      expect(new Set(selectSamples(list, 198, seed))).toEqual(
        new Set([...list.keys()].filter((i) => i !== 17 && i !== 80)),
      )
      expect([...selectSamples(list, 200, seed)]).toEqual([...list.keys()])
    }
  })

  test('at least half comes from the upper half, and of the others about a third of the lower half does', () => {
    const list = Float64Array.from({ length: 1000 }, (_, i) => i)
    let lower = 0
    for (let seed = 0; seed < 40; seed++) {
      const chosen = selectSamples(list, 100, seed)
      // 980 are left without outliers; the upper half are 490 … 979
      const upper = chosen.filter((sample) => sample >= 490).length
      expect(upper).toBeGreaterThanOrEqual(50)
      lower += 100 - upper
    }
    // Expected: 50 · 490 / (490 + 440) = 26.3 of a hundred, standard error of the mean of 40 about 0.5.
    expect(lower / 40).toBeGreaterThan(24)
    expect(lower / 40).toBeLessThan(29)
  })

  test('within the upper half the choice is random', () => {
    const list = Float64Array.from({ length: 1000 }, (_, i) => i)
    let least = 0
    for (let seed = 0; seed < 40; seed++) {
      least += selectSamples(list, 100, seed).filter((sample) => sample >= 490 && sample < 735).length
    }
    // Half of 50 + 23.7, standard error of the mean of 40 about 0.6.
    expect(Math.abs(least / 40 - 36.8)).toBeLessThan(3)
  })

  test('with equal scores every sample has the same chance', () => {
    const times = new Float64Array(20)
    for (let seed = 0; seed < 2000; seed++)
      for (const sample of selectSamples(new Float64Array(20), 5, seed)) times[sample]!++
    // Expected 500, standard deviation 19.4.
    for (const count of times) expect(Math.abs(count - 500)).toBeLessThan(90)
  })

  test('more than there are is refused', () => {
    expect(() => selectSamples(normals(3), 4, 1)).toThrow(RangeError)
  })
})

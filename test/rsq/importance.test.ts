import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { importanceWeights, type TokenBatch, type WeightOptions } from '../../src/rsq/importance.ts'
import {
  attentionScores,
  chunkScores,
  differenceScores,
  normScores,
  similarityScores,
  TokenCounts,
} from '../../src/rsq/tokenScores.ts'
import {
  slowChunks,
  slowDifference,
  slowFrequency,
  slowNorm,
  slowSimilarity,
  slowWeights,
} from '../oracles/importanceOracle.ts'

const PLAIN: WeightOptions = { rMin: 0.01, exponent: 1, lengthCorrection: 'none', quantile: 1 }
const batchOf = (sequences: number, length: number, mask?: readonly number[]): TokenBatch => ({
  sequences,
  length,
  counts: mask && Float32Array.from(mask),
})
const one = (scores: readonly number[], options: Partial<WeightOptions> = {}, mask?: readonly number[]) => [
  ...importanceWeights(Float64Array.from(scores), batchOf(1, scores.length, mask), { ...PLAIN, ...options }),
]

function expectNear(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  expect(actual.length).toBe(expected.length)
  const scale = Math.max(1, ...Array.from(expected, Math.abs))
  for (let i = 0; i < expected.length; i++) expect(Math.abs(actual[i]! - expected[i]!)).toBeLessThan(1e-6 * scale)
}

/** A batch with padding anywhere, at least two tokens in each sequence, and numbers for `width` channels. */
const batches = fc
  .record({
    sequences: fc.integer({ min: 1, max: 3 }),
    length: fc.integer({ min: 2, max: 9 }),
    width: fc.integer({ min: 1, max: 4 }),
  })
  .chain(({ sequences, length, width }) => {
    const tokens = sequences * length
    const numbers = fc.array(fc.double({ min: -5, max: 5, noNaN: true }), {
      minLength: tokens * width,
      maxLength: tokens * width,
    })
    const mask = fc.array(fc.constantFrom(0, 1, 1), { minLength: tokens, maxLength: tokens })
    return fc.record({ sequences: fc.constant(sequences), length: fc.constant(length), x: numbers, y: numbers, mask })
  })
  .map(({ sequences, length, x, y, mask }) => {
    const counts = mask.map((value, at) => (at % length < 2 ? 1 : value))
    const width = x.length / (sequences * length)
    const row = (values: number[], at: number) => values.slice(at * width, (at + 1) * width)
    const places = Array.from({ length: sequences }, (_, s) =>
      counts.flatMap((value, at) => (value === 1 && Math.floor(at / length) === s ? [at] : [])),
    )
    return { batch: batchOf(sequences, length, counts), x, y, places, row, counts }
  })

describe('scores of tokens', () => {
  test('are those of the tokens that count alone, one sequence at a time', () => {
    fc.assert(
      fc.property(batches, ({ batch, x, y, places, row }) => {
        const [before, after] = [Float64Array.from(x), Float64Array.from(y)]
        const found = {
          norm: normScores(before, batch),
          difference: differenceScores(before, after, batch),
          similarity: similarityScores(before, batch),
        }
        for (const own of places) {
          const [rows, changed] = [own.map((at) => row(x, at)), own.map((at) => row(y, at))]
          const of = (scores: Float64Array) => own.map((at) => scores[at]!)
          expectNear(of(found.norm), slowNorm(rows))
          expectNear(of(found.difference), slowDifference(rows, changed))
          expectNear(of(found.similarity), slowSimilarity(rows))
        }
      }),
    )
  })

  test('of frequency count ids over everything that was added, but not padding', () => {
    fc.assert(
      fc.property(batches, fc.integer({ min: 1, max: 4 }), ({ batch, places, counts }, kinds) => {
        const ids = counts.map((_, at) => (at * at + 3 * at) % kinds)
        const known = new TokenCounts()
        known.add(Int32Array.from(ids), batch)
        known.add(Int32Array.from(ids), batch)
        const all = places.flat().flatMap((at) => [ids[at]!, ids[at]!])
        const scores = known.scores(Int32Array.from(ids), batch)
        for (const own of places) {
          expect(own.map((at) => scores[at])).toEqual(
            slowFrequency(
              own.map((at) => ids[at]!),
              all,
            ),
          )
        }
      }),
    )
  })

  test('of chunks are 1 in those that are kept, none of which is empty', () => {
    const spec = fc
      .integer({ min: 1, max: 40 })
      .chain((of) => fc.record({ of: fc.constant(of), keep: fc.array(fc.nat(of - 1), { minLength: 1, maxLength: 3 }) }))
    fc.assert(
      fc.property(batches, spec, ({ batch, places }, chunks) => {
        const scores = chunkScores(batch, chunks)
        for (const own of places) {
          const found = own.map((at) => scores[at]!)
          expect(found).toEqual(slowChunks(own.length, chunks.keep, chunks.of))
          expect(found).toContain(1)
        }
      }),
    )
    expect([...chunkScores(batchOf(1, 8), { keep: [0], of: 4 })]).toEqual([1, 1, 0, 0, 0, 0, 0, 0])
    expect([...chunkScores(batchOf(1, 5), { keep: [0, 31], of: 32 })]).toEqual([1, 0, 0, 0, 1])
    expect(() => chunkScores(batchOf(1, 8), { keep: [4], of: 4 })).toThrow(RangeError)
  })

  test('of attention leave out queries that are padding, and shapes that are not between tokens', () => {
    // A[query, key] = 10 · query + key in sequence 0, 100 more in sequence 1.
    const byQuery = Float32Array.from(
      { length: 18 },
      (_, i) => 10 * (Math.floor(i / 3) % 3) + (i % 3) + (i < 9 ? 0 : 100),
    )
    const batch = batchOf(2, 3, [1, 1, 1, 1, 1, 0])
    const found = attentionScores([{ dims: [2, 3, 3], data: byQuery }], batch)!
    expect([...found.slice(0, 5)]).toEqual([30, 33, 36, 210, 212])
    const summed = { dims: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) }
    expect([...attentionScores([summed, summed], batchOf(2, 3))!]).toEqual([2, 4, 6, 8, 10, 12])
    for (const dims of [[2, 4], [3, 3], [2, 3, 4], [6], [2, 3, 3, 3]]) {
      expect(attentionScores([{ dims, data: byQuery }], batch)).toBeUndefined()
    }
  })
})

describe('weights of tokens', () => {
  test('are min–max scores to a power over their mean, of each sequence by itself; 0 for padding', () => {
    const options = fc.record({
      rMin: fc.constantFrom(0, 0.005, 0.1),
      exponent: fc.constantFrom(1 as const, 2 as const),
      quantile: fc.constantFrom(1, 0.9, 0.6),
    })
    fc.assert(
      fc.property(batches, options, ({ batch, x, places, counts }, { rMin, exponent, quantile }) => {
        // Distinct by far more than rounding; negative ones among them.
        const scores = counts.map((_, at) => Math.round(10 * x[at]!) + at / 100)
        const given = scores.map((score, at) => (counts[at] === 0 ? Number.NaN : score))
        const weights = importanceWeights(Float64Array.from(given), batch, { ...PLAIN, rMin, exponent, quantile })
        counts.forEach((count, at) => void (count === 0 && expect(weights[at]).toBe(0)))
        for (const own of places) {
          const expected = slowWeights(
            own.map((at) => scores[at]!),
            rMin,
            exponent,
            quantile,
          )
          expectNear(
            own.map((at) => weights[at]!),
            expected,
          )
        }
      }),
    )
  })

  test('keep their order with the exponent 2, also where scores are negative', () => {
    const [low, middle, high] = one([-9, -5, -1], { exponent: 2, rMin: 0.1 })
    expect([low! / high!, middle! / high!].map((v) => v.toFixed(4))).toEqual([
      (0.1 ** 2).toFixed(4),
      (0.55 ** 2).toFixed(4),
    ])
  })

  test('are 1 where all scores are equal, where one is not a number, and of a single token', () => {
    expect(one([3, 3, 3])).toEqual([1, 1, 1])
    expect(one([1, Number.NaN, 2])).toEqual([1, 1, 1])
    expect(one([1, Infinity, 2])).toEqual([1, 1, 1])
    expect(one([7])).toEqual([1])
    expect(one([5, 9, 5], {}, [1, 0, 1])).toEqual([1, 0, 1])
    expect(one([5, 9], {}, [0, 0])).toEqual([0, 0])
    // All but one are in between the quantiles' bounds.
    expect(one([0, 0, 0, 0, 0, 0, 0, 9], { quantile: 0.5 })).toEqual([1, 1, 1, 1, 1, 1, 1, 1])
  })

  test('clamped at a quantile are not set by a sink', () => {
    const scores = [1000, ...Array.from({ length: 20 }, (_, i) => i)]
    const [plain, clamped] = [one(scores), one(scores, { quantile: 0.95 })]
    const ratio = (weights: readonly number[]) => weights[20]! / weights[0]!
    expect(ratio(plain)).toBeLessThan(0.03)
    expect(ratio(clamped)).toBe(1)
  })

  test('corrected for length: constant attention of a causal network weighs all tokens alike', () => {
    const length = 6
    for (const [correction, power] of [
      ['linear', 1],
      ['sqrt', 0.5],
    ] as const) {
      const scores = Array.from({ length }, (_, t) => (length - t) ** power)
      expect(one(scores, { lengthCorrection: correction })).toEqual(Array(length).fill(1))
    }
    // Padding, wherever it is, sees nothing.
    expect(one([9, 3, 9, 2, 1, 9], { lengthCorrection: 'linear' }, [0, 1, 0, 1, 1, 0])).toEqual([0, 1, 0, 1, 1, 0])
  })

  test('follow a permutation of the sequences', () => {
    const scores = Float64Array.from([1, 5, 2, 8, 8, 7, 0, 3, 9])
    const mask = [1, 1, 1, 1, 1, 0, 1, 0, 1]
    const order = [2, 0, 1]
    const turned = <T>(values: ArrayLike<T>) => order.flatMap((s) => Array.from(values).slice(3 * s, 3 * s + 3))
    const weights = importanceWeights(scores, batchOf(3, 3, mask), PLAIN)
    const others = importanceWeights(Float64Array.from(turned(scores)), batchOf(3, 3, turned(mask)), PLAIN)
    expect([...others]).toEqual(turned(weights))
  })

  test('refuse options and scores that do not fit', () => {
    for (const wrong of [{ rMin: -0.1 }, { rMin: 1.1 }, { quantile: 0.4 }, { quantile: Number.NaN }]) {
      expect(() => one([1, 2], wrong)).toThrow(RangeError)
    }
    expect(() => importanceWeights(new Float64Array(3), batchOf(2, 2), PLAIN)).toThrow(RangeError)
  })
})

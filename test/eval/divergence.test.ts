import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { argmax, klOfLogits, klOfProbabilities, logSumExp } from '../../src/eval/divergence.ts'
import * as oracle from '../oracles/metricsOracle.ts'

const LEAST = 2 ** -149
const logits = (min: number, max: number) =>
  fc.integer({ min: 2, max: 12 }).chain((n) => {
    const row = fc.array(fc.double({ min, max, noNaN: true }), { minLength: n, maxLength: n })
    return fc.tuple(row, row)
  })
const kl = (r: number[], c: number[]) => klOfLogits(Float64Array.from(r), Float64Array.from(c), 0, r.length)

describe('klOfLogits', () => {
  it('is Σ p ln(p/q) of the softmaxes', () => {
    fc.assert(
      fc.property(logits(-20, 20), ([r, c]) => {
        const expected = oracle.kl(oracle.softmax(r), oracle.softmax(c))
        expect(Math.abs(kl(r, c) - expected)).toBeLessThanOrEqual(1e-11 * (1 + expected))
      }),
    )
  })

  it('has the value of a distribution against its neighbour in closed form', () => {
    // p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 − (ln 3)/2, nats.
    expect(kl([0, 0], [0, Math.log(3)])).toBeCloseTo(Math.log(2) - Math.log(3) / 2, 14)
  })

  it('does not depend on what is added to a whole row', () => {
    fc.assert(
      fc.property(logits(-20, 20), fc.integer({ min: -1000, max: 1000 }), ([r, c], shift) => {
        const moved = kl(
          r.map((x) => x + shift),
          c,
        )
        expect(moved).toBeCloseTo(kl(r, c), 9)
      }),
    )
  })

  it('is exactly 0 for equal rows and never negative', () => {
    fc.assert(
      fc.property(logits(-700, 700), ([r, c]) => {
        expect(kl(r, r)).toBe(0)
        expect(kl(r, c)).toBeGreaterThanOrEqual(0)
      }),
    )
  })

  it('lets −Infinity mean an impossible class', () => {
    const never = Number.NEGATIVE_INFINITY
    expect(kl([1, 2, never], [1, 2, never])).toBe(0)
    expect(kl([1, 2, never], [1, 2, 0])).toBeCloseTo(Math.log(1 + 1 / (Math.E + Math.E ** 2)), 12)
    expect(kl([1, 2, 0], [1, 2, never])).toBe(Number.POSITIVE_INFINITY)
    expect(kl([never, never], [1, 2])).toBeNaN()
    expect(kl([1, Number.POSITIVE_INFINITY], [1, 2])).toBeNaN()
    expect(kl([1, 2], [1, Number.NaN])).toBeNaN()
  })
})

describe('klOfProbabilities', () => {
  it('equals the KL of the logits that the probabilities come from', () => {
    fc.assert(
      fc.property(logits(-5, 5), fc.integer({ min: 1, max: 9 }), ([r, c], factor) => {
        // Rows that do not sum to 1 are divided by their sums.
        const p = Float64Array.from(oracle.softmax(r), (x) => x * factor)
        const q = Float64Array.from(oracle.softmax(c))
        expect(klOfProbabilities(p, q, 0, r.length, LEAST)).toBeCloseTo(kl(r, c), 10)
      }),
    )
  })

  it('takes a stored zero for the smallest number that is not one', () => {
    const half = Float64Array.of(0.5, 0.5)
    const expected = 0.5 * Math.log(0.5 / (1 - LEAST)) + 0.5 * Math.log(0.5 / LEAST)
    expect(klOfProbabilities(half, Float64Array.of(1, 0), 0, 2, LEAST)).toBeCloseTo(expected, 10)
    expect(klOfProbabilities(Float64Array.of(1, 0), Float64Array.of(1, 0), 0, 2, LEAST)).toBe(0)
    expect(klOfProbabilities(half, Float64Array.of(1, Number.NaN), 0, 2, LEAST)).toBeNaN()
  })
})

it('logSumExp neither overflows nor underflows', () => {
  expect(logSumExp(Float64Array.of(1000, 1000), 0, 2)).toBeCloseTo(1000 + Math.log(2), 10)
  expect(logSumExp(Float64Array.of(9, -1000, -1000), 1, 2)).toBeCloseTo(-1000 + Math.log(2), 10)
})

it('argmax takes the first of equals within the row', () => {
  expect(argmax(Float32Array.of(9, 1, 5, 5), 1, 3)).toBe(1)
})

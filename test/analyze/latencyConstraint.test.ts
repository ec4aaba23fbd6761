/** A ratio of latencies as a limit in whole nanoseconds. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { latencyConstraint } from '../../src/analyze/latencyConstraint.ts'
import { QtoolError } from '../../src/errors.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'

const seconds = fc.double({ min: 0, max: 2, noNaN: true })
const latencies = fc.record({
  rest: seconds,
  layers: fc.array(fc.record({ float: seconds, options: fc.array(seconds, { minLength: 1, maxLength: 4 }) }), {
    minLength: 1,
    maxLength: 5,
  }),
})
const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0)
const nanoseconds = (value: number) => Math.round(value * 1e9)

const given = (rest: number, float: number[], options: number[][]) => ({ rest, float, options })

describe('latencyConstraint', () => {
  it('holds layers that all stay float to exactly what the limit is made of', () => {
    fc.assert(
      fc.property(latencies, ({ rest, layers }) => {
        const float = layers.map((layer) => layer.float)
        const constraint = latencyConstraint(
          given(
            rest,
            float,
            float.map((own) => [own]),
          ),
          1,
        )
        expect(sum(constraint.costs.map(([only]) => only!))).toBe(constraint.limit)
        expect(constraint.limit).toBe(constraint.float)
      }),
    )
  })

  it('means the same as the ratio of the sums, in whole numbers', () => {
    fc.assert(
      fc.property(latencies, fc.integer({ min: 1, max: 150 }), fc.nat(), ({ rest, layers }, percent, pick) => {
        const all = given(
          rest,
          layers.map((layer) => layer.float),
          layers.map((layer) => layer.options),
        )
        const choice = layers.map(({ options }, l) => options[(pick >> l) % options.length]!)
        // In integers, so that nothing is rounded: 100 · (rest + Σ chosen) ≤ percent · (rest + Σ float).
        const taken = nanoseconds(rest) + sum(choice.map(nanoseconds))
        const allowed = nanoseconds(rest) + sum(all.float.map(nanoseconds))
        const isKept = BigInt(100) * BigInt(taken) <= BigInt(percent) * BigInt(allowed)
        try {
          const { costs, limit } = latencyConstraint(all, percent / 100)
          expect(costs.flat().concat(limit).every(Number.isSafeInteger)).toBe(true)
          expect(costs).toEqual(all.options.map((own) => own.map(nanoseconds)))
          expect(sum(choice.map(nanoseconds)) <= limit).toBe(isKept)
        } catch (error) {
          if (!(error instanceof QtoolError)) throw error
          expect(isKept).toBe(false)
          // What the hint says can be reached.
          if (allowed === 0) return
          const [, reached] = /least that can be reached is ([\d.]+)x/.exec(error.hint!)!
          expect(() => latencyConstraint(all, Number(reached))).not.toThrow()
        }
      }),
      { numRuns: 500 },
    )
  })

  it('reaches a limit that binary fractions miss', () => {
    expect(0.7 * 90).toBeLessThan(63)
    expect(latencyConstraint(given(30e-9, [60e-9], [[33e-9]]), 0.7).limit).toBe(33)
  })

  it('says what stands in the way', () => {
    const error = expectQtoolError(
      'infeasible',
      () => latencyConstraint(given(0.008, [0.002], [[0.001, 0.0005]]), 0.7),
      'a latency of at most 0.7x cannot be reached: what is no product of a quantized layer takes 8 ms of 10 ms by itself',
    )
    expect(error.hint).toContain('0.85x')
    expectQtoolError(
      'infeasible',
      () => latencyConstraint(given(0.002, [0.008], [[0.006, 0.0065]]), 0.7),
      'with the fastest option of every layer it is 8 ms of 10 ms',
    )
    expect(latencyConstraint(given(0.5, [], []), 1).limit).toBe(0)
    for (const ratio of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => latencyConstraint(given(0, [1], [[1]]), ratio)).toThrow(RangeError)
    }
  })
})

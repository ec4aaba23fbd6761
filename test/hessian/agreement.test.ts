import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { logCorrelation, rSquared, spearman } from '../../src/hessian/agreement.ts'
import { pearsonByMoments, spearmanByCounting } from '../oracles/sensitivityOracle.ts'

/** Small integers, so that ties are common. */
const pairs = fc.array(fc.tuple(fc.integer({ min: -4, max: 4 }), fc.integer({ min: -4, max: 4 })), {
  minLength: 2,
  maxLength: 30,
})
const split = (list: readonly (readonly [number, number])[]) => [list.map(([a]) => a), list.map(([, b]) => b)] as const
const constant = (values: readonly number[]) => values.every((v) => v === values[0])

describe('Spearman', () => {
  test('equals ranks by counting, with ties', () => {
    fc.assert(
      fc.property(pairs, (list) => {
        const [left, right] = split(list)
        if (constant(left) || constant(right)) expect(spearman(left, right)).toBeUndefined()
        else expect(spearman(left, right)).toBeCloseTo(spearmanByCounting(left, right), 10)
      }),
      { numRuns: 300 },
    )
  })

  test('is 1 for any increasing function, −1 for a decreasing one, and takes infinities', () => {
    const measured = [0.1, 0.5, 0.2, 4]
    expect(
      spearman(
        measured.map((m) => Math.exp(m) - 100),
        measured,
      ),
    ).toBeCloseTo(1, 12)
    expect(
      spearman(
        measured.map((m) => -m),
        measured,
      ),
    ).toBeCloseTo(-1, 12)
    const infinite = Number.POSITIVE_INFINITY
    expect(spearman([1, infinite, 2, infinite], [1, 3, 2, 3])).toBeCloseTo(1, 12)
  })
})

describe('R²', () => {
  test('is 1 for exact predictions, 0 for the mean, below 0 for worse', () => {
    const measured = [1, 2, 6]
    expect(rSquared(measured, measured)).toBe(1)
    expect(rSquared([3, 3, 3], measured)).toBe(0)
    // A perfect order and line, but twice the size: Σ m² = 41 against Σ (m − 3)² = 14.
    expect(rSquared([2, 4, 12], measured)).toBeCloseTo(1 - 41 / 14, 12)
  })

  test('is undefined where measured values do not vary', () => {
    expect(rSquared([1, 2, 3], [0.1, 0.1, 0.1])).toBeUndefined()
    expect(rSquared([1], [2])).toBeUndefined()
    expect(rSquared([], [])).toBeUndefined()
    expect(rSquared([1, 1], [1, 2])).toBeDefined()
  })
})

describe('correlation of logarithms', () => {
  test('equals that of the logarithms, over pairs that have them', () => {
    fc.assert(
      fc.property(pairs, (list) => {
        const [left, right] = split(list)
        const kept = list.filter(([a, b]) => a > 0 && b > 0)
        const [a, b] = split(kept.map(([x, y]) => [Math.log(x), Math.log(y)] as const))
        const { correlation, pairs: count } = logCorrelation(left, right)
        expect(count).toBe(kept.length)
        if (constant(a) || constant(b)) expect(correlation).toBeUndefined()
        else expect(correlation).toBeCloseTo(pearsonByMoments(a, b), 9)
      }),
    )
  })

  test('is 1 for a power law', () => {
    const measured = [1e-5, 0.3, 7]
    expect(
      logCorrelation(
        measured.map((m) => 3 * m ** 0.7),
        measured,
      ).correlation,
    ).toBeCloseTo(1, 12)
    expect(logCorrelation([Number.POSITIVE_INFINITY, 1, 2], [1, 1, 2])).toEqual({ correlation: 1, pairs: 2 })
  })
})

test('the order of configurations changes nothing but rounding', () => {
  fc.assert(
    fc.property(pairs, (list) => {
      const [left, right] = split(list)
      const [turnedLeft, turnedRight] = split(list.slice().reverse())
      for (const figure of [rSquared, spearman, (a: number[], b: number[]) => logCorrelation(a, b).correlation]) {
        const one = figure(left, right)
        const other = figure(turnedLeft, turnedRight)
        if (one === undefined) expect(other).toBeUndefined()
        else expect(other).toBeCloseTo(one, 9)
      }
    }),
  )
})

test('lengths must agree', () => {
  for (const figure of [rSquared, spearman, logCorrelation]) expect(() => figure([1, 2], [1])).toThrow(RangeError)
})

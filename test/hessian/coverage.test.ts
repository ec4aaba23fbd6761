import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { coverageCost, fitCoverage, fitShared, predictCoverage } from '../../src/hessian/coverage.ts'
import { makeRandom } from '../../src/random.ts'
import { coverageByProduct } from '../oracles/sensitivityOracle.ts'

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0)

/** Shares a of layers, and the losses that they make under c: a·c alone. Both have the sign of c. */
const planted = fc
  .tuple(
    fc.array(fc.double({ min: 0.02, max: 0.95, noNaN: true }), { minLength: 2, maxLength: 12 }),
    fc.double({ min: 0.05, max: 20, noNaN: true }),
    fc.boolean(),
  )
  .map(([sizes, size, saturating]) => ({
    shares: saturating ? sizes : sizes.map((a) => -a),
    c: saturating ? size : -size,
  }))

describe('a planted coverage model', () => {
  test('u, shares and the loss of any set come back, for either sign', () => {
    fc.assert(
      fc.property(planted, fc.nat(), ({ shares, c }, picks) => {
        const singles = shares.map((a) => a * c)
        const fit = fitCoverage(singles, coverageByProduct(c, shares))
        // f(all) depends least on u where only two small shares interact: its rounding is divided by about a hundredth.
        expect(Math.abs(fit.u * c - 1)).toBeLessThan(1e-11)
        expect(fit).toMatchObject({ additive: false, attained: true })
        const chosen = shares.filter((_, i) => picks & (1 << i))
        const expected = coverageByProduct(c, chosen)
        const predicted = predictCoverage(
          chosen.map((a) => a * c),
          fit.u,
        )
        expect(Math.abs(predicted - expected)).toBeLessThanOrEqual(1e-10 * Math.abs(expected))
      }),
    )
  })

  test('weakly coupled layers, to what the rounding of f(all) leaves', () => {
    for (const c of [1e6, -1e6]) {
      const singles = [0.1, 0.2, 0.3]
      // The product multiplied out, without its cancellation: Σ s − u Σ s_i s_j + u² s_1 s_2 s_3.
      const fit = fitCoverage(singles, 0.6 - 0.11 / c + 0.006 / c ** 2)
      expect(fit.additive).toBe(false)
      expect(Math.abs(fit.u * c - 1)).toBeLessThan(1e-8)
    }
  })

  test('the order of layers changes nothing but rounding', () => {
    fc.assert(
      fc.property(planted, fc.nat(), ({ shares, c }, seed) => {
        const singles = shares.map((a) => a * c)
        const random = makeRandom(seed)
        const mixed = singles.map((s) => ({ s, at: random.uniform() })).sort((a, b) => a.at - b.at)
        const full = 0.8 * sum(singles)
        const one = fitCoverage(singles, full).u
        const other = fitCoverage(
          mixed.map(({ s }) => s),
          full,
        ).u
        expect(other).toBeCloseTo(one, 8)
      }),
    )
  })
})

describe('fits without a saturation', () => {
  test('a loss of all that is the sum is additive, and so is what tells nothing', () => {
    expect(fitCoverage([0.1, 0.2, 0.3], 0.1 + 0.2 + 0.3)).toEqual({ u: 0, additive: true, attained: true })
    expect(fitCoverage([0.5], 0.4)).toEqual({ u: 0, additive: true, attained: false })
    expect(fitCoverage([0.5, -1, 0], 0.5)).toEqual({ u: 0, additive: true, attained: true })
    expect(fitCoverage([0.5, 0.2], -0.1)).toEqual({ u: 0, additive: true, attained: false })
    expect(fitCoverage([], 0)).toEqual({ u: 0, additive: true, attained: true })
  })

  test('less than the largest single is out of reach: u is as large as can be', () => {
    const fit = fitCoverage([1, 0.1, 0.1], 0.9)
    expect(fit).toMatchObject({ additive: false, attained: false })
    expect(fit.u).toBeCloseTo(1, 5)
    expect(predictCoverage([1, 0.1, 0.1], fit.u)).toBeCloseTo(1, 5)
    expect(fitCoverage([1, 0.1, 0.1], 1).attained).toBe(true)
  })

  test('far more than the sum', () => {
    const singles = [1e-3, 2e-3, 1e-9]
    expect(predictCoverage(singles, fitCoverage(singles, 50).u)).toBeCloseTo(50, 9)
  })

  test('noise below 0 counts as no loss in fits and predictions', () => {
    const fit = fitCoverage([0.5, 0.3, -0.01, 0], 0.7)
    expect(fit.u).toBe(fitCoverage([0.5, 0.3], 0.7).u)
    expect(predictCoverage([0.5, 0.3, -0.01, 0], fit.u)).toBeCloseTo(0.7, 12)
  })

  test('losses that are not finite are refused', () => {
    expect(() => fitCoverage([1, Number.NaN], 1)).toThrow(RangeError)
    expect(() => fitCoverage([1, 2], Number.POSITIVE_INFINITY)).toThrow(RangeError)
  })
})

describe('costs', () => {
  const loss = fc.double({ min: -5, max: 5, noNaN: true })

  test('a larger single costs more, for every u, noise and beyond saturation included', () => {
    fc.assert(
      fc.property(loss, loss, fc.double({ min: -10, max: 10, noNaN: true }), (one, other, u) => {
        fc.pre(Math.abs(one - other) > 1e-9)
        expect(coverageCost(Math.max(one, other), u)).toBeGreaterThan(coverageCost(Math.min(one, other), u))
      }),
      { numRuns: 500 },
    )
  })

  test('their sum is the loss in the log domain, and the loss itself without interactions', () => {
    for (const u of [0.9, 0.2, -0.2, -5]) {
      const singles = [0.3, 0.4, 0.9]
      const total = sum(singles.map((s) => coverageCost(s, u)))
      expect(predictCoverage(singles, u)).toBeCloseTo((1 - Math.exp(-u * total)) / u, 12)
    }
    expect(coverageCost(0.3, 0)).toBe(0.3)
    expect(coverageCost(0.3, 1e-14)).toBeCloseTo(0.3, 12)
  })

  test('they are smooth where the tangent begins', () => {
    const edge = (1 - 1e-6) / 2
    expect(coverageCost(edge * (1 + 1e-9), 2) - coverageCost(edge * (1 - 1e-9), 2)).toBeLessThan(2e-3)
    expect(coverageCost(0.5 + 1e-6, 2)).toBeGreaterThan(coverageCost(0.5, 2))
  })
})

describe('one u for several candidates', () => {
  test('a planted one comes back, with every candidate agreeing', () => {
    for (const c of [3, -3]) {
      const shares = [
        [0.6, 0.3, 0.05],
        [0.5, 0.1, 0.02],
        [0.7, 0.4, 0.1],
      ]
      const signed = shares.map((row) => row.map((a) => a * Math.sign(c)))
      const fulls = [0, 1, 2].map((k) =>
        coverageByProduct(
          c,
          signed.map((row) => row[k]!),
        ),
      )
      const shared = fitShared(
        signed.map((row) => row.map((a) => a * c)),
        fulls,
      )
      expect(shared.u * c).toBeCloseTo(1, 10)
      for (const fit of shared.perCandidate) expect(fit.u * c).toBeCloseTo(1, 9)
    }
  })

  test('disagreeing candidates: no other u is nearer in the logarithm', () => {
    const random = makeRandom(5)
    for (let round = 0; round < 20; round++) {
      const levels = [2, 0.3, 0.02, 1e-4]
      const singles = Array.from({ length: 6 }, () => levels.map((size) => size * random.uniform()))
      const fulls = levels.map((_, k) => sum(singles.map((row) => row[k]!)) * Math.exp(0.5 * random.normal()))
      const { u, perCandidate } = fitShared(singles, fulls)
      const residual = (at: number) =>
        sum(
          levels.map(
            (_, k) =>
              Math.log(
                predictCoverage(
                  singles.map((row) => row[k]!),
                  at,
                ) / fulls[k]!,
              ) ** 2,
          ),
        )
      const limit = (1 - 1e-6) / Math.max(...singles.flat())
      const least = Math.min(...perCandidate.map((fit) => fit.u))
      for (let i = 0; i <= 2000; i++) {
        // Even in the logarithm of the distance below the limit.
        const at = limit - (limit - least) * (Math.expm1((20 * i) / 2000) / Math.expm1(20))
        expect(residual(u)).toBeLessThanOrEqual(residual(at) * (1 + 1e-9))
      }
      expect(u).toBeLessThanOrEqual(limit * (1 + 1e-12))
    }
  })

  test('no candidate is pushed past its saturation by many others that would have it', () => {
    const others = Array.from({ length: 20 }, () => 0.1)
    expect(
      fitShared(
        [
          [1, ...others],
          [0.5, ...others],
        ],
        [1.1, ...others],
      ).u,
    ).toBeCloseTo(1, 5)
  })

  test('a candidate without losses says nothing; none at all: additive', () => {
    const { u, perCandidate } = fitShared(
      [
        [0.5, 0],
        [0.4, 0],
      ],
      [0.7, 0],
    )
    expect(u).toBeCloseTo(1, 9)
    expect(perCandidate[1]).toEqual({ u: 0, additive: true, attained: true })
    expect(fitShared([[0.5], [-1]], [0.4]).u).toBe(0)
    expect(() => fitShared([[0.5], [1, 2]], [0.4])).toThrow(RangeError)
  })
})

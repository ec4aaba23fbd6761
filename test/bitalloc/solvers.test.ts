import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { solveIlp } from '../../src/bitalloc/integerProgram.ts'
import { paretoCurve, solvePareto } from '../../src/bitalloc/pareto.ts'
import type { Constraint, Problem } from '../../src/bitalloc/problem.ts'
import { tie } from '../../src/bitalloc/problem.ts'
import type { QtoolError } from '../../src/errors.ts'
import { makeRandom } from '../../src/random.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { enumerate } from '../oracles/allocationOracle.ts'
import { layers, range, smallProblem } from './problems.ts'

const solvers = [solvePareto, solveIlp] as const

describe('solvePareto', () => {
  it('equals enumeration, choice for choice, ties included', () => {
    fc.assert(
      fc.property(smallProblem(1), (problem) => {
        const { choice, loss, costs, bound } = solvePareto(problem)
        expect({ choice, loss, costs }).toEqual(enumerate(problem))
        expect(bound).toBe(loss)
      }),
      { numRuns: 500 },
    )
  })

  it('takes the first of many choices that are equal in loss and cost', () => {
    // Every unit of cost saves as much, so that whatever fills the limit is best.
    const cost = fc.integer({ min: 0, max: 3 }).map((units) => ({ costs: [units], loss: (3 - units) / 4 }))
    const items = fc.array(fc.array(cost, { minLength: 2, maxLength: 4 }), { minLength: 3, maxLength: 5 })
    fc.assert(
      fc.property(items, fc.integer({ min: 0, max: 6 }), (items, above) => {
        const problem = { items, constraints: [{ name: 'bytes', limit: range(items, 0)[0] + above }] }
        expect(solvePareto(problem).choice).toEqual(enumerate(problem)!.choice)
      }),
    )
  })

  it('equals enumeration on losses and costs that are fractions', () => {
    const random = makeRandom(5)
    for (let run = 0; run < 100; run++) {
      const items = Array.from({ length: 5 }, () =>
        Array.from({ length: 1 + random.below(4) }, () => ({
          costs: [random.uniform()],
          loss: random.normal() * 1e-6,
        })),
      )
      const [least, most] = range(items, 0)
      const problem = { items, constraints: [{ name: 'mean bits', limit: least + random.uniform() * (most - least) }] }
      expect(solvePareto(problem).choice).toEqual(enumerate(problem)!.choice)
    }
  })

  it('takes a limit that sums of fractions reach but for rounding', () => {
    const items = Array.from({ length: 10 }, () => [
      { costs: [0.1], loss: 1 },
      { costs: [0.4], loss: 0 },
    ])
    const limit = 4
    expect(solvePareto({ items, constraints: [{ name: 'mean bits', limit }] }).loss).toBe(0)
    const below = solvePareto({ items, constraints: [{ name: 'mean bits', limit: 4 - 1e-6 }] })
    expect(below.loss).toBe(1)
  })

  it('says by its bound what too short lists may have cost', () => {
    const random = makeRandom(6)
    let short = 0
    for (let run = 0; run < 60; run++) {
      const problem = layers(12, random, random.uniform())
      const least = solvePareto(problem).loss
      const { loss, bound, costs } = solvePareto(problem, { room: 2 })
      expect(bound).toBeLessThanOrEqual(least * (1 + 1e-12))
      expect(loss).toBeGreaterThanOrEqual(least * (1 - 1e-12))
      expect(costs[0]).toBeLessThanOrEqual(problem.constraints[0]!.limit)
      if (loss > least * (1 + 1e-9)) short++
    }
    expect(short).toBeGreaterThan(0)
  })

  it('gives a curve that falls with the limit, exact at every point', () => {
    fc.assert(
      fc.property(smallProblem(1), (problem) => {
        const [least, most] = range(problem.items, 0)
        const limits = Array.from({ length: most - least + 1 }, (_, i) => least + i)
        const curve = paretoCurve(problem, limits)
        curve.forEach(({ loss, costs }, i) => {
          expect(costs[0]).toBeLessThanOrEqual(limits[i]!)
          if (i > 0) expect(loss).toBeLessThanOrEqual(curve[i - 1]!.loss)
        })
      }),
      { numRuns: 30 },
    )
  })
})

describe('solveIlp', () => {
  it.each([1, 2, 3])('equals enumeration under %d constraints', async (constraints) => {
    await fc.assert(
      fc.asyncProperty(smallProblem(constraints), async (problem) => {
        const best = enumerate(problem)
        if (!best) {
          const error = await solveIlp(problem).catch((caught: unknown) => caught)
          expect((error as QtoolError).code).toBe('infeasible')
          return
        }
        const { loss, costs, bound } = await solveIlp(problem)
        expect(loss).toBe(best.loss)
        expect(bound).toBe(loss)
        problem.constraints.forEach(({ limit }, c) => {
          expect(costs[c]).toBeLessThanOrEqual(limit)
        })
      }),
      { numRuns: 40 },
    )
  })

  it('takes a problem without constraints', async () => {
    const problem = {
      items: [
        [
          { costs: [], loss: 2 },
          { costs: [], loss: 1 },
        ],
      ],
      constraints: [],
    }
    expect((await solveIlp(problem)).choice).toEqual([1])
  })

  it('names what can be reached when constraints bind only together', async () => {
    const problem: Problem = {
      items: [
        [
          { costs: [1, 9], loss: 0 },
          { costs: [9, 1], loss: 0 },
        ],
      ],
      constraints: [
        { name: 'bytes', limit: 5 },
        { name: 'latency', limit: 5 },
      ],
    }
    const error = await solveIlp(problem).catch((caught: unknown) => caught)
    expectQtoolError(
      'infeasible',
      () => {
        throw error
      },
      'but not together',
      '9 (bytes) or 9 (latency)',
    )
  })
})

describe.each(solvers)('%o', (solve) => {
  it('keeps pinned items and tied items equal', async () => {
    const random = makeRandom(7)
    const { items } = layers(4, random, 0.4)
    const pinned = items[0]!.slice(3, 4)
    const tied = tie(items[1]!, items[2]!)
    const constraints = [{ name: 'bytes', limit: Math.round(range([pinned, tied, items[3]!], 0)[1] * 0.6) }]
    const { choice, loss } = await solve({ items: [pinned, tied, items[3]!], constraints })
    const apart = { items, constraints }
    const best = enumerate(apart, ([a, b, c]) => (a === 3 && b === c ? 0 : 1e9))!
    expect([3, choice[1], choice[1], choice[2]]).toEqual(best.choice)
    expect(loss).toBeCloseTo(best.loss, 9)
  })

  it('refuses a limit one below the least, and takes the least', async () => {
    const problem = layers(20, makeRandom(8), 0)
    const { limit } = problem.constraints[0]!
    expect((await solve(problem)).costs).toEqual([limit])
    const below = { ...problem, constraints: [{ name: 'bytes', limit: limit - 1 }] }
    await expect((async () => solve(below))()).rejects.toThrow(`the least is ${limit} (bytes)`)
  })

  it('solves 1,000 layers with 8 candidates to a zero gap', { timeout: 5000 }, async () => {
    const problem = layers(1000, makeRandom(9), 0.35)
    const { loss, bound, costs } = await solve(problem)
    expect(bound).toBe(loss)
    const { limit } = problem.constraints[0]!
    expect(costs[0]).toBeLessThanOrEqual(limit)
    expect(costs[0]).toBeGreaterThan(0.995 * limit)
  })
})

describe('both solvers', () => {
  it('agree, also where a second limit that does not bind leaves the proof to HiGHS', async () => {
    const random = makeRandom(10)
    for (let run = 0; run < 3; run++) {
      const { items, constraints } = layers(60, random, random.uniform(), 2)
      const [bytes, latency] = constraints as [Constraint, Constraint]
      const one = items.map((choices) => choices.map(({ costs, loss }) => ({ costs: costs.slice(0, 1), loss })))
      const exact = solvePareto({ items: one, constraints: [bytes] })
      expect((await solveIlp({ items: one, constraints: [bytes] })).choice).toEqual(exact.choice)
      const wide = { name: latency.name, limit: range(items, 1)[1] }
      const { loss, bound } = await solveIlp({ items, constraints: [bytes, wide] })
      expect(loss / exact.loss).toBeCloseTo(1, 10)
      expect(bound).toBe(loss)
    }
  })

  it('solves 1,000 layers with 8 candidates under two limits to a zero gap', { timeout: 5000 }, async () => {
    const problem = layers(1000, makeRandom(11), 0.35, 2)
    const { loss, bound, costs } = await solveIlp(problem)
    expect(bound).toBe(loss)
    problem.constraints.forEach(({ limit }, c) => {
      expect(costs[c]).toBeLessThanOrEqual(limit)
    })
  })
})

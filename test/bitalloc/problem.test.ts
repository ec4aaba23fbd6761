import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { checkFeasible, evaluateChoice, leastCosts, type Problem, tie } from '../../src/bitalloc/problem.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { enumerate } from '../oracles/allocationOracle.ts'
import { smallProblem } from './problems.ts'

describe('leastCosts', () => {
  it('is the least of all combinations, with a choice that reaches it', () => {
    fc.assert(
      fc.property(smallProblem(2), (problem) => {
        leastCosts(problem).forEach(({ least, choice }, c) => {
          const items = problem.items.map((choices) => choices.map(({ costs }) => ({ costs: [], loss: costs[c]! })))
          expect(least).toBe(enumerate({ items, constraints: [] })!.loss)
          expect(evaluateChoice(problem, choice).costs[c]).toBe(least)
        })
      }),
      { numRuns: 50 },
    )
  })
})

describe('checkFeasible', () => {
  const items = [[{ costs: [10, 3], loss: 1 }], [{ costs: [5, 1], loss: 1 }]]
  const limited = (bytes: number, latency: number): Problem => ({
    items,
    constraints: [
      { name: 'bytes', limit: bytes },
      { name: 'latency', limit: latency },
    ],
  })

  it('lets a limit pass that is reached exactly', () => {
    expect(() => checkFeasible(limited(15, 4))).not.toThrow()
  })

  it('names the constraints that bind and the least of each', () => {
    const error = expectQtoolError(
      'infeasible',
      () => checkFeasible(limited(14, 4)),
      'bytes of at most 14',
      'is 15 (bytes)',
    )
    expect(error.message).not.toContain('latency')
    expectQtoolError('infeasible', () => checkFeasible(limited(14, 3)), '15 (bytes) and 4 (latency)')
  })

  it.each([
    ['no choices', { items: [[]], constraints: [] }],
    ['a NaN', { items: [[{ costs: [], loss: Number.NaN }]], constraints: [] }],
    ['a negative cost', { items: [[{ costs: [-1], loss: 0 }]], constraints: [{ name: 'bytes', limit: 1 }] }],
    ['a missing cost', { items: [[{ costs: [], loss: 0 }]], constraints: [{ name: 'bytes', limit: 1 }] }],
  ])('refuses %s', (_, problem) => {
    expect(() => checkFeasible(problem)).toThrow(RangeError)
  })
})

describe('tie', () => {
  it('gives what enumeration gives over equal choices', () => {
    fc.assert(
      fc.property(smallProblem(1, 4), ({ items, constraints }) => {
        const most = Math.min(...items.map((choices) => choices.length))
        const same = items.map((choices) => choices.slice(0, most))
        const tied = { items: [tie(...same)], constraints }
        const apart = { items: same, constraints }
        tied.items[0]!.forEach((_, k) => {
          const all = same.map(() => k)
          expect(evaluateChoice(tied, [k])).toEqual(evaluateChoice(apart, all))
        })
      }),
      { numRuns: 30 },
    )
  })

  it('refuses items with different numbers of choices', () => {
    const choice = { costs: [], loss: 0 }
    expect(() => tie([choice], [choice, choice])).toThrow(RangeError)
  })
})

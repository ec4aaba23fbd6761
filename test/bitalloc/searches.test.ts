import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { bisectBudget, bisectOrder, greedyPass } from '../../src/bitalloc/bisection.ts'
import { evaluateBest, localSearch } from '../../src/bitalloc/localSearch.ts'
import { solvePareto } from '../../src/bitalloc/pareto.ts'
import { evaluateChoice } from '../../src/bitalloc/problem.ts'
import { makeRandom } from '../../src/random.ts'
import { enumerate, pairwiseLoss } from '../oracles/allocationOracle.ts'
import { layers, smallProblem } from './problems.ts'

/** Losses that rise with every step of any item, with interactions; counted. */
function monotone(depths: readonly number[], seed: number) {
  const random = makeRandom(seed)
  const steps = depths.map((depth) => Array.from({ length: depth }, () => random.uniform()))
  const power = 0.5 + 1.5 * random.uniform()
  const counted = {
    evaluations: 0,
    loss(levels: readonly number[]) {
      const sum = levels.reduce((total, level, i) => total + steps[i]!.slice(0, level).reduce((a, b) => a + b, 0), 0)
      return sum ** power
    },
    async evaluate(levels: readonly number[]) {
      counted.evaluations++
      return counted.loss(levels)
    },
  }
  return counted
}

const depths = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 12 })

describe('bisectOrder', () => {
  it('equals the scan over all prefixes on monotone losses, in as few evaluations as stated', async () => {
    await fc.assert(
      fc.asyncProperty(
        depths,
        fc.integer(),
        fc.double({ min: 0, max: 8, noNaN: true }),
        async (depths, seed, bound) => {
          const network = monotone(depths, seed)
          const order = depths.map((_, i) => i).sort((a, b) => ((a * 7 + seed) % 5) - ((b * 7 + seed) % 5))
          let levels = depths.map(() => 0)
          let candidates = order
          const most = Math.max(...depths)
          for (let level = 1; level < most; level++) {
            candidates = candidates.filter((item) => depths[item]! > level)
            const prefixes = candidates.map((_, n) => candidates.slice(0, n + 1))
            const lowered = (prefix: number[]) => levels.map((old, i) => (prefix.includes(i) ? level : old))
            candidates = prefixes.findLast((prefix) => network.loss(lowered(prefix)) <= bound) ?? []
            levels = lowered(candidates)
          }
          const result = await bisectOrder({ order, depths, evaluate: network.evaluate, bound })
          expect(result.levels).toEqual(levels)
          expect(result.evaluations).toBe(network.evaluations)
          expect(result.evaluations).toBeLessThanOrEqual((most - 1) * (1 + Math.ceil(Math.log2(depths.length))))
          if (result.loss !== undefined) expect(result.loss).toBe(network.loss(result.levels))
          else expect(levels.every((level) => level === 0)).toBe(true)
        },
      ),
      { numRuns: 200 },
    )
  })
})

describe('greedyPass', () => {
  it('leaves no single step that keeps the bound, never goes back, and counts as stated', async () => {
    await fc.assert(
      fc.asyncProperty(
        depths,
        fc.integer(),
        fc.double({ min: 0, max: 8, noNaN: true }),
        async (depths, seed, bound) => {
          const network = monotone(depths, seed)
          const order = depths.map((_, i) => i)
          const search = { order, depths, evaluate: network.evaluate, bound }
          const first = await bisectOrder(search)
          const { levels, evaluations, loss } = await greedyPass(search, first)
          expect(evaluations).toBeLessThanOrEqual(depths.length * (Math.max(...depths) - 1))
          if (loss !== undefined) expect(loss).toBe(network.loss(levels))
          expect(network.loss(levels)).toBeLessThanOrEqual(bound)
          levels.forEach((level, i) => {
            expect(level).toBeGreaterThanOrEqual(first.levels[i]!)
            const further = levels.map((other, j) => (j === i ? other + 1 : other))
            if (level + 1 < depths[i]!) expect(network.loss(further)).toBeGreaterThan(bound)
          })
        },
      ),
      { numRuns: 100 },
    )
  })

  it('stops at the stated number of evaluations', async () => {
    const network = monotone([3, 3, 3], 1)
    const search = { order: [0, 1, 2], depths: [3, 3, 3], evaluate: network.evaluate, bound: 100 }
    expect((await greedyPass(search, { levels: [0, 0, 0], loss: 0 }, 4)).evaluations).toBe(4)
    expect(network.evaluations).toBe(4)
  })
})

describe('bisectBudget', () => {
  it('finds the smallest budget on losses that fall', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 1000 }), fc.integer({ min: 1, max: 30 }), async (needed, grain) => {
        const tried: number[] = []
        const solveAt = async (budget: number) => {
          tried.push(budget)
          return { loss: budget >= needed ? 1 : 2, cost: budget - (budget % grain) }
        }
        const { budget, solved, failed, evaluations } = await bisectBudget({ low: 0, high: 1000, solveAt, bound: 1 })
        expect(solved.loss).toBe(1)
        expect(evaluations).toBe(tried.length)
        expect(evaluations).toBeLessThanOrEqual(2 + Math.ceil(Math.log2(1000)))
        expect(budget).toBeLessThanOrEqual(needed)
        if (failed !== undefined) expect(failed).toBeLessThan(budget + grain)
      }),
    )
    const exact = await bisectBudget({
      low: 0,
      high: 1000,
      solveAt: async (budget) => ({ loss: budget >= 617 ? 1 : 2, cost: budget }),
      bound: 1,
    })
    expect([exact.budget, exact.failed]).toEqual([617, 616])
  })

  it('ends after the stated evaluations with an answer that keeps the bound, whatever the losses', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), fc.integer({ min: 2, max: 8 }), async (seed, most) => {
        const random = makeRandom(seed)
        const seen = new Map<number, number>()
        const solveAt = async (budget: number) => {
          seen.set(budget, budget === 100_000 ? 0 : random.uniform())
          return { loss: seen.get(budget)!, cost: budget }
        }
        const { budget, solved, evaluations } = await bisectBudget({
          low: 10,
          high: 100_000,
          solveAt,
          bound: 0.5,
          most,
        })
        expect(evaluations).toBeLessThanOrEqual(most)
        expect(solved.loss).toBe(seen.get(budget))
        expect(solved.loss).toBeLessThanOrEqual(0.5)
      }),
    )
  })

  it('says what the largest budget gives when that is not enough', async () => {
    const search = { low: 1, high: 9, solveAt: async () => ({ loss: 0.25, cost: 9 }), bound: 0.1 }
    await expect(bisectBudget(search)).rejects.toThrow('the largest budget (9) gives 0.25')
  })
})

describe('evaluateBest', () => {
  it('evaluates each choice once and takes the first of the best', async () => {
    const seen: string[] = []
    const evaluate = async (choice: readonly number[]) => {
      seen.push(choice.join())
      return choice[0]! % 2
    }
    const best = await evaluateBest([[1], [2], [1], [4]], evaluate)
    expect(best).toMatchObject({ index: 1, choice: [2], loss: 0, evaluations: 3, losses: [1, 0, 1, 0] })
    expect(seen).toEqual(['1', '2', '4'])
  })
})

describe('localSearch', () => {
  it('keeps the limits and the count, evaluates nothing twice, and never gets worse', async () => {
    await fc.assert(
      fc.asyncProperty(smallProblem(1), fc.integer(), fc.integer({ min: 0, max: 12 }), async (problem, seed, most) => {
        const start = solvePareto(problem)
        const random = makeRandom(seed)
        const real = new Map<string, number>()
        const evaluate = async (choice: readonly number[]) => {
          expect(real.has(choice.join())).toBe(false)
          expect(evaluateChoice(problem, choice).costs[0]).toBeLessThanOrEqual(problem.constraints[0]!.limit)
          real.set(choice.join(), random.uniform())
          return real.get(choice.join())!
        }
        const noise = 0.1
        const search = { problem, start: start.choice, startLoss: 0.5, evaluate, most, noise }
        const { choice, loss, evaluations, accepted } = await localSearch(search)
        expect(evaluations).toBe(real.size)
        expect(evaluations).toBeLessThanOrEqual(most)
        expect(loss).toBe(real.get(choice.join()) ?? 0.5)
        expect(loss).toBeLessThanOrEqual(0.5 - accepted * noise + 1e-12)
      }),
    )
  })

  it('reaches the best of all single changes and swaps when evaluations are enough', async () => {
    const random = makeRandom(4)
    let better = 0
    for (let run = 0; run < 10; run++) {
      const problem = layers(4, random, 0.4)
      const scale = problem.items.flat().reduce((sum, option) => sum + option.loss, 0) / 32
      const gram = Float64Array.from({ length: 32 * 32 }, () => random.normal() * scale)
      for (let i = 0; i < 32; i++) for (let j = 0; j < i; j++) gram[i * 32 + j] = gram[j * 32 + i]!
      const pairs = pairwiseLoss(problem, gram)
      const real = async (choice: readonly number[]) => evaluateChoice(problem, choice).loss + pairs(choice)
      const { choice: start } = solvePareto(problem)
      const startLoss = await real(start)
      const search = { problem, start, startLoss, evaluate: real, most: 5000, noise: 0 }
      const reached = await localSearch(search)
      const guided = await localSearch({ ...search, gram })
      // With the true model every move that helps comes first: one evaluation each.
      const first = await localSearch({ ...search, gram, most: guided.accepted })
      expect(first.loss).toBeLessThanOrEqual(guided.loss + 1e-9)
      expect(await real(enumerate(problem, pairs)!.choice)).toBeLessThanOrEqual(reached.loss + 1e-9)
      for (const { choice, loss } of [reached, guided]) {
        const { limit } = problem.constraints[0]!
        for (let i = 0; i < 4; i++) {
          for (let k = 0; k < 8; k++) {
            const changed = choice.map((old, j) => (j === i ? k : old))
            if (evaluateChoice(problem, changed).costs[0]! <= limit) {
              expect(await real(changed)).toBeGreaterThanOrEqual(loss - 1e-9)
            }
          }
        }
      }
      if (guided.loss < startLoss) better++
    }
    expect(better).toBeGreaterThan(5)
  })
})

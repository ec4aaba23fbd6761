import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { convexForm, optionStarts, symmetricPairs } from '../../src/bitalloc/convexForm.ts'
import type { Problem } from '../../src/bitalloc/problem.ts'
import { solveQuadratic } from '../../src/bitalloc/quadratic.ts'
import { tangentAt } from '../../src/bitalloc/quadraticBound.ts'
import { branch, look } from '../../src/bitalloc/quadraticBranch.ts'
import { pairLoss, pairProblem } from '../../src/bitalloc/quadraticSearch.ts'
import { symmetricEigen } from '../../src/bitalloc/symmetricEigen.ts'
import { makeRandom, type Random } from '../../src/random.ts'
import { enumerate, pairwiseLoss } from '../oracles/allocationOracle.ts'
import { product, toRows, transposed } from '../oracles/denseOracle.ts'
import { smallProblem } from './problems.ts'

/** The Gram matrix of random vectors: positive semidefinite. */
function randomGram(size: number, rank: number, random: Random): Float64Array {
  const vectors = Array.from({ length: size }, () => Array.from({ length: rank }, () => random.normal()))
  return Float64Array.from(product(vectors, transposed(vectors)).flat())
}

/** Symmetric, of any signature. */
function randomSymmetric(size: number, random: Random): Float64Array {
  const matrix = new Float64Array(size * size)
  for (let i = 0; i < size; i++)
    for (let j = 0; j <= i; j++) matrix[i * size + j] = matrix[j * size + i] = random.normal()
  return matrix
}

const lossesOf = (problem: Problem) => Float64Array.from(problem.items.flat(), (option) => option.loss)

const optionsOf = (problem: Problem) => problem.items.reduce((sum, choices) => sum + choices.length, 0)

describe('symmetricEigen', () => {
  it.each([1, 2, 3, 10, 40])('takes a matrix of %d apart and puts it together', (n) => {
    const random = makeRandom(n)
    for (const matrix of [
      randomSymmetric(n, random),
      randomGram(n, Math.ceil(n / 3), random),
      new Float64Array(n * n),
    ]) {
      const { values, vectors } = symmetricEigen(matrix, n)
      const rows = toRows(vectors, n, n)
      const scaled = rows.map((row, e) => row.map((x) => x * values[e]!))
      const identity = product(rows, transposed(rows))
      const rebuilt = product(transposed(rows), scaled)
      const errors = rows.flatMap((_, i) =>
        rows.flatMap((_, j) => [identity[i]![j]! - (i === j ? 1 : 0), rebuilt[i]![j]! - matrix[i * n + j]!]),
      )
      expect(Math.max(...errors.map(Math.abs))).toBeLessThan(1e-12)
    }
  })

  it('knows the eigenvalues of the second difference', () => {
    const n = 30
    const matrix = Float64Array.from({ length: n * n }, (_, t) => {
      const apart = Math.abs(Math.floor(t / n) - (t % n))
      return apart === 0 ? 2 : apart === 1 ? -1 : 0
    })
    const values = [...symmetricEigen(matrix, n).values].sort((a, b) => a - b)
    values.forEach((value, k) => {
      expect(value).toBeCloseTo(2 - 2 * Math.cos(((k + 1) * Math.PI) / (n + 1)), 12)
    })
  })

  it('takes 240 rows', { timeout: 5000 }, () => {
    expect(symmetricEigen(randomSymmetric(240, makeRandom(1)), 240).values).toHaveLength(240)
  })
})

describe('convexForm', () => {
  it('equals the pairwise loss at every choice, and is positive semidefinite', () => {
    fc.assert(
      fc.property(smallProblem(0, 4), fc.integer(), (problem, seed) => {
        const size = optionsOf(problem)
        const gram = randomSymmetric(size, makeRandom(seed))
        const starts = optionStarts(problem)
        const { constant, linear, matrix } = convexForm(starts, lossesOf(problem), symmetricPairs(gram, starts))
        expect(Math.min(...symmetricEigen(matrix, size).values)).toBeGreaterThan(-1e-10)
        enumerate(problem, (choice) => {
          const taken = choice.map((k, i) => starts[i]! + k)
          let value = constant
          for (const a of taken) {
            value += linear[a]!
            for (const b of taken) value += matrix[a * size + b]! / 2
          }
          const own = choice.reduce((sum, k, i) => sum + problem.items[i]![k]!.loss, 0)
          expect(value).toBeCloseTo(own + pairwiseLoss(problem, gram)(choice), 9)
          return 0
        })
      }),
      { numRuns: 40 },
    )
  })
})

/** A form with its limits, as the search takes it. */
function searched(problem: Problem, gram: Float64Array) {
  const starts = optionStarts(problem)
  const flat = pairProblem(problem, starts, symmetricPairs(gram, starts))
  const shares = flat.costs.map((column, c) => column.map((cost) => (flat.limits[c]! > 0 ? cost / flat.limits[c]! : 0)))
  return { flat, form: { ...convexForm(starts, flat.losses, flat.pairs), shares } }
}

describe('tangentAt', () => {
  it('lies below every choice within the limits, wherever it touches and whatever the prices', () => {
    fc.assert(
      fc.property(smallProblem(2, 4), fc.integer(), fc.boolean(), (problem, seed, converged) => {
        const random = makeRandom(seed)
        const { flat, form } = searched(problem, randomSymmetric(optionsOf(problem), random))
        const point = new Float64Array(flat.losses.length)
        for (const [i, choices] of problem.items.entries()) point[flat.starts[i]! + random.below(choices.length)] = 1
        const prices = Float64Array.from([random.uniform(), random.uniform()])
        const region = { allowed: new Uint8Array(point.length).fill(1), point, prices }
        const enough = converged ? 1e9 : Number.NEGATIVE_INFINITY
        const { bound, reduced } = tangentAt(form, region, enough, 0)
        enumerate(problem, (choice) => {
          const taken = choice.map((k, i) => flat.starts[i]! + k)
          if (flat.costs.some((column, c) => taken.reduce((sum, a) => sum + column[a]!, 0) > flat.limits[c]!)) return 0
          const above = taken.reduce((sum, a) => sum + reduced[a]!, bound)
          expect(pairLoss(flat, taken)).toBeGreaterThanOrEqual(above - 1e-9)
          return 0
        })
      }),
      { numRuns: 60 },
    )
  })
})

describe('branch', () => {
  it('finds the best choice without any help from descents', () => {
    const random = makeRandom(12)
    for (let run = 0; run < 15; run++) {
      const items = Array.from({ length: 5 }, () =>
        Array.from({ length: 3 }, (_, k) => ({ costs: [k], loss: random.uniform() })),
      )
      const problem = { items, constraints: [{ name: 'bytes', limit: 5 }] }
      const gram = randomSymmetric(15, random)
      const { flat, form } = searched(problem, gram)
      const everything = {
        allowed: new Uint8Array(15).fill(1),
        point: new Float64Array(15),
        prices: new Float64Array(1),
      }
      const root = look(form, flat, everything, 1e9, { factor: 4, steps: 40 })!
      const ends = { gap: 0, regions: 1e5, end: Number.POSITIVE_INFINITY }
      const { taken, bound } = branch(form, flat, root, [0, 3, 6, 9, 12], ends, pairLoss)
      const best = enumerate(problem, pairwiseLoss(problem, gram))!
      expect(pairLoss(flat, taken)).toBeCloseTo(best.loss, 7)
      expect(bound).toBeCloseTo(best.loss, 7)
    }
  })
})

describe('solveQuadratic', () => {
  it.each([
    ['positive semidefinite', 1, (size: number, random: Random) => randomGram(size, 3, random)],
    ['indefinite', 1, randomSymmetric],
    ['positive semidefinite', 2, (size: number, random: Random) => randomGram(size, 3, random)],
  ] as const)('equals enumeration on %s pairs under %d constraints', async (_, constraints, make) => {
    await fc.assert(
      fc.asyncProperty(smallProblem(constraints), fc.integer(), async (problem, seed) => {
        const gram = make(optionsOf(problem), makeRandom(seed))
        const best = enumerate(problem, pairwiseLoss(problem, gram))
        fc.pre(best !== undefined)
        const { loss, bound, costs } = await solveQuadratic(problem, gram, { gap: 0 })
        expect(loss).toBeCloseTo(best!.loss, 9)
        expect(bound).toBeLessThanOrEqual(loss)
        expect(bound).toBeCloseTo(best!.loss, 6)
        problem.constraints.forEach(({ limit }, c) => {
          expect(costs[c]).toBeLessThanOrEqual(limit)
        })
      }),
      { numRuns: 25 },
    )
  })

  it('never claims a bound above the least, when it is stopped early', async () => {
    const random = makeRandom(3)
    let open = 0
    for (let run = 0; run < 5; run++) {
      const items = Array.from({ length: 6 }, () =>
        Array.from({ length: 3 }, (_, k) => ({ costs: [k + random.below(3)], loss: 5 * random.uniform() })),
      )
      const problem = { items, constraints: [{ name: 'bytes', limit: 10 }] }
      const gram = randomGram(18, 4, random)
      const best = enumerate(problem, pairwiseLoss(problem, gram))!
      for (const regions of [0, 1, 3]) {
        const { loss, bound } = await solveQuadratic(problem, gram, { gap: 0, regions })
        expect(bound).toBeLessThanOrEqual(best.loss + 1e-9)
        expect(loss).toBeGreaterThanOrEqual(best.loss - 1e-9)
        if (regions === 0 && bound < loss - 1e-6) open++
      }
    }
    expect(open).toBeGreaterThan(0)
  })
})

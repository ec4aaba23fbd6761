/** @file Random allocation problems for the solvers' tests. */
import fc from 'fast-check'
import type { Problem } from '../../src/bitalloc/problem.ts'
import type { Random } from '../../src/random.ts'

/** Names of the constraints, in order. */
const NAMES = ['bytes', 'latency', 'mean bits']

/**
 * Up to five items of up to four choices. Costs and losses are from few values, so that ties, equal choices and items
 * without costs abound; losses are quarters, whose sums are exact, and may be negative. Limits are feasible for each
 * constraint alone, and often exactly what some choice costs.
 */
export function smallProblem(constraints: number, most = 5): fc.Arbitrary<Problem> {
  const choice = (span: number) =>
    fc.record({
      costs: fc.array(fc.integer({ min: 0, max: span }), { minLength: constraints, maxLength: constraints }),
      loss: fc.integer({ min: -2, max: 2 * span }).map((quarters) => quarters / 4),
    })
  const items = fc
    .constantFrom(2, 9)
    .chain((span) =>
      fc.array(fc.array(choice(span), { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: most }),
    )
  const parts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: constraints, maxLength: constraints })
  return fc.tuple(items, parts).map(([items, parts]) => ({
    items,
    constraints: parts.map((part, c) => {
      const [least, most] = range(items, c)
      return { name: NAMES[c]!, limit: Math.round(least + part * (most - least)) }
    }),
  }))
}

/** Least and largest sum of costs. */
export function range(items: Problem['items'], c: number): [number, number] {
  const sums = (pick: (...costs: number[]) => number) =>
    items.reduce((sum, choices) => sum + pick(...choices.map((choice) => choice.costs[c]!)), 0)
  return [sums(Math.min), sums(Math.max)]
}

/** Layers of very different sizes and sensitivities, each at eight widths; the limit at `part` of the range of bytes. */
export function layers(count: number, random: Random, part: number, constraints = 1): Problem {
  const items = Array.from({ length: count }, () => {
    const weights = 64 * Math.round(1000 * Math.exp(4 * random.uniform()))
    const sensitivity = Math.exp(random.normal())
    return [2, 3, 4, 5, 6, 8, 3, 4].map((bits, k) => {
      const groups = weights / (k < 6 ? 32 : 64)
      const loss = (sensitivity * (1 + 0.1 * random.normal()) * weights * (k < 6 ? 1 : 1.3)) / 4 ** bits
      const latency = Math.round(weights * (1 + bits / 8 + 0.3 * random.uniform()))
      return { costs: [(weights * bits) / 8 + 2 * groups, latency].slice(0, constraints), loss }
    })
  })
  return {
    items,
    constraints: NAMES.slice(0, constraints).map((name, c) => {
      const [least, most] = range(items, c)
      return { name, limit: Math.floor(least + (c === 0 ? part : 0.5) * (most - least)) }
    }),
  }
}

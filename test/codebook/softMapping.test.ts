/** The relaxed mapping: gradients by differences, the shape of both flavours, and what it comes to. */
import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import { mappingCoefficientsInPlace, type SoftProblem, softGradient } from '../../src/codebook/softGradient.ts'
import { softMapping } from '../../src/codebook/softMapping.ts'
import { makeRandom } from '../../src/random.ts'
import { openProducts } from '../../src/runtime/products.ts'

const products = openProducts(1)
afterAll(() => products.dispose())

/** Two tables of 4 levels; columns that are strongly correlated. */
function problemOf(rows: number, cols: number, seed = 1): SoftProblem {
  const random = makeRandom(seed)
  const factor = Float64Array.from({ length: cols * cols }, () => random.normal())
  const hessian = Float64Array.from({ length: cols * cols }, (_, at) => {
    const [i, j] = [Math.floor(at / cols), at % cols]
    let sum = i === j ? 0.1 * cols : 0
    for (let k = 0; k < 3; k++) sum += factor[i * cols + k]! * factor[j * cols + k]!
    return sum
  })
  return {
    target: Float64Array.from({ length: rows * cols }, () => random.normal()),
    hessian,
    rows,
    cols,
    entries: 4,
    tableOf: Uint16Array.from({ length: rows }, (_, row) => row % 2),
    groupSize: cols,
    scales: Float32Array.from({ length: rows }, () => 0.5 + random.uniform()),
    tables: Float64Array.of(-1.5, -0.5, 0.5, 1.5, -2, -0.3, 0.4, 1.2),
  }
}

/** tr(E H Eᵀ), by the definition. */
function objective({ target, hessian, rows, cols }: SoftProblem, weights: ArrayLike<number>): number {
  let loss = 0
  for (let n = 0; n < rows; n++) {
    for (let i = 0; i < cols; i++) {
      for (let j = 0; j < cols; j++) {
        const [a, b] = [n * cols + i, n * cols + j]
        loss += (target[a]! - weights[a]!) * hessian[i * cols + j]! * (target[b]! - weights[b]!)
      }
    }
  }
  return loss
}

function mixed(problem: SoftProblem, logits: Float64Array, tables: Float64Array, sharpness: number): number {
  const { target, cols, entries, tableOf, scales } = problem
  const weights = Array.from(target, (_, i) => {
    const row = Math.floor(i / cols)
    const powers = Array.from({ length: entries }, (_, k) => Math.exp(sharpness * logits[i * entries + k]!))
    const sum = powers.reduce((a, b) => a + b)
    return (
      scales[row]! * powers.reduce((level, power, k) => level + (power / sum) * tables[tableOf[row]! * entries + k]!, 0)
    )
  })
  return objective(problem, weights)
}

const nudged = (values: Float64Array, at: number, by: number) =>
  values.map((value, i) => (i === at ? value + by : value))

describe('softGradient', () => {
  it.each([1, 3])('of the plain flavour equals finite differences at sharpness %d', async (sharpness) => {
    const problem = problemOf(3, 5)
    const random = makeRandom(4)
    const logits = Float64Array.from({ length: 3 * 5 * 4 }, () => random.normal())
    const { tables } = problem
    const gradient = await softGradient(problem, { logits, tables, sharpness }, 'plain', products)
    expect(gradient.loss).toBeCloseTo(mixed(problem, logits, tables, sharpness), 9)
    const h = 1e-5
    for (const [at, slope] of gradient.logits.entries()) {
      const up = mixed(problem, nudged(logits, at, h), tables, sharpness)
      expect(slope).toBeCloseTo((up - mixed(problem, nudged(logits, at, -h), tables, sharpness)) / (2 * h), 5)
    }
    for (const [at, slope] of gradient.tables.entries()) {
      const up = mixed(problem, logits, nudged(tables, at, h), sharpness)
      expect(slope).toBeCloseTo((up - mixed(problem, logits, nudged(tables, at, -h), sharpness)) / (2 * h), 5)
    }
  })

  it('differs between the flavours in the logits only', async () => {
    const problem = problemOf(3, 5)
    const random = makeRandom(4)
    const state = {
      logits: Float64Array.from({ length: 60 }, () => random.normal()),
      tables: problem.tables,
      sharpness: 2,
    }
    const plain = await softGradient(problem, state, 'plain', products)
    const proximal = await softGradient(problem, state, 'proximal', products)
    expect(proximal.loss).toBe(plain.loss)
    expect(proximal.tables).toEqual(plain.tables)
    for (const [at, slope] of plain.logits.entries()) expect(Math.sign(proximal.logits[at]!)).toBe(Math.sign(slope))
  })
})

const mixtures = fc
  .record({
    steps: fc.array(fc.double({ min: 0.01, max: 3, noNaN: true }), { minLength: 2, maxLength: 16 }),
    parts: fc.array(fc.double({ min: 0.001, max: 1, noNaN: true }), { minLength: 16, maxLength: 16 }),
    from: fc.double({ min: -20, max: 5, noNaN: true }),
  })
  .map(({ steps, parts, from }) => {
    let level = from
    const table = Float64Array.from(steps, (step) => (level += step))
    const sum = parts.slice(0, table.length).reduce((a, b) => a + b)
    return { table, mixture: Float64Array.from(table, (_, k) => parts[k]! / sum) }
  })

describe('coefficients of the logits', () => {
  const coefficients = (mixture: Float64Array, table: Float64Array, flavour: 'plain' | 'proximal') => {
    const level = mixture.reduce((sum, m, k) => sum + m * table[k]!, 0)
    const result = mixture.slice()
    mappingCoefficientsInPlace(result, table, level, flavour)
    return { level, result: [...result], each: [...result].map((value, k) => Math.abs(value) / mixture[k]!) }
  }

  it('fall with distance in the proximal flavour and rise in the plain one', () => {
    fc.assert(
      fc.property(mixtures, ({ table, mixture }) => {
        for (const flavour of ['plain', 'proximal'] as const) {
          const { level, result, each } = coefficients(mixture, table, flavour)
          // A level that the mixture hits exactly has no side to fall to: its coefficient is zero in both flavours.
          const byDistance = [...table.keys()]
            .filter((k) => table[k] !== level)
            .sort((a, b) => Math.abs(table[a]! - level) - Math.abs(table[b]! - level))
          for (const [i, k] of byDistance.entries()) {
            if (i === 0) continue
            const change = each[k]! - each[byDistance[i - 1]!]!
            const slack = 1e-9 * each[k]!
            if (flavour === 'plain') expect(change).toBeGreaterThanOrEqual(-slack)
            else expect(change).toBeLessThanOrEqual(slack)
            expect(Math.sign(result[k]!)).toBe(Math.sign(table[k]! - level))
          }
        }
      }),
      { examples: [[{ table: Float64Array.of(0.01, 0.02, 0.03), mixture: Float64Array.of(0.25, 0.5, 0.25) }]] },
    )
  })

  it('add up to the same in both flavours, in magnitude', () => {
    fc.assert(
      fc.property(mixtures, ({ table, mixture }) => {
        const total = (flavour: 'plain' | 'proximal') =>
          coefficients(mixture, table, flavour).result.reduce((sum, value) => sum + Math.abs(value), 0)
        expect(total('proximal') / total('plain')).toBeCloseTo(1, 9)
      }),
    )
  })
})

describe('softMapping', () => {
  it.each(['plain', 'proximal'] as const)('lowers the objective of mixtures and of hard codes, %s', async (flavour) => {
    const problem = problemOf(16, 12, 7)
    const result = await softMapping(problem, { flavour, steps: 200, rate: 0.1 }, { products })
    expect(Math.min(...result.losses)).toBeLessThan(0.5 * result.losses[0]!)
    expect(result.after).toBeLessThan(0.55 * result.before)
    const { cols, entries, tableOf, scales } = problem
    const weights = [...result.codes].map((code, i) => {
      const row = Math.floor(i / cols)
      return scales[row]! * result.tables[tableOf[row]! * entries + code]!
    })
    expect(result.after).toBeCloseTo(objective(problem, weights), 6)
  })

  it('keeps weights that are levels', async () => {
    const problem = problemOf(4, 6)
    const codes = Uint8Array.from({ length: 24 }, (_, i) => (i * 7) % 4)
    const target = Float64Array.from(codes, (code, i) => {
      const row = Math.floor(i / 6)
      return problem.scales[row]! * problem.tables[problem.tableOf[row]! * 4 + code]!
    })
    const result = await softMapping({ ...problem, target }, { flavour: 'plain', steps: 60, rate: 0.05 }, { products })
    expect(result.before).toBeCloseTo(0, 12)
    expect([...result.codes]).toEqual([...codes])
  })

  it('takes float32 as well', async () => {
    const problem = problemOf(4, 6)
    const narrow = {
      ...problem,
      target: Float32Array.from(problem.target),
      hessian: Float32Array.from(problem.hessian),
    }
    const settings = { flavour: 'proximal', steps: 30, rate: 0.1 } as const
    const [wide, thin] = [
      await softMapping(problem, settings, { products }),
      await softMapping(narrow, settings, { products }),
    ]
    expect(thin.losses[0]! / wide.losses[0]!).toBeCloseTo(1, 4)
    expect(thin.codes).toEqual(wide.codes)
  })

  it('refuses arrays and settings that do not fit', async () => {
    const problem = problemOf(4, 6)
    const settings = { flavour: 'plain', steps: 5, rate: 0.1 } as const
    await expect(softMapping({ ...problem, rows: 5 }, settings, { products })).rejects.toThrow(RangeError)
    await expect(softMapping(problem, { ...settings, rate: 0 }, { products })).rejects.toThrow(RangeError)
  })
})

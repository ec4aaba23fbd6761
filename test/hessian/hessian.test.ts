import { describe, expect, test } from 'vitest'
import { driftOf } from '../../src/hessian/drift.ts'
import { layerHessian } from '../../src/hessian/layerHessian.ts'
import { type Order, prepareHessian } from '../../src/hessian/prepare.ts'
import type { InputStatistics } from '../../src/hessian/statistics.ts'
import { makeRandom } from '../../src/random.ts'
import { correlated, means, prepared, weights } from '../gptq/problems.ts'
import { greedyByInversion, quadraticLoss, secondMoments, toMatrix } from '../oracles/gptqOracle.ts'

const { products } = means
const ORDERS: readonly Order[] = ['natural', 'activation', 'greedy']

/** Positions of a float and a quantized model, their weights and their sums. */
function positions(cols: number, count: number, seed: number, drift = 0.2) {
  const random = makeRandom(seed)
  const quantized = Array.from({ length: count }, () => {
    const shared = random.normal()
    return Array.from({ length: cols }, (_, k) => 0.5 + k * 0.1 + shared + 0.3 * random.normal())
  })
  const float = quantized.map((x) => x.map((v) => v + drift * random.normal()))
  const weight = quantized.map(() => 0.5 + random.uniform())
  const sums = (a: number[][], b: number[][]) => {
    const matrix = new Float64Array(cols * cols)
    a.forEach((x, t) => {
      for (let i = 0; i < cols; i++) {
        for (let j = 0; j < cols; j++) matrix[i * cols + j]! += weight[t]! * x[i]! * b[t]![j]!
      }
    })
    return matrix
  }
  const sumOf = (a: number[][]) =>
    Float64Array.from({ length: cols }, (_, k) => a.reduce((sum, x, t) => sum + weight[t]! * x[k]!, 0))
  const statistics: InputStatistics = {
    cols,
    weight: weight.reduce((a, b) => a + b, 0),
    gram: sums(quantized, quantized),
    cross: sums(float, quantized),
    sum: sumOf(quantized),
    crossSum: sumOf(float),
  }
  return { quantized, float, weight, statistics }
}

function expectClose(actual: ArrayLike<number>, expected: number[][], tolerance: number): void {
  const flat = expected.flat()
  const size = Math.max(...flat.map(Math.abs))
  const worst = Math.max(...flat.map((value, at) => Math.abs(actual[at]! - value)))
  expect(worst).toBeLessThan(tolerance * size)
}

describe('layer Hessians', () => {
  test.each([true, false])('are the second moments of the positions, centred: %s', (centred) => {
    const { quantized, float, weight, statistics } = positions(5, 40, 1)
    const before = structuredClone(statistics)
    const { hessian, cross } = layerHessian(statistics, centred)
    expectClose(hessian, secondMoments(quantized, quantized, weight, centred), 1e-12)
    expectClose(cross!, secondMoments(float, quantized, weight, centred), 1e-12)
    expect(statistics).toEqual(before)
  })

  test('inputs that are zero, or constant once centred, get a row and a column of zeros', () => {
    const { statistics } = positions(4, 30, 2)
    const gram = statistics.gram.slice()
    const sum = statistics.sum.slice()
    for (let k = 0; k < 4; k++) {
      gram[4 + k] = 0
      gram[k * 4 + 1] = 0
      // Input 2 is always 3.
      gram[8 + k] = 3 * statistics.sum[k]!
      gram[k * 4 + 2] = gram[8 + k]!
    }
    sum[1] = 0
    sum[2] = 3 * statistics.weight
    gram[10] = 9 * statistics.weight * (1 + 1e-7)
    gram[6] = 0
    gram[9] = 0
    const dead = { ...statistics, gram, sum }
    const deadOf = (hessian: Float64Array) => [0, 1, 2, 3].filter((k) => hessian[k * 5] === 0)
    expect(deadOf(layerHessian(dead, false).hessian)).toEqual([1])
    const { hessian, cross } = layerHessian(dead, true)
    expect(deadOf(hessian)).toEqual([1, 2])
    for (let k = 0; k < 4; k++) {
      expect([hessian[4 + k], hessian[k * 4 + 1], hessian[8 + k], hessian[k * 4 + 2]]).toEqual([0, 0, 0, 0])
      expect([cross![k * 4 + 1], cross![k * 4 + 2]]).toEqual([0, 0])
    }
  })

  test('of incomplete sums are refused', () => {
    const { statistics } = positions(3, 10, 3)
    expect(() => layerHessian({ ...statistics, cols: 4 }, false)).toThrow(RangeError)
    expect(() => layerHessian({ ...statistics, weight: 0 }, false)).toThrow(RangeError)
    expect(() => layerHessian({ ...statistics, crossSum: undefined }, false)).toThrow(RangeError)
  })
})

describe('prepared Hessians', () => {
  test.each(ORDERS)('the factor is upper triangular and gives back the damped matrix, %s order', async (order) => {
    const cols = 70
    const hessian = correlated(cols, 100, 3)
    const before = hessian.slice()
    const { factor, damped, permutation, damping, dampingTries } = await prepared(hessian, cols, order)
    let mean = 0
    for (let k = 0; k < cols; k++) mean += hessian[k * (cols + 1)]! / cols
    expect(damping).toBeCloseTo(0.01 * mean, 10)
    expect(dampingTries).toBe(1)
    expect([...permutation].sort((a, b) => a - b)).toEqual(Array.from({ length: cols }, (_, k) => k))
    for (let i = 0; i < cols; i++) {
      for (let j = 0; j < cols; j++) {
        const exact = hessian[i * cols + j]! + (i === j ? damping : 0)
        expect(damped[i * cols + j]).toBe(Math.fround(exact))
        if (j < i) expect(factor[i * cols + j]).toBe(0)
        let sum = 0
        for (let k = Math.max(i, j); k < cols; k++) sum += factor[i * cols + k]! * factor[j * cols + k]!
        const wanted = damped[permutation[i]! * cols + permutation[j]!]!
        expect(Math.abs(sum - wanted)).toBeLessThan(1e-5 * mean)
      }
    }
    expect(hessian).toEqual(before)
  })

  test('the activation order is by size, equal inputs in their own order', async () => {
    const hessian = new Float64Array(25)
    ;[2, 5, 2, 9, 2].forEach((h, k) => {
      hessian[k * 6] = h
    })
    expect([...(await prepared(hessian, 5, 'activation')).permutation]).toEqual([3, 1, 0, 2, 4])
  })

  test('the greedy order is that of inverting what is left again and again', async () => {
    for (const [cols, seed] of [
      [12, 1],
      [12, 2],
      [85, 3],
    ] as const) {
      const { permutation, damped } = await prepared(correlated(cols, 100, seed), cols, 'greedy')
      const expected = greedyByInversion(toMatrix(damped, cols, cols))
      expect([...permutation]).toEqual(expected)
    }
  })

  test('the ladder damps what is not positive definite, and leaves H as it is', async () => {
    const cols = 6
    const flat = new Float64Array(cols * cols).fill(1)
    const indefinite = flat.map((h, at) => (at % (cols + 1) ? h * 1.02 : h))
    for (const hessian of [flat, indefinite]) {
      const before = hessian.slice()
      const result = await prepareHessian(hessian, cols, { damping: 0.001, order: 'activation' }, products)
      if ('failed' in result) throw new Error(result.failed)
      expect(result.dampingTries).toBe(hessian === flat ? 1 : 3)
      expect(result.damping).toBeCloseTo(hessian === flat ? 0.001 : 0.1, 12)
      expect(hessian).toEqual(before)
    }
    const undamped = await prepared(flat, cols, 'natural', 0)
    expect(undamped.dampingTries).toBeGreaterThan(1)
    expect(undamped.damping).toBeLessThan(1e-3)
  })

  test('what no damping helps is told, not thrown', async () => {
    const wild = Float64Array.from([1, 1e9, 1e9, 1])
    const options = { damping: 0.01, order: 'natural' } as const
    expect(await prepareHessian(wild, 2, options, products)).toMatchObject({
      failed: 'not positive definite',
      dampingTries: 7,
    })
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const hessian = Float64Array.from([1, bad, bad, 1])
      expect(await prepareHessian(hessian, 2, options, products)).toMatchObject({ failed: 'not finite' })
    }
    await expect(prepareHessian(wild, 3, options, products)).rejects.toThrow(RangeError)
    await expect(prepareHessian(wild, 2, { ...options, damping: -1 }, products)).rejects.toThrow(RangeError)
  })

  test('dead inputs have a small diagonal and nothing else; all dead is no error', async () => {
    const hessian = Float64Array.from([4, 0, 1, 0, 0, 0, 1, 0, 2])
    const { damped, dead, damping } = await prepared(hessian, 3)
    expect(damping).toBeCloseTo(0.03, 12)
    expect([...dead]).toEqual([1])
    expect([...damped]).toEqual([4 + damping, 0, 1, 0, damping, 0, 1, 0, 2 + damping].map(Math.fround))
    // What stands beside a zero diagonal is rounding.
    const stray = Float64Array.from([4, 1e-9, 1, 1e-9, 0, 1e-9, 1, 1e-9, 2])
    const undamped = await prepared(stray, 3, 'natural', 0)
    expect(undamped.dampingTries).toBe(1)
    expect([...undamped.damped]).toEqual([4, 0, 1, 0, 0.03, 0, 1, 0, 2].map(Math.fround))
    const nothing = await prepared(new Float64Array(9), 3, 'greedy', 0)
    expect([...nothing.dead]).toEqual([0, 1, 2])
  })
})

describe('drift', () => {
  test('solves D·H_d = G − H, whatever the order', async () => {
    const { statistics } = positions(9, 60, 4)
    const { hessian, cross } = layerHessian(statistics, true)
    const drifts = []
    for (const order of ORDERS) drifts.push(await driftOf(hessian, cross!, await prepared(hessian, 9, order), products))
    const { damped } = await prepared(hessian, 9)
    for (let i = 0; i < 9; i++) {
      for (let j = 0; j < 9; j++) {
        let sum = 0
        for (let k = 0; k < 9; k++) sum += drifts[0]![i * 9 + k]! * damped[k * 9 + j]!
        expect(sum).toBeCloseTo(cross![i * 9 + j]! - hessian[i * 9 + j]!, 5)
      }
    }
    expect(drifts[1]).toEqual(drifts[0])
    expect(drifts[2]).toEqual(drifts[0])
  })

  test('is zero where the models agree, and in columns of dead inputs', async () => {
    const { statistics } = positions(6, 30, 5)
    const { hessian } = layerHessian(statistics, false)
    const none = await driftOf(hessian, hessian, await prepared(hessian, 6), products)
    expect([...none].every((d) => d === 0)).toBe(true)
    const dead = layerHessian(
      { ...statistics, gram: statistics.gram.map((g, at) => (at % 6 === 2 || (at / 6 >= 2 && at / 6 < 3) ? 0 : g)) },
      false,
    )
    const drift = await driftOf(dead.hessian, dead.cross!, await prepared(dead.hessian, 6), products)
    expect([0, 1, 2, 3, 4, 5].map((i) => drift[i * 6 + 2])).toEqual([0, 0, 0, 0, 0, 0])
    // What the float model sees of the dead input is taken over by the others.
    expect([...drift.subarray(12, 18)].some((d) => d !== 0)).toBe(true)
  })

  test.each([true, false])(
    'moves the target so that the plain loss is the error against the float model, centred: %s',
    async (centred) => {
      const cols = 5
      const { quantized, float, weight, statistics } = positions(cols, 80, 6)
      const { hessian, cross } = layerHessian(statistics, centred)
      const layer = await prepared(hessian, cols, 'natural', 1e-9)
      const drift = await driftOf(hessian, cross!, layer, products)
      const w = toMatrix(weights(2 * cols, 7), 2, cols)
      const target = w.map((row) => row.map((x, j) => x + row.reduce((sum, v, i) => sum + v * drift[i * cols + j]!, 0)))
      const total = weight.reduce((a, b) => a + b, 0)
      /** The mean square error of outputs, less its mean where a bias takes that. */
      const errorOf = (real: number[][]) => {
        let sum = 0
        real.forEach((row, r) => {
          const errors = float.map((x, t) => x.reduce((s, v, k) => s + w[r]![k]! * v - row[k]! * quantized[t]![k]!, 0))
          const mean = centred ? errors.reduce((s, e, t) => s + (weight[t]! * e) / total, 0) : 0
          errors.forEach((e, t) => {
            sum += (weight[t]! * (e - mean) ** 2) / total
          })
        })
        return sum
      }
      const h = toMatrix(hessian, cols, cols)
      const constant = errorOf(target)
      for (let seed = 1; seed <= 5; seed++) {
        const real = toMatrix(weights(2 * cols, 20 + seed), 2, cols)
        const loss = quadraticLoss(target, real, h)
        expect(Math.abs(errorOf(real) - constant - loss)).toBeLessThan(1e-5 * loss)
      }
    },
  )

  test('refuses shapes that differ', async () => {
    const layer = await prepared(correlated(4, 20, 1), 4)
    await expect(driftOf(new Float64Array(9), new Float64Array(9), layer, products)).rejects.toThrow(RangeError)
  })
})

import { describe, expect, test } from 'vitest'
import { QtoolError } from '../../src/errors.ts'
import { estimateTrace, probeStep, rademacher, traceSensitivity } from '../../src/hessian/hutchinson.ts'
import { makeRandom, type Random } from '../../src/random.ts'
import { softmaxFisher, softmaxKl, softmaxTrace } from '../oracles/sensitivityOracle.ts'

const [CLASSES, INPUTS] = [4, 6]
const source = makeRandom(11)
const matrix = (rows: number, cols: number) =>
  Array.from({ length: rows }, () => Array.from({ length: cols }, () => source.normal()))
const weights = matrix(CLASSES, INPUTS)
const samples = matrix(12, INPUTS)
const fisher = softmaxFisher(weights, samples)
const trace = softmaxTrace(weights, samples)

/** A probe of the softmax regression by two runs, as a network would be probed. */
function probeOf(random: Random, relative = 1) {
  const step = relative * probeStep(weights.flat())
  return async () => {
    const signs = rademacher(random, CLASSES * INPUTS)
    const run = (side: number) =>
      softmaxKl(
        weights,
        weights.map((row, c) => row.map((w, k) => w + side * step * signs[c * INPUTS + k]!)),
        samples,
      )
    return (run(1) + run(-1)) / step ** 2
  }
}

const form = (signs: ArrayLike<number>) =>
  fisher.reduce((sum, row, i) => sum + row.reduce((inner, f, j) => inner + f * signs[i]! * signs[j]!, 0), 0)

/** Σ_{i≠j} F_ij². */
const offDiagonal = fisher.reduce((sum, row, i) => sum + row.reduce((s, f, j) => s + (i === j ? 0 : f * f), 0), 0)

describe('the trace of softmax regression', () => {
  test('the oracles agree: diagonal of the Fisher matrix and closed form', () => {
    expect(fisher.reduce((sum, row, i) => sum + row[i]!, 0)).toBeCloseTo(trace, 12)
  })

  test('two runs give the quadratic form, for steps from a tenth to ten times the default', async () => {
    for (const relative of [0.1, 1, 10]) {
      const signs = rademacher(makeRandom(3), CLASSES * INPUTS)
      expect(Math.abs((await probeOf(makeRandom(3), relative)()) / form(signs) - 1)).toBeLessThan(0.005)
    }
  })

  test('comes out within its standard error', async () => {
    const estimate = await estimateTrace(probeOf(makeRandom(7)), { maxProbes: 1000, relativeError: 0.02 })
    expect(estimate.converged).toBe(true)
    expect(estimate.standardError).toBeLessThanOrEqual(0.02 * estimate.trace)
    expect(Math.abs(estimate.trace - trace)).toBeLessThan(3 * estimate.standardError)
  })

  test('the standard error is honest: errors in units of it have variance 1', async () => {
    const seeds = 400
    const probes = 40
    let squares = 0
    let mean = 0
    for (let seed = 0; seed < seeds; seed++) {
      const random = makeRandom(1000 + seed)
      const estimate = await estimateTrace(async () => form(rademacher(random, CLASSES * INPUTS)), {
        minProbes: probes,
        maxProbes: probes,
      })
      const z = (estimate.trace - trace) / estimate.standardError
      squares += (z * z) / seeds
      mean += z / seeds
    }
    // Student's t with 39 degrees of freedom has variance 1.054; over 400 seeds that is known to ±0.08.
    expect(squares).toBeGreaterThan(0.85)
    expect(squares).toBeLessThan(1.3)
    expect(Math.abs(mean)).toBeLessThan(0.2)
  })

  test('stopping by the standard error leaves it usable', async () => {
    let squares = 0
    const seeds = 300
    for (let seed = 0; seed < seeds; seed++) {
      const random = makeRandom(5000 + seed)
      const estimate = await estimateTrace(async () => form(rademacher(random, CLASSES * INPUTS)))
      squares += ((estimate.trace - trace) / estimate.standardError) ** 2 / seeds
    }
    expect(squares).toBeGreaterThan(0.8)
    expect(squares).toBeLessThan(1.6)
  })

  test('probes vary as theory says: 2 Σ F_ij² off the diagonal', () => {
    const random = makeRandom(17)
    const values = Array.from({ length: 20_000 }, () => form(rademacher(random, CLASSES * INPUTS)))
    const mean = values.reduce((a, b) => a + b, 0) / values.length
    const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1)
    expect(Math.abs(variance / (2 * offDiagonal) - 1)).toBeLessThan(0.06)
  })
})

describe('the stopping rule', () => {
  const listed = (values: readonly number[]) => async (index: number) => values[index % values.length]!

  test('equal probes stop at the least number, with no error', async () => {
    expect(await estimateTrace(listed([2]), { minProbes: 3 })).toEqual({
      trace: 2,
      standardError: 0,
      probes: 3,
      converged: true,
    })
    expect(await estimateTrace(listed([0]))).toMatchObject({ trace: 0, standardError: 0, probes: 8, converged: true })
  })

  test('mean and standard error are those of the formula, at any offset', async () => {
    const estimate = await estimateTrace(listed([1e9 + 1, 1e9 + 2, 1e9 + 6]), { minProbes: 3, maxProbes: 3 })
    expect(estimate.trace).toBeCloseTo(1e9 + 3, 6)
    expect(estimate.standardError).toBeCloseTo(Math.sqrt(7 / 3), 6)
  })

  test('it stops at the first probe that is enough, or at the most', async () => {
    // ±1 around 10: the standard error is 5.8 % of the mean after 4 probes, 5.0 % after 5, 4.5 % after 6.
    const estimate = await estimateTrace(listed([9, 11]), { minProbes: 2, relativeError: 0.048 })
    expect(estimate).toMatchObject({ probes: 6, trace: 10, converged: true })
    expect(await estimateTrace(listed([9, 11]), { minProbes: 2, maxProbes: 4 })).toMatchObject({
      probes: 4,
      converged: false,
    })
  })

  test('probes that are not finite and options out of range are refused', async () => {
    const failure = await estimateTrace(listed([1, Number.NaN])).catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(QtoolError)
    expect((failure as QtoolError).code).toBe('numeric')
    for (const options of [
      { minProbes: 1 },
      { minProbes: 5, maxProbes: 4 },
      { relativeError: 1 },
      { relativeError: -1 },
    ]) {
      await expect(estimateTrace(listed([1]), options)).rejects.toThrow(RangeError)
    }
  })
})

describe('signs, steps and sensitivities', () => {
  test('signs are ±1, even, independent of their neighbours, and those of the seed', () => {
    const signs = rademacher(makeRandom(1), 100_001)
    expect(new Set(signs)).toEqual(new Set([1, -1]))
    const correlation = (lag: number) =>
      signs.reduce((sum, s, i) => sum + (lag === 0 ? s : s * signs[(i + lag) % signs.length]!), 0) / signs.length
    for (const lag of [0, 1, 2, 31, 32, 33, 64]) expect(Math.abs(correlation(lag))).toBeLessThan(0.015)
    expect(rademacher(makeRandom(1), 50)).toEqual(signs.slice(0, 50))
    expect(rademacher(makeRandom(2), 50)).not.toEqual(signs.slice(0, 50))
  })

  test('the step follows the weights', () => {
    expect(probeStep([3, -4, 0, 0])).toBeCloseTo(0.025, 12)
    expect(probeStep([0, 0])).toBe(0.01)
    expect(probeStep([])).toBe(0.01)
  })

  test('half of the sensitivity is the mean KL of errors without direction', () => {
    const random = makeRandom(23)
    const scale = 0.02
    const rounds = 2000
    let mean = 0
    let squaredError = 0
    for (let i = 0; i < rounds; i++) {
      const error = weights.map((row) => row.map(() => scale * random.normal()))
      mean +=
        softmaxKl(
          weights,
          weights.map((row, c) => row.map((w, k) => w + error[c]![k]!)),
          samples,
        ) / rounds
      squaredError += error.flat().reduce((sum, e) => sum + e * e, 0) / rounds
    }
    const sensitivity = traceSensitivity(trace, CLASSES * INPUTS, squaredError)
    expect(Math.abs((0.5 * sensitivity) / mean - 1)).toBeLessThan(0.04)
  })
})

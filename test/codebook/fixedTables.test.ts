/** Fixed tables, beside numerical integration and a slow search of the trellis. */
import { describe, expect, it } from 'vitest'
import { fixedTable, trellisTable } from '../../src/codebook/fixedTables.ts'
import { normalDistribution, normalQuantile } from '../../src/codebook/normal.ts'
import { TRAINED_TRELLISES } from '../../src/codebook/trellisTables.ts'
import { type CodebookWeight, levelsOfRow } from '../../src/quant/codebookWeight.ts'
import { makeRandom } from '../../src/random.ts'
import { bestCodes } from '../oracles/viterbiOracle.ts'

const STEP = 1e-4
/** Midpoints of small intervals of a unit normal, with their probabilities. */
const points = Array.from({ length: 16 / STEP }, (_, i) => {
  const x = -8 + (i + 0.5) * STEP
  return { x, p: (STEP * Math.exp(-(x ** 2) / 2)) / Math.sqrt(2 * Math.PI) }
})

function scalarError(levels: Int8Array, unit: number): number {
  return points.reduce((sum, { x, p }) => {
    let nearest = Number.POSITIVE_INFINITY
    for (const level of levels) nearest = Math.min(nearest, (x - level / unit) ** 2)
    return sum + p * nearest
  }, 0)
}

describe('the normal distribution', () => {
  it('is the integral of its density', () => {
    let sum = 0
    for (const [i, { x, p }] of points.entries()) {
      sum += p
      if (i % 5000 === 4999) expect(Math.abs(normalDistribution(x + STEP / 2) - sum)).toBeLessThan(1e-9)
    }
    for (const p of [1e-12, 0.001, 0.3, 0.5, 0.97, 0.9999]) {
      expect(normalDistribution(normalQuantile(p)) / p).toBeCloseTo(1, 10)
    }
    expect(normalDistribution(3 + 1e-12) - normalDistribution(3)).toBeCloseTo(0, 12)
  })
})

describe('fixedTable', () => {
  it.each([
    [2, 0.1175],
    [3, 0.03454],
  ] as const)('has the least error at %d bits, as in Max 1960', (bits, error) => {
    const { levels, unit } = fixedTable(bits)
    expect(levels).toHaveLength(2 ** bits)
    expect(Math.max(...levels)).toBe(127)
    expect(scalarError(levels, unit)).toBeCloseTo(error, 4)
    // Each level is the mean of the interval that it is nearest to, up to rounding.
    const sums = points.reduce((means, { x, p }) => {
      const near = [...levels].reduce((a, b) => (Math.abs(x - b / unit) < Math.abs(x - a / unit) ? b : a))
      const [sum, mass] = means.get(near) ?? [0, 0]
      return means.set(near, [sum + p * x, mass + p])
    }, new Map<number, [number, number]>())
    for (const level of levels)
      expect(Math.abs((unit * sums.get(level)![0]) / sums.get(level)![1] - level)).toBeLessThan(1)
  })

  it('is NF4 at 4 bits', () => {
    // Quantiles by integrating; QLoRA: linspace(0.9677083, 0.5, 9) above 0 and of 8 below it, both without the 0.5.
    const sums: number[] = []
    for (const { p } of points) sums.push((sums.at(-1) ?? 0) + p)
    const quantile = (p: number) => points[sums.findIndex((sum) => sum >= p)]!.x
    const half = (count: number) =>
      Array.from({ length: count }, (_, i) => quantile(0.9677083 + ((0.5 - 0.9677083) * i) / count))
    const largest = quantile(0.9677083)
    const values = [...half(7).map((value) => -value), 0, ...half(8).reverse()]
    expect([...fixedTable(4).levels]).toEqual(values.map((value) => Math.round((127 * value) / largest) + 0))
  })

  it.each([2, 3, 4] as const)('has the unit of least error at %d bits', (bits) => {
    const { levels, unit } = fixedTable(bits)
    const least = scalarError(levels, unit)
    expect(scalarError(levels, unit * 1.01)).toBeGreaterThan(least)
    expect(scalarError(levels, unit / 1.01)).toBeGreaterThan(least)
  })
})

describe('trellisTable', () => {
  const bound = { 2: 1 / 16, 3: 1 / 64, 4: 1 / 256 }
  const scalar = { 2: 0.1175, 3: 0.03454, 4: 0.009497 }
  const random = makeRandom(11)
  const steps = 128

  it.each(TRAINED_TRELLISES.map(({ bits, window, error }) => [bits, window, error] as const))(
    'of %d bits and window %d has the error it was trained to',
    (bits, window, trained) => {
      const { levels, unit } = trellisTable(bits, window)
      expect(levels).toHaveLength(2 ** window)
      expect(Math.max(...levels.map(Math.abs))).toBe(127)
      const lanes = window === 8 ? 256 : 32
      /** [steps, lanes], as rows are dealt out to lanes. */
      const source = Float64Array.from({ length: lanes * steps }, () => random.normal())
      const real = Array.from(levels, (level) => level / unit)
      const codes = new Uint8Array(lanes * steps)
      let searched = 0
      for (let p = 0; p < lanes; p++) {
        const lane = Array.from({ length: steps }, (_, i) => source[i * lanes + p]!)
        const best = bestCodes(lane, real, bits, window)
        searched += best.error
        for (const [i, code] of best.codes.entries()) codes[i * lanes + p] = code
      }
      // What is decoded from these codes is what the search saw.
      const weight: CodebookWeight = {
        rows: lanes * steps,
        cols: 1,
        bits,
        coding: { kind: 'trellis', window },
        codes,
        tables: levels,
        tableOf: new Uint16Array(lanes * steps),
        groupSize: 1,
        scales: new Float32Array(lanes * steps).fill(1 / unit),
        scaleType: 'float32',
      }
      let decoded = 0
      for (const [row, x] of source.entries()) {
        const into = new Int8Array(1)
        levelsOfRow(weight, row, into)
        decoded += (x - into[0]! / unit) ** 2
      }
      expect(decoded / searched).toBeCloseTo(1, 9)
      const error = decoded / source.length
      expect(Math.abs(error / trained - 1)).toBeLessThan(0.05)
      expect(trained).toBeGreaterThan(bound[bits])
      expect(trained).toBeLessThan(0.8 * scalar[bits])
    },
  )

  it('is there for every width and window', () => {
    expect(TRAINED_TRELLISES.map(({ bits, window }) => `${bits}/${window}`).sort()).toEqual(
      [2, 3, 4].flatMap((bits) => [8, 12].map((window) => `${bits}/${window}`)).sort(),
    )
  })
})

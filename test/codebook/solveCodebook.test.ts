/** The solver with codebooks for grids: against dense sums, planted solutions, and itself on other threads. */
import { describe, expect, it } from 'vitest'
import { descendTask } from '../../src/codebook/blockTasks.ts'
import { laneOrder, makeCodebookLayer, weightOf } from '../../src/codebook/codebookLayer.ts'
import type { CodebookOptions } from '../../src/codebook/codebookOptions.ts'
import { refitScales } from '../../src/codebook/refitScales.ts'
import { refitTables } from '../../src/codebook/refitTables.ts'
import { roundToCodebook } from '../../src/codebook/roundToCodebook.ts'
import { solveCodebook } from '../../src/codebook/solveCodebook.ts'
import { lossOf, startDescent, visitBlocks } from '../../src/gptq/descent.ts'
import { type CodebookForm, type CodebookWeight, levelsOfRow } from '../../src/quant/codebookWeight.ts'
import { dequantize } from '../../src/quant/quantizedWeight.ts'
import { makeRandom } from '../../src/random.ts'
import { createPool } from '../../src/threads/pool.ts'
import { means, problem } from '../gptq/problems.ts'

const scalar = { kind: 'scalar' } as const
const FORMS: Readonly<Record<string, CodebookForm>> = {
  one: { coding: scalar, tables: 1, shared: false, permuted: false },
  groups: { coding: scalar, tables: 3, shared: false, permuted: true },
  fixed: { coding: scalar, tables: 1, shared: true, permuted: false },
  pairs: { coding: { kind: 'vector', dim: 2 }, tables: 1, shared: false, permuted: false },
  fours: { coding: { kind: 'vector', dim: 4 }, tables: 1, shared: false, permuted: false },
  trellis: { coding: { kind: 'trellis', window: 8 }, tables: 1, shared: true, permuted: false },
}

/** E·H·Eᵀ in float64. */
function lossBy(target: Float32Array, weight: CodebookWeight, hessian: Float32Array): number {
  const { rows, cols } = weight
  const errors = Float64Array.from(dequantize(weight), (value, i) => target[i]! - value)
  let loss = 0
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < cols; k++) {
      let sum = 0
      for (let l = 0; l < cols; l++) sum += hessian[k * cols + l]! * errors[row * cols + l]!
      loss += sum * errors[row * cols + k]!
    }
  }
  return loss
}

const cases = Object.entries(FORMS).flatMap(
  ([name, form]) =>
    [
      { name, form, bits: name === 'pairs' ? 4 : 2, rows: 130, cols: 40, groupSize: 40 },
      { name, form, bits: name === 'fours' ? 2 : name === 'pairs' ? 4 : 3, rows: 37, cols: 150, groupSize: 32 },
    ] as const,
)

describe.each(cases)('$name, $bits bits, [$rows, $cols]', ({ form, bits, rows, cols, groupSize }) => {
  const options: CodebookOptions = { bits, groupSize, form }

  it('never raises the loss, which is that of what it decodes to', async () => {
    const asked = await problem(rows, cols, 11, 'activation')
    const { weight, loss, trace } = await solveCodebook(asked, options, means)
    for (let i = 1; i < trace.length; i++) expect(trace[i]!).toBeLessThanOrEqual(trace[i - 1]! * (1 + 1e-9))
    expect(trace.at(-1)!).toBeLessThan(0.99 * trace[0]!)
    expect(lossBy(asked.target, weight, asked.hessian.damped) / loss).toBeCloseTo(1, 4)
    expect(weight.scales.every((scale) => scale > 0 && scale === Math.fround(scale))).toBe(true)
    expect(Math.max(...weight.tables.map(Math.abs))).toBeLessThanOrEqual(127)
  })
})

it('gives the same bytes on any number of threads', async () => {
  const asked = await problem(140, 40, 12)
  const pool = createPool(3)
  for (const [name, bits] of [
    ['groups', 3],
    ['pairs', 4],
    ['trellis', 2],
  ] as const) {
    const options = { bits, groupSize: 40, form: FORMS[name]! }
    const many = await solveCodebook(asked, options, { ...means, pool })
    const one = await solveCodebook(asked, options, means)
    expect(many.weight).toEqual(one.weight)
    expect(many.trace).toEqual(one.trace)
  }
  await pool.close()
})

it('a codebook of one table per row is at least as good as one for all', async () => {
  const asked = await problem(24, 96, 3)
  const lossWith = async (tables: number) =>
    (await solveCodebook(asked, { bits: 2, groupSize: 96, form: { ...FORMS.one!, tables } }, means)).loss
  expect(await lossWith(24)).toBeLessThan(await lossWith(1))
})

describe('where the weights are of a codebook', () => {
  const rows = 48
  const cols = 32
  const form = FORMS.groups!
  const order = laneOrder(form.coding, rows)
  const random = makeRandom(5)
  const levels = Float32Array.from([-90, -20, 15, 100, -60, -30, 40, 70, -110, -10, 10, 80])
  const tableOf = Uint16Array.from({ length: rows }, () => random.below(3))
  const scales = Float32Array.from({ length: rows }, () => (1 + random.below(64)) / 4096)
  const codes = Uint8Array.from({ length: rows * cols }, () => random.below(4))
  const target = Float32Array.from(codes, (code, i) => {
    const row = Math.floor(i / cols)
    return levels[tableOf[row]! * 4 + code]! * scales[row]!
  })
  const start = async (tables: Float32Array, startScales: Float32Array) => {
    const { hessian } = await problem(rows, cols, 21)
    const made = { target, rows, cols, bits: 2, groupSize: cols, form, scaleType: 'float16', tableOf } as const
    const layer = makeCodebookLayer({ ...made, tables, scales: startScales }, order)
    layer.codes.set(codes)
    const errors = new Float32Array(rows * cols)
    const real = dequantize(weightOf(layer, order))
    for (let i = 0; i < real.length; i++) errors[(i % cols) * rows + Math.floor(i / cols)] = target[i]! - real[i]!
    for (let row = 0; row < rows; row++) {
      let loss = 0
      for (let k = 0; k < cols; k++) {
        layer.rowSquares[row]! += errors[k * rows + row]! ** 2
        for (let l = 0; l < cols; l++) {
          loss += errors[k * rows + row]! * errors[l * rows + row]! * hessian.damped[k * cols + l]!
        }
      }
      layer.rowLoss[row] = loss
    }
    return startDescent(layer, hessian.damped, errors, means, 16)
  }

  it('the tables are found again', async () => {
    const descent = await start(
      levels.map((level) => level + random.below(9) - 4),
      scales,
    )
    expect(lossOf(descent)).toBeGreaterThan(0)
    expect(await refitTables(descent)).toBe(3)
    expect([...descent.layer.tables]).toEqual([...levels])
    expect(lossOf(descent)).toBeLessThan(1e-9)
  })

  it('the scales are found again', async () => {
    const descent = await start(
      levels,
      scales.map((scale) => 1.03 * scale),
    )
    expect(await refitScales(descent)).toBe(rows)
    expect([...descent.layer.scales]).toEqual([...scales])
    expect(lossOf(descent)).toBeLessThan(1e-5)
  })

  it('sweeps end where no single code can be better', async () => {
    const { target: other, hessian } = await problem(rows, cols, 22)
    const descent = await start(levels, scales)
    const { layer, errors } = descent
    layer.target.set(other)
    for (let row = 0; row < rows; row++) {
      let loss = 0
      let squares = 0
      const real = (k: number) => levels[tableOf[row]! * 4 + layer.codes[row * cols + k]!]! * scales[row]!
      for (let k = 0; k < cols; k++) errors[k * rows + row] = other[row * cols + k]! - real(k)
      for (let k = 0; k < cols; k++) {
        squares += errors[k * rows + row]! ** 2
        for (let l = 0; l < cols; l++) {
          loss += errors[k * rows + row]! * errors[l * rows + row]! * hessian.damped[k * cols + l]!
        }
      }
      layer.rowLoss[row] = loss
      layer.rowSquares[row] = squares
    }
    const same = { ...descent, damped: hessian.damped }
    const before = lossOf(same)
    for (let sweeps = 0; sweeps < 40 && (await visitBlocks(same, descendTask))[0]! > 0; sweeps++);
    expect(lossOf(same)).toBeLessThan(0.5 * before)
    for (let row = 0; row < rows; row++) {
      for (let k = 0; k < cols; k++) {
        let slope = 0
        for (let l = 0; l < cols; l++) slope += errors[l * rows + row]! * hessian.damped[k * cols + l]!
        const table = tableOf[row]! * 4
        const now = levels[table + layer.codes[row * cols + k]!]!
        for (let code = 0; code < 4; code++) {
          const step = (levels[table + code]! - now) * scales[row]!
          const gain = step * (2 * slope - step * hessian.damped[k * (cols + 1)]!)
          expect(gain).toBeLessThanOrEqual(1e-5 * layer.rowLoss[row]!)
        }
      }
    }
  })
})

describe('rounding without data', () => {
  const stored = (values: Float32Array) => {
    const bytes = new SharedArrayBuffer(values.byteLength)
    new Float32Array(bytes).set(values)
    return { bytes, elementType: 'float32', shape: [2, 12, 5] } as const
  }
  const random = makeRandom(9)
  const values = Float32Array.from({ length: 120 }, () => random.normal())
  const options: CodebookOptions = { bits: 3, groupSize: 12, form: FORMS.one! }

  it('takes the nearest level, and says how far that is', async () => {
    const { weight, squaredError, squaredNorm } = await roundToCodebook(stored(values), options, means)
    const row = (n: number) => Array.from({ length: 12 }, (_, k) => values[Math.floor(n / 5) * 60 + k * 5 + (n % 5)]!)
    const found = new Int8Array(12)
    let error = 0
    let norm = 0
    for (let n = 0; n < 10; n++) {
      levelsOfRow(weight, n, found)
      row(n).forEach((value, k) => {
        const scale = weight.scales[n]!
        const distances = [...weight.tables].map((level) => Math.abs(value - level * scale))
        expect(Math.abs(value - found[k]! * scale)).toBeCloseTo(Math.min(...distances), 6)
        error += (value - Math.fround(found[k]! * scale)) ** 2
        norm += value ** 2
      })
    }
    expect(squaredError).toBeCloseTo(error, 5)
    expect(squaredNorm).toBeCloseTo(norm, 3)
    expect(squaredError).toBeLessThan(0.05 * squaredNorm)
  })

  it('refuses what is no number', async () => {
    const broken = values.slice()
    broken[17] = Number.NaN
    await expect(roundToCodebook(stored(broken), options, means)).rejects.toThrow(/17|NaN/)
  })

  it('keeps rows of zeros at zero or next to it', async () => {
    const silent = values.map((value, i) => (i % 5 === 2 ? 0 : value))
    const { weight } = await roundToCodebook(stored(silent), options, means)
    const real = dequantize(weight)
    expect(Math.max(...real.subarray(2 * 12, 3 * 12).map(Math.abs))).toBeLessThan(0.1)
  })
})

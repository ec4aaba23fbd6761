import { afterAll, expect, test } from 'vitest'
import { gridCandidates, sampleStride } from '../../src/quant/candidates.ts'
import { bfloat16ToFloat, floatToBfloat16, floatToHalf, halfToFloat } from '../../src/quant/float16.ts'
import { kernelTask } from '../../src/quant/kernel.ts'
import { BITS, dequantize } from '../../src/quant/quantizedWeight.ts'
import { quantizeTensor } from '../../src/quant/quantizeTensor.ts'
import { relativeErrors } from '../../src/quant/relativeErrors.ts'
import { NonFiniteWeightError, type StoredElement, type StoredWeight } from '../../src/quant/storedWeight.ts'
import { Workspace } from '../../src/quant/workspace.ts'
import { createPool } from '../../src/threads/pool.ts'
import { oracleQuantize } from '../oracles/quantOracle.ts'
import { normalWeights, store, toRows } from './weights.ts'

const pool = createPool(1)
afterAll(() => pool.close())

const AUTO = { bits: 4, groupSize: 32, candidates: gridCandidates('auto', 'auto') } as const
const PLAIN = { bits: 4, groupSize: 32, candidates: gridCandidates('rtn', 'no') } as const

test('the winner has the least error of all candidates', async () => {
  for (const bits of BITS) {
    for (const heavy of [0, 13]) {
      const values = normalWeights(40 * 70, 3 * bits + heavy, heavy)
      const weight = store(values, [40, 70, 1])
      const best = await quantizeTensor(weight, { ...AUTO, bits }, pool)
      const errors = AUTO.candidates.map(({ scheme, method }) => ({
        scheme,
        method,
        error: oracleQuantize(values, 40, 70, 32, { bits, scheme, method }).squaredError,
      }))
      const least = Math.min(...errors.map(({ error }) => error))
      expect(best.squaredError / least).toBeCloseTo(1, 9)
      expect(errors.find(({ error }) => error === least)).toMatchObject({ scheme: best.scheme, method: best.method })
      expect(best.squaredNorm).toBeCloseTo(
        values.reduce((sum, w) => sum + w * w, 0),
        6,
      )
      const real = dequantize(best.weight)
      expect(best.squaredError).toBeCloseTo(
        real.reduce((sum, w, i) => sum + (w - values[i]!) ** 2, 0),
        9,
      )
    }
  }
})

test('configurations restrict the candidates', () => {
  expect(gridCandidates('auto', 'auto')).toHaveLength(7)
  expect(gridCandidates('rtn', 'auto').map(({ scheme }) => scheme)).toEqual([
    'symmetric',
    'symmetric-full',
    'asymmetric',
  ])
  expect(gridCandidates('auto', 'yes').every(({ scheme }) => scheme !== 'asymmetric')).toBe(true)
  expect(gridCandidates('auto', 'no').map(({ method }) => method)).toEqual(['minmax', 'clip', 'hqq'])
  expect(gridCandidates('rtn', 'no')).toHaveLength(1)
})

test('of equal candidates the plainest wins', async () => {
  const zeros = await quantizeTensor(store(new Float32Array(64), [2, 32, 1]), AUTO, pool)
  expect(zeros).toMatchObject({ scheme: 'symmetric', method: 'minmax', squaredError: 0, squaredNorm: 0 })
  expect(Array.from(zeros.weight.scales)).toEqual([1, 1])
  expect(new Set(zeros.weight.codes)).toEqual(new Set([8]))
})

test('every view of a tensor equals its transposed copy', async () => {
  for (const shape of [
    [1, 70, 37],
    [3, 45, 19],
    [7, 9, 1],
    [2, 300, 5],
    [5, 1, 4],
    [1, 33, 600],
    [40, 8, 3],
  ] as const) {
    const values = normalWeights(shape[0] * shape[1] * shape[2], shape[1])
    const rows = shape[0] * shape[2]
    for (const groupSize of [16, shape[1]]) {
      const seen = await quantizeTensor(store(values, shape), { ...AUTO, groupSize }, pool)
      const copy = await quantizeTensor(store(toRows(values, shape), [rows, shape[1], 1]), { ...AUTO, groupSize }, pool)
      expect(seen.weight).toEqual(copy.weight)
    }
  }
})

test('views larger than a tile, whose tiles cross from one outer index to the next', async () => {
  const shape = [3, 256, 350] as const
  const values = normalWeights(3 * 256 * 350, 21)
  const seen = await quantizeTensor(store(values, shape), PLAIN, pool)
  const copy = await quantizeTensor(store(toRows(values, shape), [1050, 256, 1]), PLAIN, pool)
  expect(Buffer.compare(seen.weight.codes, copy.weight.codes)).toBe(0)
  expect(seen.weight.scales).toEqual(copy.weight.scales)
})

test('every element type equals its float32 values', async () => {
  const values = normalWeights(24 * 50, 8)
  const types: [StoredElement, (x: number) => number][] = [
    ['float16', (x) => halfToFloat(floatToHalf(x))],
    ['bfloat16', (x) => bfloat16ToFloat(floatToBfloat16(x))],
    ['float64', Math.fround],
  ]
  const exact = Array.from(values, (w) => w * (1 + 1e-9))
  for (const [elementType, round] of types) {
    for (const shape of [
      [24, 50, 1],
      [1, 50, 24],
    ] as const) {
      const seen = await quantizeTensor(store(exact, shape, elementType), AUTO, pool)
      const single = await quantizeTensor(store(exact.map(round), shape), AUTO, pool)
      expect(seen).toEqual(single)
    }
  }
})

test('memory larger than the weight, of any size, and arrays used again change nothing', async () => {
  const workspace = new Workspace()
  for (const elementType of ['float16', 'float32', 'float64'] as const) {
    for (const shape of [
      [24, 50, 1],
      [1, 50, 24],
      [2, 5, 3],
    ] as const) {
      const stored = store(normalWeights(shape[0] * shape[1] * shape[2], 22), shape, elementType)
      const bytes = new SharedArrayBuffer(stored.bytes.byteLength + 13)
      new Uint8Array(bytes).fill(0xff).set(new Uint8Array(stored.bytes))
      const alone = await quantizeTensor(stored, AUTO, pool)
      expect(await quantizeTensor({ ...stored, bytes }, { ...AUTO, workspace }, pool)).toEqual(alone)
    }
  }
})

test('a multiplier acts before quantization', async () => {
  const values = normalWeights(12 * 40, 9)
  for (const elementType of ['float32', 'float64', 'float16'] as const) {
    const stored = store(values, [12, 40, 1], elementType)
    const seen = await quantizeTensor({ ...stored, multiplier: -2.5 }, PLAIN, pool)
    const kept = elementType === 'float16' ? values.map((w) => halfToFloat(floatToHalf(w))) : values
    expect(seen).toEqual(
      await quantizeTensor(
        store(
          kept.map((w) => w * -2.5),
          [12, 40, 1],
        ),
        PLAIN,
        pool,
      ),
    )
  }
})

test('permuting rows permutes the result', async () => {
  const [rows, cols] = [9, 50]
  const values = normalWeights(rows * cols, 10, 17)
  const order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
  const moved = order.flatMap((r) => Array.from(values.subarray(r * cols, (r + 1) * cols)))
  const { weight, scheme, method } = await quantizeTensor(store(values, [rows, cols, 1]), AUTO, pool)
  const permuted = await quantizeTensor(store(moved, [rows, cols, 1]), AUTO, pool)
  expect(permuted).toMatchObject({ scheme, method })
  const groups = Math.ceil(cols / 32)
  order.forEach((from, to) => {
    expect(permuted.weight.codes.slice(to * cols, (to + 1) * cols)).toEqual(
      weight.codes.slice(from * cols, (from + 1) * cols),
    )
    expect(permuted.weight.scales.slice(to * groups, (to + 1) * groups)).toEqual(
      weight.scales.slice(from * groups, (from + 1) * groups),
    )
  })
})

test('the first weight that is not finite is named, in storage order', async () => {
  const values = Array.from(normalWeights(90 * 40, 11))
  const expectNamed = async (weight: StoredWeight, index: number, value: number) => {
    for (const run of [
      quantizeTensor(weight, AUTO, pool),
      quantizeTensor(weight, PLAIN, pool),
      relativeErrors(weight, 32, [4], pool),
    ]) {
      const error = await run.then(
        () => undefined,
        (caught) => caught,
      )
      expect(error).toBeInstanceOf(NonFiniteWeightError)
      expect(error).toMatchObject({ index, value })
    }
  }
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    // Column-major reading would meet element 2000 last; row 2 of the quantized weight would meet it first.
    const broken = values.with(2002, bad).with(1999, bad)
    for (const type of ['float32', 'float64', 'float16', 'bfloat16'] as const) {
      await expectNamed(store(broken, [1, 40, 90], type), 1999, bad)
      await expectNamed(store(broken, [90, 40, 1], type), 1999, bad)
    }
  }
  await expectNamed(store(values.with(7, 1e39), [90, 40, 1], 'float64'), 7, Number.POSITIVE_INFINITY)
  await expectNamed({ ...store(values.with(9, 1e30), [90, 40, 1]), multiplier: -1e10 }, 9, Number.NEGATIVE_INFINITY)
})

test('bytes that do not hold the shape are refused', async () => {
  await expect(quantizeTensor({ ...store([1, 2, 3], [1, 3, 1]), shape: [1, 4, 1] }, PLAIN, pool)).rejects.toThrow(
    RangeError,
  )
})

test('errors at several widths are those of round-to-nearest', async () => {
  const values = normalWeights(60 * 100, 12, 29)
  for (const scaled of [values, values.map((w, i) => (i < 32 ? w * 1e-5 : w))]) {
    const weight = store(scaled, [1, 100, 60])
    const { widths, squaredNorm, sampled } = await relativeErrors(weight, 32, BITS, pool)
    expect(sampled).toBe(false)
    for (const [i, bits] of BITS.entries()) {
      const rtn = await quantizeTensor(weight, { bits, groupSize: 32, candidates: gridCandidates('rtn', 'auto') }, pool)
      expect(widths[i]).toMatchObject({ bits, scheme: rtn.scheme })
      expect(widths[i]!.squaredError / rtn.squaredError).toBeCloseTo(1, 6)
      expect(squaredNorm).toBeCloseTo(rtn.squaredNorm, 9)
    }
  }
})

test('a sample steps through all columns and reads the groups that it says', async () => {
  for (const groupsInRow of [1, 2, 3, 6, 128, 100]) {
    for (const rows of [1, 50, 4096]) {
      const stride = sampleStride(rows, groupsInRow, 40)
      const visited = Math.ceil((rows * groupsInRow) / stride)
      expect(visited).toBeGreaterThanOrEqual(Math.min(40, rows * groupsInRow))
      const columns = new Set(Array.from({ length: visited }, (_, i) => (i * stride) % groupsInRow))
      expect(columns.size).toBe(Math.min(groupsInRow, visited))
    }
  }
  const [rows, cols] = [30, 70]
  const values = normalWeights(rows * cols, 13)
  const weight = store(values, [1, cols, rows])
  const spec = { bits: 3, scheme: 'asymmetric', method: 'clip', scaleType: 'float16' } as const
  const sums = await pool.run(kernelTask({ kind: 'measure', weight, groupSize: 32, specs: [spec], stride: 7 }))
  const matrix = toRows(values, [1, cols, rows])
  let [norm, error] = [0, 0]
  for (let group = 0; group < rows * 3; group += 7) {
    const from = Math.floor(group / 3) * cols + (group % 3) * 32
    const weights = matrix.subarray(from, from + (group % 3 === 2 ? 6 : 32))
    norm += weights.reduce((sum, w) => sum + w * w, 0)
    error += oracleQuantize(weights, 1, weights.length, 32, spec).squaredError
  }
  expect(sums[0]).toBeCloseTo(norm, 10)
  expect(sums[1]).toBeCloseTo(error, 10)
})

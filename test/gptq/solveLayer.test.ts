import { expect, test } from 'vitest'
import { solveLayer } from '../../src/gptq/solveLayer.ts'
import type { GridWeight } from '../../src/quant/quantizedWeight.ts'
import { dequantize } from '../../src/quant/quantizedWeight.ts'
import { quantizeTensor } from '../../src/quant/quantizeTensor.ts'
import { openProducts } from '../../src/runtime/products.ts'
import { createPool } from '../../src/threads/pool.ts'
import { nearestCode, quadraticLoss, toMatrix } from '../oracles/gptqOracle.ts'
import { store } from '../quant/weights.ts'
import { correlated, dampedMatrix, gridsOf, means, OPTIONS, prepared, problem, rowOf, weights } from './problems.ts'

const FULL = { ...OPTIONS, descentSweeps: 3, refits: 2 }
const plain = ({ codes, scales, zeroPoints }: GridWeight) => ({
  codes: [...codes],
  scales: [...scales],
  zeroPoints: [...(zeroPoints ?? [])],
})

test('the result is the same, bit for bit, for 1, 2 and 3 threads', async () => {
  for (const [cols, groupSize] of [
    [290, 32],
    [290, 290],
  ] as const) {
    const asked = await problem(140, cols, 1, 'activation')
    const results = []
    for (const threads of [1, 2, 3]) {
      const pool = createPool(threads)
      const products = openProducts(threads)
      const { weight, trace } = await solveLayer(asked, { ...FULL, groupSize }, { pool, products })
      results.push({ ...plain(weight), trace })
      await pool.close()
      await products.dispose()
    }
    expect(results[1]).toEqual(results[0])
    expect(results[2]).toEqual(results[0])
  }
})

test('a Hessian in other units gives the same weights and a loss in those units', async () => {
  const hessian = correlated(40, 90, 6)
  const target = weights(10 * 40, 7)
  for (const order of ['natural', 'activation', 'greedy'] as const) {
    const [one, other] = await Promise.all(
      [1, 2 ** -10].map(async (unit) => {
        const scaled = await prepared(
          hessian.map((h) => h * unit),
          40,
          order,
        )
        return solveLayer({ target, rows: 10, cols: 40, hessian: scaled }, FULL, means)
      }),
    )
    expect(plain(other!.weight)).toEqual(plain(one!.weight))
    expect(other!.loss).toBe(one!.loss * 2 ** -10)
  }
})

test('it beats rounding to nearest by far where inputs are correlated', async () => {
  const asked = await problem(32, 64, 2, 'activation')
  const options = { ...FULL, groupSize: 16 }
  const { loss } = await solveLayer(asked, options, means)
  const rounded = await quantizeTensor(
    store(asked.target, [32, 64, 1]),
    { bits: 3, groupSize: 16, candidates: [OPTIONS.grid] },
    means.pool,
  )
  const real = toMatrix(dequantize(rounded.weight), 32, 64)
  const nearest = quadraticLoss(toMatrix(asked.target, 32, 64), real, dampedMatrix(asked.hessian))
  expect(loss).toBeLessThan(0.5 * nearest)
  const { loss: unrefitted } = await solveLayer(asked, { ...options, refits: 0 }, means)
  expect(loss).toBeLessThan(0.99 * unrefitted)
})

test('nothing that is passed in changes, in ordinary and in shared memory', async () => {
  const asked = await problem(9, 20, 3, 'activation')
  const shared = new Float32Array(new SharedArrayBuffer(9 * 20 * 4))
  shared.set(asked.target)
  const before = structuredClone({ target: [...asked.target], hessian: asked.hessian })
  const a = await solveLayer(asked, FULL, means)
  const b = await solveLayer({ ...asked, target: shared }, FULL, means)
  expect({ target: [...asked.target], hessian: asked.hessian }).toEqual(before)
  expect([...shared]).toEqual(before.target)
  expect(plain(b.weight)).toEqual(plain(a.weight))
})

test.each([
  ['one row and one column', 1, 1, 1],
  ['one column', 5, 1, 1],
  ['one row', 1, 9, 9],
  ['a depthwise kernel', 1, 9, 32],
  ['groups of one', 3, 7, 1],
])('%s', async (_, rows, cols, groupSize) => {
  for (const bits of [2, 4, 8] as const) {
    const asked = await problem(rows, cols, 4)
    const { weight, trace } = await solveLayer(asked, { ...FULL, bits, groupSize }, means)
    expect(weight.codes.length).toBe(rows * cols)
    expect(weight.scales.length).toBe(rows * Math.ceil(cols / groupSize))
    expect(trace.every(Number.isFinite)).toBe(true)
    if (cols === 1) {
      for (let row = 0; row < rows; row++) {
        expect(weight.codes[row]).toBe(nearestCode(asked.target[row]!, gridsOf(weight, row)[0]!, bits))
      }
    }
  }
})

test('fewer positions than inputs, equal inputs and constant inputs are solved like any other', async () => {
  const cols = 16
  const singular = correlated(cols, 3, 5)
  const equal = new Float64Array(cols * cols).fill(1)
  const near = equal.map((h, at) => h + (at % (cols + 1) ? 0 : 1e-9))
  const target = weights(8 * cols, 6)
  for (const hessian of [singular, equal, near, new Float64Array(cols * cols)]) {
    for (const damping of [0, 0.01]) {
      const layer = { target, rows: 8, cols, hessian: await prepared(hessian, cols, 'activation', damping) }
      const { weight, loss } = await solveLayer(layer, FULL, means)
      const real = toMatrix(dequantize(weight), 8, cols)
      const direct = quadraticLoss(toMatrix(target, 8, cols), real, dampedMatrix(layer.hessian))
      expect(loss).toBeGreaterThanOrEqual(0)
      expect(Math.abs(loss - direct)).toBeLessThan(1e-3 * direct + 1e-9)
    }
  }
})

test('weights of zero stay zero, and a scale type that was asked for is used', async () => {
  const asked = await problem(2, 8, 1)
  const zeros = await solveLayer({ ...asked, target: new Float32Array(16) }, FULL, means)
  expect([...dequantize(zeros.weight)]).toEqual(rowOf(new Float32Array(16), 0, 16))
  for (const scaleType of ['float16', 'float32'] as const) {
    const { weight } = await solveLayer(asked, { ...FULL, scaleType }, means)
    expect(weight.scaleType).toBe(scaleType)
  }
  const tiny = { ...asked, target: asked.target.map((w) => w * 1e-12) }
  expect((await solveLayer(tiny, FULL, means)).weight.scaleType).toBe('float32')
  expect((await solveLayer(tiny, { ...FULL, scaleType: 'float16' }, means)).weight.scaleType).toBe('float16')
})

test('what does not fit together is refused, and an abort ends the work', async () => {
  const asked = await problem(4, 8, 1)
  await expect(solveLayer({ ...asked, rows: 5 }, FULL, means)).rejects.toThrow(RangeError)
  await expect(solveLayer({ ...asked, rows: 8, cols: 4 }, FULL, means)).rejects.toThrow(RangeError)
  const bad = { ...asked, target: asked.target.map((w, i) => (i === 5 ? Number.NaN : w)) }
  await expect(solveLayer(bad, FULL, means)).rejects.toThrow(/weight 5 is NaN/)
  const signal = AbortSignal.abort()
  await expect(solveLayer(asked, FULL, { ...means, signal })).rejects.toMatchObject({ code: 'interrupted' })
})

import { expect, test } from 'vitest'
import { gridTask } from '../../src/gptq/gridColumns.ts'
import { decideInOrder } from '../../src/gptq/recurrence.ts'
import { solveLayer } from '../../src/gptq/solveLayer.ts'
import { startLayer } from '../../src/gptq/startLayer.ts'
import type { Order } from '../../src/hessian/prepare.ts'
import { gridCandidates } from '../../src/quant/candidates.ts'
import { dequantize } from '../../src/quant/quantizedWeight.ts'
import { conditionalCodes, nearestCode, quadraticLoss, toMatrix } from '../oracles/gptqOracle.ts'
import { correlated, dampedMatrix, gridsOf, means, OPTIONS, prepared, problem, rowOf, weights } from './problems.ts'

const ORDERS: readonly Order[] = ['natural', 'activation', 'greedy']

test.each(ORDERS)('codes are those of sequential conditional least squares, %s order', async (order) => {
  for (let seed = 1; seed <= 12; seed++) {
    const layer = await problem(6, 9, seed, order)
    const { weight } = await solveLayer(layer, OPTIONS, means)
    const hessian = dampedMatrix(layer.hessian)
    for (let row = 0; row < 6; row++) {
      const expected = conditionalCodes(
        rowOf(layer.target, row, 9),
        hessian,
        [...layer.hessian.permutation],
        gridsOf(weight, row),
        3,
      )
      expect(rowOf(weight.codes, row, 9)).toEqual(expected)
    }
  }
})

test('codes and errors do not depend on the blocks', async () => {
  for (const order of ORDERS) {
    const asked = await problem(40, 50, 3, order)
    const results = []
    for (const width of [1, 3, 8, 49, 50]) {
      const layer = await startLayer(asked, { ...OPTIONS, groupSize: 8 }, means)
      const errors = await decideInOrder(layer, asked.hessian, means, gridTask, width)
      results.push({ codes: layer.codes.slice(), errors, loss: layer.rowLoss.reduce((a, b) => a + b, 0) })
    }
    for (const { codes, errors, loss } of results) {
      expect(codes).toEqual(results[0]!.codes)
      expect(errors).toEqual(results[0]!.errors)
      expect(loss / results[0]!.loss).toBeCloseTo(1, 5)
    }
  }
})

test('the sum of the steps’ own terms is the loss, and the errors are those of the file’s values', async () => {
  const asked = await problem(7, 30, 5, 'activation')
  // float16 scales times levels are exact in float32; float32 scales are rounded.
  const options = { ...OPTIONS, scaleType: 'float32' } as const
  const layer = await startLayer(asked, options, means)
  const errors = await decideInOrder(layer, asked.hessian, means, gridTask, 8)
  const { weight, loss } = await solveLayer(asked, options, means)
  const real = dequantize(weight)
  for (let row = 0; row < 7; row++) {
    for (let k = 0; k < 30; k++) {
      expect(errors[k * 7 + row]).toBe(Math.fround(asked.target[row * 30 + k]! - real[row * 30 + k]!))
    }
  }
  const direct = quadraticLoss(toMatrix(asked.target, 7, 30), toMatrix(real, 7, 30), dampedMatrix(asked.hessian))
  expect(Math.abs(loss / direct - 1)).toBeLessThan(1e-5)
  expect(layer.rowLoss.reduce((a, b) => a + b, 0) / loss).toBeCloseTo(1, 6)
})

test('with uncorrelated inputs of one size every candidate grid gets round-to-nearest', async () => {
  const cols = 10
  const hessian = new Float64Array(cols * cols)
  for (let k = 0; k < cols; k++) hessian[k * (cols + 1)] = 2.7
  for (const order of ORDERS) {
    const white = await prepared(hessian, cols, order)
    for (const grid of gridCandidates('auto', 'auto')) {
      const target = weights(5 * cols, 8)
      const options = { ...OPTIONS, grid, descentSweeps: 3 }
      const { weight } = await solveLayer({ target, rows: 5, cols, hessian: white }, options, means)
      for (let row = 0; row < 5; row++) {
        const grids = gridsOf(weight, row)
        const expected = rowOf(target, row, cols).map((w, k) => nearestCode(w, grids[k]!, 3))
        expect(rowOf(weight.codes, row, cols)).toEqual(expected)
      }
    }
  }
})

test('columns may come in any order when the solver orders them itself', async () => {
  const cols = 24
  const hessian = correlated(cols, 100, 4)
  const target = weights(6 * cols, 5)
  const shuffled = Array.from({ length: cols }, (_, k) => (k * 7 + 3) % cols)
  const moved = Float64Array.from(
    hessian,
    (_, at) => hessian[shuffled[Math.floor(at / cols)]! * cols + shuffled[at % cols]!]!,
  )
  const movedTarget = target.map((_, at) => target[Math.floor(at / cols) * cols + shuffled[at % cols]!]!)
  const options = { ...OPTIONS, groupSize: cols }
  for (const order of ['activation', 'greedy'] as const) {
    const here = { target, rows: 6, cols, hessian: await prepared(hessian, cols, order) }
    const there = { target: movedTarget, rows: 6, cols, hessian: await prepared(moved, cols, order) }
    const a = (await solveLayer(here, options, means)).weight
    const b = (await solveLayer(there, options, means)).weight
    for (let row = 0; row < 6; row++) {
      const codes = rowOf(a.codes, row, cols)
      expect(rowOf(b.codes, row, cols)).toEqual(shuffled.map((k) => codes[k]))
    }
  }
})

test('a dead input gets the nearest code, whatever happens around it', async () => {
  const cols = 8
  const hessian = correlated(cols, 40, 2)
  for (let k = 0; k < cols; k++) {
    hessian[3 * cols + k] = 0
    hessian[k * cols + 3] = 0
  }
  const target = weights(20 * cols, 3)
  for (const order of ORDERS) {
    const dead = await prepared(hessian, cols, order)
    expect([...dead.dead]).toEqual([3])
    const options = { ...OPTIONS, descentSweeps: 4, refits: 3 }
    const { weight } = await solveLayer({ target, rows: 20, cols, hessian: dead }, options, means)
    for (let row = 0; row < 20; row++) {
      expect(weight.codes[row * cols + 3]).toBe(nearestCode(target[row * cols + 3]!, gridsOf(weight, row)[3]!, 3))
    }
  }
})

import { describe, expect, test } from 'vitest'
import { proxyLoss } from '../../src/gptq/proxyLoss.ts'
import { type GroupForms, refitGrid } from '../../src/gptq/refit.ts'
import { solveLayer } from '../../src/gptq/solveLayer.ts'
import { gridCandidates } from '../../src/quant/candidates.ts'
import { roundToHalf } from '../../src/quant/float16.ts'
import { dequantize, dequantizeRow } from '../../src/quant/quantizedWeight.ts'
import { makeRandom } from '../../src/random.ts'
import { leastLoss, leastNeighbour, quadraticLoss, toMatrix } from '../oracles/gptqOracle.ts'
import { dampedMatrix, gridsOf, means, OPTIONS, problem, rowOf } from './problems.ts'

test.each([
  ['groups in blocks', 150, 16],
  ['a short last group', 150, 40],
  ['one group, in a block', 150, 150],
  ['long groups, the last short', 400, 270],
  ['one long group', 300, 300],
])('no step raises the loss: %s', async (_, cols, groupSize) => {
  const asked = await problem(5, cols, 7, 'activation')
  const hessian = dampedMatrix(asked.hessian)
  for (const grid of gridCandidates('auto', 'auto').filter(({ method }) => method !== 'hqq')) {
    let before = Number.POSITIVE_INFINITY
    for (const [descentSweeps, refits] of [
      [0, 0],
      [1, 0],
      [3, 0],
      [3, 1],
      [3, 3],
    ] as const) {
      const solution = await solveLayer(asked, { ...OPTIONS, bits: 2, groupSize, grid, descentSweeps, refits }, means)
      const real = toMatrix(dequantize(solution.weight), 5, cols)
      const loss = quadraticLoss(toMatrix(asked.target, 5, cols), real, hessian)
      expect(loss).toBeLessThanOrEqual(before * (1 + 1e-9))
      expect(Math.abs(solution.loss / loss - 1)).toBeLessThan(2e-5)
      const { trace } = solution
      for (let i = 1; i < trace.length; i++) expect(trace[i]).toBeLessThanOrEqual(trace[i - 1]!)
      for (const scale of solution.weight.scales) {
        expect(scale).toBe(roundToHalf(scale))
        if (grid.scheme !== 'symmetric-full') expect(scale).toBeGreaterThan(0)
      }
      before = loss
    }
  }
})

test('at the end no change of one code helps, and no codes are better than the best', async () => {
  let best = 0
  for (let seed = 1; seed <= 40; seed++) {
    const asked = await problem(1, 3, seed)
    const options = { ...OPTIONS, bits: 2, groupSize: 3, descentSweeps: 20 } as const
    const { weight } = await solveLayer(asked, options, means)
    const hessian = dampedMatrix(asked.hessian)
    const target = rowOf(asked.target, 0, 3)
    const grids = gridsOf(weight, 0)
    const real = new Float32Array(3)
    dequantizeRow(weight, 0, real)
    const loss = quadraticLoss([target], [[...real]], hessian)
    const least = leastLoss(target, hessian, grids, 2)
    expect(loss).toBeGreaterThanOrEqual(least * (1 - 1e-12))
    expect(leastNeighbour(target, rowOf(weight.codes, 0, 3), hessian, grids, 2)).toBeGreaterThanOrEqual(
      loss * (1 - 1e-5),
    )
    if (loss <= least * (1 + 1e-9)) best++
  }
  expect(best).toBeGreaterThan(30)
})

test('the fixed point of a wide layer, over several blocks, has no improving move either', async () => {
  const asked = await problem(3, 160, 11, 'activation')
  const options = { ...OPTIONS, groupSize: 32, descentSweeps: 50 }
  const { weight, trace } = await solveLayer(asked, options, means)
  expect(trace.length).toBeLessThan(50)
  const hessian = dampedMatrix(asked.hessian)
  for (let row = 0; row < 3; row++) {
    const real = new Float32Array(160)
    dequantizeRow(weight, row, real)
    const error = rowOf(asked.target, row, 160).map((w, k) => w - real[k]!)
    const grids = gridsOf(weight, row)
    const loss = quadraticLoss([error], [error.map(() => 0)], hessian)
    for (let k = 0; k < 160; k++) {
      const slope = error.reduce((sum, e, i) => sum + e * hessian[i]![k]!, 0)
      for (let code = 0; code < 8; code++) {
        const step = Math.fround((code - grids[k]!.zeroPoint) * grids[k]!.scale) - real[k]!
        expect(step * (step * hessian[k]![k]! - 2 * slope)).toBeGreaterThanOrEqual(-1e-4 * loss)
      }
    }
  }
})

test('the loss from outside is the loss by the definition', async () => {
  const asked = await problem(300, 20, 9)
  const { weight, loss } = await solveLayer(asked, { ...OPTIONS, descentSweeps: 2, refits: 2 }, means)
  const fresh = await proxyLoss(asked.target, weight, asked.hessian.damped, means.products)
  const real = toMatrix(dequantize(weight), 300, 20)
  const direct = quadraticLoss(toMatrix(asked.target, 300, 20), real, dampedMatrix(asked.hessian))
  expect(Math.abs(fresh / direct - 1)).toBeLessThan(1e-5)
  expect(Math.abs(loss / direct - 1)).toBeLessThan(1e-5)
  await expect(proxyLoss(asked.target.subarray(1), weight, asked.hessian.damped, means.products)).rejects.toThrow(
    RangeError,
  )
})

describe('the refit of a grid', () => {
  /** A group of 6 columns in a row of 9. */
  function example(seed: number) {
    const random = makeRandom(seed)
    const cols = 9
    const mix = Array.from({ length: cols }, () => Array.from({ length: cols }, () => random.normal()))
    const hessian = mix.map((a) => mix.map((b) => a.reduce((sum, x, i) => sum + x * b[i]!, 0)))
    const codes = Array.from({ length: 6 }, () => Math.floor(random.uniform() * 8))
    const zeroPoint = 1 + Math.floor(random.uniform() * 6)
    const scale = 0.1 * (0.7 + 0.6 * random.uniform())
    const target = Array.from(
      { length: cols },
      (_, k) => (k < 6 ? (codes[k]! - zeroPoint) * 0.1 : 0) + 0.05 * random.normal(),
    )
    const lossAt = (s: number, z: number) =>
      quadraticLoss([target], [target.map((_, k) => (k < 6 ? (codes[k]! - z) * s : 0))], hessian)
    const levels = codes.map((code) => code - zeroPoint)
    const error = target.map((w, k) => w - (k < 6 ? levels[k]! * scale : 0))
    const residual = hessian.map((row) => row.reduce((sum, h, i) => sum + h * error[i]!, 0))
    const forms: GroupForms = { levelLevel: 0, levelOne: 0, oneOne: 0, levelResidual: 0, oneResidual: 0 }
    for (let i = 0; i < 6; i++) {
      forms.levelResidual += levels[i]! * residual[i]!
      forms.oneResidual += residual[i]!
      for (let j = 0; j < 6; j++) {
        forms.levelLevel += levels[i]! * hessian[i]![j]! * levels[j]!
        forms.levelOne += levels[i]! * hessian[i]![j]!
        forms.oneOne += hessian[i]![j]!
      }
    }
    return { lossAt, forms, scale, zeroPoint }
  }

  test('gains what it says, and no scale of the type nearby with any allowed zero point gains more', () => {
    const found = { scale: 0, shift: 0, gain: 0 }
    let shifts = 0
    for (let seed = 1; seed <= 30; seed++) {
      const { lossAt, forms, scale, zeroPoint } = example(seed)
      const now = lossAt(scale, zeroPoint)
      if (!refitGrid(forms, scale, 'float16', zeroPoint, 7, found)) throw new Error('no gain')
      expect(found.scale).toBe(roundToHalf(found.scale))
      const after = lossAt(found.scale, zeroPoint + found.shift)
      expect(Math.abs(now - after - found.gain)).toBeLessThan(1e-9 * now)
      for (const z of [zeroPoint - 1, zeroPoint, zeroPoint + 1]) {
        const losses = Array.from({ length: 401 }, (_, i) => lossAt(roundToHalf(found.scale * (0.8 + i / 1000)), z))
        expect(Math.min(...losses)).toBeGreaterThanOrEqual(after * (1 - 1e-12))
      }
      if (found.shift !== 0) shifts++
    }
    expect(shifts).toBeGreaterThan(3)
  })

  test('keeps a zero point that may not move, and the sign of the scale', () => {
    const found = { scale: 0, shift: 0, gain: 0 }
    for (let seed = 1; seed <= 60; seed++) {
      const { forms, scale, zeroPoint } = example(seed)
      refitGrid(forms, scale, 'float16', undefined, 7, found)
      expect(found.shift).toBe(0)
      refitGrid(forms, scale, 'float32', 0, 7, found)
      expect(found.shift).toBeGreaterThanOrEqual(0)
      refitGrid(forms, scale, 'float32', 7, 7, found)
      expect(found.shift).toBeLessThanOrEqual(0)
      // Mirrored weights on a mirrored grid.
      const mirrored = { ...forms, levelResidual: -forms.levelResidual, oneResidual: -forms.oneResidual }
      refitGrid(forms, scale, 'float16', zeroPoint, 7, found)
      const { scale: positive, gain } = found
      refitGrid(mirrored, -scale, 'float16', zeroPoint, 7, found)
      expect([found.scale, found.gain]).toEqual([-positive, gain])
    }
  })

  test('does not turn a scale round, even if that were better', () => {
    const forms: GroupForms = { levelLevel: 4, levelOne: 0, oneOne: 1, levelResidual: -9, oneResidual: 0 }
    expect(refitGrid(forms, 1, 'float32', undefined, 7, { scale: 0, shift: 0, gain: 0 })).toBe(false)
  })

  test('leaves a group of zeros alone', () => {
    const zeros: GroupForms = { levelLevel: 0, levelOne: 0, oneOne: 0, levelResidual: 0, oneResidual: 0 }
    expect(refitGrid(zeros, 1, 'float16', 4, 7, { scale: 0, shift: 0, gain: 0 })).toBe(false)
  })
})

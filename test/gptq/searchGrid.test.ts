import { expect, test } from 'vitest'
import { type Found, searchScale } from '../../src/gptq/searchGrid.ts'
import { roundToHalf } from '../../src/quant/float16.ts'
import { quadraticLoss, toMatrix } from '../oracles/gptqOracle.ts'
import { correlated, weights } from './problems.ts'

/** Columns 4 … 11 of a block of 16 at 3 bits, on a scale that is wrong by a factor. */
function example(seed: number, wrong: number) {
  const hessian = Float32Array.from(correlated(16, 60, seed))
  const matrix = toMatrix(hessian, 16, 16)
  const target = [...weights(16, seed + 100)]
  const scale = roundToHalf((wrong * Math.max(...target.map(Math.abs))) / 4)
  const level = Float64Array.from(target, (w) => Math.max(-4, Math.min(3, Math.round(w / scale))))
  const value = level.map((k) => Math.fround(k * scale))
  const residual = Float64Array.from(matrix, (row) => row.reduce((s, h, i) => s + h * (target[i]! - value[i]!), 0))
  const norms = Float64Array.from(matrix, (row) => Math.hypot(...row))
  return { hessian, matrix, target, scale, row: { residual, value, level }, norms }
}

test('what a search finds is on the grid, and the loss falls by what it says', () => {
  let better = 0
  for (let seed = 1; seed <= 20; seed++) {
    for (const wrong of [0.7, 1, 1.4]) {
      const { hessian, matrix, target, scale, row, norms } = example(seed, wrong)
      const before = structuredClone(row)
      const found: Found = { scale: 0, gain: 0, value: new Float64Array(16), level: new Float64Array(16) }
      searchScale(row, 4, 12, hessian, 16, norms, 1e-9, scale, 'float16', -4, 7, found)
      expect(row).toEqual(before)
      if (found.gain === 0) continue
      better++
      const now = [...row.value]
      for (let j = 4; j < 12; j++) {
        now[j] = found.value[j]!
        expect(found.level[j]).toBe(Math.min(3, Math.max(-4, Math.round(found.level[j]!))))
        expect(found.value[j] === Math.fround(found.level[j]! * found.scale)).toBe(true)
      }
      expect(found.scale).toBe(roundToHalf(found.scale))
      const loss = quadraticLoss([target], [[...row.value]], matrix)
      const after = quadraticLoss([target], [now], matrix)
      expect(Math.abs(loss - after - found.gain)).toBeLessThan(1e-9 * loss)
      expect(after).toBeLessThan(loss)
    }
  }
  expect(better).toBeGreaterThan(20)
})

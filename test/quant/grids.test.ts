import { afterAll, describe, expect, test } from 'vitest'
import type { GridCandidate } from '../../src/quant/candidates.ts'
import { gridCandidates } from '../../src/quant/candidates.ts'
import { BITS, type Bits, dequantize } from '../../src/quant/quantizedWeight.ts'
import { quantizeTensor } from '../../src/quant/quantizeTensor.ts'
import { realZeroPoint } from '../../src/quant/zeroPoint.ts'
import { makeRandom } from '../../src/random.ts'
import { createPool } from '../../src/threads/pool.ts'
import { hqqZero, oracleQuantize } from '../oracles/quantOracle.ts'
import { normalWeights, store } from './weights.ts'

const pool = createPool(1)
afterAll(() => pool.close())

const ALL = gridCandidates('auto', 'auto')

/** Quantize [rows, cols] with one candidate. */
function quantize(values: ArrayLike<number>, rows: number, bits: Bits, groupSize: number, candidate: GridCandidate) {
  const weight = store(values, [rows, values.length / rows, 1])
  return quantizeTensor(weight, { bits, groupSize, candidates: [candidate] }, pool)
}

async function expectAsOracle(values: Float32Array, rows: number, bits: Bits, group: number, candidate: GridCandidate) {
  const { weight, squaredError } = await quantize(values, rows, bits, group, candidate)
  const oracle = oracleQuantize(values, rows, values.length / rows, group, { bits, ...candidate })
  expect(weight.scaleType).toBe(oracle.scaleType)
  expect(Array.from(weight.scales)).toEqual(oracle.scales)
  if (candidate.scheme === 'asymmetric') expect(Array.from(weight.zeroPoints!)).toEqual(oracle.zeroPoints)
  else expect(weight.zeroPoints).toBeUndefined()
  expect(Array.from(weight.codes)).toEqual(oracle.codes)
  expect(squaredError).toBeCloseTo(oracle.squaredError, 12)
}

describe('codes, scales and zero points are the oracle’s', () => {
  for (const candidate of ALL) {
    test(`${candidate.scheme} ${candidate.method}`, async () => {
      for (const bits of BITS) {
        for (const [rows, cols, group] of [
          [3, 1, 1],
          [5, 7, 3],
          [4, 100, 32],
          [2, 33, 16],
          [3, 96, 48],
          [2, 300, 300],
          [2, 5, 32],
        ] as const) {
          await expectAsOracle(normalWeights(rows * cols, 7 * bits + cols, 11), rows, bits, group, candidate)
        }
      }
    })

    test(`${candidate.scheme} ${candidate.method}: one-sided, constant, zero and tied groups`, async () => {
      const random = makeRandom(3)
      const rows = [
        Array.from({ length: 32 }, () => random.uniform()),
        Array.from({ length: 32 }, () => -random.uniform()),
        Array.from({ length: 32 }, () => 0.37),
        Array.from({ length: 32 }, () => -0.37),
        Array.from({ length: 32 }, () => 0),
        Array.from({ length: 32 }, (_, i) => (i % 2 ? 1 : -1)),
        // Multiples of a quarter: every rounding to a power-of-two scale is a tie or exact.
        Array.from({ length: 32 }, (_, i) => (i - 16) / 4),
        Array.from({ length: 32 }, (_, i) => (i === 5 ? 1000 : 0.001 * random.normal())),
      ]
      for (const bits of BITS) await expectAsOracle(Float32Array.from(rows.flat()), rows.length, bits, 32, candidate)
    })

    test(`${candidate.scheme} ${candidate.method}: scales that float16 cannot hold make all of them float32 where they matter`, async () => {
      for (const factor of [1e-3, 1e-9, 1e-38, 1e-44, 1e9, 1e30]) {
        const values = normalWeights(64, 5)
        for (let i = 32; i < 64; i++) values[i]! *= factor
        for (const bits of [2, 4, 8] as const) await expectAsOracle(values, 1, bits, 32, candidate)
      }
      const normal = normalWeights(32, 5)
      // A dead group beside a live one does not matter; a tensor that is dead altogether does, and a huge group.
      const beside = await quantize([...normal, ...normal.map((w) => w * 1e-9)], 1, 4, 32, candidate)
      expect(beside.weight.scaleType).toBe('float16')
      expect(Math.abs(beside.weight.scales[1]!)).toBe(2 ** -17)
      const alone = await quantize(
        [...normal, ...normal].map((w) => w * 1e-9),
        1,
        4,
        32,
        candidate,
      )
      expect(alone.weight.scaleType).toBe('float32')
      expect(Math.abs(alone.weight.scales[1]!)).toBeLessThan(1e-9)
      const huge = await quantize([...normal, ...normal.map((w) => w * 1e7)], 1, 4, 32, candidate)
      expect(huge.weight.scaleType).toBe('float32')
    })
  }
})

test('min-max levels of one group, by hand', async () => {
  const values = [-1, -0.5, 0.25, 0.5]
  // a = 1: s = 2/3 → float16 0.66650390625; −1/s = −1.5004 → −2, 0.5/s = 0.7502 → 1.
  const symmetric = await quantize(values, 1, 2, 4, { scheme: 'symmetric', method: 'minmax' })
  expect(Array.from(symmetric.weight.scales)).toEqual([0.66650390625])
  expect(Array.from(symmetric.weight.codes)).toEqual([0, 1, 2, 3])
  // s = 1/2, −1 is level −2; 0.25 and 0.5 are levels 0 (tie to even) and 1.
  const full = await quantize(values, 1, 2, 4, { scheme: 'symmetric-full', method: 'minmax' })
  expect(Array.from(full.weight.scales)).toEqual([0.5])
  expect(Array.from(full.weight.codes)).toEqual([0, 1, 2, 3])
  // s = 1.5/3, z = 2.
  const asymmetric = await quantize(values, 1, 2, 4, { scheme: 'asymmetric', method: 'minmax' })
  expect(Array.from(asymmetric.weight.zeroPoints!)).toEqual([2])
  expect(Array.from(asymmetric.weight.codes)).toEqual([0, 1, 2, 3])
  // A positive extreme turns the full-range grid around.
  const turned = await quantize([1, 0.5, -0.25, -0.5], 1, 2, 4, { scheme: 'symmetric-full', method: 'minmax' })
  expect(Array.from(turned.weight.scales)).toEqual([-0.5])
  expect(Array.from(turned.weight.codes)).toEqual([0, 1, 2, 3])
})

test('weights that lie on a grid come back without error', async () => {
  const random = makeRandom(17)
  for (const bits of BITS) {
    for (const scheme of ['symmetric-full', 'asymmetric'] as const) {
      const values: number[] = []
      for (let group = 0; group < 6; group++) {
        const scale = (1 + random.below(1024) / 1024) * 2 ** (random.below(12) - 8)
        const zero = scheme === 'asymmetric' ? random.below(2 ** bits) : 2 ** (bits - 1)
        const sign = scheme === 'asymmetric' || random.below(2) ? 1 : -1
        // Both ends occur, so that the range gives the grid away.
        for (let i = 0; i < 16; i++) {
          const code = i === 0 ? 0 : i === 1 ? 2 ** bits - 1 : random.below(2 ** bits)
          values.push(sign * (code - zero) * scale)
        }
      }
      for (const method of ['minmax', 'clip'] as const) {
        const { weight, squaredError } = await quantize(values, 2, bits, 16, { scheme, method })
        expect(squaredError).toBe(0)
        // Adding 0 makes −0 (level 0 of a negative scale) a 0.
        expect(Array.from(dequantize(weight), (w) => w + 0)).toEqual(values.map((w) => w + 0))
      }
    }
  }
})

test('half-way between two levels, the even one wins on every scale', async () => {
  for (let mantissa = 1024; mantissa < 2048; mantissa += 7) {
    const scale = mantissa / 2 ** 16
    const levels = [-8, 7, ...Array.from({ length: 14 }, (_, i) => i - 6.5)]
    const values = Float32Array.from(levels, (level) => level * scale)
    const { weight } = await quantize(values, 1, 4, 16, { scheme: 'asymmetric', method: 'minmax' })
    expect(Array.from(weight.scales)).toEqual([scale])
    expect(Array.from(weight.codes, (code) => code - 8)).toEqual([
      -8, 7, -6, -6, -4, -4, -2, -2, 0, 0, 2, 2, 4, 4, 6, 6,
    ])
  }
})

test('the real zero point of HQQ is the oracle’s', () => {
  let moved = 0
  for (let seed = 0; seed < 60; seed++) {
    const bits = [2, 3, 4][seed % 3]!
    // An odd number: with as many errors above as below, Σ |e| would stand still and rounding noise would end the loop.
    const values = normalWeights(47, 500 + seed, seed % 2 ? 7 : 0).map((w) => w + 0.01)
    const scale = (Math.max(...values) - Math.min(...values)) / (2 ** bits - 1)
    const first = Math.round(-Math.min(...values) / scale)
    const expected = hqqZero(Array.from(values), scale, first, bits)
    expect(realZeroPoint(values, 0, values.length, 2 ** bits - 1, scale, first)).toBeCloseTo(expected, 4)
    if (expected !== first) moved++
  }
  expect(moved).toBeGreaterThan(40)
})

test('no method is worse than min-max of the same scheme, on any group', async () => {
  for (const bits of BITS) {
    for (const { scheme, method } of ALL) {
      if (method === 'minmax') continue
      for (let seed = 0; seed < 40; seed++) {
        const values = normalWeights(24, 1000 + seed, seed % 3 ? 0 : 9)
        const better = await quantize(values, 1, bits, 24, { scheme, method })
        const plain = await quantize(values, 1, bits, 24, { scheme, method: 'minmax' })
        expect(better.squaredError).toBeLessThanOrEqual(plain.squaredError)
      }
    }
  }
})

test('the bounded clip search is within 1.5 % of all 80 factors, and well below min-max where clipping pays', async () => {
  for (const [group, groups] of [
    [32, 128],
    [512, 12],
  ] as const) {
    for (const heavy of [0, 37]) {
      const values = normalWeights(group * groups, 23, heavy)
      for (const bits of [2, 4, 8] as const) {
        for (const scheme of ['symmetric-full', 'asymmetric'] as const) {
          const walk = await quantize(values, 1, bits, group, { scheme, method: 'clip' })
          const spec = { bits, scheme, method: 'clip' } as const
          const reference = oracleQuantize(values, 1, values.length, group, spec, 'reference').squaredError
          expect(walk.squaredError / reference).toBeLessThan(1.015)
          const plain = await quantize(values, 1, bits, group, { scheme, method: 'minmax' })
          if (bits < 8) expect(walk.squaredError / plain.squaredError).toBeLessThan(0.97)
        }
      }
    }
  }
})

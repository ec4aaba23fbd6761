import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { zScoreDistribution } from '../../src/hessian/zScores.ts'
import { makeRandom } from '../../src/random.ts'

const of = (...tensors: readonly ArrayLike<number>[]) =>
  zScoreDistribution((take) => {
    for (const tensor of tensors) take(tensor)
  })

function normals(count: number, seed: number): Float32Array<ArrayBuffer> {
  const random = makeRandom(seed)
  return Float32Array.from({ length: count }, () => random.normal())
}

describe('ZD', () => {
  test('of many normal weights is 0.1587, and 0.3173 on both sides', async () => {
    const zd = await of(normals(200_000, 1), normals(100_000, 2))
    // Two thousandths are three standard deviations of a share of 300,000.
    expect(Math.abs(zd!.oneSided - 0.1587)).toBeLessThan(0.002)
    expect(Math.abs(zd!.twoSided - 0.3173)).toBeLessThan(0.0026)
  })

  test('counts by the definition, over all tensors as one', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(fc.integer({ min: -20, max: 20 }), { maxLength: 12 }), { maxLength: 4 }),
        async (tensors) => {
          const all = tensors.flat()
          const mean = all.reduce((a, b) => a + b, 0) / all.length
          const variance = all.reduce((sum, w) => sum + (w - mean) ** 2, 0) / all.length
          const z = all.map((w) => (w - mean) / Math.sqrt(variance))
          // A z of exactly 1 may fall on either side of it by rounding.
          fc.pre(z.every((value) => Math.abs(Math.abs(value) - 1) > 1e-9))
          const zd = await of(...tensors)
          if (!(variance > 0)) expect(zd).toBeUndefined()
          else {
            expect(zd!.oneSided).toBe(z.filter((value) => value > 1).length / all.length)
            expect(zd!.twoSided).toBe(z.filter((value) => Math.abs(value) > 1).length / all.length)
          }
        },
      ),
    )
  })

  test('the sides differ where weights are skewed', async () => {
    expect(await of([0, 0, 0, 0, 10])).toEqual({ oneSided: 0.2, twoSided: 0.2 })
    expect(await of([0, 0, 0, 0, -10])).toEqual({ oneSided: 0, twoSided: 0.2 })
  })

  test('scale, shift, order and the cut into tensors change nothing', async () => {
    const weights = Float64Array.from(normals(5000, 3))
    const zd = await of(weights)
    const turned = weights.slice().reverse()
    for (const [scale, shift] of [
      [1, 0],
      [3, 7],
      [1e-6, 0],
      [0.5, 1e6],
    ] as const) {
      const moved = turned.map((w) => scale * w + shift)
      expect(await of(moved.subarray(0, 100), [], moved.subarray(100, 101), moved.subarray(101))).toEqual(zd)
    }
  })

  test('weights may be given one after the other, by and by', async () => {
    const parts = [normals(50, 4), normals(70, 5)]
    const slow = await zScoreDistribution(async (take) => {
      for (const part of parts) {
        await Promise.resolve()
        take(part)
      }
    })
    expect(slow).toEqual(await of(...parts))
  })

  test('without a deviation there is none', async () => {
    expect(await of()).toBeUndefined()
    expect(await of([])).toBeUndefined()
    expect(await of([0.1, 0.1, 0.1])).toBeUndefined()
    expect(await of([1, Number.NaN])).toBeUndefined()
    expect(await of([1, Number.POSITIVE_INFINITY])).toBeUndefined()
  })
})

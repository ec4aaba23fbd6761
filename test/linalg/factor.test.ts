import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import { factorUpper } from '../../src/linalg/factor.ts'
import { openProducts } from '../../src/runtime/products.ts'
import { product, relativeDistance, toRows, transposed, upperFactor } from '../oracles/denseOracle.ts'
import { bytes, gram, hilbert, random, SIZES, withPivots } from './matrices.ts'

const products = openProducts(2)
const others = [openProducts(1), openProducts(5)]
afterAll(async () => {
  for (const open of [products, ...others]) await open.dispose()
})

async function factorOf(h: Float64Array, n: number): Promise<Float64Array> {
  const result = await factorUpper(h, n, products)
  if (!('factor' in result)) throw new Error(`pivot ${result.failedPivot} failed`)
  return result.factor
}

/** ‖H − T·Tᵀ‖ / ‖H‖. */
function residual(factor: Float64Array, h: Float64Array, n: number): number {
  const t = toRows(factor, n, n)
  return relativeDistance(product(t, transposed(t)).flat(), h)
}

describe('factorUpper', () => {
  it.each(SIZES)('agrees with the textbook on %i rows, and leaves H alone', async (n) => {
    const h = gram(n, n + 5, 0.1 * n)
    const before = bytes(h)
    const factor = await factorOf(h, n)
    const oracle = upperFactor(toRows(h, n, n))
    expect(relativeDistance(factor, (oracle as number[][]).flat())).toBeLessThan(1e-13)
    expect(bytes(h).equals(before)).toBe(true)
  })

  it.each(SIZES)('gives an upper triangle with a positive diagonal on %i rows', async (n) => {
    const factor = await factorOf(gram(n, 5, 1), n)
    toRows(factor, n, n).forEach((row, i) => {
      expect(row[i]).toBeGreaterThan(0)
      expect(row.slice(0, i).every((value) => Object.is(value, 0))).toBe(true)
    })
  })

  it('of a diagonal matrix is its root, exactly', async () => {
    const n = 200
    const h = new Float64Array(n * n)
    const roots = Array.from({ length: n }, () => 1 + random.below(1000))
    roots.forEach((root, i) => {
      h[i * n + i] = root * root
    })
    const factor = await factorOf(h, n)
    expect(toRows(factor, n, n).map((row, i) => row[i])).toEqual(roots)
    expect(factor.filter((value) => value !== 0)).toHaveLength(n)
  })

  it('stays accurate where H is nearly singular', async () => {
    const cases = [gram(200, 60, 1e-9), hilbert(200, 1e-13), hilbert(129, 1e-12)]
    for (const h of cases) {
      const n = Math.sqrt(h.length)
      expect(residual(await factorOf(h, n), h, n)).toBeLessThan(3e-15)
    }
  })

  it('stays accurate where rows differ by many orders of magnitude', async () => {
    const n = 200
    const h = gram(n, n, 0.1)
    const scale = Array.from({ length: n }, () => 10 ** (12 * random.uniform() - 6))
    const scaled = h.map((value, at) => value * scale[Math.floor(at / n)]! * scale[at % n]!)
    const factor = await factorOf(scaled, n)
    const unscaled = factor.map((value, at) => value / scale[Math.floor(at / n)]!)
    expect(residual(unscaled, h, n)).toBeLessThan(1e-14)
  })

  it('reads the upper triangle only', async () => {
    const n = 150
    const h = gram(n, n, 1)
    const whole = bytes(await factorOf(h, n))
    for (let i = 0; i < n; i++) h.fill(Number.NaN, i * n, i * n + i)
    expect(bytes(await factorOf(h, n)).equals(whole)).toBe(true)
  })

  it('has the same bits at any number of threads', async () => {
    for (const n of [130, 300, 520]) {
      const h = gram(n, 8, 1)
      const alone = bytes(await factorOf(h, n))
      for (const open of others) {
        const result = await factorUpper(h, n, open)
        expect('factor' in result && bytes(result.factor).equals(alone)).toBe(true)
      }
    }
  })

  it('of no rows is empty', async () => {
    expect(await factorUpper(new Float64Array(0), 0, products)).toEqual({ factor: new Float64Array(0) })
  })

  it('refuses an array of another size', async () => {
    await expect(factorUpper(new Float64Array(8), 3, products)).rejects.toThrow(RangeError)
  })
})

describe('the failed pivot', () => {
  it('is the last one that is not positive, in the order of H', async () => {
    const size = fc.constantFrom(1, 2, 64, 127, 128, 129, 200)
    const place = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
    await fc.assert(
      fc.asyncProperty(size, place, place, fc.constantFrom(-1, -1e-3), async (n, first, second, value) => {
        const pivots: number[] = new Array(n).fill(1)
        const bad = [first, second].map((at) => Math.floor(at * n))
        for (const at of bad) pivots[at] = value
        const h = withPivots(pivots)
        expect(await factorUpper(h, n, products)).toEqual({ failedPivot: Math.max(...bad) })
        expect(upperFactor(toRows(h, n, n))).toBe(Math.max(...bad))
      }),
      { seed: 2, numRuns: 12 },
    )
  })

  it('is found in the first column, where an indefinite matrix looks definite until the end', async () => {
    const pivots: number[] = new Array(130).fill(1)
    pivots[0] = -1e-6
    expect(await factorUpper(withPivots(pivots), 130, products)).toEqual({ failedPivot: 0 })
  })

  it('counts a zero', async () => {
    expect(await factorUpper(new Float64Array(9), 3, products)).toEqual({ failedPivot: 2 })
    expect(await factorUpper(Float64Array.of(1, 1, 1, 1), 2, products)).toEqual({ failedPivot: 0 })
  })

  it.each([
    [5, 150],
    [130, 140],
    [0, 0],
    [129, 129],
    [3, 127],
  ])('is where a NaN at %i, %i first shows', async (i, j) => {
    const n = 160
    const h = gram(n, n, 1)
    h[i * n + j] = Number.NaN
    expect(await factorUpper(h, n, products)).toEqual({ failedPivot: i })
  })

  it('counts an infinite one', async () => {
    const h = gram(140, 140, 1)
    h[7 * 140 + 7] = Number.POSITIVE_INFINITY
    expect(await factorUpper(h, 140, products)).toEqual({ failedPivot: 7 })
  })
})

import { afterAll, describe, expect, it } from 'vitest'
import { factorUpper } from '../../src/linalg/factor.ts'
import { solveWithFactor } from '../../src/linalg/solve.ts'
import { openProducts, type Products } from '../../src/runtime/products.ts'
import { product, relativeDistance, solveRight, toRows } from '../oracles/denseOracle.ts'
import { bytes, gram, hilbert, normals, SIZES } from './matrices.ts'

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

const norm = (array: ArrayLike<number>) => Math.hypot(...Array.from(array))

/** ‖X·H − B‖ / (‖X‖ ‖H‖): some roundings, however near H is to singular, when the solve is backward stable. */
function backwardError(x: Float64Array, h: Float64Array, b: Float64Array, n: number): number {
  const rows = b.length / n
  const back = product(toRows(x, rows, n), toRows(h, n, n)).flat()
  return norm(back.map((value, i) => value - b[i]!)) / (norm(x) * norm(h))
}

describe('solveWithFactor', () => {
  it.each(SIZES)('solves X·H = B for %i columns, and leaves factor and B alone', async (n) => {
    for (const rows of [1, 3, 70]) {
      const h = gram(n, n + 5, 0.1 * n)
      const b = normals(rows * n)
      const factor = await factorOf(h, n)
      const before = [bytes(factor), bytes(b)]
      const x = await solveWithFactor(factor, n, b, rows, products)
      expect(x).toHaveLength(rows * n)
      expect(backwardError(x, h, b, n)).toBeLessThan(1e-14)
      expect([bytes(factor).equals(before[0]!), bytes(b).equals(before[1]!)]).toEqual([true, true])
    }
  })

  it.each([1, 2, 65, 129, 130])('agrees with elimination on %i columns', async (n) => {
    const h = gram(n, n + 5, 0.1 * n)
    const b = normals(4 * n)
    const x = await solveWithFactor(await factorOf(h, n), n, b, 4, products)
    expect(relativeDistance(x, solveRight(toRows(h, n, n), toRows(b, 4, n)).flat())).toBeLessThan(1e-12)
  })

  it('inverts', async () => {
    const n = 140
    const h = gram(n, n, n)
    const identity = new Float64Array(n * n).map((_, at) => (at % (n + 1) === 0 ? 1 : 0))
    const inverse = await solveWithFactor(await factorOf(h, n), n, identity, n, products)
    expect(relativeDistance(product(toRows(inverse, n, n), toRows(h, n, n)).flat(), identity)).toBeLessThan(1e-13)
  })

  it('is backward stable where H is nearly singular', async () => {
    for (const h of [hilbert(128, 1e-13), hilbert(200, 1e-13), gram(200, 60, 1e-9)]) {
      const n = Math.sqrt(h.length)
      const b = normals(20 * n)
      const x = await solveWithFactor(await factorOf(h, n), n, b, 20, products)
      expect(backwardError(x, h, b, n)).toBeLessThan(3e-16)
    }
  })

  it('has the same bits at any number of threads', async () => {
    const n = 300
    const factor = await factorOf(gram(n, 8, 1), n)
    for (const rows of [1, 20, 310]) {
      const b = normals(rows * n)
      const solve = async (open: Products) => bytes(await solveWithFactor(factor, n, b, rows, open))
      const alone = await solve(products)
      for (const open of others) expect((await solve(open)).equals(alone)).toBe(true)
    }
  })

  it('of no rows or no columns is empty', async () => {
    const none = new Float64Array(0)
    expect(await solveWithFactor(Float64Array.of(2), 1, none, 0, products)).toEqual(none)
    expect(await solveWithFactor(none, 0, none, 5, products)).toEqual(none)
  })

  it('refuses arrays of other sizes', async () => {
    const solve = (factor: number, b: number) =>
      solveWithFactor(new Float64Array(factor), 3, new Float64Array(b), 2, products)
    await expect(solve(8, 6)).rejects.toThrow(RangeError)
    await expect(solve(9, 5)).rejects.toThrow(RangeError)
  })
})

import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import { makeRandom } from '../../src/random.ts'
import { type Floats, openProducts, type Product } from '../../src/runtime/products.ts'
import { product as naive, toRows, transposed } from '../oracles/denseOracle.ts'

const random = makeRandom(7)
const one = openProducts(1)
const two = openProducts(2)
const others = [two, openProducts(8)]
afterAll(async () => {
  for (const products of [one, ...others]) await products.dispose()
})

const KINDS = [Float32Array, Float64Array] as const
type Kind = (typeof KINDS)[number]

const numbers = (kind: Kind, length: number): Floats => new kind(length).map(() => random.normal()) as Floats

function shared(array: Floats): Floats {
  const memory = new SharedArrayBuffer(array.byteLength)
  const copy = array instanceof Float64Array ? new Float64Array(memory) : new Float32Array(memory)
  copy.set(array)
  return copy
}

interface Flags {
  readonly transA?: boolean
  readonly transB?: boolean
  readonly alpha?: 1 | -1
  readonly withAdd?: boolean
}

function makeProduct(kind: Kind, m: number, n: number, k: number, flags: Flags = {}): Product<Floats> {
  const { transA = false, transB = false, alpha = 1, withAdd = false } = flags
  const [aRows, aCols] = transA ? [k, m] : [m, k]
  const [bRows, bCols] = transB ? [n, k] : [k, n]
  const a = numbers(kind, m * k)
  const b = numbers(kind, k * n)
  const add = withAdd ? { add: numbers(kind, m * n) } : {}
  return { a, aRows, aCols, b, bRows, bCols, transA, transB, alpha, ...add }
}

/** The result by definition, and a bound on the rounding error of each number: every partial sum rounded once. */
function expected(product: Product<Floats>): { values: number[]; bounds: number[] } {
  const { a, aRows, aCols, b, bRows, bCols, transA, transB, alpha = 1, add } = product
  const stored = [toRows(a, aRows, aCols), toRows(b, bRows, bCols)] as const
  const [left, right] = [transA ? transposed(stored[0]) : stored[0], transB ? transposed(stored[1]) : stored[1]]
  const absolute = (rows: number[][]) => rows.map((row) => row.map(Math.abs))
  const epsilon = a instanceof Float64Array ? 2 ** -53 : 2 ** -24
  const terms = (transA ? aRows : aCols) + 2
  const values = naive(left, right).flat()
  const sizes = naive(absolute(left), absolute(right)).flat()
  return {
    values: values.map((value, i) => (add?.[i] ?? 0) + alpha * value),
    bounds: sizes.map((size, i) => terms * epsilon * (size + Math.abs(add?.[i] ?? 0))),
  }
}

function expectProduct(result: Floats, product: Product<Floats>): void {
  const { values, bounds } = expected(product)
  expect(result.length).toBe(values.length)
  const wrong = values.findIndex((value, i) => !(Math.abs(value - result[i]!) <= bounds[i]!))
  expect(wrong, `number ${wrong}: ${result[wrong]} is not ${values[wrong]}`).toBe(-1)
}

const bits = (array: Floats) =>
  Buffer.from(Uint8Array.from(new Uint8Array(array.buffer, array.byteOffset, array.byteLength)))

/** Much faster than `toEqual` on buffers. */
function expectSameBits(arrays: readonly Floats[], before: readonly Buffer[]): void {
  expect(arrays.map((array, i) => bits(array).equals(before[i]!))).toEqual(arrays.map(() => true))
}

const FLAGS: readonly Flags[] = [false, true].flatMap((transA) =>
  [false, true].flatMap((transB) =>
    [false, true].flatMap((withAdd) => ([1, -1] as const).map((alpha) => ({ transA, transB, withAdd, alpha }))),
  ),
)
/** In a loop, and by the runtime. */
const SHAPES = [
  [3, 5, 4],
  [21, 37, 29],
] as const

describe('multiply', () => {
  it.each(KINDS)('follows the definition under all flags, and leaves the operands alone: %o', async (kind) => {
    for (const [m, n, k] of SHAPES) {
      for (const flags of FLAGS) {
        const product = makeProduct(kind, m, n, k, flags)
        const before = [product.a, product.b, product.add ?? product.a].map(bits)
        expectProduct(await two.multiply(product), product)
        expectSameBits([product.a, product.b, product.add ?? product.a], before)
      }
    }
  })

  it('follows the definition at any shape', async () => {
    const size = fc.oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 70 }))
    const flags = fc.constantFrom(...FLAGS)
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...KINDS), size, size, size, flags, async (kind, m, n, k, which) => {
        const product = makeProduct(kind, m, n, k, which)
        expectProduct(await two.multiply(product), product)
      }),
      { seed: 1, numRuns: 60 },
    )
  })

  it('writes into a part of a larger array and nowhere else', async () => {
    for (const [m, n, k] of SHAPES) {
      const product = makeProduct(Float64Array, m, n, k)
      const room = new Float64Array(m * n + 4).fill(7)
      const out = room.subarray(2, 2 + m * n)
      expect(await two.multiply({ ...product, out })).toBe(out)
      expectProduct(out, product)
      expect([room[0], room[1], room.at(-2), room.at(-1)]).toEqual([7, 7, 7, 7])
    }
  })

  it('takes operands and result from neighbouring parts of one array', async () => {
    const product = makeProduct(Float64Array, 30, 20, 25)
    const room = Float64Array.of(...product.a, ...new Float64Array(600), ...product.b)
    const views = { a: room.subarray(0, 750), out: room.subarray(750, 1350), b: room.subarray(1350) }
    expectProduct(await two.multiply({ ...product, ...views }), product)
  })

  it('reads operands from the middle of larger arrays', async () => {
    for (const [m, n, k] of SHAPES) {
      const product = makeProduct(Float32Array, m, n, k, { withAdd: true })
      const inside = (array: Floats) => Float32Array.of(NaN, ...array, NaN).subarray(1, 1 + array.length)
      const views = { a: inside(product.a), b: inside(product.b), add: inside(product.add!) }
      expectProduct(await two.multiply({ ...product, ...views }), product)
    }
  })

  it.each(KINDS)('accumulates in place, through one view or two: %o', async (kind) => {
    for (const [m, n, k] of [...SHAPES, [100, 150, 200]] as const) {
      for (const isShared of [false, true]) {
        const product = makeProduct(kind, m, n, k, { withAdd: true, alpha: -1, transB: true })
        const apart = bits(await two.multiply(product))
        const sum = isShared ? shared(product.add!) : (product.add!.slice() as Floats)
        expect(await two.multiply({ ...product, add: sum, out: sum })).toBe(sum)
        expect(bits(sum).equals(apart)).toBe(true)
        sum.set(product.add!)
        await two.multiply({ ...product, add: sum.subarray() as Floats, out: sum })
        expect(bits(sum).equals(apart)).toBe(true)
      }
    }
  })

  it.each(KINDS)('takes and fills shared memory: %o', async (kind) => {
    for (const [m, n, k] of SHAPES) {
      const product = makeProduct(kind, m, n, k, { withAdd: true })
      const apart = bits(await two.multiply(product))
      const { a, b, add } = product
      const out = shared(add!)
      const given = { ...product, a: shared(a), b: shared(b), add: shared(add!), out }
      expect(await two.multiply(given)).toBe(out)
      expect(bits(out).equals(apart)).toBe(true)
      expectSameBits([given.a, given.b, given.add], [a, b, add!].map(bits))
    }
  })

  it('keeps products apart that are not awaited', async () => {
    const list = [40, 30, 50, 60].map((m) => makeProduct(Float64Array, m, 40, 30, { withAdd: true }))
    const inShared = list.map(({ a, b, add, ...rest }) => ({
      ...rest,
      ...{ a: shared(a), b: shared(b), add: shared(add!), out: shared(add!) },
    }))
    const results = await Promise.all(inShared.map((product) => two.multiply(product)))
    results.forEach((result, i) => {
      expectProduct(result, list[i]!)
    })
  })

  it('gives the addend, or zeros, when there is nothing to sum', async () => {
    const none = new Float64Array(0)
    const empty = { a: none, aRows: 2, aCols: 0, b: none, bRows: 0, bCols: 2 }
    expect(await two.multiply(empty)).toEqual(new Float64Array(4))
    expect(await two.multiply({ ...empty, add: Float64Array.of(1, 2, 3, 4) })).toEqual(Float64Array.of(1, 2, 3, 4))
    expect(await two.multiply({ ...empty, aRows: 0, out: new Float64Array(0) })).toEqual(none)
  })

  it('carries NaN through', async () => {
    for (const [m, n, k] of SHAPES) {
      const product = makeProduct(Float64Array, m, n, k)
      product.a[k] = NaN
      const nan = Array.from(await two.multiply(product), (value, i) => (Number.isNaN(value) ? i : -1)).filter(
        (i) => i >= 0,
      )
      expect(nan).toEqual(Array.from({ length: n }, (_, j) => n + j))
    }
  })
})

describe('the bits of a product', () => {
  /** Thin, tall and wide: where the runtime by itself sums in an order that depends on its threads. */
  const thin = [
    [100, 128, 500],
    [5, 40, 3000],
    [3, 3, 40000],
    [40, 64, 2000],
    [14, 287, 1000],
    [500, 1, 2000],
    [1, 500, 2000],
    [2, 17, 9000],
    [300, 30, 400],
    [150, 600, 200],
    [300, 280, 260],
  ] as const

  it.each(KINDS)('are the same at any number of threads: %o', async (kind) => {
    for (const [m, n, k] of thin) {
      for (const flags of [{}, { transB: true, withAdd: true, alpha: -1 }] as const) {
        const product = makeProduct(kind, m, n, k, flags)
        const alone = bits(await one.multiply(product))
        for (const products of others) {
          expect(bits(await products.multiply(product)).equals(alone), `${m} × ${n} × ${k}`).toBe(true)
        }
      }
    }
  })
})

describe('misuse', () => {
  const good = makeProduct(Float64Array, 30, 40, 50, { withAdd: true })
  const cases: readonly (readonly [string, Product<Floats>, RegExp])[] = [
    ['inner sizes', { ...good, bRows: 40, bCols: 50 }, /op\(A\) is \[30, 50\] and op\(B\) \[40, 50\]/],
    ['inner sizes, transposed', { ...good, transA: true }, /op\(A\) is \[50, 30\]/],
    ['length of A', { ...good, a: new Float64Array(1499) }, /A has 1499 numbers, not 30 × 50/],
    ['length of B', { ...good, b: new Float64Array(2001) }, /B has 2001 numbers, not 50 × 40/],
    ['length of add', { ...good, add: new Float64Array(40) }, /add has 40 numbers/],
    ['length of out', { ...good, out: new Float64Array(1201) }, /out has 1201 numbers/],
    ['negative sizes', { ...good, aRows: -30, aCols: -50, bRows: -50, bCols: -40 }, /A has 1500 numbers/],
    ['kinds', { ...good, b: new Float32Array(2000) }, /float32 and float64/],
    ['kind of out', { ...good, out: new Float32Array(1200) }, /float32 and float64/],
    ['out over A', { ...good, out: good.a.subarray(0, 1200) as Floats }, /overwrite/],
    ['out over B', { ...good, out: good.b.subarray(800) as Floats }, /overwrite/],
  ]

  it.each(cases)('is refused: %s', async (_, product, message) => {
    await expect(two.multiply(product)).rejects.toThrow(RangeError)
    await expect(two.multiply(product)).rejects.toThrow(message)
  })

  it('is refused: an addend that only partly is the result', async () => {
    const room = new Float64Array(1201)
    const views = { add: room.subarray(1), out: room.subarray(0, 1200) }
    await expect(two.multiply({ ...good, ...views })).rejects.toThrow(/overwrite/)
  })

  it.each([0, -1, 1.5, Number.NaN])('is refused: %d threads', (threads) => {
    expect(() => openProducts(threads)).toThrow(RangeError)
  })

  it('does not disturb later products', async () => {
    await expect(two.multiply({ ...good, aRows: 3 })).rejects.toThrow(RangeError)
    const integers = new Int32Array(good.a.length) as unknown as Floats
    const none = { b: new Float32Array(2000), add: new Float32Array(1200) }
    await expect(two.multiply({ ...good, a: integers, ...none })).rejects.toThrow(TypeError)
    expectProduct(await two.multiply(good), good)
  })

  it('ends with dispose, which waits for what runs', async () => {
    const products = openProducts(1)
    let isDone = false
    const running = products.multiply(good).finally(() => {
      isDone = true
    })
    await products.dispose()
    expect(isDone).toBe(true)
    expectProduct(await running, good)
    await products.dispose()
    await expect(products.multiply(good)).rejects.toThrow(/disposed/)
  })
})

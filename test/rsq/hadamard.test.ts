/** Hadamard matrices: exact in integers, and fast products equal to them. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { galoisField } from '../../src/rsq/galoisField.ts'
import { isHadamardOrder, largestHadamardDivisor, multiplyByHadamardInPlace } from '../../src/rsq/hadamard.ts'
import { isPaleyOrder, paleyMatrix } from '../../src/rsq/paley.ts'

/** Rows of the identity times H: H itself. */
function matrixOfOrder(order: number, transposed = false): Float64Array {
  const rows = new Float64Array(order * order)
  for (let i = 0; i < order; i++) rows[i * (order + 1)] = 1
  multiplyByHadamardInPlace(rows, order, transposed)
  return rows
}

/** Row products that are wrong: not `order` on the diagonal, or not 0 beside it. */
function wrongProducts(h: ArrayLike<number>, order: number): number {
  let wrong = 0
  for (let i = 0; i < order; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = 0
      for (let k = 0; k < order; k++) sum += h[i * order + k]! * h[j * order + k]!
      if (sum !== (i === j ? order : 0)) wrong++
    }
  }
  return wrong
}

const isPlusMinusOne = (h: ArrayLike<number>) => Array.from(h).every((entry) => entry === 1 || entry === -1)
const orders = (most: number) => Array.from({ length: most }, (_, i) => i + 1).filter(isHadamardOrder)

function kronecker(a: ArrayLike<number>, m: number, b: ArrayLike<number>, n: number): number[] {
  const size = m * n
  return Array.from({ length: size * size }, (_, at) => {
    const [i, j] = [Math.floor(at / size), at % size]
    return a[Math.floor(i / n) * m + Math.floor(j / n)]! * b[(i % n) * n + (j % n)]!
  })
}

const bitCount = (x: number) => [...x.toString(2)].filter((bit) => bit === '1').length
const sylvester = (n: number) =>
  Array.from({ length: n * n }, (_, at) => (bitCount(Math.floor(at / n) & (at % n)) % 2 === 0 ? 1 : -1))

describe('GF(q)', () => {
  it('exists for powers of odd primes only', () => {
    const found = Array.from({ length: 60 }, (_, q) => q).filter((q) => galoisField(q))
    expect(found).toEqual([3, 5, 7, 9, 11, 13, 17, 19, 23, 25, 27, 29, 31, 37, 41, 43, 47, 49, 53, 59])
  })

  it.each([3, 7, 9, 25, 27, 49, 81, 125, 343])('%i: as many squares as others, and differences form a group', (q) => {
    const { character, subtract } = galoisField(q)!
    expect(character.reduce((sum, value) => sum + value, 0)).toBe(0)
    // Jacobsthal: Σ χ(a)χ(a − b) = −1 for b ≠ 0, which ties squares and differences together.
    for (let b = 1; b < q; b++) {
      let sum = 0
      for (let a = 0; a < q; a++) sum += character[a]! * character[subtract(a, b)]!
      expect(sum).toBe(-1)
    }
    for (let b = 0; b < q; b++) expect(new Set(Array.from({ length: q }, (_, a) => subtract(a, b))).size).toBe(q)
  })
})

describe('Hadamard matrices', () => {
  it('are exact in integers for every order up to 180, and for larger ones of each kind', () => {
    for (const order of [...orders(180), 344, 444]) {
      const h = matrixOfOrder(order)
      expect([order, isPlusMinusOne(h), wrongProducts(h, order)]).toEqual([order, true, 0])
    }
  })

  it('cover two thirds of the multiples of 4 up to 4096, and nearly all those of 32', () => {
    const missing = Array.from({ length: 1024 }, (_, i) => 4 * i + 4).filter((order) => !isHadamardOrder(order))
    expect(missing.slice(0, 8)).toEqual([92, 116, 156, 172, 184, 188, 232, 236])
    expect(missing.filter((order) => order % 32 === 0)).toEqual([1888, 2336, 3232, 3424, 3488, 3616, 3776, 4064])
    expect(missing.length).toBe(1024 - 692)
    expect([1, 2, 3, 6, 10, 0, -4, 4.5].map(isHadamardOrder)).toEqual([true, true, ...Array(6).fill(false)])
    // Widths of language models.
    expect(
      [288, 384, 576, 768, 896, 960, 1536, 2560, 3584, 4864, 5120, 11008, 14336, 18944].every(isHadamardOrder),
    ).toBe(true)
  })

  it('are those of Sylvester and Paley, and their products', () => {
    expect([...matrixOfOrder(16)]).toEqual(sylvester(16))
    for (const order of [12, 20, 28, 36, 52, 100]) {
      expect(isPaleyOrder(order)).toBe(true)
      expect([...matrixOfOrder(order)]).toEqual([...paleyMatrix(order)])
    }
    expect([...matrixOfOrder(48)]).toEqual(kronecker(paleyMatrix(12), 12, sylvester(4), 4))
    expect([...matrixOfOrder(240)]).toEqual(kronecker(paleyMatrix(12), 12, paleyMatrix(20), 20))
    const [h, transposed] = [matrixOfOrder(48), matrixOfOrder(48, true)]
    expect([...transposed]).toEqual(Array.from(h, (_, at) => h[(at % 48) * 48 + Math.floor(at / 48)]))
  })

  it('multiply vectors as the matrix does, exactly for small integers', () => {
    const width = fc.constantFrom(1, 2, 8, 12, 24, 52, 56, 60, 144)
    const property = fc.property(width, fc.boolean(), fc.integer({ min: 0, max: 3 }), fc.gen(), (n, flip, count, g) => {
      const vectors = Float64Array.from({ length: n * count }, () => g(fc.integer, { min: -99, max: 99 }))
      const h = matrixOfOrder(n)
      const expected = Array.from(vectors, (_, at) => {
        const [row, j] = [Math.floor(at / n), at % n]
        let sum = 0
        for (let i = 0; i < n; i++) sum += vectors[row * n + i]! * h[flip ? j * n + i : i * n + j]!
        return sum
      })
      const product = vectors.slice()
      multiplyByHadamardInPlace(product, n, flip)
      expect([...product].map((x) => x + 0)).toEqual(expected.map((x) => x + 0))
    })
    fc.assert(property, { numRuns: 60, seed: 1 })
  })

  it('divide a width', () => {
    expect([92, 300, 46, 7, 2 * 92, 11 * 64].map((width) => largestHadamardDivisor(width))).toEqual([
      4, 300, 2, 1, 8, 704,
    ])
    expect(largestHadamardDivisor(1536, 128)).toBe(128)
  })

  it('refuse other orders and vectors', () => {
    expect(() => multiplyByHadamardInPlace(new Float64Array(92), 92)).toThrow('no Hadamard matrix of order 92')
    expect(() => multiplyByHadamardInPlace(new Float64Array(13), 12)).toThrow(RangeError)
    expect(() => paleyMatrix(16 * 23)).not.toThrow()
    expect(() => paleyMatrix(92)).toThrow(RangeError)
  })
})

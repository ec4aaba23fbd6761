/** Rotations: orthogonal, undone by their inverse, a matter of the seed alone. */
import { describe, expect, it } from 'vitest'
import { makeRandom } from '../../src/random.ts'
import { matrixOf, randomHadamard, rotationOfMatrix } from '../../src/rsq/rotations.ts'

/** Largest error of QᵀQ = I. */
function defect(q: Float64Array, width: number): number {
  let worst = 0
  for (let i = 0; i < width; i++) {
    for (let j = 0; j < width; j++) {
      let sum = i === j ? -1 : 0
      for (let k = 0; k < width; k++) sum += q[k * width + i]! * q[k * width + j]!
      worst = Math.max(worst, Math.abs(sum))
    }
  }
  return worst
}

const furthest = (a: Float64Array, b: Float64Array) => a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0)

function someVectors(count: number, width: number, seed = 3): Float64Array {
  const random = makeRandom(seed)
  return Float64Array.from({ length: count * width }, () => random.normal())
}

/** Powers of two, Paley, products, blocks (156 = 3·52), and Haar. */
const WIDTHS = [1, 2, 5, 12, 16, 46, 52, 60, 92, 96, 156]

describe.each(WIDTHS)('a random rotation of width %i', (width) => {
  it.each([false, true])('is orthogonal, its matrix, and its inverse undoes it (keepsOnes %s)', (keepsOnes) => {
    const rotation = randomHadamard(width, { seed: 7, keepsOnes })
    const q = matrixOf(rotation)
    expect(defect(q, width)).toBeLessThan(1e-13)
    const vectors = someVectors(3, width)
    const turned = vectors.slice()
    rotation.applyInPlace(turned)
    const product = vectors.map((_, at) => {
      const [row, j] = [Math.floor(at / width), at % width]
      let sum = 0
      for (let i = 0; i < width; i++) sum += vectors[row * width + i]! * q[i * width + j]!
      return sum
    })
    expect(furthest(turned, product)).toBeLessThan(1e-13 * width)
    rotation.invertInPlace(turned)
    expect(furthest(turned, vectors)).toBeLessThan(1e-13)
  })

  it('keeps the vector of ones where asked to', () => {
    const ones = new Float64Array(width).fill(1)
    const rotation = randomHadamard(width, { seed: 7, keepsOnes: true })
    for (const turn of [rotation.applyInPlace, rotation.invertInPlace]) {
      const turned = ones.slice()
      turn(turned)
      expect(furthest(turned, ones)).toBeLessThan(1e-13)
    }
  })

  it('is a matter of the seed', () => {
    const of = (seed: number) => matrixOf(randomHadamard(width, { seed }))
    expect(of(11)).toEqual(of(11))
    const different = [0, 1, 2, 3, 4, 5, 6, 7].map((seed) => of(seed).join())
    expect(new Set(different).size).toBeGreaterThan(1)
    if (width > 4) expect(new Set(different).size).toBe(8)
  })
})

describe('a random rotation', () => {
  it('has entries ±1/√width where an order fits, and blocks of 52 in 156', () => {
    for (const entry of matrixOf(randomHadamard(52, { seed: 1 })))
      expect(Math.abs(entry)).toBeCloseTo(1 / Math.sqrt(52), 15)
    const q = matrixOf(randomHadamard(156, { seed: 1 }))
    const nonZero = q.reduce((count, entry) => count + (entry === 0 ? 0 : 1), 0)
    expect(nonZero / 156).toBe(52)
  })

  it('takes the mean away as before where it keeps ones', () => {
    const width = 60
    const centre = (v: Float64Array) => v.map((x) => x - v.reduce((a, b) => a + b, 0) / width)
    const v = someVectors(1, width).map((x) => x + 5)
    const rotation = randomHadamard(width, { seed: 2, keepsOnes: true })
    const after = v.slice()
    rotation.applyInPlace(after)
    const before = centre(v)
    rotation.applyInPlace(before)
    expect(furthest(centre(after), before)).toBeLessThan(1e-13)
  })

  it('spreads Haar entries evenly: mean square 1/width in every column, no preferred sign', () => {
    const width = 46
    const squares = new Float64Array(width * width)
    const sums = new Float64Array(width * width)
    const runs = 60
    for (let seed = 0; seed < runs; seed++) {
      matrixOf(randomHadamard(width, { seed })).forEach((x, i) => {
        squares[i]! += (x * x * width) / runs
        sums[i]! += (x * Math.sqrt(width)) / runs
      })
    }
    // Standard errors: √(2/60) and √(1/60) of one entry, over 2116 entries.
    expect(squares.reduce((a, b) => Math.max(a, b), 0)).toBeLessThan(1 + 8 * Math.sqrt(2 / runs))
    expect(sums.reduce((a, b) => Math.max(a, Math.abs(b)), 0)).toBeLessThan(4.5 * Math.sqrt(1 / runs))
  })

  it('refuses impossible widths', () => {
    for (const width of [0, -4, 2.5, Number.NaN]) expect(() => randomHadamard(width, { seed: 0 })).toThrow(RangeError)
  })
})

describe('a given matrix', () => {
  it('turns as the rotation that it is the matrix of', () => {
    const rotation = randomHadamard(46, { seed: 5 })
    const same = rotationOfMatrix(matrixOf(rotation), 46)
    const [a, b] = [someVectors(4, 46), someVectors(4, 46)]
    rotation.applyInPlace(a)
    same.applyInPlace(b)
    expect(furthest(a, b)).toBeLessThan(1e-14 * 46)
    rotation.invertInPlace(a)
    same.invertInPlace(b)
    expect(furthest(a, b)).toBeLessThan(1e-14 * 46)
  })

  it('must be orthogonal, finite, and of its size', () => {
    const q = matrixOf(randomHadamard(8, { seed: 5 }))
    expect(() => rotationOfMatrix(q, 7)).toThrow(RangeError)
    expect(() =>
      rotationOfMatrix(
        q.map((x) => x * (1 + 1e-8)),
        8,
      ),
    ).toThrow('not orthogonal')
    expect(() =>
      rotationOfMatrix(
        q.map((x, i) => (i === 3 ? Number.NaN : x)),
        8,
      ),
    ).toThrow('not orthogonal')
  })
})

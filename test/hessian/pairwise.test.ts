import { describe, expect, test } from 'vitest'
import { gramOf, interactionsFromGram, interactionsFromPairs, predictPairwise } from '../../src/hessian/pairwise.ts'
import { makeRandom } from '../../src/random.ts'
import { members, softmaxKl, softmaxPerturbation } from '../oracles/sensitivityOracle.ts'

function normals(count: number, seed: number): Float32Array<ArrayBuffer> {
  const random = makeRandom(seed)
  return Float32Array.from({ length: count }, () => random.normal())
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0
  for (let k = 0; k < a.length; k++) sum += a[k]! * b[k]!
  return sum
}

const row = (rows: Float32Array, i: number, width: number) => rows.subarray(i * width, (i + 1) * width)

describe('the Gram matrix', () => {
  test.each([
    [1, 3],
    [2, 1],
    [5, 2500],
    [6, 1024],
    [7, 1025],
    [3, 0],
  ])('%d rows of width %d, in float64', (count, width) => {
    const rows = normals(count * width, count)
    const gram = gramOf(rows, count, width)
    for (let i = 0; i < count; i++) {
      for (let j = 0; j < count; j++) {
        const expected = dot(row(rows, i, width), row(rows, j, width))
        expect(Math.abs(gram[i * count + j]! - expected)).toBeLessThan(1e-12 * (width + 1))
        expect(gram[i * count + j]).toBe(gram[j * count + i])
      }
    }
  })

  test('rows in another order give the same numbers in that order', () => {
    const [count, width] = [6, 1500]
    const rows = normals(count * width, 1)
    const order = [3, 0, 5, 1, 4, 2]
    const moved = Float32Array.from(order.flatMap((i) => [...row(rows, i, width)]))
    const gram = gramOf(rows, count, width)
    const expected = order.flatMap((i) => order.map((j) => gram[i * count + j]!))
    expect([...gramOf(moved, count, width)]).toEqual(expected)
  })

  test('a wrong shape is refused', () => {
    expect(() => gramOf(new Float32Array(5), 2, 3)).toThrow(RangeError)
    expect(() => interactionsFromGram(new Float64Array(4), [1])).toThrow(RangeError)
    expect(() => predictPairwise([0], [1, 2], new Float64Array(1))).toThrow(RangeError)
  })
})

describe('a quadratic loss', () => {
  const [count, width] = [6, 40]
  const rows = normals(count * width, 9)
  const lossOf = (chosen: readonly number[]) => {
    const moved = Array.from({ length: width }, (_, k) => chosen.reduce((sum, i) => sum + rows[i * width + k]!, 0))
    return 0.5 * dot(moved, moved)
  }
  const singles = Array.from({ length: count }, (_, i) => lossOf([i]))
  const gram = gramOf(rows, count, width)
  const pairs = Array.from({ length: count * count }, (_, at) => [Math.floor(at / count), at % count] as const)
    .filter(([i, j]) => i < j)
    .map(([first, second]) => ({ first, second, loss: lossOf([first, second]) }))

  test.each([
    ['singles and Gram matrix', interactionsFromGram(gram, singles)],
    ['the Gram matrix alone', interactionsFromGram(gram, singles, 'gram')],
    ['runs of pairs', interactionsFromPairs(singles, pairs)],
  ])('is predicted for every set from %s', (_, interactions) => {
    for (let set = 0; set < 1 << count; set++) {
      const chosen = members(set)
      expect(predictPairwise(chosen, singles, interactions)).toBeCloseTo(lossOf(chosen), 9)
      // The same as a quadratic form, which is what a solver sees.
      let form = 0
      for (const i of chosen) for (const j of chosen) form += 0.5 * interactions[i * count + j]!
      expect(form).toBeCloseTo(lossOf(chosen), 9)
    }
  })

  test('singles that are off by a factor: cosines stay, and no prediction is negative', () => {
    const measured = singles.map((s, i) => s * (0.05 + 0.3 * i))
    const scaled = interactionsFromGram(gram, measured)
    for (let i = 0; i < count; i++) {
      for (let j = 0; j < count; j++) {
        const cosine = gram[i * count + j]! / Math.sqrt(gram[i * count + i]! * gram[j * count + j]!)
        expect(scaled[i * count + j]).toBeCloseTo(2 * Math.sqrt(measured[i]! * measured[j]!) * cosine, 9)
      }
    }
    // Two opposite perturbations with singles measured at a tenth: what the Gram matrix alone makes of them.
    const opposite = gramOf(Float32Array.of(1, -1), 2, 1)
    expect(predictPairwise([0, 1], [0.05, 0.05], interactionsFromGram(opposite, [0.05, 0.05], 'gram'))).toBeLessThan(0)
    expect(predictPairwise([0, 1], [0.05, 0.05], interactionsFromGram(opposite, [0.05, 0.05]))).toBeCloseTo(0, 12)
  })

  test('noise and layers that change nothing have no cross terms', () => {
    const still = gramOf(Float32Array.of(0, 0, 1, 2, 3, 1), 3, 2)
    const interactions = interactionsFromGram(still, [0.1, -0.2, 5])
    expect([...interactions].map((m) => m + 0)).toEqual([0.2, 0, 0, 0, -0.4, 0, 0, 0, 10])
  })
})

describe('direct pairs', () => {
  test('pairs that were not run have no interaction', () => {
    expect([...interactionsFromPairs([1, 2, 4], [{ first: 2, second: 0, loss: 5.5 }])]).toEqual([
      2, 0, 0.5, 0, 4, 0, 0.5, 0, 8,
    ])
  })

  test.each([
    [[{ first: 0, second: 0, loss: 1 }]],
    [[{ first: 0, second: 2, loss: 1 }]],
    [[{ first: -1, second: 1, loss: 1 }]],
    [
      [
        { first: 0, second: 1, loss: 1 },
        { first: 1, second: 0, loss: 1 },
      ],
    ],
  ])('%j is refused', (pairs) => {
    expect(() => interactionsFromPairs([1, 2], pairs)).toThrow(RangeError)
  })
})

describe('softmax regression with two perturbed blocks', () => {
  const random = makeRandom(21)
  const matrix = (rows: number, cols: number) =>
    Array.from({ length: rows }, () => Array.from({ length: cols }, () => random.normal()))
  const weights = matrix(5, 8)
  const samples = matrix(30, 8)
  // Correlated blocks: errors of one partly make up for those of the other.
  for (const x of samples) for (let k = 4; k < 8; k++) x[k] = 0.6 * x[k - 4]! + 0.8 * x[k]!
  const error = matrix(5, 8)
  const changed = (scale: number, blocks: readonly number[]) =>
    weights.map((row, c) => row.map((w, k) => w + (blocks.includes(Math.floor(k / 4)) ? scale * error[c]![k]! : 0)))

  test('Gram and direct pairs become equal as the perturbation shrinks', () => {
    const offBy = [0.1, 0.01, 0.001].map((scale) => {
      const loss = (blocks: readonly number[]) => softmaxKl(weights, changed(scale, blocks), samples)
      const perturbations = [[0], [1]].map((blocks) => softmaxPerturbation(weights, changed(scale, blocks), samples))
      const singles = [loss([0]), loss([1])]
      const direct = interactionsFromPairs(singles, [{ first: 0, second: 1, loss: loss([0, 1]) }])[1]!
      const gram = gramOf(Float32Array.from(perturbations.flat()), 2, 150)
      expect(0.5 * gram[0]!).toBeGreaterThan(0)
      return (['singles', 'gram'] as const).map((kind) =>
        Math.abs(interactionsFromGram(gram, singles, kind)[1]! / direct - 1),
      )
    })
    for (const kind of [0, 1]) {
      // The third order is a factor of 10 smaller, relative to the second, for each factor of 10 in the weights.
      expect(offBy[2]![kind]).toBeLessThan(5e-3)
      expect(offBy[2]![kind]).toBeLessThan(0.2 * offBy[1]![kind]!)
      expect(offBy[1]![kind]).toBeLessThan(0.2 * offBy[0]![kind]!)
    }
  })
})

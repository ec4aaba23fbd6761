import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { expOfNonPositive } from '../../src/eval/exponential.ts'
import { OutputLoss, summarize } from '../../src/eval/outputLoss.ts'
import { floatToHalf } from '../../src/quant/float16.ts'
import { makeRandom } from '../../src/random.ts'
import * as oracle from '../oracles/metricsOracle.ts'
import { normalTensor, tensor } from './models.ts'

const all = (count: number) => ({ count, weights: undefined })
const floats = (dims: readonly number[], values: readonly number[]) => tensor('float', dims, Float32Array.from(values))

/** The tensor with every value changed. */
function changed(from: FeedTensor, change: (value: number, i: number) => number): FeedTensor {
  return { ...from, data: Float32Array.from(from.data as Float32Array, change) }
}

/** Values plus seeded normal noise. */
function noisy(from: FeedTensor, scale: number, seed = 9): FeedTensor {
  const random = makeRandom(seed)
  return changed(from, (value) => value + scale * random.normal())
}

const rowsOf = (values: FeedTensor, classes: number) => {
  const data = Array.from(values.data as Float32Array)
  return Array.from({ length: data.length / classes }, (_, row) => data.slice(row * classes, (row + 1) * classes))
}

/** KL of each row, by its definition. */
function rowDivergences(reference: FeedTensor, candidate: FeedTensor): number[] {
  const classes = reference.dims.at(-1)!
  const theirs = rowsOf(candidate, classes)
  return rowsOf(reference, classes).map((row, i) => oracle.kl(oracle.softmax(row), oracle.softmax(theirs[i]!)))
}

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length

function softmaxed(logits: FeedTensor): FeedTensor {
  return { ...logits, data: Float32Array.from(rowsOf(logits, logits.dims.at(-1)!).flatMap(oracle.softmax)) }
}

describe('loss of class scores', () => {
  it('is the mean KL per row of each sample', () => {
    fc.assert(
      fc.property(
        fc.integer(),
        fc.integer({ min: 2, max: 40 }),
        fc.double({ min: 0.01, max: 5, noNaN: true }),
        (seed, classes, scale) => {
          const reference = normalTensor([3, 4, classes], seed)
          const candidate = noisy(reference, scale)
          const loss = new OutputLoss(['y'])
          loss.addReference(7, 'y', reference, all(3))
          const rows = rowDivergences(reference, candidate)
          const got = loss.compare(7, new Map([['y', candidate]]))
          for (let s = 0; s < 3; s++) {
            const expected = mean(rows.slice(4 * s, 4 * s + 4))
            expect(Math.abs(got[s]! - expected)).toBeLessThanOrEqual(1e-7 * Math.sqrt(expected) + 1e-13)
          }
        },
      ),
      { numRuns: 50 },
    )
  })

  it('sees changes far smaller than the rounding of the stored probabilities, and none where there is none', () => {
    const reference = tensor(
      'double',
      [2, 1000],
      Float64Array.from(normalTensor([2000], 4).data as Float32Array, (x) => 3 * x),
    )
    const loss = new OutputLoss(['y'])
    loss.addReference(0, 'y', reference, all(2))
    const at = (epsilon: number) => {
      const random = makeRandom(2)
      const data = Float64Array.from(reference.data as Float64Array, (x) => x + epsilon * random.normal())
      return loss.compare(0, new Map([['y', { ...reference, data }]]))
    }
    expect(Math.max(...at(0))).toBeLessThan(1e-13)
    // Second order: a tenth of the change, a hundredth of the loss.
    expect(at(1e-4)[0]! / at(1e-5)[0]!).toBeCloseTo(100, 0)
  })

  it('is the same for logits, for their probabilities, and for whatever is added to a row', () => {
    const reference = normalTensor([2, 3, 20], 1)
    const candidate = noisy(reference, 0.5)
    const logits = new OutputLoss(['y'])
    logits.addReference(0, 'y', reference, all(2))
    const probabilities = new OutputLoss('auto')
    probabilities.addReference(0, 'y', softmaxed(reference), all(2))
    const expected = logits.compare(0, new Map([['y', candidate]]))
    const other = probabilities.compare(0, new Map([['y', softmaxed(candidate)]]))
    const shifted = logits.compare(0, new Map([['y', changed(candidate, (x) => x + 64)]]))
    for (let s = 0; s < 2; s++) {
      expect(expected[s]).toBeGreaterThan(0.05)
      expect(other[s]).toBeCloseTo(expected[s]!, 6)
      expect(shifted[s]).toBeCloseTo(expected[s]!, 5)
    }
  })

  it('takes a stored zero of a candidate for the smallest number of its type', () => {
    const loss = new OutputLoss('auto')
    loss.addReference(0, 'y', floats([1, 2], [0.5, 0.5]), all(1))
    const zero = loss.compare(0, new Map([['y', floats([1, 2], [1, 0])]]))
    expect(zero[0]).toBeCloseTo(0.5 * Math.log(0.5) + 0.5 * Math.log(0.5 / 2 ** -149), 9)
    const half = tensor('float16', [1, 2], Uint16Array.of(floatToHalf(1), 0))
    expect(loss.compare(0, new Map([['y', half]]))[0]).toBeCloseTo(Math.log(0.5) + 0.5 * 24 * Math.LN2, 6)
  })

  it('leaves padding out, in the reference as in the candidate', () => {
    const reference = normalTensor([2, 3, 5], 1)
    const candidate = noisy(reference, 0.5)
    const isPadding = (i: number) => i >= 10 && i < 15
    const broken = changed(candidate, (x, i) => (isPadding(i) ? Number.NaN : x))
    const loss = new OutputLoss(['y'])
    const weights = Float32Array.of(1, 1, 0, 1, 1, 1)
    loss.addReference(
      0,
      'y',
      changed(reference, (x, i) => (isPadding(i) ? Number.NaN : x)),
      { count: 2, weights },
    )
    const rows = rowDivergences(reference, candidate)
    const got = loss.compare(0, new Map([['y', broken]]))
    expect(got[0]).toBeCloseTo(mean(rows.slice(0, 2)), 7)
    expect(got[1]).toBeCloseTo(mean(rows.slice(3)), 7)
  })

  it('decides by the rows that count, on the first batch', () => {
    const loss = new OutputLoss('auto')
    const distribution = softmaxed(normalTensor([1, 3, 5], 1))
    const padded = changed(distribution, (x, i) => (i >= 10 ? 7 : x))
    loss.addReference(0, 'y', padded, { count: 1, weights: Float32Array.of(1, 1, 0) })
    expect(loss.reference.compared(0)[0]!.kind).toBe('probabilities')
    const bad = () => loss.addReference(1, 'y', normalTensor([1, 3, 5], 1), all(1))
    expect(bad).toThrow(expect.objectContaining({ code: 'data', message: expect.stringContaining('do not sum to 1') }))
  })

  it('is infinite, never NaN, where the candidate has no answer', () => {
    const loss = new OutputLoss(['y', 'p'])
    loss.addReference(0, 'y', floats([6, 2], new Array(12).fill(1)), all(6))
    const { NaN: nan, POSITIVE_INFINITY: inf, NEGATIVE_INFINITY: never } = Number
    const rows = [1, nan, nan, nan, inf, 1, never, 1, never, never, 1, 1]
    expect([...loss.compare(0, new Map([['y', floats([6, 2], rows)]]))].map((x) => x < 1e-9 || x)).toEqual([
      inf,
      inf,
      inf,
      inf,
      inf,
      true,
    ])
    const possible = new OutputLoss(['y'])
    possible.addReference(0, 'y', floats([1, 3], [1, 2, never]), all(1))
    expect(possible.compare(0, new Map([['y', floats([1, 3], [1, 2, never])]]))[0]).toBeLessThan(1e-9)
    expect(possible.compare(0, new Map([['y', floats([1, 3], [1, 2, nan])]]))[0]).toBe(inf)
  })
})

describe('loss of other outputs', () => {
  it('is the relative squared error of each sample, but no sample is near silence', () => {
    const loss = new OutputLoss('auto')
    // Energies 2, 0.001 and 1 in batch 0; 4 in batch 1: 7.001 over 4 samples of 2 values.
    loss.addReference(0, 'y', floats([3, 2], [1, 1, 0.1 ** 1.5, 0, 0, 1]), all(3))
    loss.addReference(1, 'y', floats([1, 2], [2, 0]), all(1))
    const got = loss.compare(0, new Map([['y', floats([3, 2], [1, 1.5, 0.1 ** 1.5, 0.1, 0, 1])]]))
    expect(got[0]).toBeCloseTo(0.25 / 2, 7)
    expect(got[1]).toBeCloseTo(0.01 / (7.001 / 40), 7)
    expect(got[2]).toBe(0)
    expect(loss.compare(1, new Map([['y', floats([1, 2], [2, 1])]]))[0]).toBeCloseTo(1 / 4, 7)
  })

  it('leaves padding out of error and norm', () => {
    const loss = new OutputLoss('auto')
    loss.addReference(0, 'y', floats([1, 3, 1], [1, 2, 100]), { count: 1, weights: Float32Array.of(1, 1, 0) })
    expect(loss.compare(0, new Map([['y', floats([1, 3, 1], [2, 2, Number.NaN])]]))[0]).toBeCloseTo(1 / 5, 7)
  })

  it('takes equal infinities for equal, and what is not finite elsewhere for infinite', () => {
    const inf = Number.POSITIVE_INFINITY
    const loss = new OutputLoss('auto')
    loss.addReference(0, 'y', floats([3, 2], [1, inf, 1, 1, 1, inf]), all(3))
    const candidate = floats([3, 2], [1, inf, 1, Number.NaN, 1, 1])
    expect([...loss.compare(0, new Map([['y', candidate]]))]).toEqual([0, inf, inf])
  })

  it('is absolute where all references are zero', () => {
    const loss = new OutputLoss('auto')
    loss.addReference(0, 'y', floats([2, 1], [0, 0]), all(2))
    expect([...loss.compare(0, new Map([['y', floats([2, 1], [0, 3])]]))]).toEqual([0, 9])
  })

  it('of an output without a batch axis belongs to every sample', () => {
    const loss = new OutputLoss('auto')
    loss.addReference(0, 'y', floats([3], [1, 1, 1]), all(2))
    const [a, b] = loss.compare(0, new Map([['y', floats([3], [1, 1, 2])]]))
    expect([a, b]).toEqual([1 / 3, 1 / 3])
  })
})

describe('several outputs', () => {
  const loss = new OutputLoss(['logits'])
  const logits = normalTensor([2, 4], 3)
  loss.addReference(0, 'logits', logits, all(2))
  loss.addReference(0, 'embedding', floats([2, 1], [1, 2]), all(2))
  loss.addReference(0, 'ids', tensor('int64', [2, 1], BigInt64Array.of(1n, 2n)), all(2))

  it('are averaged, without integers; one that is left out has not changed', () => {
    const candidate = noisy(logits, 1)
    const expected = rowDivergences(logits, candidate)
    const embedding = floats([2, 1], [2, 2])
    const both = loss.compare(
      0,
      new Map([
        ['logits', candidate],
        ['embedding', embedding],
      ]),
    )
    expect(both[0]).toBeCloseTo((expected[0]! + 1) / 2, 6)
    expect(both[1]).toBeCloseTo(expected[1]! / 2, 6)
    const ids = tensor('int64', [2, 1], BigInt64Array.of(7n, 7n))
    expect([
      ...loss.compare(
        0,
        new Map([
          ['embedding', embedding],
          ['ids', ids],
        ]),
      ),
    ]).toEqual([0.5, 0])
  })

  it('of integers alone count what differs', () => {
    const only = new OutputLoss('auto')
    only.addReference(0, 'ids', tensor('int64', [2, 2], BigInt64Array.of(1n, 2n, 3n, 4n)), all(2))
    const ids = tensor('int64', [2, 2], BigInt64Array.of(1n, 2n, 3n, 5n))
    expect([...only.compare(0, new Map([['ids', ids]]))]).toEqual([0, 0.5])
  })

  it('must be known, have their shape, and a reference without NaN', () => {
    expect(() => loss.compare(0, new Map([['logit', logits]]))).toThrow(RangeError)
    expect(() => loss.compare(1, new Map())).toThrow(RangeError)
    const wrong = new Map([['logits', floats([4, 2], new Array(8).fill(0))]])
    expect(() => loss.compare(0, wrong)).toThrow(expect.objectContaining({ code: 'model' }))
    const bad = expect.objectContaining({ code: 'data' })
    expect(() => new OutputLoss('auto').addReference(0, 'y', floats([1], [Number.NaN]), all(1))).toThrow(bad)
    const infinite = floats([1, 2], [Number.POSITIVE_INFINITY, 0])
    expect(() => new OutputLoss(['y']).addReference(0, 'y', infinite, all(1))).toThrow(bad)
    expect(() => loss.addReference(0, 'ids', logits, all(2))).toThrow(RangeError)
  })
})

it('references may lie in a store of the caller', () => {
  const kept = new Map<string, FeedTensor>()
  const store = {
    put: (batch: number, name: string, value: FeedTensor) => void kept.set(`${batch}/${name}`, structuredClone(value)),
    get: (batch: number, name: string) => kept.get(`${batch}/${name}`)!,
  }
  const spilled = new OutputLoss(['y'], store)
  const inMemory = new OutputLoss(['y'])
  for (const batch of [3, 5]) {
    const reference = normalTensor([2, 6], batch)
    for (const loss of [spilled, inMemory]) loss.addReference(batch, 'y', reference, all(2))
    const outputs = new Map([['y', noisy(reference, 1)]])
    expect(spilled.compare(batch, outputs)).toEqual(inMemory.compare(batch, outputs))
  }
  expect([...kept.keys()]).toEqual(['3/y', '5/y'])
  expect(spilled.reference.samples).toBe(4)
})

it('summarize gives the mean and its standard error', () => {
  const losses = [1, 4, 2, 7.5]
  expect(summarize(losses).mean).toBeCloseTo(3.625, 12)
  expect(summarize(losses).standardError).toBeCloseTo(oracle.standardErrorOfMean(losses), 12)
  expect(summarize([3])).toEqual({ mean: 3, standardError: Number.NaN })
  const infinite = { mean: Number.POSITIVE_INFINITY, standardError: Number.POSITIVE_INFINITY }
  expect(summarize(Float64Array.of(1, Number.POSITIVE_INFINITY))).toEqual(infinite)
})

it('expOfNonPositive is exp', () => {
  fc.assert(
    fc.property(fc.double({ min: -708, max: 0, noNaN: true }), (x) => {
      expect(Math.abs(expOfNonPositive(x) / Math.exp(x) - 1)).toBeLessThan(x > -50 ? 1e-14 : 1e-13)
    }),
  )
  expect(expOfNonPositive(0)).toBe(1)
  expect(expOfNonPositive(-709)).toBe(0)
  expect(expOfNonPositive(Number.NEGATIVE_INFINITY)).toBe(0)
  expect(expOfNonPositive(Number.NaN)).toBeNaN()
})

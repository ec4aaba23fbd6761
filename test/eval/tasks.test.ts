import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { AccuracyAccumulator, PerplexityAccumulator } from '../../src/eval/tasks.ts'
import { makeRandom } from '../../src/random.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import * as oracle from '../oracles/metricsOracle.ts'
import { normalTensor, tensor } from './models.ts'

const SAMPLES = 6
const POSITIONS = 5
const VOCABULARY = 7
const reference = normalTensor([SAMPLES, POSITIONS, VOCABULARY], 1)
const candidate = normalTensor([SAMPLES, POSITIONS, VOCABULARY], 2)
const random = makeRandom(5)
const ids = Int32Array.from({ length: SAMPLES * POSITIONS }, () => random.below(VOCABULARY))

const row = (t: FeedTensor, at: number) => [...(t.data as Float32Array)].slice(at * VOCABULARY, (at + 1) * VOCABULARY)

function slice(t: FeedTensor, start: number, count: number): FeedTensor {
  const per = t.data.length / t.dims[0]!
  return tensor(t.type, [count, ...t.dims.slice(1)], t.data.subarray(start * per, (start + count) * per))
}

function perplexity(kind: 'logits' | 'probabilities', r: FeedTensor, c: FeedTensor, size: number, keep?: Uint8Array) {
  const accumulator = new PerplexityAccumulator('out', kind)
  for (let start = 0; start < SAMPLES; start += size) {
    const [from, to] = [start * POSITIONS, (start + size) * POSITIONS]
    const batch = { reference: slice(r, start, size), candidate: slice(c, start, size), count: size, start }
    accumulator.add({ ...batch, keep: keep?.subarray(from, to) }, ids.subarray(from, to))
  }
  return accumulator.result()
}

/** Sums of −ln p(next token) and counts by sample. */
function surprises(t: FeedTensor, keep?: Uint8Array) {
  return Array.from({ length: SAMPLES }, (_, s) => {
    const positions = Array.from({ length: POSITIONS - 1 }, (_, i) => s * POSITIONS + i).filter(
      (p) => !keep || (keep[p] && keep[p + 1]),
    )
    return positions.map((p) => oracle.surprise(row(t, p), ids[p + 1]!))
  })
}

describe('PerplexityAccumulator', () => {
  it.each([1, 2, 6])('is exp of the mean surprise, in batches of %i', (size) => {
    const result = perplexity('logits', reference, candidate, size)!
    const mean = (t: FeedTensor) =>
      surprises(t)
        .flat()
        .reduce((a, b) => a + b, 0) / 24
    expect(result).toMatchObject({ name: 'perplexity', output: 'out', count: 24 })
    expect(result.reference).toBeCloseTo(Math.exp(mean(reference)), 9)
    expect(result.candidate).toBeCloseTo(Math.exp(mean(candidate)), 9)
    expect(result.change).toBeCloseTo(result.candidate / result.reference - 1, 12)
    const changes = surprises(reference).map(
      (terms, s) => terms.reduce((sum, r, i) => sum + surprises(candidate)[s]![i]! - r, 0) / terms.length,
    )
    expect(result.standardError).toBeCloseTo((1 + result.change) * oracle.standardErrorOfMean(changes), 10)
  })

  it('predicts only from tokens to tokens, never from or to padding', () => {
    // Left padding, right padding, a hole, nothing but padding, one token, all.
    const keep = Uint8Array.from([
      0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1,
    ])
    const result = perplexity('logits', reference, candidate, 3, keep)!
    const terms = surprises(reference, keep).flat()
    expect(terms.length).toBe(2 + 2 + 2 + 0 + 0 + 4)
    expect(result.count).toBe(terms.length)
    expect(result.reference).toBeCloseTo(Math.exp(terms.reduce((a, b) => a + b, 0) / terms.length), 9)
    expect(perplexity('logits', reference, candidate, 3, new Uint8Array(30))).toBeUndefined()
  })

  it('is the same from probabilities as from the logits behind them', () => {
    const toProbabilities = (t: FeedTensor) => {
      const rows = Array.from({ length: SAMPLES * POSITIONS }, (_, at) => oracle.softmax(row(t, at)))
      return tensor('double', t.dims, Float64Array.from(rows.flat()))
    }
    const expected = perplexity('logits', reference, candidate, 2)!
    const result = perplexity('probabilities', toProbabilities(reference), toProbabilities(candidate), 2)!
    expect(result.reference).toBeCloseTo(expected.reference, 9)
    expect(result.candidate).toBeCloseTo(expected.candidate, 9)
    expect(result.standardError).toBeCloseTo(expected.standardError, 9)
  })

  it('is the vocabulary size for a model that knows nothing', () => {
    const flat = tensor('float', reference.dims, new Float32Array(reference.data.length))
    expect(perplexity('logits', flat, flat, 1)).toMatchObject({
      reference: expect.closeTo(VOCABULARY, 10),
      change: 0,
      standardError: 0,
    })
  })
})

function accuracy(r: FeedTensor, c: FeedTensor, labels: ArrayLike<number>, size: number) {
  const accumulator = new AccuracyAccumulator('out')
  for (let start = 0; start < r.dims[0]!; start += size) {
    const batch = { reference: slice(r, start, size), candidate: slice(c, start, size), count: size, start }
    accumulator.add({ ...batch, keep: undefined }, labels)
  }
  return accumulator.result()
}

describe('AccuracyAccumulator', () => {
  const r = normalTensor([12, VOCABULARY], 3)
  const c = normalTensor([12, VOCABULARY], 4)

  it('counts rows whose largest class is the label, with a paired standard error', () => {
    const label = fc.integer({ min: -1, max: VOCABULARY - 1 })
    const labelled = fc.array(label, { minLength: 12, maxLength: 12 })
    fc.assert(
      fc.property(labelled, fc.constantFrom(1, 3, 4, 12), (labels, size) => {
        const right = (t: FeedTensor) => labels.map((l, at) => (oracle.argmax(row(t, at)) === l ? 1 : 0))
        const counted = labels.map((l, at) => (l < 0 ? -1 : at)).filter((at) => at >= 0)
        const result = accuracy(r, c, labels, size)
        if (counted.length === 0) return expect(result).toBeUndefined()
        const changes = counted.map((at) => right(c)[at]! - right(r)[at]!)
        expect(result!.count).toBe(counted.length)
        expect(result!.reference).toBeCloseTo(counted.filter((at) => right(r)[at]).length / counted.length, 12)
        expect(result!.candidate).toBeCloseTo(counted.filter((at) => right(c)[at]).length / counted.length, 12)
        expect(result!.change).toBeCloseTo(result!.candidate - result!.reference, 12)
        if (counted.length > 1) expect(result!.standardError).toBeCloseTo(oracle.standardErrorOfMean(changes), 12)
      }),
    )
  })

  it('counts a row of NaN as wrong', () => {
    const nan = tensor('float', r.dims, new Float32Array(r.data.length).fill(Number.NaN))
    expect(accuracy(r, nan, new Int32Array(12), 4)!.candidate).toBe(0)
  })

  it('refuses a label that is no class', () => {
    const labels = new Int32Array(12).fill(1)
    labels[10] = VOCABULARY
    expectQtoolError('data', () => accuracy(r, c, labels, 4), 'label 7 of sample 10', '7 classes')
  })
})

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { DifferenceAccumulator, OutputAccumulator } from '../../src/eval/metrics.ts'
import type { OutputKind } from '../../src/eval/outputKind.ts'
import { floatToHalf } from '../../src/quant/float16.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import * as oracle from '../oracles/metricsOracle.ts'
import { normalTensor, tensor } from './models.ts'

/** Multiples of 1/1024: their squares are exact. */
const finite = fc.integer({ min: -1_000_000, max: 1_000_000 }).map((x) => x / 1024)
const pairs = fc.array(fc.tuple(finite, finite), { minLength: 1, maxLength: 40 })

function differences(reference: readonly number[], candidate: readonly number[]): DifferenceAccumulator {
  const result = new DifferenceAccumulator()
  result.add(Float64Array.from(reference), Float64Array.from(candidate), 0, reference.length)
  return result
}

describe('DifferenceAccumulator', () => {
  it('agrees with the definitions, however the numbers are cut', () => {
    fc.assert(
      fc.property(pairs, fc.nat(), (values, seed) => {
        const r = Float64Array.from(values, ([x]) => x)
        const c = Float64Array.from(values, ([, x]) => x)
        const cut = seed % (values.length + 1)
        const result = new DifferenceAccumulator()
        result.add(r, c, 0, cut)
        result.add(r, c, cut, values.length)
        expect(result.values).toBe(values.length)
        expect(result.largest).toBe(oracle.largestDifference([...r], [...c]))
        const sqnr = oracle.sqnr([...r], [...c])
        if (Number.isFinite(sqnr)) expect(result.sqnr).toBeCloseTo(sqnr, 8)
        else expect(result.sqnr).toBe(sqnr)
        const cosine = oracle.cosine([...r], [...c])
        if (!Number.isNaN(cosine)) expect(result.cosine).toBeCloseTo(cosine, 10)
        expect(result.equalShare).toBe(values.filter(([x, y]) => x === y).length / values.length)
      }),
    )
  })

  it.each([
    ['equal', [1, -2], [1, -2], { sqnr: Infinity, cosine: 1, largest: 0 }],
    ['all zero', [0, 0], [0, 0], { sqnr: Infinity, cosine: 1, largest: 0 }],
    ['a zero reference', [0, 0], [0, 3], { sqnr: -Infinity, cosine: 0, largest: 3 }],
    ['opposite', [1, -2], [-1, 2], { sqnr: 10 * Math.log10(5 / 20), cosine: expect.closeTo(-1, 12), largest: 4 }],
    ['equal infinities', [1, Infinity], [1, Infinity], { sqnr: Infinity, cosine: 1, largest: 0 }],
    ['an infinity on one side', [1, 2], [1, Infinity], { sqnr: -Infinity, cosine: NaN, largest: Infinity }],
    ['NaN', [1, 2, 3], [1, NaN, 3], { sqnr: NaN, cosine: NaN, largest: NaN, equalShare: NaN }],
  ])('knows %s', (_, reference, candidate, expected) => {
    const { sqnr, cosine, largest, equalShare } = differences(reference, candidate)
    expect({ sqnr, cosine, largest, equalShare }).toMatchObject(expected)
  })
})

interface Whole {
  readonly reference: FeedTensor
  readonly candidate: FeedTensor
  readonly keep?: Uint8Array
}

/** Accumulate whole tensors in batches of at most `size` samples. */
function accumulate(kind: OutputKind, { reference, candidate, keep }: Whole, size: number): OutputAccumulator {
  const samples = reference.dims[0]!
  const per = reference.data.length / samples
  const accumulator = new OutputAccumulator('out', kind)
  for (let start = 0; start < samples; start += size) {
    const count = Math.min(size, samples - start)
    const part = (t: FeedTensor) =>
      tensor(t.type, [count, ...t.dims.slice(1)], t.data.subarray(start * per, (start + count) * per))
    const perMask = keep ? keep.length / samples : 0
    accumulator.add({
      reference: part(reference),
      candidate: part(candidate),
      count,
      start,
      keep: keep?.subarray(start * perMask, (start + count) * perMask),
    })
  }
  return accumulator
}

const logits = normalTensor([7, 5, 11], 1)
const noise = normalTensor([7, 5, 11], 2)
const perturbed = tensor(
  'float',
  logits.dims,
  Float32Array.from(logits.data as Float32Array, (x, i) => x + 0.3 * Number(noise.data[i])),
)
const rowsOf = (t: FeedTensor, keep?: Uint8Array) =>
  Array.from({ length: t.data.length / 11 }, (_, row) =>
    [...(t.data as Float32Array)].slice(row * 11, row * 11 + 11),
  ).filter((_, row) => !keep || keep[row])

describe('OutputAccumulator', () => {
  it('gives the figures of the definitions for logits', () => {
    const result = accumulate('logits', { reference: logits, candidate: perturbed }, 3).result()
    const kls = rowsOf(logits).map((row, i) => oracle.kl(oracle.softmax(row), oracle.softmax(rowsOf(perturbed)[i]!)))
    const perSample = Array.from({ length: 7 }, (_, s) => kls.slice(5 * s, 5 * s + 5).reduce((a, b) => a + b, 0) / 5)
    expect(result.kl!.mean).toBeCloseTo(kls.reduce((a, b) => a + b, 0) / kls.length, 10)
    expect(result.kl!.standardError).toBeCloseTo(oracle.standardErrorOfMean(perSample), 10)
    expect(result.kl!.median).toBeCloseTo(oracle.percentile(kls, 0.5), 10)
    expect(result.kl!.p95).toBeCloseTo(oracle.percentile(kls, 0.95), 10)
    expect(result.kl!.p99).toBeCloseTo(oracle.percentile(kls, 0.99), 10)
    expect(result.kl!.max).toBeCloseTo(Math.max(...kls), 10)
    const agreeing = rowsOf(logits).filter((row, i) => oracle.argmax(row) === oracle.argmax(rowsOf(perturbed)[i]!))
    expect(agreeing.length).toBeGreaterThan(10)
    expect(agreeing.length).toBeLessThan(35)
    expect(result.top1Agreement).toBeCloseTo(agreeing.length / 35, 12)
    expect(result.sqnr).toBeCloseTo(oracle.sqnr(rowsOf(logits).flat(), rowsOf(perturbed).flat()), 8)
    expect(result.values).toBe(7 * 5 * 11)
  })

  it.each(['logits', 'numbers'] as const)('does not depend on the batch size (%s)', (kind) => {
    const whole = { reference: logits, candidate: perturbed }
    const expected = accumulate(kind, whole, 7).result()
    for (const size of [1, 2, 3]) {
      const { shape: _, ...rest } = accumulate(kind, whole, size).result()
      const { shape: __, ...all } = expected
      expect(flat(rest)).toEqual(flat(all).map((x) => (typeof x === 'number' ? expect.closeTo(x, 10) : x)))
    }
  })

  it('is perfect for a model against itself', () => {
    const { kl, top1Agreement, sqnr, cosine, maxAbsoluteDifference } = accumulate(
      'logits',
      { reference: logits, candidate: logits },
      2,
    ).result()
    expect(kl).toEqual({ mean: 0, standardError: 0, median: 0, p95: 0, p99: 0, max: 0 })
    expect({ top1Agreement, sqnr, cosine, maxAbsoluteDifference }).toEqual({
      top1Agreement: 1,
      sqnr: Number.POSITIVE_INFINITY,
      cosine: 1,
      maxAbsoluteDifference: 0,
    })
  })

  it('leaves padding out of every figure, NaN in padding included', () => {
    const keep = Uint8Array.from({ length: 35 }, (_, i) => (i % 5 < 1 + (i % 3) ? 1 : 0))
    const spoiled = (t: FeedTensor) =>
      tensor(
        'float',
        t.dims,
        Float32Array.from(t.data as Float32Array, (x, i) => (keep[Math.floor(i / 11)] ? x : NaN)),
      )
    const masked = accumulate('logits', { reference: spoiled(logits), candidate: spoiled(perturbed), keep }, 2)
    const { kl, sqnr, values } = masked.result()
    const kls = rowsOf(logits, keep).map((row, i) =>
      oracle.kl(oracle.softmax(row), oracle.softmax(rowsOf(perturbed, keep)[i]!)),
    )
    expect(kl!.mean).toBeCloseTo(kls.reduce((a, b) => a + b, 0) / kls.length, 10)
    expect(sqnr).toBeCloseTo(oracle.sqnr(rowsOf(logits, keep).flat(), rowsOf(perturbed, keep).flat()), 8)
    expect(values).toBe(kls.length * 11)
    expect(masked.warnings()).toEqual([])
  })

  it('decodes float16 and compares integers by equality', () => {
    const half = tensor('float16', [2, 2], Uint16Array.from([1, 2, -0.5, 65504], floatToHalf))
    const full = tensor('float', [2, 2], Float32Array.of(1, 2, -0.5, 65504))
    expect(accumulate('numbers', { reference: full, candidate: half }, 1).result().sqnr).toBe(Number.POSITIVE_INFINITY)
    const ids = tensor('int64', [4], BigInt64Array.of(1n, 2n, 3n, 4n))
    const others = tensor('int32', [4], Int32Array.of(1, 2, 3, 9))
    const result = accumulate('integers', { reference: ids, candidate: others }, 3).result()
    expect(result).toMatchObject({ top1Agreement: 0.75, kl: undefined, maxAbsoluteDifference: 5 })
  })

  it('counts NaN of the candidate, says where it began, and makes the figures NaN', () => {
    const data = Float32Array.from(perturbed.data as Float32Array)
    data[3 * 55 + 7] = Number.NaN
    data[5 * 55] = Number.NaN
    const spoiled = accumulate('logits', { reference: logits, candidate: tensor('float', logits.dims, data) }, 2)
    const { kl, top1Agreement, sqnr, cosine, maxAbsoluteDifference } = spoiled.result()
    expect(
      [kl!.mean, kl!.median, kl!.max, top1Agreement, sqnr, cosine, maxAbsoluteDifference].every(Number.isNaN),
    ).toBe(true)
    expect(spoiled.warnings().join()).toMatch(/out: .*NaN in 2 of 385 values, first in sample 3/)
  })

  it.each([
    [Number.NaN, /out: .*NaN for sample 4/],
    [Number.POSITIVE_INFINITY, /out: .*infinite logits for sample 4/],
  ])('refuses %d in the reference', (value, pattern) => {
    const data = Float32Array.from(logits.data as Float32Array)
    data[4 * 55 + 7] = value
    const whole = { reference: tensor('float', logits.dims, data), candidate: perturbed }
    expectQtoolError('data', () => accumulate('logits', whole, 3), pattern)
  })

  it('notices when probabilities stop being probabilities', () => {
    const rows = tensor('float', [2, 2], Float32Array.of(0.5, 0.5, 0.5, 2))
    const result = accumulate('probabilities', { reference: rows, candidate: rows }, 1)
    expect(result.result().kl!.mean).toBeNaN()
    expect(result.warnings().join()).toMatch(/1 later rows/)
  })
})

function flat(value: unknown): unknown[] {
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(flat) : [value]
}

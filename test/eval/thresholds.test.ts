import { describe, expect, it } from 'vitest'
import type { Thresholds } from '../../src/config.ts'
import { checkThresholds, checkThresholdsAhead, type Measured } from '../../src/eval/thresholds.ts'
import type { OutputComparison, TaskMetric } from '../../src/report.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'

const distribution = (mean: number) => ({ mean, standardError: 0, median: 0, p95: 0, p99: 0, max: 0 })
const output = (fields: Partial<OutputComparison>): OutputComparison => ({
  output: 'o',
  shape: [1],
  values: 1,
  kl: undefined,
  top1Agreement: undefined,
  sqnr: 30,
  cosine: 0.99,
  maxAbsoluteDifference: 0.5,
  ...fields,
})
const metric = (name: TaskMetric['name'], change: number): TaskMetric => ({
  name,
  output: 'o',
  reference: 1,
  candidate: 1,
  change,
  standardError: 0,
  count: 1,
})
const measured: Measured = {
  outputs: [
    output({ kl: distribution(0.01), top1Agreement: 0.98 }),
    output({ kl: distribution(0.03), top1Agreement: 0.99, sqnr: 20 }),
    output({}),
    // Whole numbers: their agreement counts, their SQNR does not.
    output({ top1Agreement: 0.97, sqnr: -5, cosine: 0.1, maxAbsoluteDifference: 900 }),
  ],
  metrics: [metric('accuracy', -0.02), metric('perplexity', 0.1)],
  candidateBytes: 1000,
  latencyMilliseconds: { reference: 2, candidate: 3 },
  memoryBytes: { candidate: { loaded: 4000, peak: 5000 } },
}

/** Figure → the worst value among the outputs, and a little on either side of it. */
const worst: [keyof Thresholds, number, 'max' | 'min'][] = [
  ['maxKl', 0.03, 'max'],
  ['minAgreement', 0.97, 'min'],
  ['minSqnr', 20, 'min'],
  ['minCosine', 0.99, 'min'],
  ['maxDifference', 0.5, 'max'],
  ['maxAccuracyDrop', 0.02, 'max'],
  ['maxPerplexityRise', 0.1, 'max'],
  ['maxSize', 1000, 'max'],
  ['maxMemory', 5000, 'max'],
  ['maxLatencyRatio', 1.5, 'max'],
]

describe('checkThresholds', () => {
  it.each(worst)('%s is held against the worst output, %d', (name, value, sense) => {
    const check = (limit: number) => checkThresholds({ [name]: limit }, measured)
    expect(check(value)).toEqual([{ name, limit: value, measured: value, passed: true }])
    expect(check(value * 1.01)[0]!.passed).toBe(sense === 'max')
    expect(check(value * 0.99)[0]!.passed).toBe(sense === 'min')
  })

  it('fails what is NaN, and lets infinite SQNR pass', () => {
    const with_ = (fields: Partial<OutputComparison>) => ({ ...measured, outputs: [output({}), output(fields)] })
    expect(checkThresholds({ minSqnr: 1 }, with_({ sqnr: Number.NaN }))[0]!.passed).toBe(false)
    expect(checkThresholds({ maxDifference: 1 }, with_({ maxAbsoluteDifference: Number.NaN }))[0]!.passed).toBe(false)
    expect(checkThresholds({ minSqnr: 99 }, { ...measured, outputs: [output({ sqnr: Infinity })] })[0]!.passed).toBe(
      true,
    )
  })

  it.each<[keyof Thresholds, RegExp]>([
    ['maxKl', /logits/],
    ['minAgreement', /logits/],
    ['maxAccuracyDrop', /labels/],
    ['maxPerplexityRise', /input_ids/],
  ])('refuses %s when it could not be measured', (name, why) => {
    const bare = { ...measured, outputs: [output({})], metrics: [] }
    const error = expectQtoolError('usage', () => checkThresholds({ [name]: 1 }, bare), name, why)
    expect(error.hint).toBeTruthy()
  })

  it('refuses SQNR of outputs that are all integers', () => {
    const whole = { ...measured, outputs: [output({ top1Agreement: 1 })] }
    for (const name of ['minSqnr', 'minCosine', 'maxDifference']) {
      expectQtoolError('usage', () => checkThresholds({ [name]: 1 }, whole), name)
    }
  })

  it('checks none when none is set', () => {
    expect(checkThresholds({ maxKl: undefined } as unknown as Thresholds, measured)).toEqual([])
  })
})

it('checkThresholdsAhead refuses accuracy without labels at once', () => {
  expectQtoolError('usage', () => checkThresholdsAhead({ maxAccuracyDrop: 0.01 }, false), 'maxAccuracyDrop')
  checkThresholdsAhead({ maxAccuracyDrop: 0.01 }, true)
  checkThresholdsAhead({ maxKl: 0.01 }, false)
})

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ANALYZE_DEFAULTS, EVAL_DEFAULTS, QUANTIZE_DEFAULTS } from '../src/config.ts'
import { checkValues, resolveAnalyzeConfig, resolveEvalConfig, resolveQuantizeConfig } from '../src/configRules.ts'
import { QtoolError } from '../src/errors.ts'

const usage = (message: RegExp) => expect.objectContaining({ code: 'usage', message: expect.stringMatching(message) })

describe('resolving a configuration', () => {
  it('fills in the defaults, which pass their own checks', () => {
    expect(resolveQuantizeConfig({})).toEqual(QUANTIZE_DEFAULTS)
    expect(resolveAnalyzeConfig({})).toEqual(ANALYZE_DEFAULTS)
    expect(resolveEvalConfig({ random: 1 })).toEqual({ ...EVAL_DEFAULTS, random: 1 })
    expect(resolveQuantizeConfig({ bits: undefined, budget: '4bit' })).toMatchObject({ budget: '4bit' })
  })

  it('gives back a complete configuration as it is', () => {
    const config = resolveEvalConfig({ data: ['x'], normalize: { scale: 2, mean: [1], std: [1, 2, 3] }, set: { a: 1 } })
    expect(resolveEvalConfig(config)).toEqual(config)
  })

  it('quantizes by calibration as soon as there are data or statistics', () => {
    expect(resolveQuantizeConfig({ data: ['x'] })).toEqual({ ...QUANTIZE_DEFAULTS, data: ['x'], method: 'gptq' })
    expect(resolveQuantizeConfig({ stats: ['s'], damping: 0.1 })).toMatchObject({ method: 'gptq', damping: 0.1 })
    expect(resolveQuantizeConfig({ data: ['x'], stats: ['s'], method: 'gptq' }).method).toBe('gptq')
    expect(resolveQuantizeConfig({ method: 'rtn' }).method).toBe('rtn')
    expect(resolveQuantizeConfig({ data: [], stats: [] }).method).toBe('auto')
  })

  it.each([
    [{}],
    [{ method: 'rtn' }],
    [{ stats: ['s'] }],
    [{ data: ['x'] }],
    [
      {
        data: ['x', 'x'],
        samples: 0,
        rename: { a: 'b' },
        set: { a: 1 },
        normalize: { mean: [1, 2] },
        imageSize: [224, 320],
        layout: 'nhwc',
        seqLen: 1,
        holdout: 0.5,
        select: 'kl',
        stats: ['s'],
        resume: 'r',
        damping: 1,
        scratch: '/tmp',
      },
    ],
  ])('resolves %j for quantize, and what it made of it to the same', (values) => {
    const config = resolveQuantizeConfig(values as never)
    expect(resolveQuantizeConfig(config)).toEqual(config)
  })

  it('lets a complete configuration of random samples pass again', () => {
    const config = resolveEvalConfig({ random: 2, set: { a: 1 } })
    expect(resolveEvalConfig(config)).toEqual(config)
  })

  it('does not change its argument', () => {
    const values = Object.freeze({ bits: 4 as const, layers: Object.freeze([]) })
    expect(resolveQuantizeConfig(values).bits).toBe(4)
  })

  it.each([
    [{ budget: '4bit', bits: 4 }, /both a budget/],
    [{ bits: 7 }, /bits: wanted one of 8, 6, 5, 4, 3, 2, found 7/],
    [{ bits: Number.NaN }, /found NaN/],
    [{ groupSize: 0 }, /groupSize: wanted one of 16/],
    [{ verify: 'yes' }, /verify: wanted true or false, found "yes"/],
    [{ threads: 1.5 }, /threads: wanted an integer/],
    [{ budget: '' }, /budget: wanted a text/],
    [{ budget: null }, /found null/],
    [{ layers: [{ pattern: 'a', bits: 4, extra: 1 }] }, /layers: wanted a list/],
    [{ layers: [{ pattern: '', bits: 4 }] }, /layers: wanted a list/],
    [{ layers: [{ pattern: '/[/', bits: 4 }] }, /not a regular expression/],
    [{ toString: 1 }, /toString: there is no such key/],
    [{ method: 'gptq' }, /method gptq needs calibration data/],
    [{ method: 'gptq', data: [], stats: [] }, /method gptq needs calibration data/],
    [{ method: 'awq' }, /method: wanted one of auto, rtn, gptq, found "awq"/],
    [{ method: 'auto', data: ['x'] }, /data is given, but method auto looks at the weights alone/],
    [{ method: 'rtn', stats: ['x'] }, /stats is given, but method rtn looks at the weights alone/],
    [{ data: 'x' }, /data: wanted a list of texts/],
    [{ data: [''] }, /data: wanted a list of texts/],
    [{ stats: 'x' }, /stats: wanted a list of texts/],
    [{ data: ['x'], samples: -1 }, /samples: wanted an integer from 0/],
    [{ data: ['x'], holdout: 0.51 }, /holdout: wanted a number from 0 to 0.5 \(0.2, or 20%/],
    [{ data: ['x'], seqLen: 0 }, /seqLen: wanted an integer from 1/],
    [{ data: ['x'], select: 'grand' }, /select: wanted one of random, el2n, kl/],
    [{ data: ['x'], imageSize: [224] }, /imageSize: wanted height and width/],
    [{ data: ['x'], imageSize: [224, 0] }, /imageSize: wanted height and width/],
    [{ data: ['x'], imageSize: 224 }, /imageSize: wanted height and width/],
    [{ data: ['x'], layout: 'chw' }, /layout: wanted one of nchw, nhwc/],
    [{ data: ['x'], damping: 0 }, /damping: wanted a number above 0, at most 1/],
    [{ data: ['x'], damping: 1.01 }, /damping: wanted a number above 0, at most 1/],
    [{ data: ['x'], resume: '' }, /resume: wanted a text/],
    [{ data: ['x'], scratch: true }, /scratch: wanted a text/],
    [{ data: ['x'], rename: { a: 1 } }, /rename: wanted an object/],
    [{ data: ['x'], set: { a: 'b' } }, /set: wanted an object/],
    [{ data: ['x'], normalize: { std: [0] } }, /normalize.std/],
    [{ data: ['x'], normalize: { mean: [1, 2], std: [1, 2, 3] } }, /as many standard deviations as means/],
    [{ damping: 0.01 }, /damping is given without data/],
    [{ data: ['x'], stats: ['x'] }, /x is given twice, as data and as stats/],
    [{ data: ['x'], stats: ['s', 's'] }, /s is given twice, as stats and as stats/],
    [{ data: ['x'], stats: ['s'], resume: 's' }, /s is given twice, as stats and as resume/],
  ])('quantize refuses %j', (values, message) => {
    expect(() => resolveQuantizeConfig(values as never)).toThrow(usage(message))
  })

  // Their defaults too: given, they are about data that is not there.
  it.each([
    ['samples', 256],
    ['holdout', 0.2],
    ['seqLen', 128],
    ['select', 'random'],
    ['resume', 'r'],
    ['rename', { a: 'b' }],
    ['set', { a: 1 }],
    ['normalize', { scale: 2 }],
    ['imageSize', [224, 224]],
    ['layout', 'nchw'],
    ['scratch', 'tmp'],
  ])('quantize refuses %s without data, with statistics alone too', (key, value) => {
    for (const source of [{}, { stats: ['s'] }]) {
      expect(() => resolveQuantizeConfig({ ...source, [key]: value })).toThrow(
        expect.objectContaining({
          code: 'usage',
          message: `${key} is given without data`,
          hint: `${key} goes with --data`,
        }),
      )
    }
    expect(resolveQuantizeConfig({ data: ['x'], [key]: value })).toHaveProperty(key)
  })

  it.each([
    [{}, /nothing to run/],
    [{ random: 1, data: ['x'] }, /both data and random/],
    [{ random: 1, labels: 'x' }, /labels is given/],
    [{ random: 1, samples: 3 }, /samples is given for random/],
    [{ random: 1, seqLen: 8 }, /seqLen is given for random/],
    [{ random: 1, imageSize: [2, 3] }, /imageSize is given for random/],
    [{ random: 1, layout: 'nhwc' }, /layout is given for random/],
    [{ random: 1, thresholds: { maxKl: -1 } }, /thresholds.maxKl: wanted a number of at least 0/],
    [{ random: 1, thresholds: { minAgreement: 99 } }, /thresholds.minAgreement: wanted a number from 0 to 1/],
    [{ random: 1, thresholds: { nothing: 1 } }, /thresholds.nothing: there is no such key/],
    [{ random: 1, thresholds: 3 }, /thresholds: wanted an object/],
    [{ random: 1, normalize: { std: [0] } }, /normalize.std/],
    [{ data: ['x'], shapes: { x: [1] } }, /shapes is given for data/],
    [{ random: 1, shapes: { x: [1.5] } }, /shapes: wanted/],
    [{ random: 1, set: { a: 'b' } }, /set: wanted an object/],
    [{ random: 1, rename: { a: 1 } }, /rename: wanted an object/],
    [{ random: 1, logits: 'none' }, /logits: wanted "auto" or a list/],
    [{ random: 1, batchSize: 0 }, /batchSize: wanted an integer from 1/],
    [{ data: 'x' }, /data: wanted a list of texts/],
  ])('eval refuses %j', (values, message) => {
    expect(() => resolveEvalConfig(values as never)).toThrow(usage(message))
  })

  it('answers anything with a configuration or a usage error', () => {
    const keys = fc.constantFrom(
      ...Object.keys(EVAL_DEFAULTS),
      ...Object.keys(QUANTIZE_DEFAULTS),
      ...['normalize', 'labels', 'imageSize', 'layout', 'seqLen', 'resume', 'scratch', 'x'],
    )
    fc.assert(
      fc.property(fc.dictionary(keys, fc.jsonValue()), (values) => {
        for (const resolve of [resolveQuantizeConfig, resolveEvalConfig, resolveAnalyzeConfig]) {
          try {
            resolve(values as never)
          } catch (error) {
            expect(error).toBeInstanceOf(QtoolError)
          }
        }
      }),
      { numRuns: 500 },
    )
  })
})

describe('checkValues', () => {
  it('names keys as its caller says', () => {
    expect(() => checkValues('analyze', { threads: -1 }, (key) => `--${key}`)).toThrow(usage(/^--threads: wanted/))
  })

  it('suggests the nearest key', () => {
    expect(() => checkValues('quantize', { grupsize: 1 })).toThrow(
      expect.objectContaining({ hint: 'did you mean groupSize?' }),
    )
  })
})

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
  ])('quantize refuses %j', (values, message) => {
    expect(() => resolveQuantizeConfig(values as never)).toThrow(usage(message))
  })

  it.each([
    [{}, /nothing to run/],
    [{ random: 1, data: ['x'] }, /both data and random/],
    [{ random: 1, labels: 'x' }, /labels is given/],
    [{ random: 1, samples: 3 }, /samples is given for random/],
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
      'normalize',
      'labels',
      'x',
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

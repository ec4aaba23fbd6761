import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ANALYZE_DEFAULTS, EVAL_DEFAULTS, QUANTIZE_DEFAULTS, SENSITIVITIES } from '../src/config.ts'
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
    [{ method: 'awq' }, /method: wanted one of auto, rtn, gptq, rsq, codebook, found "awq"/],
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
    [{ budget: '4bit', solver: 'ilp' }, /solver ilp is given without data or an analysis/],
    [{ data: ['x'], budget: '4bit', solver: 'dp', holdout: 0 }, /solver dp is given, but nothing is held out/],
    [{ data: ['x'], solver: 'ilp' }, /solver ilp is given without a budget/],
    [{ data: ['x'], budget: '4bit', solver: 'bisection' }, /solver bisection is given without maxKl/],
    [{ data: ['x'], budget: '4bit,1MB', solver: 'dp' }, /solver dp is given with 2 limits, and takes one/],
    [{ data: ['x'], budget: '4bit', maxLatency: '1x', solver: 'dp' }, /solver dp is given with 2 limits/],
    [{ data: ['x'], bits: 4, maxKl: 1 }, /both maxKl \(1\) and a width \(4 bits\)/],
    [{ data: ['x'], bits: 4, maxLatency: '1x' }, /both maxLatency \(1x\) and a width/],
    [{ data: ['x'], maxKl: 0 }, /maxKl: wanted a number above 0/],
    [{ data: ['x'], maxLatency: '0.7' }, /latency '0.7': wanted a ratio/],
    [{ data: ['x'], maxLatency: 0.7 }, /maxLatency: wanted a text/],
    [{ maxKl: 1 }, /maxKl is given without data or an analysis/],
    [{ analysis: 'a', maxKl: 1 }, /maxKl is given without data$/],
    [{ analysis: 'a', data: ['x'], holdout: 0, maxKl: 1 }, /maxKl is given without held-out samples/],
    [{ analysis: 'a', budget: '4bit', evaluations: 60 }, /evaluations is given without data/],
    [{ analysis: 'a' }, /analysis is given without a budget/],
    [{ data: ['x'], tie: ['*'] }, /tie is given without a budget/],
    [{ budget: '4bit', tie: ['*'] }, /tie is given without data or an analysis/],
    [{ data: ['x'], budget: '4bit', holdout: 0, pareto: 'c' }, /pareto is given, but nothing is held out/],
    [
      { data: ['x'], budget: '4bit', solver: 'uniform', sensitivity: ['kl'] },
      /sensitivity is given, but solver uniform/,
    ],
    [{ budget: '4bit,350MB' }, /a combination of budgets is given without data or an analysis/],
    [{ data: ['x'], budget: '4bit,1MB', solver: 'uniform' }, /a combination of budgets is given, but solver uniform/],
    [{ data: ['x'], budget: '4bit', positions: 1 }, /positions is given without maxLatency/],
    [{ data: ['x'], budget: '4bit', latency: 'l' }, /latency is given without maxLatency/],
    [{ data: ['x'], budget: '4bit', sensitivity: [] }, /sensitivity: wanted at least one/],
    [{ data: ['x'], budget: '4bit', sensitivity: ['kl', 'kl'] }, /sensitivity: wanted a list of kl/],
    [{ data: ['x'], budget: '4bit', sensitivity: 'kl' }, /sensitivity: wanted a list of kl/],
    [{ data: ['x'], budget: '4bit', tie: ['/(/'] }, /not a regular expression/],
    [{ data: ['x'], budget: '4bit', tie: [''] }, /tie: wanted a list of texts/],
    [{ plan: 'p', budget: '4bit' }, /budget is given beside a plan/],
    [{ plan: 'p', data: ['x'], maxKl: 1 }, /maxKl is given beside a plan/],
    [{ plan: 'p', analysis: 'a' }, /analysis is given beside a plan/],
    [{ plan: 'p', data: ['x'], solver: 'ilp' }, /solver is given beside a plan/],
    [{ plan: 'p', data: ['x'], evaluations: 60 }, /evaluations is given beside a plan/],
    [{ plan: 'p', analysis: 'p', budget: '4bit' }, /p is given twice, as analysis and as plan/],
    [{ data: ['x'], budget: '4bit', pareto: 'p', savePlan: 'p' }, /p is given twice, as savePlan and as pareto/],
    [{ damping: 0.01 }, /damping is given without data/],
    [{ data: ['x'], stats: ['x'] }, /x is given twice, as data and as stats/],
    [{ data: ['x'], stats: ['s', 's'] }, /s is given twice, as stats and as stats/],
    [{ data: ['x'], stats: ['s'], resume: 's' }, /s is given twice, as stats and as resume/],
    [{ method: 'rsq' }, /method rsq needs calibration data/],
    [{ method: 'rsq', stats: ['s'] }, /method rsq needs calibration data/],
    [{ method: 'rsq', data: ['x'], stats: ['s'] }, /statistics are given beside method rsq/],
    [{ method: 'rsq', data: ['x'], analysis: 'a', budget: '4bit' }, /an analysis is given beside method rsq/],
    [{ method: 'rsq', data: ['x'], holdout: 0 }, /method rsq has nothing held out to decide on/],
    [{ method: 'rsq', data: ['x'], holdout: 0, rotation: 'on' }, /nothing held out/],
    [{ method: 'rsq', data: ['x'], holdout: 0, tokenImportance: 'first' }, /nothing held out/],
    [{ method: 'rsq', data: ['x'], rotation: 'yes' }, /rotation: wanted one of auto, on, off, found "yes"/],
    [{ method: 'rsq', data: ['x'], rotation: true }, /rotation: wanted one of auto, on, off, found true/],
    [{ method: 'rsq', data: ['x'], rotationSeeds: 0 }, /rotationSeeds: wanted an integer from 1/],
    [{ method: 'rsq', data: ['x'], rotationSeeds: 1.5 }, /rotationSeeds: wanted an integer from 1/],
    [{ method: 'rsq', data: ['x'], onlineRotation: 'on' }, /onlineRotation: wanted true or false/],
    [{ method: 'rsq', data: ['x'], tokenImportance: 'attn' }, /tokenImportance: wanted one of auto, none, attention/],
    [{ method: 'rsq', data: ['x'], importanceMin: 0 }, /importanceMin: wanted a number above 0, at most 1/],
    [{ method: 'rsq', data: ['x'], importanceMin: 1.1 }, /importanceMin: wanted a number above 0, at most 1/],
    [{ method: 'rsq', data: ['x'], importanceExponent: 3 }, /importanceExponent: wanted one of 1, 2, found 3/],
    [{ method: 'rsq', data: ['x'], importanceLength: 'root' }, /importanceLength: wanted one of none, linear, sqrt/],
    [{ method: 'rsq', data: ['x'], importanceQuantile: 0.4 }, /importanceQuantile: wanted a number from 0.5 to 1/],
    [{ method: 'rsq', data: ['x'], roll: 0 }, /roll: wanted an integer from 1/],
    [{ method: 'rsq', data: ['x'], roll: 65 }, /roll: wanted an integer from 1/],
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

  const rsqKeys = [
    ['rotation', 'auto'],
    ['rotationSeeds', 4],
    ['onlineRotation', true],
    ['tokenImportance', 'none'],
    ['importanceMin', 0.01],
    ['importanceExponent', 2],
    ['importanceLength', 'sqrt'],
    ['importanceQuantile', 0.9],
    ['roll', 8],
  ] as const

  it.each(rsqKeys)('quantize refuses %s with every method but rsq', (key, value) => {
    for (const method of [undefined, 'gptq', 'rtn', 'auto'] as const) {
      const data = method === 'rtn' || method === 'auto' ? [] : ['x']
      expect(() => resolveQuantizeConfig({ method, data, [key]: value } as never)).toThrow(
        expect.objectContaining({
          code: 'usage',
          message: `${key} is given without method rsq`,
          hint: `${key} goes with --method rsq`,
        }),
      )
    }
    expect(resolveQuantizeConfig({ method: 'rsq', data: ['x'], [key]: value })).toHaveProperty(key, value)
  })

  it.each([
    [{ data: ['x'] }],
    [{ data: ['x'], bits: 3, ...Object.fromEntries(rsqKeys) }],
    [{ data: ['x'], holdout: 0, rotation: 'on', tokenImportance: 'none' }],
    [{ data: ['x'], holdout: 0, rotation: 'off', tokenImportance: 'attention' }],
    [{ data: ['x'], budget: '3bit', solver: 'ilp', resume: 'r' }],
  ])('resolves %j for method rsq, and a copy of what it made of it to the same', (values) => {
    const config = resolveQuantizeConfig({ method: 'rsq', ...values } as never)
    expect(config).toMatchObject({ method: 'rsq', ...values })
    expect(resolveQuantizeConfig(structuredClone(config))).toEqual(config)
  })

  it.each([
    [{ budget: '4bit' }, 'uniform'],
    [{ bits: 4, data: ['x'] }, 'uniform'],
    [{ budget: '4bit', stats: ['s'] }, 'uniform'],
    [{ budget: '4bit', data: ['x'] }, 'ilp'],
    [{ budget: '4bit', data: ['x'], holdout: 0 }, 'uniform'],
    [{ budget: '4bit', data: ['x'], holdout: 0, analysis: 'a' }, 'ilp'],
    [{ budget: '4bit', data: ['x'], solver: 'uniform' }, 'uniform'],
    [{ budget: '4bit,350MB', data: ['x'] }, 'ilp'],
    [{ budget: '4bit', analysis: 'a', evaluations: 0 }, 'ilp'],
    [{ budget: '4bit', analysis: 'a', method: 'rtn' }, 'ilp'],
    [{ maxKl: 0.1, data: ['x'] }, 'ilp'],
    [{ maxLatency: '0.7x', positions: 16, data: ['x'] }, 'ilp'],
    [{ maxKl: 0.1, data: ['x'], solver: 'bisection' }, 'bisection'],
    [{ plan: 'p', savePlan: 'p', data: ['x'], bits: 4 }, 'uniform'],
    [{ savePlan: 'p' }, 'uniform'],
  ])('allocates for %j by %s, also for a copy of what it made of it', (values, solver) => {
    const config = resolveQuantizeConfig(values as never)
    expect(config.solver).toBe(solver)
    expect(resolveQuantizeConfig(structuredClone(config))).toEqual(config)
  })

  it('takes the sensitivities of an analysis, unless they are given', () => {
    const values = { analysis: 'a', budget: '4bit' } as const
    expect(resolveQuantizeConfig(values).sensitivity).toEqual([])
    const given = resolveQuantizeConfig({ ...values, sensitivity: QUANTIZE_DEFAULTS.sensitivity })
    expect(given.sensitivity).toEqual(QUANTIZE_DEFAULTS.sensitivity)
    expect(resolveQuantizeConfig(structuredClone(given))).toEqual(given)
  })

  it.each([
    [{ groupSize: 64, threads: 2 }],
    [{ data: ['x'] }],
    [{ data: ['x'], configurations: 0, sensitivity: [...SENSITIVITIES], labels: 'l.npy', normalize: { mean: [1, 2] } }],
    [{ data: ['x'], shard: '8/8', output: 'a', sensitivity: ['kl', 'hessian', 'pairwise', 'mse', 'proxy'] }],
    [{ merge: ['a', 'b'], output: 'c', force: true, threads: 2 }],
  ])('resolves %j for analyze, and a copy of what it made of it to the same', (values) => {
    const config = resolveAnalyzeConfig(values as never)
    expect(resolveAnalyzeConfig(structuredClone(config))).toEqual(config)
    expect(config).toMatchObject('shard' in values ? { configurations: 0 } : {})
  })

  it.each([
    [{ data: ['x'], holdout: 0 }, /nothing is held out/],
    [{ data: ['x'], sensitivity: [] }, /sensitivity: wanted at least one/],
    [{ data: ['x'], sensitivity: ['fisher'] }, /sensitivity: wanted a list of kl, hessian/],
    [{ data: ['x'], shard: '1/2' }, /a shard is measured without an output/],
    [{ data: ['x'], shard: '1/2', output: 'a', configurations: 24 }, /configurations is given with a shard/],
    [
      { data: ['x'], shard: '1/2', output: 'a', sensitivity: ['kl', 'coverage'] },
      /sensitivity coverage is given with a shard/,
    ],
    [{ data: ['x'], shard: '1/2', output: 'a', sensitivity: ['shapley'] }, /sensitivity shapley is given with a shard/],
    [{ data: ['x'], shard: '1/2', output: 'a', sensitivity: ['clado'] }, /sensitivity clado is given with a shard/],
    [{ data: ['x'], shard: '3/2', output: 'a' }, /shard: wanted a part such as 2\/8/],
    [{ data: ['x'], shard: '0/2', output: 'a' }, /shard: wanted a part/],
    [{ data: ['x'], shard: '1', output: 'a' }, /shard: wanted a part/],
    [{ data: ['x'], shard: 1, output: 'a' }, /shard: wanted a part/],
    [{ data: ['x'], candidates: 'some' }, /candidates: wanted one of widths, all/],
    [{ data: ['x'], probes: 0 }, /probes: wanted an integer from 1/],
    [{ data: ['x'], configurations: -1 }, /configurations: wanted an integer from 0/],
    [{ merge: ['a'] }, /merge is given without an output/],
    [{ merge: ['a', 'b'], output: 'b' }, /b is given twice/],
    [{ merge: ['a', 'a'], output: 'b' }, /a is given twice/],
    [{ merge: ['a'], output: 'b', data: ['x'] }, /data is given beside merge/],
    [{ merge: ['a'], output: 'b', groupSize: 32 }, /groupSize is given beside merge/],
    [{ merge: ['a'], output: 'b', shard: '1/2' }, /shard is given beside merge/],
    [{ output: 'b' }, /output is given without data/],
    [{ shard: '1/2' }, /shard is given without data/],
    [{ samples: 256 }, /samples is given without data/],
    [{ layers: [{ pattern: 'a', bits: 4 }] }, /layers is given without data/],
    [{ sensitivity: ['kl'] }, /sensitivity is given without data/],
    [{ damping: 0.05 }, /damping is given without data/],
  ])('analyze refuses %j', (values, message) => {
    expect(() => resolveAnalyzeConfig(values as never)).toThrow(usage(message))
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
      ...Object.keys(ANALYZE_DEFAULTS),
      ...['normalize', 'labels', 'imageSize', 'layout', 'seqLen', 'resume', 'scratch', 'x'],
      ...['budget', 'bits', 'analysis', 'plan', 'savePlan', 'pareto', 'maxKl', 'maxLatency', 'shard', 'output'],
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

/** Which keys go with method codebook, and what they become. */

import { describe, expect, it } from 'vitest'
import { codebookChoices, codebookQuestion } from '../src/analyze/codebookCandidates.ts'
import { isCalibrated, QUANTIZE_DEFAULTS } from '../src/config.ts'
import { resolveAnalyzeConfig, resolveQuantizeConfig } from '../src/configRules.ts'
import type { WeightedLayer } from '../src/onnx/layers.ts'

const refusal = (message: string, hint?: string) =>
  expect.objectContaining({ code: 'usage', message, ...(hint === undefined ? {} : { hint }) })
const resolve = (values: object) => resolveQuantizeConfig(values as never)

describe('method codebook', () => {
  it.each([
    [{}],
    [{ bits: 3 }],
    [{ codebook: 'nf4' }],
    [{ codebook: 'nf4', bits: 4, groupSize: 64 }],
    [{ codebook: 'vq', bits: 2 }],
    [{ codebook: 'lut', bits: 2, data: ['x'], damping: 0.1 }],
    [{ codebook: 'jlcm', rowGroups: 16, stats: ['s'] }],
    [{ codebook: 'jlcm', mapping: 'proximal', stats: ['s'] }],
    [{ codebook: 'lut', mapping: 'softmax', data: ['x'] }],
    [{ mapping: 'descent' }],
    [{ codebook: 'trellis', trellisWindow: 8, bits: 2, data: ['x'], holdout: 0 }],
    [{ codebook: 'auto', trellisWindow: 12 }],
    [{ rowGroups: 'auto', trellisWindow: 'auto', codebook: 'lut' }],
    [{ budget: '3bpw' }],
    [{ budget: '3bit', data: ['x'], holdout: 0 }],
    [{ plan: 'p', savePlan: 'q' }],
    [{ savePlan: 'q' }],
    [{ budget: '1MB', data: ['x'], solver: 'uniform' }],
    [{ layers: [{ pattern: '*', bits: 8 }] }],
  ])('takes %j, all layers alike, and a copy of what it made of it', (values) => {
    const config = resolve({ method: 'codebook', ...values })
    expect(config).toEqual({ ...QUANTIZE_DEFAULTS, method: 'codebook', ...values, solver: 'uniform' })
    expect(resolve(structuredClone(config))).toEqual(config)
  })

  it('looks at data or statistics where they are given; the others always or never do', () => {
    const looks = (values: object) => isCalibrated(resolve(values))
    expect(looks({ method: 'codebook' })).toBe(false)
    expect(looks({ method: 'codebook', data: ['x'] })).toBe(true)
    expect(looks({ method: 'codebook', stats: ['s'] })).toBe(true)
    expect(looks({ stats: ['s'] })).toBe(true)
    expect(looks({ method: 'rsq', data: ['x'] })).toBe(true)
    expect(looks({ method: 'rtn' })).toBe(false)
  })

  it('is what an option left out comes to where layers are measured and a limit leaves their forms open', () => {
    const limited = { data: ['x'], budget: '4bit' } as const
    expect(resolve(limited)).toMatchObject({ method: 'codebook', codebook: 'light', solver: 'ilp' })
    expect(resolve({ data: ['x'], maxDrop: 0.01, labels: 'y' }).method).toBe('codebook')
    expect(resolve({ ...limited, method: 'codebook' }).codebook).toBe('auto')
    for (const other of [{ solver: 'uniform' }, { holdout: 0 }, { symmetric: 'yes' }, { method: 'gptq' }] as const) {
      expect(resolve({ ...limited, ...other }).method).toBe('gptq')
    }
    expect(() => resolve({ ...limited, rowGroups: 4 })).toThrow(/rowGroups is given without method codebook/)
    expect(resolve({}).method).toBe('auto')
    expect(resolve({ budget: '4bit' }).method).toBe('auto')
    expect(resolve({ data: ['x'] }).method).toBe('gptq')
    expect(resolve({ data: ['x'], bits: 4 }).method).toBe('gptq')
    expect(resolve({ stats: ['s'], budget: '4bit' }).method).toBe('gptq')
  })

  it('unasked, competes in models that load in little memory, with the window that is searched fast', () => {
    const unasked = resolve({ data: ['x'], budget: '4bit' })
    const layers = (weights: number) => [{ weights } as WeightedLayer]
    const [choice] = codebookChoices(layers(19e6), codebookQuestion(unasked, layers(19e6))!)
    const layer = { view: { outer: 1, inner: 8 } } as WeightedLayer
    expect(choice!(layer).codebook!.coding).toEqual({ kind: 'trellis', window: 8 })
    expect(codebookQuestion(unasked, layers(21e6))).toBeUndefined()
    const asked = resolve({ data: ['x'], budget: '4bit', method: 'codebook' })
    expect(codebookQuestion(asked, layers(21e6))).toMatchObject({ codebook: 'auto', trellisWindow: 'auto' })
    expect(codebookQuestion(resolve({ data: ['x'], bits: 4 }), layers(1))).toBeUndefined()
  })

  // Their defaults too: given, they are about tables that nobody asked for.
  it.each([
    ['codebook', 'auto'],
    ['codebook', 'nf4'],
    ['rowGroups', 'auto'],
    ['rowGroups', 4],
    ['trellisWindow', 'auto'],
    ['trellisWindow', 12],
    ['mapping', 'descent'],
    ['mapping', 'proximal'],
  ])('%s %s is refused with every other method', (key, value) => {
    for (const method of [undefined, 'gptq', 'rsq', 'rtn', 'auto'] as const) {
      const data = method === 'rtn' || method === 'auto' ? [] : ['x']
      expect(() => resolve({ method, data, [key]: value })).toThrow(
        refusal(`${key} is given without method codebook`, `${key} goes with --method codebook`),
      )
    }
  })

  it.each([
    [{ codebook: 'nf4', bits: 3 }, 'codebook nf4: wanted a width of 4 bits, found 3'],
    [{ codebook: 'vq', bits: 3 }, 'codebook vq: wanted a width of 4, 2 bits, found 3'],
    [{ codebook: 'jlcm', bits: 8 }, 'codebook jlcm: wanted a width of 4, 3, 2 bits, found 8'],
    [{ codebook: 'lut', bits: 5 }, 'codebook lut: wanted a width of 4, 3, 2 bits, found 5'],
    [{ bits: 6 }, 'codebook trellis: wanted a width of 4, 3, 2 bits, found 6'],
    [{ rowGroups: 2 }, 'rowGroups is given with codebook trellis'],
    [{ codebook: 'lut', rowGroups: 1 }, 'rowGroups is given with codebook lut'],
    [{ codebook: 'jlcm', trellisWindow: 8 }, 'trellisWindow is given with codebook jlcm'],
    [{ mapping: 'softmax', data: ['x'] }, 'mapping softmax is given with codebook trellis'],
    [{ codebook: 'nf4', mapping: 'proximal', data: ['x'] }, 'mapping proximal is given with codebook nf4'],
    [{ codebook: 'vq', mapping: 'proximal', stats: ['s'] }, 'mapping proximal is given with codebook vq'],
    [{ codebook: 'jlcm', mapping: 'proximal' }, 'mapping proximal is given without data'],
    [{ symmetric: 'yes' }, 'symmetric is given with method codebook'],
    [{ symmetric: 'auto' }, 'symmetric is given with method codebook'],
    [{ rotation: 'on', data: ['x'] }, 'rotation is given without method rsq'],
    [{ damping: 0.1 }, 'damping is given without data'],
    [{ samples: 10 }, 'samples is given without data'],
    [{ resume: 'r', stats: ['s'] }, 'resume is given without data'],
    [{ budget: '4bit', bits: 4 }, 'both a budget (4bit) and a width (4 bits) are given'],
  ])('refuses %j', (values, message) => {
    expect(() => resolve({ method: 'codebook', ...values })).toThrow(refusal(message))
  })

  it.each([
    [{ codebook: 'fp4' }, /codebook: wanted one of auto, light, jlcm, lut, nf4, vq, trellis, found "fp4"/],
    [{ codebook: 'jlcm', rowGroups: 0 }, /rowGroups: wanted "auto" or an integer from 1 to 16, found 0/],
    [{ codebook: 'jlcm', rowGroups: 17 }, /from 1 to 16, found 17/],
    [{ codebook: 'jlcm', rowGroups: 1.5 }, /from 1 to 16, found 1.5/],
    [{ codebook: 'jlcm', rowGroups: 'some' }, /found "some"/],
    [{ codebook: 'jlcm', mapping: 'plain' }, /mapping: wanted one of descent, proximal, softmax, found "plain"/],
    [{ trellisWindow: 10 }, /trellisWindow: wanted one of auto, 8, 12, found 10/],
  ])('refuses the value in %j', (values, message) => {
    expect(() => resolve({ method: 'codebook', ...values })).toThrow(
      expect.objectContaining({ code: 'usage', message: expect.stringMatching(message) }),
    )
  })

  it.each([
    [{ budget: '3bit' }, 'ilp'],
    [{ budget: '4bit,1MB', tie: ['*'], maxLatency: '0.7x' }, 'ilp'],
    [{ maxKl: 0.1 }, 'ilp'],
    [{ maxKl: 0.1, solver: 'bisection' }, 'bisection'],
    [{ budget: '3bit', solver: 'dp' }, 'dp'],
    [{ budget: '3bit', solver: 'uniform' }, 'uniform'],
    [{ budget: '3bit', analysis: 'a', data: [] }, 'ilp'],
    [{ bits: 3 }, 'uniform'],
  ])('may have layers that differ, as other methods: %j', (values, solver) => {
    const config = resolve({ method: 'codebook', data: ['x'], ...values })
    expect(config.solver).toBe(solver)
    expect(resolve(structuredClone(config))).toEqual(config)
  })

  it.each([
    [{ solver: 'ilp', holdout: 0 }, 'solver ilp is given, but nothing is held out'],
    [{ solver: 'bisection' }, 'solver bisection is given without maxKl or maxDrop'],
    [{ solver: 'uniform', tie: ['*'] }, 'tie is given, but solver uniform makes all layers alike within one budget'],
    [{ plan: 'p', budget: undefined, solver: 'ilp' }, 'solver is given beside a plan'],
  ])('is refused what contradicts itself: %j', (values, message) => {
    expect(() => resolve({ method: 'codebook', data: ['x'], budget: '3bit', ...values })).toThrow(refusal(message))
  })
})

describe('codebooks that are measured', () => {
  const measured = (values: object) => resolveAnalyzeConfig({ data: ['x'], ...values } as never)

  it.each([
    [{ codebook: 'auto' }],
    [{ codebook: 'auto', trellisWindow: 8 }],
    [{ codebook: 'jlcm', rowGroups: 4, mapping: 'proximal' }],
    [{ codebook: 'vq', bits: 2 }],
    [{ codebook: 'trellis', candidates: 'all', shard: '1/2', output: 'o' }],
  ])('takes %j', (values) => {
    const config = measured(values)
    expect(config).toMatchObject(values)
    expect(resolveAnalyzeConfig(structuredClone(config))).toEqual(config)
  })

  it.each([
    [{ rowGroups: 4 }, 'rowGroups is given without a codebook'],
    [{ trellisWindow: 'auto' }, 'trellisWindow is given without a codebook'],
    [{ mapping: 'proximal' }, 'mapping is given without a codebook'],
    [{ codebook: 'auto', rowGroups: 4 }, 'rowGroups is given with codebook trellis'],
    [{ codebook: 'lut', trellisWindow: 8 }, 'trellisWindow is given with codebook lut'],
    [{ codebook: 'nf4', mapping: 'softmax' }, 'mapping softmax is given with codebook nf4'],
    [{ codebook: 'vq', bits: 3 }, 'codebook vq: wanted a width of 4, 2 bits, found 3'],
    [{ codebook: 'auto', data: [] }, 'codebook is given without data'],
    [{ codebook: 'auto', data: [], merge: ['a'], output: 'o' }, 'codebook is given beside merge'],
  ])('are refused: %j', (values, message) => {
    expect(() => measured(values)).toThrow(refusal(message))
  })
})

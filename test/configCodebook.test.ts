/** Which keys go with method codebook, and what they become. */
import { describe, expect, it } from 'vitest'
import { isCalibrated, QUANTIZE_DEFAULTS } from '../src/config.ts'
import { resolveQuantizeConfig } from '../src/configRules.ts'

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
    [{ codebook: 'trellis', trellisWindow: 8, bits: 2, data: ['x'], holdout: 0 }],
    [{ codebook: 'auto', trellisWindow: 12 }],
    [{ rowGroups: 'auto', trellisWindow: 'auto', codebook: 'lut' }],
    [{ budget: '3bpw' }],
    [{ budget: '3bit', data: ['x'] }],
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

  it('is never what an option left out comes to', () => {
    expect(resolve({}).method).toBe('auto')
    expect(resolve({ data: ['x'] }).method).toBe('gptq')
  })

  // Their defaults too: given, they are about tables that nobody asked for.
  it.each([
    ['codebook', 'auto'],
    ['codebook', 'nf4'],
    ['rowGroups', 'auto'],
    ['rowGroups', 4],
    ['trellisWindow', 'auto'],
    ['trellisWindow', 12],
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
    [{ symmetric: 'yes' }, 'symmetric is given with method codebook'],
    [{ symmetric: 'auto' }, 'symmetric is given with method codebook'],
    [{ plan: 'p' }, 'plan is given with method codebook'],
    [{ savePlan: 'p' }, 'savePlan is given with method codebook'],
    [{ rotation: 'on', data: ['x'] }, 'rotation is given without method rsq'],
    [{ damping: 0.1 }, 'damping is given without data'],
    [{ samples: 10 }, 'samples is given without data'],
    [{ resume: 'r', stats: ['s'] }, 'resume is given without data'],
    [{ budget: '4bit', bits: 4 }, 'both a budget (4bit) and a width (4 bits) are given'],
  ])('refuses %j', (values, message) => {
    expect(() => resolve({ method: 'codebook', ...values })).toThrow(refusal(message))
  })

  it.each([
    [{ codebook: 'fp4' }, /codebook: wanted one of auto, jlcm, lut, nf4, vq, trellis, found "fp4"/],
    [{ codebook: 'jlcm', rowGroups: 0 }, /rowGroups: wanted "auto" or an integer from 1 to 16, found 0/],
    [{ codebook: 'jlcm', rowGroups: 17 }, /from 1 to 16, found 17/],
    [{ codebook: 'jlcm', rowGroups: 1.5 }, /from 1 to 16, found 1.5/],
    [{ codebook: 'jlcm', rowGroups: 'some' }, /found "some"/],
    [{ trellisWindow: 10 }, /trellisWindow: wanted one of auto, 8, 12, found 10/],
  ])('refuses the value in %j', (values, message) => {
    expect(() => resolve({ method: 'codebook', ...values })).toThrow(
      expect.objectContaining({ code: 'usage', message: expect.stringMatching(message) }),
    )
  })

  // With all that a mixed allocation would need.
  it.each([
    [{ solver: 'ilp' }, 'solver ilp'],
    [{ solver: 'dp' }, 'solver dp'],
    [{ solver: 'bisection', maxKl: 1 }, 'solver bisection'],
    [{ maxKl: 0.1 }, 'maxKl'],
    [{ maxLatency: '0.7x' }, 'maxLatency'],
    [{ analysis: 'a' }, 'analysis'],
    [{ tie: ['*'] }, 'tie'],
    [{ sensitivity: ['kl'] }, 'sensitivity'],
    [{ labels: 'l.npy' }, 'labels'],
    [{ budget: '4bit,1MB' }, 'a combination of budgets'],
  ])('has no layers that differ: refuses %j', (values, asked) => {
    expect(() => resolve({ method: 'codebook', data: ['x'], budget: '3bit', ...values })).toThrow(
      refusal(
        `${asked} is given with method codebook, which makes all layers alike`,
        'give one --budget or --bits, with --solver uniform',
      ),
    )
  })
})

import { describe, expect, it } from 'vitest'
import { parseBudget } from '../../src/bitalloc/budget.ts'
import { expectedError, GROUP_SIZES, uniformCandidates } from '../../src/bitalloc/candidates.ts'
import { BITS } from '../../src/quant/quantizedWeight.ts'
import { makeRandom } from '../../src/random.ts'
import { measuredRoundingError } from '../oracles/minMaxRounding.ts'

const DEFAULTS = { bits: 4, groupSize: 32 } as const

describe('expectedError', () => {
  it.each([
    [2, 16],
    [3, 32],
    [4, 32],
    [4, 128],
    [5, 64],
    [6, 256],
    [8, 16],
  ])('at %d bits in groups of %d is what rounding normal numbers costs, within 10 %%', (bits, size) => {
    const measured = measuredRoundingError(bits, size, Math.ceil(64_000 / size), makeRandom(bits * 1000 + size))
    expect(expectedError(bits, size, size * 8) / measured).toBeGreaterThan(0.9)
    expect(expectedError(bits, size, size * 8) / measured).toBeLessThan(1.1)
  })

  it('holds for a shorter last group and for whole rows', () => {
    const random = makeRandom(5)
    const long = measuredRoundingError(4, 32, 2000, random)
    const short = measuredRoundingError(4, 8, 8000, random)
    expect(expectedError(4, 32, 40) / ((long * 32 + short * 8) / 40)).toBeCloseTo(1, 1)
    expect(expectedError(4, 'channel', 1000)).toBe(expectedError(4, 1000, 1000))
    expect(expectedError(4, 'channel', 1000) / measuredRoundingError(4, 1000, 100, random)).toBeCloseTo(1, 1)
    expect(expectedError(4, 64, 20)).toBe(expectedError(4, 20, 20))
  })

  it('falls with the width and rises with the group size', () => {
    for (const size of GROUP_SIZES) {
      for (let i = 1; i < BITS.length; i++) {
        expect(expectedError(BITS[i]!, size, 4096)).toBeGreaterThan(expectedError(BITS[i - 1]!, size, 4096))
      }
    }
    for (let i = 1; i < GROUP_SIZES.length; i++) {
      expect(expectedError(4, GROUP_SIZES[i]!, 4096)).toBeGreaterThan(expectedError(4, GROUP_SIZES[i - 1]!, 4096))
    }
    expect(expectedError(4, 'channel', 4096)).toBeGreaterThan(expectedError(4, 256, 4096))
  })

  it('knows the mean squared range of two numbers, which is 2', () => {
    expect(expectedError(1, 2, 2) * 12).toBeCloseTo(2, 8)
  })
})

describe('uniformCandidates', () => {
  it('leaves no choice without a budget', () => {
    expect(uniformCandidates(undefined, {}, DEFAULTS)).toEqual([DEFAULTS])
    expect(uniformCandidates(undefined, { bits: 3, groupSize: 'channel' }, DEFAULTS)).toEqual([
      { bits: 3, groupSize: 'channel' },
    ])
  })

  it('keeps the group size under a budget on the mean width', () => {
    const budget = parseBudget('4bit')
    expect(uniformCandidates(budget, {}, DEFAULTS)).toEqual(BITS.map((bits) => ({ bits, groupSize: 32 })))
    expect(uniformCandidates(budget, { groupSize: 128 }, DEFAULTS).every((c) => c.groupSize === 128)).toBe(true)
  })

  it.each(['4bpw', '5MB', '0.3x'])('frees the group size under %s, unless it is fixed', (text) => {
    const budget = parseBudget(text)
    expect(uniformCandidates(budget, {}, DEFAULTS)).toHaveLength(BITS.length * (GROUP_SIZES.length + 1))
    expect(uniformCandidates(budget, { groupSize: 64 }, DEFAULTS)).toHaveLength(BITS.length)
  })
})

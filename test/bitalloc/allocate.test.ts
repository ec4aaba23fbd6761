import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { allocateUniform, type Candidate } from '../../src/bitalloc/allocate.ts'
import { type Budget, parseBudget } from '../../src/bitalloc/budget.ts'
import { expectedError, uniformCandidates } from '../../src/bitalloc/candidates.ts'
import { QtoolError } from '../../src/errors.ts'
import { BITS } from '../../src/quant/quantizedWeight.ts'

const WEIGHTS = 1_000_000
const FIXED = 50_000
const MODEL = { sourceBytes: 4 * WEIGHTS + FIXED, fixedBytes: FIXED }

/** The candidates of a made-up model: float16 scales, no zero points. */
function candidatesFor(budget: Budget): Candidate[] {
  return uniformCandidates(budget, {}, { bits: 4, groupSize: 32 }).map((config) => {
    const size = config.groupSize === 'channel' ? 1000 : config.groupSize
    const storedBits = config.bits + 16 / size
    return {
      config,
      meanBits: config.bits,
      storedBits,
      outputBytes: FIXED + Math.ceil((storedBits * WEIGHTS) / 8),
      expectedError: expectedError(config.bits, config.groupSize, 1000),
    }
  })
}

function allocate(text: string) {
  const budget = parseBudget(text)
  return allocateUniform(budget, candidatesFor(budget), MODEL)
}

function failure(text: string): QtoolError {
  try {
    allocate(text)
  } catch (error) {
    if (error instanceof QtoolError) return error
  }
  throw new Error(`${text} did not fail`)
}

describe('allocateUniform', () => {
  it.each([
    ['4bit', 4, 32],
    ['3.9bit', 3, 32],
    ['16bit', 8, 32],
    ['4.5bpw', 4, 32],
    ['4bpw', 3, 16],
    ['0.125x', 3, 32],
    ['-75%', 6, 16],
    ['550kB', 3, 16],
  ])('%s gives %d bits in groups of %s', (text, bits, groupSize) => {
    expect(allocate(text).config).toEqual({ bits, groupSize })
  })

  it('names what can be reached and what binds, in terms that then succeed', () => {
    const pattern = {
      '1bit': /least is (\S+) \(/,
      '1bpw': /least is (\S+) \(/,
      '1kB': /least is (\d+ B)/,
      '0.01x': /least is (\S+) \(/,
    }
    for (const [text, reached] of Object.entries(pattern)) {
      const error = failure(text)
      expect(error.code).toBe('infeasible')
      expect(error.message).toMatch(/2 bits.*bytes of output files.*bound by/)
      expect(allocate(reached.exec(error.message)![1]!).config.bits).toBe(2)
    }
    expect(failure('1kB').message).toContain('50000 bytes of graph and tensors that stay as they are')
    expect(failure('60kB').message).toContain('bytes of quantized weights beside 50000 bytes')
  })

  it('says when a model cannot be made smaller', () => {
    const budget = parseBudget('0.5x')
    const swollen = candidatesFor(budget).map((candidate) => ({ ...candidate, outputBytes: 2 * MODEL.sourceBytes }))
    expect(() => allocateUniform(budget, swollen, MODEL)).toThrow(
      expect.objectContaining({ code: 'infeasible', hint: 'no configuration makes this model smaller' }),
    )
  })

  const candidate = fc.record({
    config: fc.record({ bits: fc.constantFrom(...BITS), groupSize: fc.constantFrom(16, 32, 'channel' as const) }),
    meanBits: fc.double({ min: 2, max: 8, noNaN: true }),
    storedBits: fc.double({ min: 2, max: 9, noNaN: true }),
    outputBytes: fc.integer({ min: 1, max: 100 }),
    expectedError: fc.integer({ min: 0, max: 3 }).map((n) => n / 4),
  })
  const budget: fc.Arbitrary<Budget> = fc.oneof(
    fc.record({ kind: fc.constant('meanBits' as const), bits: fc.double({ min: 0.1, max: 16, noNaN: true }) }),
    fc.record({ kind: fc.constant('bitsPerWeight' as const), bits: fc.double({ min: 0.1, max: 16, noNaN: true }) }),
    fc.record({ kind: fc.constant('bytes' as const), bytes: fc.integer({ min: 1, max: 120 }) }),
    fc.record({ kind: fc.constant('ratio' as const), ratio: fc.double({ min: 0.01, max: 1, noNaN: true }) }),
  )
  const fits = (budget: Budget, c: Candidate) => {
    if (budget.kind === 'meanBits') return c.meanBits <= budget.bits + 1e-9
    if (budget.kind === 'bitsPerWeight') return c.storedBits <= budget.bits + 1e-9
    return c.outputBytes <= (budget.kind === 'bytes' ? budget.bytes : budget.ratio * 100)
  }

  it('is never over budget, and nothing that fits is better', () => {
    fc.assert(
      fc.property(budget, fc.array(candidate, { minLength: 1, maxLength: 12 }), (budget, candidates) => {
        const fitting = candidates.filter((c) => fits(budget, c))
        if (fitting.length === 0) {
          expect(() => allocateUniform(budget, candidates, { sourceBytes: 100, fixedBytes: 0 })).toThrow(QtoolError)
          return
        }
        const chosen = allocateUniform(budget, candidates, { sourceBytes: 100, fixedBytes: 0 })
        expect(fits(budget, chosen)).toBe(true)
        const order = (a: Candidate, b: Candidate) => a.expectedError - b.expectedError || a.outputBytes - b.outputBytes
        const best = [...fitting].sort(order)[0]!
        expect(order(chosen, best)).toBe(0)
      }),
      { numRuns: 500 },
    )
  })

  it('never gets worse when the budget grows', () => {
    const bytes = fc.integer({ min: 320_000, max: 1_200_000 })
    fc.assert(
      fc.property(bytes, bytes, (a, b) => {
        const [small, large] = [allocate(`${Math.min(a, b)} B`), allocate(`${Math.max(a, b)} B`)]
        expect(large.expectedError).toBeLessThanOrEqual(small.expectedError)
      }),
    )
  })
})

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Budget, parseBudget, parseBudgets, parseBytes, parseLatency } from '../../src/bitalloc/budget.ts'
import { QtoolError } from '../../src/errors.ts'

function failure(text: string): QtoolError {
  try {
    parseBudget(text)
  } catch (error) {
    if (error instanceof QtoolError) return error
    throw error
  }
  throw new Error(`${text} was accepted`)
}

describe('parseBudget', () => {
  it.each<[string, Budget]>([
    ['4bit', { kind: 'meanBits', bits: 4 }],
    ['3.5bit', { kind: 'meanBits', bits: 3.5 }],
    [' 3.5 bits ', { kind: 'meanBits', bits: 3.5 }],
    ['((3 + 5) / 2) bit', { kind: 'meanBits', bits: 4 }],
    ['4bpw', { kind: 'bitsPerWeight', bits: 4 }],
    ['4.25 bpw', { kind: 'bitsPerWeight', bits: 4.25 }],
    ['350MB', { kind: 'bytes', bytes: 350e6 }],
    ['350 MiB', { kind: 'bytes', bytes: 350 * 2 ** 20 }],
    ['0.5 GiB', { kind: 'bytes', bytes: 2 ** 29 }],
    ['2*100MB - 5kB', { kind: 'bytes', bytes: 199_995_000 }],
    ['1e3 kB', { kind: 'bytes', bytes: 1e6 }],
    ['1.0000019 MB', { kind: 'bytes', bytes: 1_000_001 }],
    ['1048576 B', { kind: 'bytes', bytes: 2 ** 20 }],
    ['0.3x', { kind: 'ratio', ratio: 0.3 }],
    ['1/3 x', { kind: 'ratio', ratio: 1 / 3 }],
    ['1x', { kind: 'ratio', ratio: 1 }],
    ['-60%', { kind: 'ratio', ratio: 0.4 }],
    ['-12.5 %', { kind: 'ratio', ratio: 0.875 }],
  ])('%s', (text, budget) => {
    expect(parseBudget(text)).toEqual(budget)
  })

  it.each([
    ['', 'write for example'],
    ['4', '4bit is the mean width'],
    ['40%', '0.4x'],
    ['40%', '-60%'],
    ['+40%', '0.4x'],
    ['-100%', '-70%'],
    ['-140%', '-70%'],
    ['0x', '-70%'],
    ['-0.3x', '-70%'],
    ['4x', 'write 0.25x'],
    ['0 bit', 'widths are'],
    ['-4bit', 'widths are'],
    ['17bit', 'widths are'],
    ['1e999bit', 'widths are'],
    ['0/0 bpw', 'widths are'],
    ['20bpw', 'widths are'],
    ['0MB', 'sign and the unit'],
    ['5MB - 6MB', 'sign and the unit'],
    ['0/0 MB', 'sign and the unit'],
    ['1/0 MB', 'sign and the unit'],
    ['0.4 B', 'sign and the unit'],
    ['4 apples', 'write for example'],
    ['350mb', 'did you mean MB?'],
    ['350M', 'did you mean MB?'],
    ['350KB', 'did you mean kB?'],
    ['350Mib', 'capital B'],
    ['350Mb', 'capital B'],
    ['4bit + 1MB', 'write for example'],
    ['4MB * 2MB', 'write for example'],
    ['4MB + 2', 'binds to the number before it'],
    ['(3 + 5) / 2 bit', 'binds to the number before it'],
    ['3bit bpw', 'write for example'],
    ['3bit x', 'write for example'],
  ])('%s is a usage error with a hint', (text, hint) => {
    const error = failure(text)
    expect(error.code).toBe('usage')
    expect(error.hint).toContain(hint)
  })

  it.each([
    'import("fs")',
    'f(x) = 2',
    'x = 4bit',
    '4bit; 5bit',
    'config({})',
    'createUnit("foo")',
    'a.constructor',
    '"4bit"',
    '[4]bit',
    '{a: 1}',
    '2^3 MB',
    '4!',
    '4bit to MB',
    'true ? 4bit : 5bit',
    'pi MB',
    'sqrt(4) MB',
    '1:3',
    '0'.repeat(300),
    `${'('.repeat(150)}4bit`,
    '4i bit',
    '4bit\u0000',
  ])('%s is not evaluated', (text) => {
    expect(failure(text).code).toBe('usage')
  })

  it('reads what it wrote', () => {
    const amount = fc.integer({ min: 1, max: 16_000 }).map((n) => n / 1000)
    const unit = fc.constantFrom(...(['bit', 'bits', 'bpw', 'kB', 'MiB', 'GB', 'x'] as const))
    const factors = { kB: 1000, MiB: 2 ** 20, GB: 1e9 }
    fc.assert(
      fc.property(amount, unit, (value, unit) => {
        fc.pre(unit !== 'x' || value <= 1)
        const budget = parseBudget(`${value}${unit}`)
        if (unit === 'x') expect(budget).toEqual({ kind: 'ratio', ratio: value })
        else if (unit === 'bpw') expect(budget).toEqual({ kind: 'bitsPerWeight', bits: value })
        else if (unit === 'bit' || unit === 'bits') {
          expect(budget.kind === 'meanBits' && Math.abs(budget.bits - value)).toBeLessThan(1e-12)
        } else {
          const bytes = value * factors[unit]
          expect(budget.kind === 'bytes' && Math.abs(budget.bytes - bytes)).toBeLessThan(1)
        }
      }),
    )
  })

  it('answers any text with a sound budget or a usage error', () => {
    const word = fc.constantFrom(
      ...['4', '0.5', 'bit', 'MB', 'x', '%', 'bpw', '-', '+', '*', '/', '(', ')', ' ', 'e', '=', ';', '[', '"'],
    )
    const text = fc.oneof(
      fc.string(),
      fc.array(word, { maxLength: 8 }).map((words) => words.join('')),
    )
    fc.assert(
      fc.property(text, (text) => {
        let budget: Budget
        try {
          budget = parseBudget(text)
        } catch (error) {
          expect(error).toBeInstanceOf(QtoolError)
          expect(error).toMatchObject({ code: 'usage' })
          return
        }
        if (budget.kind === 'bytes') expect(Number.isSafeInteger(budget.bytes) && budget.bytes >= 1).toBe(true)
        else if (budget.kind === 'ratio') expect(budget.ratio > 0 && budget.ratio <= 1).toBe(true)
        else expect(budget.bits > 0 && budget.bits <= 16).toBe(true)
      }),
      { numRuns: 1000 },
    )
  })
})

describe('parseBudgets', () => {
  it('reads parts in any order, as parseBudget does', () => {
    const parts = ['4bit', ' 4.5 bpw', '350MB', '-60%']
    fc.assert(
      fc.property(fc.shuffledSubarray(parts, { minLength: 1 }), (chosen) => {
        expect(parseBudgets(chosen.join(','))).toEqual(chosen.map(parseBudget))
      }),
    )
  })

  it.each([
    ['4bit,3bit', "budgets '4bit' and '3bit' limit the same"],
    ['0.3x, 4bit, -60%', "budgets '0.3x' and '-60%' limit the same"],
    ['4bit,', 'has an empty part'],
    ['', 'has an empty part'],
    [' , 4bit', 'has an empty part'],
    ['4bit, 350mb', "'mb' is not a unit"],
    ['3,5bit', "budget '3' has no unit"],
  ])('%j is a usage error', (text, message) => {
    expect(() => parseBudgets(text)).toThrow(
      expect.objectContaining({ code: 'usage', message: expect.stringContaining(message) }),
    )
  })
})

describe('parseLatency', () => {
  it.each([
    ['0.7x', 0.7],
    [' .25 x ', 0.25],
    ['1x', 1],
    ['1.x', 1],
    ['100x', 100],
  ])('%j', (text, ratio) => {
    expect(parseLatency(text)).toBe(ratio)
  })

  it.each(['', '0.7', '70%', '0x', '101x', '-1x', 'x', '1e1x', '0.7X', '1/2x'])('%j is a usage error', (text) => {
    expect(() => parseLatency(text)).toThrow(expect.objectContaining({ code: 'usage' }))
  })
})

describe('parseBytes', () => {
  it.each([
    ['5MB', 5_000_000],
    ['5 MiB', 5 * 2 ** 20],
    ['12345', 12345],
  ])('%s', (text, bytes) => {
    expect(parseBytes(text, '--max-size')).toBe(bytes)
  })

  it.each(['', '0', '-5MB', '4bit', '5 apples', '5%', '0.3x'])('%j is a usage error that names its subject', (text) => {
    expect(() => parseBytes(text, '--max-size')).toThrow(/^--max-size/)
  })
})

/** The form that a named codebook takes in a layer. */
import { describe, expect, it } from 'vitest'
import {
  CODEBOOK_NAMES,
  codebookBits,
  codebookForm,
  codebookNamed,
  expectedIndexError,
  hasBits,
} from '../../src/codebook/codebookForms.ts'
import { tableLength } from '../../src/quant/codebookWeight.ts'
import { makeRandom } from '../../src/random.ts'

const AUTO = { rowGroups: 'auto', trellisWindow: 'auto', weights: 1e6 } as const
const scalar = { kind: 'scalar' }
const trellis = (window: number) => ({ coding: { kind: 'trellis', window }, tables: 1, shared: true, permuted: false })

describe('the form of a codebook', () => {
  it.each([
    ['jlcm', 2, 100, {}, { coding: scalar, tables: 16, mostTables: true, shared: false, permuted: true }],
    ['jlcm', 3, 100, { rowGroups: 16 }, { coding: scalar, tables: 16, shared: false, permuted: true }],
    ['jlcm', 3, 5, { rowGroups: 16 }, { coding: scalar, tables: 5, shared: false, permuted: true }],
    ['jlcm', 4, 100, { rowGroups: 1 }, { coding: scalar, tables: 1, shared: false, permuted: false }],
    ['jlcm', 4, 1, {}, { coding: scalar, tables: 1, mostTables: true, shared: false, permuted: true }],
    ['lut', 3, 100, {}, { coding: scalar, tables: 100, shared: false, permuted: false }],
    ['nf4', 4, 100, {}, { coding: scalar, tables: 1, shared: true, permuted: false }],
    ['vq', 2, 100, {}, { coding: { kind: 'vector', dim: 4 }, tables: 1, shared: false, permuted: false }],
    ['vq', 4, 100, {}, { coding: { kind: 'vector', dim: 2 }, tables: 1, shared: false, permuted: false }],
    ['trellis', 2, 100, {}, trellis(12)],
    ['trellis', 3, 100, { weights: 1e6 - 1 }, trellis(8)],
    ['trellis', 3, 100, { weights: 20e6 - 1 }, trellis(12)],
    ['trellis', 3, 100, { weights: 20e6 }, trellis(8)],
    ['trellis', 4, 100, { weights: 20e6, trellisWindow: 12 }, trellis(12)],
    ['trellis', 4, 100, { trellisWindow: 8 }, trellis(8)],
  ] as const)('%s at %i bits in %i rows %j', (name, bits, rows, settings, form) => {
    expect(codebookForm(name, bits, rows, { ...AUTO, ...settings })).toEqual(form)
  })

  it('spends the width that was asked for on every weight, whatever the coding', () => {
    for (const name of CODEBOOK_NAMES) {
      for (const bits of codebookBits(name)) {
        const { coding } = codebookForm(name, bits, 64, AUTO)
        if (coding.kind === 'vector') expect(8 / coding.dim).toBe(bits)
        if (coding.kind === 'scalar') expect(tableLength(coding, bits)).toBe(2 ** bits)
      }
    }
  })

  it('is not there at other widths', () => {
    expect(CODEBOOK_NAMES.map(codebookBits)).toEqual([[4, 3, 2], [4, 3, 2], [4], [4, 2], [4, 3, 2]])
    expect(() => codebookForm('vq', 3, 8, AUTO)).toThrow(RangeError)
    expect(() => codebookForm('nf4', 2, 8, AUTO)).toThrow(RangeError)
    expect([2, 3, 4, 5, 6, 8].filter((bits) => hasBits('trellis', bits))).toEqual([2, 3, 4])
    expect(codebookNamed({ codebook: 'auto' })).toBe('trellis')
    expect(codebookNamed({ codebook: 'vq' })).toBe('vq')
  })
})

/** Mean squared error of the best table of 2^b levels for normal numbers, by Lloyd's iteration on a sample of quantiles. */
function lloydMax(bits: number): number {
  const random = makeRandom(5)
  const values = Float64Array.from({ length: 20000 }, () => random.normal()).sort()
  let levels = Array.from({ length: 2 ** bits }, (_, i) => values[Math.floor(((i + 0.5) / 2 ** bits) * values.length)]!)
  let error = 0
  for (let turn = 0; turn < 60; turn++) {
    const sums = levels.map(() => 0)
    const counts = levels.map(() => 0)
    error = 0
    for (const value of values) {
      let best = 0
      for (let i = 1; i < levels.length; i++) {
        if (Math.abs(value - levels[i]!) < Math.abs(value - levels[best]!)) best = i
      }
      sums[best]! += value
      counts[best]!++
      error += (value - levels[best]!) ** 2
    }
    levels = levels.map((level, i) => (counts[i] ? sums[i]! / counts[i]! : level))
  }
  return error / values.reduce((sum, value) => sum + value ** 2, 0)
}

describe('the expected error of an index', () => {
  it.each([2, 3, 4] as const)('is that of the best table for normal weights at %i bits', (bits) => {
    const measured = lloydMax(bits)
    expect(Math.abs(expectedIndexError(bits, 1e9) / measured - 1)).toBeLessThan(0.05)
  })

  it('falls with shorter groups and rises with fewer bits', () => {
    expect(expectedIndexError(3, 16)).toBeLessThan(expectedIndexError(3, 64))
    expect(expectedIndexError(4, 4096)).toBeLessThan(expectedIndexError(3, 16))
    expect(expectedIndexError(3, 4096)).toBeLessThan(expectedIndexError(2, 16))
  })
})

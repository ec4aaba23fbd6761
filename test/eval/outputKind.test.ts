import { describe, expect, it } from 'vitest'
import { type OutputEvidence, outputKind } from '../../src/eval/outputKind.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'

const evidence = (fields: Partial<OutputEvidence>): OutputEvidence => ({
  name: 'out',
  elementType: 'float',
  dims: [2, 2],
  values: Float32Array.of(1, -2, 3, 4),
  rows: undefined,
  largestLabel: undefined,
  logits: 'auto',
  ...fields,
})
const probabilities = Float32Array.of(0.25, 0.75, 1, 0)

describe('outputKind', () => {
  it.each<[string, Partial<OutputEvidence>, string]>([
    ['plain numbers', {}, 'numbers'],
    ['integers', { elementType: 'int64', name: 'logits' }, 'integers'],
    ['truth values', { elementType: 'bool' }, 'integers'],
    ['rows that are distributions', { values: probabilities }, 'probabilities'],
    [
      'rows that are log-probabilities',
      { values: Float32Array.from(probabilities.subarray(0, 2), Math.log), dims: [1, 2] },
      'logits',
    ],
    ['only one row a distribution', { values: Float32Array.of(0.25, 0.75, 3, 4) }, 'numbers'],
    ['the other row being padding', { values: Float32Array.of(0.25, 0.75, 3, 4), rows: [0] }, 'probabilities'],
    ['nothing but padding', { values: probabilities, rows: [] }, 'numbers'],
    ['a name that says so', { name: 'model/Logits:0' }, 'logits'],
    ['a name that contains such a word', { name: 'start_logits' }, 'logits'],
    ['a name that only resembles one', { name: 'biologist' }, 'numbers'],
    ['confidences of a detector', { name: 'scores' }, 'numbers'],
    ['segmentation, with classes on axis 1', { name: 'logits', dims: [1, 1, 2, 2] }, 'numbers'],
    ['one class', { name: 'logits', dims: [4, 1] }, 'numbers'],
    ['one axis', { name: 'logits', dims: [4] }, 'numbers'],
    ['labels that fit', { largestLabel: 1 }, 'logits'],
    ['labels that do not fit', { largestLabel: 2 }, 'numbers'],
    ['the user saying so', { logits: ['out'] }, 'logits'],
    ['the user saying so of probabilities', { logits: ['out'], values: probabilities }, 'probabilities'],
    ['the user naming another', { name: 'logits', logits: ['other'] }, 'numbers'],
    ['the user saying none', { values: probabilities, logits: [] }, 'numbers'],
  ])('%s', (_, fields, kind) => {
    expect(outputKind(evidence(fields))).toBe(kind)
  })

  it('refuses what cannot be logits', () => {
    expectQtoolError('usage', () => outputKind(evidence({ logits: ['out'], elementType: 'int64' })), 'out', 'int64')
    expectQtoolError('usage', () => outputKind(evidence({ logits: ['out'], dims: [4] })), '[4]')
  })
})

/** Forms of codebooks in analyses, and in layers whose rows lie in the order of their tables. */
import { describe, expect, it } from 'vitest'
import type { Analysis } from '../../src/analyze/analysis.ts'
import { parseAnalysis } from '../../src/analyze/analysisFields.ts'
import { choiceKey, codebookChoices, isAskedCodebook } from '../../src/analyze/codebookCandidates.ts'
import { formIn, formLike, writtenForm } from '../../src/analyze/codebookField.ts'
import type { WeightedLayer } from '../../src/onnx/layers.ts'
import type { CodebookForm } from '../../src/quant/codebookWeight.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { plantedAnalysis } from './analyses.ts'

const layerOf = (rows: number, runs?: readonly number[]) =>
  ({ view: { outer: rows, reduction: 8, inner: 1 }, weights: 8 * rows, runs }) as unknown as WeightedLayer
const scalar = { coding: { kind: 'scalar' }, shared: false } as const
const groups: CodebookForm = { ...scalar, tables: 3, permuted: true }
const rows: CodebookForm = { ...scalar, tables: 12, permuted: false }
const inRuns: CodebookForm = { ...scalar, tables: 2, permuted: false, runs: [5, 7] }
const trellis: CodebookForm = { coding: { kind: 'trellis', window: 12 }, tables: 1, shared: true, permuted: false }

describe('an analysis', () => {
  const planted = plantedAnalysis({ game: () => 0, layers: 3, candidates: 2, drawn: 0 })
  /** With the form at the second candidate of the second layer, of 3 bits. */
  const withForm = (codebook: unknown, bits = 3): Analysis => ({
    ...planted,
    layers: planted.layers.map((layer, l) => ({
      ...layer,
      candidates: layer.candidates.map((own, k) => (l === 1 && k === 1 ? { ...own, bits, codebook } : own)),
    })) as unknown as Analysis['layers'],
  })

  it('has codebooks as they were, and none where none were', () => {
    expect(parseAnalysis('a', withForm(groups))).toEqual(withForm(groups))
    expect('codebook' in parseAnalysis('a', planted).layers[0]!.candidates[0]!).toBe(false)
  })

  it('with a wrong one is refused, and the field is named', () => {
    const refused = (form: unknown, bits: number, message: string) =>
      expectQtoolError('data', () => parseAnalysis('a.json', withForm(form, bits)), message)
    refused({ ...groups, tables: -1 }, 3, 'a.json: layers[1].candidates[1].codebook.tables: want')
    refused(trellis, 6, 'layers[1].candidates[1].bits: want 2, 3 or 4 with a codebook, found 6')
    refused({ ...trellis, coding: { kind: 'vector', dim: 4 } }, 3, 'codebook.coding.dim: want no vectors at 3 bits')
    refused('trellis', 3, 'codebook: want an object, found "trellis"')
  })
})

describe('a form', () => {
  it('in a file has no runs, which come from the layer where there are some', () => {
    const file = writtenForm(inRuns)
    expect(file).toEqual({ ...scalar, tables: 2, permuted: true })
    expect(formIn(file, layerOf(12, [5, 7]))).toEqual(inRuns)
    expect(formIn(groups, layerOf(12, [5, 7]))).toEqual(inRuns)
    expect(formIn(groups, layerOf(12))).toBe(groups)
    expect(formIn(trellis, layerOf(12, [5, 7]))).toBe(trellis)
  })

  it('with more tables than rows, or a table per row of others, fits in no layer', () => {
    expect(formIn(groups, layerOf(2))).toBeUndefined()
    expect(formIn(rows, layerOf(12))).toBe(rows)
    expect(formIn(rows, layerOf(13))).toBeUndefined()
  })

  it('of another layer is one that a layer can have', () => {
    for (const form of [groups, rows, inRuns, trellis]) {
      for (const layer of [layerOf(2), layerOf(12), layerOf(12, [5, 7]), layerOf(40)]) {
        const own = formLike(form, layer)
        expect(formIn(writtenForm(own), layer)).toEqual(own)
        expect(choiceKey({ bits: 3, groupSize: 'channel', symmetric: 'yes', codebook: own })).toBe(
          choiceKey({ bits: 3, groupSize: 'channel', symmetric: 'yes', codebook: form }),
        )
      }
    }
  })
})

describe('a codebook that is asked for', () => {
  const layer = layerOf(12)
  const auto = { codebook: 'auto', rowGroups: 'auto', trellisWindow: 'auto' } as const
  const choice = (codebook: CodebookForm) => ({ bits: 3, groupSize: 'channel', symmetric: 'yes', codebook }) as const
  const asks = (question: object, form: CodebookForm) =>
    isAskedCodebook(choice(form), layer, [layer], { ...auto, ...question })

  it('is any with auto, and else the one that is named', () => {
    for (const form of [groups, rows, trellis]) expect(asks({}, form)).toBe(true)
    expect(asks({ codebook: 'jlcm' }, groups)).toBe(true)
    expect(asks({ codebook: 'jlcm', rowGroups: 3 }, groups)).toBe(true)
    expect(asks({ codebook: 'jlcm', rowGroups: 4 }, groups)).toBe(false)
    expect(asks({ codebook: 'jlcm' }, rows)).toBe(false)
    expect(asks({ codebook: 'lut' }, rows)).toBe(true)
    expect(asks({ codebook: 'nf4' }, trellis)).toBe(false)
    expect(asks({ trellisWindow: 12 }, trellis)).toBe(true)
    expect(asks({ trellisWindow: 8 }, trellis)).toBe(false)
    expect(asks({ groupSize: 64 }, trellis)).toBe(false)
  })

  it('has a candidate at each of its widths, in the order of falling width', () => {
    const bits = (codebook: 'vq' | 'nf4' | 'jlcm') =>
      codebookChoices([layer], { ...auto, codebook }).map((choiceOf) => choiceOf(layer).bits)
    expect(bits('vq')).toEqual([4, 2])
    expect(bits('nf4')).toEqual([4])
    expect(bits('jlcm')).toEqual([4, 3, 2])
  })
})

/** Plans as files: written and read back, edited by overrides, and refused with the field that is wrong. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { planFromFile, savePlan } from '../../src/analyze/planFile.ts'
import { QUANTIZE_DEFAULTS, type QuantizeConfig } from '../../src/config.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { loadModel } from '../../src/onnx/load.ts'
import type { LayerChoice } from '../../src/onnx/represent/plan.ts'
import { freedomOf, type ModelPlan } from '../../src/quantize/planModel.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { smallModel } from '../quantize/calibratedModels.ts'
import { writeModel } from './measuredModels.ts'

const directory = useTempDir()
const model = loadModel(writeModel(directory, smallModel('transformer').proto).model)
const found = modelLayers(model.proto)
const file = path.join(directory, 'plan.json')

const read = (config: Partial<QuantizeConfig> = {}) =>
  planFromFile(file, model, found, { ...QUANTIZE_DEFAULTS, ...config })

const choicesOf = ({ plans }: Pick<ModelPlan, 'plans'>) =>
  plans.map(({ layer, bits, groupSize, symmetric }) => `${layer.name} ${bits} ${groupSize} ${symmetric}`)

const written = (layers: unknown, kind = 'plan') => fs.writeFileSync(file, JSON.stringify({ kind, layers }))

/** Every layer has a choice of its own. */
const choices: readonly (LayerChoice | 'skip')[] = [
  { bits: 2, groupSize: 32, symmetric: 'auto' },
  { bits: 3, groupSize: 16, symmetric: 'yes' },
  { bits: 4, groupSize: 64, symmetric: 'no' },
  { bits: 5, groupSize: 'channel', symmetric: 'auto' },
  'skip',
  { bits: 8, groupSize: 32, symmetric: 'no' },
  { bits: 6, groupSize: 'channel', symmetric: 'yes' },
]

describe('a plan', () => {
  it('that is saved is read back as it was, layers that are not in it skipped', () => {
    const plan = freedomOf(model, found, QUANTIZE_DEFAULTS).planner(choices)
    savePlan(file, plan)
    const again = read()
    expect(choicesOf(again)).toEqual(choicesOf(plan))
    expect(again.target).toEqual(plan.target)
    expect(again.skipped.map(({ layer }) => layer.name)).toEqual(plan.skipped.map(({ layer }) => layer.name))
    savePlan(file, again)
    expect(choicesOf(read())).toEqual(choicesOf(plan))
  })

  it('is edited by widths and skips of layers, also of those that it does not name', () => {
    written({ q: { bits: 3, groupSize: 16, symmetric: 'yes' }, k: { bits: 4, groupSize: 32 } })
    expect(choicesOf(read())).toEqual(['q 3 16 yes', 'k 4 32 auto'])
    const layers = [
      { pattern: 'q', bits: 8 },
      { pattern: 'k', bits: 'skip' },
      { pattern: 'v', bits: 5 },
    ] as const
    expect(choicesOf(read({ layers }))).toEqual(['q 8 16 yes', 'v 5 32 auto'])
    expect(choicesOf(read({ layers, groupSize: 16, symmetric: 'no' }))).toEqual(['q 8 16 yes', 'v 5 16 no'])
  })

  it('with a mistake is refused, and the message names it', () => {
    const refused = (code: 'usage' | 'data', ...patterns: (RegExp | string)[]) =>
      expectQtoolError(code, () => read(), ...patterns)
    written({ nobody: { bits: 3, groupSize: 16 } })
    expect(refused('usage', 'no layer nobody').hint).toBeDefined()
    written({ q: { bits: 7, groupSize: 16 } })
    refused('usage', 'layer q: bits is 7, wanted one of 8, 6, 5, 4, 3, 2')
    written({ q: { bits: 4, groupSize: 48 } })
    refused('usage', 'layer q: groupSize is 48')
    written({ q: { bits: 4 } })
    refused('usage', 'layer q: groupSize is missing')
    written({ q: { bits: 4, groupSize: 32, symmetric: true } })
    refused('usage', 'symmetric is true')
    written({ q: null })
    refused('usage', 'layer q: bits is missing')
    for (const text of [
      '{"kind": "plan", "layers": [',
      '[]',
      'null',
      '{"kind": "pareto", "points": []}',
      '{"kind":"plan"}',
    ]) {
      fs.writeFileSync(file, text)
      expect(refused('usage').hint).toMatch(/--save-plan/)
    }
    written([{ q: { bits: 4, groupSize: 32 } }])
    refused('usage', 'is no plan')
    fs.rmSync(file)
    refused('data', 'cannot read the plan')
  })

  describe('with codebooks', () => {
    const trellis = { coding: { kind: 'trellis', window: 8 }, tables: 1, shared: true, permuted: false } as const
    const groups = { coding: { kind: 'scalar' }, tables: 4, shared: false, permuted: true } as const
    const vectors = { coding: { kind: 'vector', dim: 4 }, tables: 1, shared: false, permuted: false } as const
    const codebook = { method: 'codebook' } as const
    const tablesOf = ({ plans }: Pick<ModelPlan, 'plans'>) => plans.map((plan) => plan.codebook)

    it('is read back as it was, beside grids', () => {
      const forms = [trellis, groups, vectors, { ...groups, mostTables: true }] as const
      const own = choices.map((choice, i) => {
        const form = forms[i]
        return form ? ({ bits: 2, groupSize: 'channel', symmetric: 'yes', codebook: form } as const) : choice
      })
      const plan = freedomOf(model, found, QUANTIZE_DEFAULTS).planner(own)
      expect(tablesOf(plan).slice(0, 4)).toEqual(forms)
      savePlan(file, plan)
      const again = read(codebook)
      expect(choicesOf(again)).toEqual(choicesOf(plan))
      expect(tablesOf(again)).toEqual(tablesOf(plan))
      expect(again.target).toEqual(plan.target)
      expectQtoolError('usage', () => read(), /layer \S+ has a codebook, but the method is auto/)
    })

    it('keeps them at other widths that they have, and has a grid at those that they have not', () => {
      const own = (form: object) => ({ bits: 2, groupSize: 'channel', codebook: form })
      written({ q: own(trellis), k: own(vectors), v: own(trellis) })
      const layers = [
        { pattern: 'q', bits: 3 },
        { pattern: 'k', bits: 4 },
        { pattern: 'v', bits: 8 },
      ] as const
      const plan = read({ ...codebook, layers })
      expect(plan.plans.map(({ bits, codebook: form }) => [bits, form])).toEqual([
        [3, trellis],
        [4, undefined],
        [8, undefined],
      ])
      expect(plan.plans[2]!.groupSize).toBe(32)
    })

    it.each([
      [{ ...trellis, coding: { kind: 'tree' } }, 'codebook.coding.kind: want one of scalar, vector, trellis'],
      [{ ...trellis, coding: { kind: 'trellis', window: 9 } }, 'codebook.coding.window: want one of 8, 12, found 9'],
      [{ ...vectors, coding: { kind: 'vector', dim: 2 } }, 'codebook.coding.dim: want 4 at 2 bits, found 2'],
      [{ ...trellis, tables: 2 }, 'codebook.tables: want 1 for trellis codes, found 2'],
      [{ ...groups, tables: 0 }, 'codebook.tables: want a whole number from 1'],
      [{ ...groups, tables: 1.5 }, 'codebook.tables'],
      [{ ...trellis, shared: false }, 'codebook.shared: want true for trellis codes, found false'],
      [{ ...vectors, shared: true }, 'codebook.shared: want false for vector codes, found true'],
      [{ ...groups, shared: true }, 'codebook.tables: want 1 where the table is shared'],
      [{ ...trellis, shared: 'yes' }, 'codebook.shared: want true or false, found "yes"'],
      [{ ...trellis, permuted: true }, 'codebook.permuted: want false where all rows have one table, found true'],
      [{ ...groups, permuted: undefined }, 'codebook.permuted: want true or false, found nothing'],
      [{ ...groups, mostTables: false }, 'codebook.mostTables: want true, or nothing, found false'],
      [{ ...groups, permuted: false, mostTables: true }, 'codebook.mostTables'],
      [null, 'codebook: want an object, found null'],
      [{ ...groups, tables: 9999 }, 'layer q has other rows than its codebook has tables'],
      [{ ...groups, permuted: false }, 'layer q has other rows than its codebook has tables'],
    ])('refuses the form %j', (form, message) => {
      written({ q: { bits: 2, groupSize: 'channel', codebook: form } })
      expectQtoolError('usage', () => read(codebook), message)
    })

    it('refuses a width that no index has', () => {
      written({ q: { bits: 5, groupSize: 'channel', codebook: trellis } })
      expectQtoolError('usage', () => read(codebook), 'layer q.bits: want 2, 3 or 4 with a codebook, found 5')
    })
  })
})

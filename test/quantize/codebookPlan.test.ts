/** Method codebook before any index is chosen: which tables and widths a model is planned with, and what is said of it. */
import { describe, expect, it } from 'vitest'
import { fixturePath } from '../../fixtures/generate.ts'
import { parseBudget } from '../../src/bitalloc/budget.ts'
import { codebookForm } from '../../src/codebook/codebookForms.ts'
import type { QuantizeConfig } from '../../src/config.ts'
import { resolveQuantizeConfig } from '../../src/configRules.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { METADATA } from '../../src/onnx/metadata.ts'
import { storedTensors } from '../../src/onnx/represent/stored.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import { methodSettings, writeMetadataInPlace } from '../../src/quantize/metadata.ts'
import { planFigures } from '../../src/quantize/planFigures.ts'
import { layerPlanner } from '../../src/quantize/planLayers.ts'
import { type ModelPlan, planModel } from '../../src/quantize/planModel.ts'
import { packQuantized } from '../../src/quantize/quantizeLayers.ts'
import { quantizeReport } from '../../src/quantize/report.ts'
import { storedTotal } from '../../src/quantize/storedTotal.ts'

const model = loadModel(fixturePath('matmul'))
const found = modelLayers(model.proto)
const [first, second] = found.layers
const AUTO = { rowGroups: 'auto', trellisWindow: 'auto', weights: first!.weights + second!.weights } as const

const resolve = (values: object) => resolveQuantizeConfig({ method: 'codebook', ...values } as Partial<QuantizeConfig>)
const planned = (values: object) => planModel(model, found, resolve(values))
const colsOf = ({ plans }: Pick<ModelPlan, 'plans'>) => plans.map(({ layer }) => layer.view.reduction)
const rowsOf = ({ plans }: Pick<ModelPlan, 'plans'>) => plans.map(({ layer }) => layer.view.outer * layer.view.inner)

describe('a plan of tables', () => {
  it('has 4 bits, a scale for each row, and trellis, if nothing is said', () => {
    const plan = planned({})
    expect(plan.plans.map(({ bits }) => bits)).toEqual([4, 4])
    expect(plan.plans.map(({ groupSize }) => groupSize)).toEqual(colsOf(plan))
    for (const { codebook, storage } of plan.plans) {
      expect(storage).toBe('indices')
      expect(codebook).toEqual(codebookForm('trellis', 4, 1, AUTO))
    }
    expect(plan.settled).toMatchObject({ method: 'codebook', codebook: 'auto', bits: 4, groupSize: 'channel' })
  })

  it.each([
    ['nf4', 4, {}],
    ['vq', 2, {}],
    ['lut', 3, {}],
    ['jlcm', 3, { rowGroups: 9 }],
    ['jlcm', 2, {}],
    ['trellis', 2, { trellisWindow: 8 }],
  ] as const)('%s at %i bits, %j: in the form of each layer', (name, bits, settings) => {
    const plan = planned({ codebook: name, bits, groupSize: 16, ...settings })
    const rows = rowsOf(plan)
    plan.plans.forEach((layer, i) => {
      expect(layer).toMatchObject({ bits, codebook: codebookForm(name, bits, rows[i]!, { ...AUTO, ...settings }) })
      expect(layer.groupSize).toBe(16)
    })
  })

  it('takes the window of the whole model', () => {
    const large = { ...found, layers: found.layers.map((layer) => ({ ...layer, weights: 10e6 })) }
    const windows = planModel(model, large, resolve({})).plans.map(({ codebook }) => codebook?.coding)
    expect(windows).toEqual([
      { kind: 'trellis', window: 8 },
      { kind: 'trellis', window: 8 },
    ])
  })

  it('puts layers set by hand to a width without tables on grids, in groups of 32 or of what was said', () => {
    const layers = [{ pattern: second!.name, bits: 8 }]
    const [own, byHand] = planned({ bits: 2, layers }).plans
    expect(own).toMatchObject({ bits: 2, codebook: { coding: { kind: 'trellis' } } })
    expect(byHand).toMatchObject({ bits: 8, groupSize: 32, codebook: undefined, symmetric: 'auto', notes: [] })
    expect(planned({ groupSize: 64, layers }).plans[1]).toMatchObject({ bits: 8, groupSize: 64, codebook: undefined })
    const [, other] = planned({ bits: 4, codebook: 'vq', layers: [{ pattern: second!.name, bits: 2 }] }).plans
    expect(other).toMatchObject({ bits: 2, codebook: { coding: { kind: 'vector', dim: 4 } } })
    const skipped = planned({ layers: [{ pattern: second!.name, bits: 'skip' }] })
    expect(skipped.skipped.map(({ layer }) => layer.name)).toEqual([second!.name])
  })

  it('puts layers that cannot have the tables on grids, with the reason, in groups of 32 or of what was said', () => {
    // Vectors of 4 weights have no 3 bits.
    const codebook = codebookForm('vq', 2, 8, AUTO)
    const choice = { bits: 3, groupSize: 'channel', symmetric: 'auto', codebook } as const
    const plansFor = (config: object) => layerPlanner(model, found, resolve(config))([choice, choice]).plans
    for (const plan of plansFor({})) {
      expect(plan).toMatchObject({ bits: 3, codebook: undefined, groupSize: 32 })
      expect(plan.notes).toEqual([expect.stringContaining('on a grid')])
    }
    expect(plansFor({ groupSize: 'channel' }).map(({ groupSize }) => groupSize)).toEqual(
      found.layers.map(({ view }) => view.reduction),
    )
  })
})

describe('a budget on tables', () => {
  it.each([
    ['trellis', '8bit', 4],
    ['trellis', '3.9bit', 3],
    ['vq', '3.9bit', 2],
    ['nf4', '4bit', 4],
    ['jlcm', '2bit', 2],
  ] as const)('%s within %s: %i bits, a scale for each row', (codebook, budget, bits) => {
    const plan = planned({ codebook, budget })
    expect(plan.plans.map((layer) => layer.bits)).toEqual([bits, bits])
    expect(plan.plans.map(({ groupSize }) => groupSize)).toEqual(colsOf(plan))
  })

  it.each([
    ['nf4', '3.9bit'],
    ['vq', '1.9bit'],
    ['lut', '2bpw'],
    ['trellis', '10B'],
  ])('%s within %s is not to be had', (codebook, budget) => {
    expect(() => planned({ codebook, budget })).toThrow(expect.objectContaining({ code: 'infeasible' }))
  })

  it.each(['trellis', 'jlcm', 'lut', 'vq', 'nf4'] as const)(
    '%s: of all widths and group sizes the best that fits, and no zero points',
    (codebook) => {
      const groupSizes = [16, 32, 64, 128, 256, 'channel'] as const
      const widths = ([2, 3, 4] as const).filter((bits) => {
        return (codebook !== 'nf4' || bits === 4) && (codebook !== 'vq' || bits !== 3)
      })
      const all = widths.flatMap((bits) =>
        groupSizes.map((groupSize) => {
          const config = resolve({ codebook, bits, groupSize })
          const plan = planModel(model, found, config)
          return { bits, ...planFigures(model, found, plan, plan.settled), plan }
        }),
      )
      for (const { storedBits } of all.filter((_, i) => i % 4 === 1)) {
        const within = parseBudget(`${storedBits}bpw`)
        expect(within.kind).toBe('bitsPerWeight')
        const chosen = planned({ codebook, budget: `${storedBits}bpw` })
        const figures = planFigures(model, found, chosen, chosen.settled)
        expect(figures.storedBits).toBeLessThanOrEqual(storedBits + 1e-9)
        const fitting = all.filter((other) => other.storedBits <= storedBits + 1e-9)
        expect(chosen.plans[0]!.bits).toBe(Math.max(...fitting.map(({ bits }) => bits)))
        expect(figures.expectedError).toBe(Math.min(...fitting.map(({ expectedError }) => expectedError)))
        expect(chosen.plans.every(({ symmetric }) => symmetric === 'yes')).toBe(true)
      }
    },
  )
})

describe('what is counted', () => {
  it('has one copy of a table that layers share, and each of the others', () => {
    const tensors = (values: object) =>
      planned(values).plans.map((plan) => ({ tensors: storedTensors(plan, true, 'float16') }))
    // 9216 indices of 4 bits, a half-precision scale for each row, a table of 2^12 or 2^8 levels.
    const rows = rowsOf(planned({})).reduce((sum, count) => sum + count)
    const indices = 9216 / 2 + 2 * rows
    expect(storedTotal(tensors({ trellisWindow: 12 }))).toBe(indices + 4096)
    expect(storedTotal(tensors({ trellisWindow: 8 }))).toBe(indices + 256)
    expect(storedTotal(tensors({ codebook: 'lut' }))).toBe(indices + 16 * rows)
    expect(storedTotal(tensors({ codebook: 'vq' }))).toBe(indices + 2 * 512)
  })
})

describe('tables from the weights alone', () => {
  it.each(['nf4', 'vq', 'lut'] as const)(
    '%s: the bytes are those of the plan, and keep a budget of them',
    async (codebook) => {
      const plan = planned({ codebook })
      const { outputBytes, storedBits } = planFigures(model, found, plan, plan.settled)
      const config = { method: 'codebook', codebook, dryRun: true, threads: 1, groupSize: 'channel' } as const
      const report = await quantizeModel(fixturePath('matmul'), undefined, { ...config, budget: `${outputBytes}B` })
      expect(report.output.totalBytes).toBe(outputBytes)
      expect(report.totals).toMatchObject({ meanBits: 4, bitsPerWeight: storedBits })
      expect(report.layers.map(({ method }) => method)).toEqual(['codebook', 'codebook'])
      expect(report.calibration).toBeUndefined()
      // Normal weights: near the best that 16 levels can do.
      expect(report.totals.relativeError).toBeLessThan(0.016)
    },
  )

  it('are stored as many as the weights came to, whatever was planned', async () => {
    const [plan] = planned({ codebook: 'jlcm', rowGroups: 4, bits: 2 }).plans
    const rows = rowsOf({ plans: [plan!] })[0]!
    const cols = first!.view.reduction
    const pack = async (tables: number) => {
      const weight = {
        ...({ rows, cols, bits: 2, coding: { kind: 'scalar' }, groupSize: cols } as const),
        scaleType: 'float16',
        codes: new Uint8Array(rows * cols),
        tables: new Int8Array(4 * tables),
        tableOf: Uint16Array.from({ length: rows }, (_, row) => row % tables),
        scales: new Float32Array(rows).fill(1),
      } as const
      const rounded = { weight, choice: undefined, squaredError: 0, squaredNorm: 1 }
      const sink = (bytes: Uint8Array) => ({ kind: 'memory', byteLength: bytes.length, bytes }) as const
      return packQuantized(plan!, rounded, resolve({ verify: false }), sink)
    }
    const two = await pack(2)
    expect(plan!.codebook).toMatchObject({ tables: 4, permuted: true })
    expect(two.plan.codebook).toEqual({ coding: { kind: 'scalar' }, tables: 2, shared: false, permuted: true })
    expect((await pack(1)).plan.codebook).toMatchObject({ tables: 1, permuted: false })
    expect(two.choice).toBeUndefined()
    expect(storedTotal([two])).toBe(storedTotal([{ tensors: storedTensors(two.plan, true, 'float16') }]))
  })
})

describe('what is said of tables', () => {
  const metadataOf = (config: QuantizeConfig, plan: ModelPlan, tables?: number) => {
    const copy = loadModel(fixturePath('matmul')).proto
    const plans = plan.plans.map((one) =>
      one.codebook && tables ? { ...one, codebook: { ...one.codebook, tables } } : one,
    )
    const choices = plans.map(
      ({ codebook }) => (codebook ? undefined : { scheme: 'asymmetric', method: 'clip' }) as never,
    )
    writeMetadataInPlace(copy, '1', config, ['0'], plans, choices)
    const read = (key: string) => JSON.parse(copy.metadataProps.find((entry) => entry.key === key)!.value)
    return { config: read(METADATA.config), plan: read(METADATA.plan) }
  }

  it('the settings and each layer in the metadata, grids as ever', () => {
    const layers = [{ pattern: second!.name, bits: 8 }] as const
    const values = { codebook: 'jlcm', bits: 3, rowGroups: 8, layers }
    const plan = planned(values)
    const made = metadataOf(plan.settled, plan, 5)
    expect(made.config).toMatchObject({
      ...{ method: 'codebook', codebook: 'jlcm', rowGroups: 8, trellisWindow: 'auto', bits: 3 },
      groupSize: 'channel',
    })
    expect(made.config).not.toHaveProperty('damping')
    const [own, byHand] = made.plan
    expect(own).toEqual({
      ...{ weight: first!.constant.name, bits: 3, group: first!.view.reduction, as: 'MatMulNBits' },
      ...{ method: 'codebook', coding: 'scalar', tables: 5 },
    })
    expect(byHand).toMatchObject({ bits: 8, group: 32, scheme: 'asymmetric', method: 'clip' })
    expect(byHand).not.toHaveProperty('coding')
    const codings = [{}, { trellisWindow: 12 }, { codebook: 'vq', bits: 2 }].map((one) => {
      return metadataOf(resolve(one), planned(one)).plan[0].coding
    })
    expect(codings).toEqual(['trellis8', 'trellis12', 'vector4'])
    const calibrated = metadataOf(resolve({ ...values, stats: ['s'] }), plan).config
    expect(calibrated).toMatchObject({ codebook: 'jlcm', damping: 0.05 })
  })

  it('the settings alone decide whether a run can go on where another stopped', () => {
    expect(methodSettings(resolve({ codebook: 'jlcm', rowGroups: 2, data: ['x'] }))).toEqual({
      ...{ codebook: 'jlcm', rowGroups: 2, trellisWindow: 'auto', mapping: 'descent' },
    })
    expect(methodSettings(resolveQuantizeConfig({ data: ['x'] }))).toEqual({})
    expect(Object.keys(methodSettings(resolveQuantizeConfig({ data: ['x'], method: 'rsq' })))).not.toContain('codebook')
  })

  it('the tables of each layer and all bytes in the report, grids as ever', () => {
    const config = resolve({ bits: 2, layers: [{ pattern: second!.name, bits: 8 }] })
    const plan = planModel(model, found, config)
    const layers = plan.plans.map((own) => ({
      plan: own,
      choice: own.codebook ? undefined : ({ scheme: 'asymmetric', method: 'hqq' } as const),
      ...{ tensors: storedTensors(own, own.codebook !== undefined, 'float16'), payloads: [], scaleType: 'float16' },
      ...{ squaredError: 1, squaredNorm: 4, reference: undefined, calibration: undefined },
    })) as never
    const sizes = { path: 'o', totalBytes: 1000, files: [] }
    const none = { allocation: undefined, calibration: undefined, rsq: undefined, verified: undefined }
    const outcome = {
      model,
      found,
      plan,
      layers,
      biases: [],
      notices: [],
      sha256: [],
      output: sizes,
      loading: { transientBytes: 0, compactBytes: undefined },
      expandedBytes: undefined,
      seconds: 1,
      ...none,
    }
    const report = quantizeReport({ ...outcome, warnings: [] }, config, '1')
    const [own, byHand] = report.layers
    expect(own).toMatchObject({
      ...{ bits: 2, groupSize: first!.view.reduction, method: 'codebook' },
      codebook: {
        ...{ name: 'trellis', coding: { kind: 'trellis', window: 8 } },
        ...{ tables: 1, shared: true, permuted: false },
      },
    })
    expect(JSON.parse(JSON.stringify(own))).not.toHaveProperty('scheme')
    expect(own!.storedBytes).toBe(first!.weights / 4 + 2 * rowsOf(plan)[0]!)
    expect(own!.bitsPerWeight).toBe((8 * own!.storedBytes) / first!.weights)
    expect(byHand).toMatchObject({ bits: 8, groupSize: 32, scheme: 'asymmetric', method: 'hqq' })
    expect(JSON.parse(JSON.stringify(byHand))).not.toHaveProperty('codebook')
    const weights = first!.weights + second!.weights
    expect(report.totals.meanBits).toBe((2 * first!.weights + 8 * second!.weights) / weights)
    expect(report.totals.bitsPerWeight).toBe((8 * (own!.storedBytes + byHand!.storedBytes + 256)) / weights)
    expect(report.schemaVersion).toBe(1)
  })
})

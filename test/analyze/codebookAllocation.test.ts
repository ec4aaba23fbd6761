/** Codebooks as candidates: taken where they lose less for the same bytes, within budgets to the byte, and the same from an analysis and from a plan. */
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readAnalysis, writeAnalysis } from '../../src/analyze/analysisFile.ts'
import { mixedPlan } from '../../src/analyze/mixedPlan.ts'
import { openMixed } from '../../src/analyze/openMixed.ts'
import { QUANTIZE_DEFAULTS, type QuantizeConfig } from '../../src/config.ts'
import { kernelsOf } from '../../src/eval/kernelLatency.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { loadModel } from '../../src/onnx/load.ts'
import {
  DataType,
  decodeModel,
  encodeModel,
  makeModel,
  makeNode,
  makeOpset,
  makeValueInfo,
} from '../../src/onnx/proto.ts'
import { planLayer } from '../../src/onnx/represent/plan.ts'
import { SourceReader } from '../../src/onnx/sourceReader.ts'
import { analyzeModel, quantizeModel } from '../../src/pipeline.ts'
import type { CodebookForm } from '../../src/quant/codebookWeight.ts'
import { planFigures } from '../../src/quantize/planFigures.ts'
import type { QuantizeReport } from '../../src/report.ts'
import { createPool } from '../../src/threads/pool.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { outputsOf, relativeError, type SmallModel, smallModel, writeSamples } from '../quantize/calibratedModels.ts'
import { normals } from '../quantize/roundTrip.ts'

const directory = useTempDir()
const at = (name: string) => path.join(directory, name)

/** Three layers, the middle one of more weights than the others. */
const small: SmallModel = {
  name: 'scores',
  half: false,
  draw: (count, seed) => ({ type: 'float32', shape: [32], values: smallModel('MLP').draw(count / 2, seed).values }),
  proto: makeModel({
    irVersion: 10n,
    opsetImport: [makeOpset('', 17)],
    graph: {
      name: 'g',
      initializer: [normals('w1', [32, 96], 0.1), normals('w2', [96, 64], 0.3), normals('w3', [64, 48], 0.1)],
      node: [
        makeNode('MatMul', ['x', 'w1'], ['h'], { name: 'one' }),
        makeNode('Tanh', ['h'], ['a']),
        makeNode('MatMul', ['a', 'w2'], ['g'], { name: 'two' }),
        makeNode('Relu', ['g'], ['b']),
        makeNode('MatMul', ['b', 'w3'], ['logits'], { name: 'three' }),
      ],
      input: [makeValueInfo('x', DataType.FLOAT, [undefined, 32])],
      output: [makeValueInfo('logits', DataType.FLOAT, [undefined, 48])],
    },
  }),
}
const model = at('model.onnx')
fs.writeFileSync(model, encodeModel(small.proto))
const data = [writeSamples(at('x.npy'), small.draw(40, 100))]
const common = { data, threads: 1, verify: false, force: true, scales: 'float' } as const
const tables = { method: 'codebook', trellisWindow: 8 } as const
const analysis = at('analysis.json')

const run = (out: string | undefined, config: Partial<QuantizeConfig>) =>
  quantizeModel(model, out && at(out), { ...common, dryRun: !out, ...config })

const withTables = (report: QuantizeReport) => report.layers.filter((layer) => 'codebook' in layer && layer.codebook)
const payload = (name: string) =>
  decodeModel(fs.readFileSync(at(name))).graph!.initializer.map(({ name: own, rawData }) => [
    own,
    Buffer.from(rawData).toString('base64'),
  ])

const opened = loadModel(model)
const found = modelLayers(opened.proto)
const reader = new SourceReader(opened)
const pool = createPool(1)
const source = { model: opened, reader, pool }

beforeAll(async () => {
  await analyzeModel(model, {
    ...{ data, configurations: 0, sensitivity: ['kl'], threads: 1, output: analysis, force: true },
    ...{ codebook: 'auto', trellisWindow: 8 },
  })
})
afterAll(async () => {
  reader.close()
  await pool.close()
})

/** What budgets come to by the predictions of an analysis alone. */
async function allocated(config: Partial<QuantizeConfig>, file = analysis) {
  const settings = {
    ...QUANTIZE_DEFAULTS,
    solver: 'ilp',
    scales: 'float',
    ...tables,
    analysis: file,
    sensitivity: [],
    ...config,
  } as const
  const mixed = await openMixed(source, found, { ...settings, evaluations: 0 }, undefined, () => at('none'), {})
  const { plan, allocation } = await mixedPlan({ ...mixed.task, latency: undefined })
  return {
    figures: planFigures(opened, found, plan, plan.settled),
    layers: plan.plans.map(({ layer: { name }, bits, groupSize, symmetric, codebook, ...own }) => {
      const size = groupSize === own.paddedCols ? 'channel' : groupSize
      return { name, bits, groupSize: size, symmetric, ...(codebook ? { codebook } : {}) }
    }),
    tables: plan.plans.filter(({ codebook }) => codebook).length,
    loss: allocation.proposals[0]!.predicted!,
    warnings: mixed.warnings,
  }
}

describe('a budget with method codebook', () => {
  it('has tables beside grids, with the bytes of each, where a layer can have them', () => {
    for (const { candidates } of readAnalysis(analysis).layers) {
      expect(candidates.map(({ bits, groupSize }) => `${bits} ${groupSize}`).sort()).toEqual(
        ['2 32', '2 channel', '3 32', '3 channel', '4 32', '4 channel', '5 32', '6 32', '8 32'].sort(),
      )
      for (const { bits, groupSize, symmetric, codebook, storedBytes } of candidates) {
        if (groupSize === 32) expect(codebook).toBeUndefined()
        else {
          expect(codebook).toEqual({ coding: { kind: 'trellis', window: 8 }, tables: 1, shared: true, permuted: false })
          expect(symmetric).toBe('yes')
          const own = candidates.find((other) => other.bits === bits && !other.codebook)!
          expect(storedBytes).toBeLessThan(own.storedBytes)
        }
      }
    }
  })

  it.each(['2.5bpw', '3.3bpw', '5bpw', '9kB', '12kB', '3bit', '4.4bit,5bpw,13kB'])(
    '%s is kept, by ilp as by dp, and grids alone are never predicted to lose less',
    async (budget) => {
      const own = await allocated({ budget })
      const { storedBits, outputBytes, meanBits } = own.figures
      for (const part of budget.split(',')) {
        const used = part.endsWith('bpw') ? storedBits : part.endsWith('kB') ? outputBytes / 1000 : meanBits
        expect(used).toBeLessThanOrEqual(Number.parseFloat(part))
      }
      // The dynamic programme takes one limit.
      const dp = budget.includes(',') ? own : await allocated({ budget, solver: 'dp' })
      expect(dp.loss).toBeCloseTo(own.loss, 12)
      // What the file says of the method takes some bytes too.
      const less = budget.replace(/[\d.]+kB/, (bytes) => `${1000 * Number.parseFloat(bytes) - 200}B`)
      const grids = await allocated({ budget: less, method: 'gptq' }).catch(({ code }: { code: string }) => code)
      if (typeof grids === 'string') expect(grids).toBe('infeasible')
      else {
        expect(grids.tables).toBe(0)
        expect(own.loss).toBeLessThanOrEqual(grids.loss)
      }
    },
  )

  it('takes no tables that cost more than they save', async () => {
    const large = readAnalysis(analysis)
    const coding = { kind: 'trellis', window: 12 } as const
    const layers = large.layers.map((layer) => ({
      ...layer,
      candidates: layer.candidates.map(({ codebook, ...candidate }) => {
        return codebook ? { ...candidate, codebook: { ...codebook, coding } } : candidate
      }),
    }))
    writeAnalysis(at('large.json'), { ...large, layers }, true)
    const own = await allocated({ budget: '3.3bpw', trellisWindow: 12 }, at('large.json'))
    expect(own.tables).toBe(0)
    expect(own.loss).toBe((await allocated({ budget: '3.3bpw', method: 'gptq' })).loss)
    expect((await allocated({ budget: '3.3bpw' })).tables).toBeGreaterThan(0)
    const [warning] = (await allocated({ budget: '3.3bpw', codebook: 'lut', trellisWindow: 'auto' })).warnings
    expect(warning).toMatch(/analysis.json has no candidates with codebook lut/)
  })

  it('counts the time of the 8-bit kernel for tables, and of the own kernel for grids', () => {
    const [layer] = found.layers
    const target = { format: 'auto', opset: 21, accuracyLevel: 4 } as const
    const kernelOf = (codebook?: CodebookForm) =>
      kernelsOf(planLayer(layer!, { bits: 2, groupSize: 32, symmetric: 'yes', codebook }, target), 4)[0]
    const form: CodebookForm = { coding: { kind: 'trellis', window: 8 }, tables: 1, shared: true, permuted: false }
    expect(kernelOf(form)).toMatchObject({ form: 'MatMulNBits', bits: 8, accuracyLevel: 4 })
    expect(kernelOf()).toMatchObject({ form: 'MatMulNBits', bits: 2 })
  })

  it('is used up by a file that loses less than one of grids', async () => {
    const own = await run('tables.onnx', { ...tables, analysis, budget: '3.3bpw', savePlan: at('plan.json') })
    expect(own.allocation!.solver).toBe('ilp')
    expect(withTables(own).length).toBeGreaterThan(0)
    expect(own.totals.bitsPerWeight).toBeLessThanOrEqual(3.3)
    await run('grids.onnx', { method: 'gptq', analysis, budget: '3.3bpw' })
    const fresh = small.draw(64, 999)
    const errorOf = async (name: string) =>
      relativeError(await outputsOf(model, small, fresh), await outputsOf(at(name), small, fresh))
    expect(await errorOf('tables.onnx')).toBeLessThan(await errorOf('grids.onnx'))
  })

  it('comes to the same from what was measured before', async () => {
    const config = { ...tables, budget: '3bit', sensitivity: ['kl'], evaluations: 0 } as const
    const fresh = (await run(undefined, config)).allocation!
    const again = await allocated(config)
    expect(fresh.candidates[0]!.predicted).toBe(again.loss)
    if (fresh.candidates[0]!.chosen) expect(fresh.layers).toEqual(again.layers)
    expect(fresh.layers.some((layer) => 'codebook' in layer)).toBe(true)
  })
})

describe('a plan with codebooks', () => {
  it('gives the same file', async () => {
    const again = await run('again.onnx', { method: 'codebook', plan: at('plan.json') })
    expect(withTables(again).length).toBeGreaterThan(0)
    expect(payload('again.onnx')).toEqual(payload('tables.onnx'))
  })

  it('is refused by another method', async () => {
    await expect(run('no.onnx', { plan: at('plan.json'), method: 'gptq' })).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringMatching(/has a codebook, but the method is gptq/),
    })
  })
})

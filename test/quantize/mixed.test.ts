/** Mixed widths from budget to file: what is written keeps the budget, and is never worse than one width for all. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { QUANTIZE_DEFAULTS, type QuantizeConfig } from '../../src/config.ts'
import {
  DataType,
  decodeModel,
  encodeModel,
  makeModel,
  makeNode,
  makeOpset,
  makeValueInfo,
} from '../../src/onnx/proto.ts'
import { analyzeModel, quantizeModel } from '../../src/pipeline.ts'
import type { RunOptions } from '../../src/progress.ts'
import type { QuantizeReport } from '../../src/report.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { outputsOf, relativeError, type SmallModel, smallModel, writeSamples } from './calibratedModels.ts'
import { normals } from './roundTrip.ts'

const directory = useTempDir()
const at = (name: string) => path.join(directory, name)

/** Two layers that are wide, and one that makes class scores. */
const small: SmallModel = {
  name: 'scores',
  half: false,
  draw: (count, seed) => {
    const { values } = smallModel('MLP').draw(count / 2, seed)
    return { type: 'float32', shape: [32], values }
  },
  proto: makeModel({
    irVersion: 10n,
    opsetImport: [makeOpset('', 17)],
    graph: {
      name: 'g',
      initializer: [normals('w1', [32, 40], 0.1), normals('w2', [40, 32], 0.3), normals('w3', [32, 24], 0.1)],
      node: [
        makeNode('MatMul', ['x', 'w1'], ['h'], { name: 'one' }),
        makeNode('Tanh', ['h'], ['a']),
        makeNode('MatMul', ['a', 'w2'], ['g'], { name: 'two' }),
        makeNode('Relu', ['g'], ['b']),
        makeNode('MatMul', ['b', 'w3'], ['logits'], { name: 'three' }),
      ],
      input: [makeValueInfo('x', DataType.FLOAT, [undefined, 32])],
      output: [makeValueInfo('logits', DataType.FLOAT, [undefined, 24])],
    },
  }),
}
const model = at('model.onnx')
fs.writeFileSync(model, encodeModel(small.proto))
const data = [writeSamples(at('x.npy'), small.draw(40, 100))]
const sourceBytes = fs.statSync(model).size

const run = (out: string | undefined, config: Partial<QuantizeConfig>, options: RunOptions = {}) =>
  quantizeModel(model, out && at(out), { threads: 1, verify: false, force: true, ...config }, options)

const bytesOf = (name: string) => fs.readFileSync(at(name)).toString('base64')

const weightsOf = ({ layers }: QuantizeReport) => layers.reduce((sum, { weights }) => sum + weights, 0)
const meanBits = (report: QuantizeReport) =>
  report.layers.reduce((sum, { bits, weights }) => sum + bits * weights, 0) / weightsOf(report)
/** How much of its budget a run takes, 1 for all of it. */
const USED: Readonly<Record<string, (report: QuantizeReport) => number>> = {
  '3.5bit': (report) => meanBits(report) / 3.5,
  '0.25x': () => fs.statSync(at('0.25x.onnx')).size / (0.25 * sourceBytes),
}

describe('a budget with data', () => {
  it.each(Object.keys(USED))('%s is kept and used up, and the result is no worse than uniform', async (budget) => {
    const report = await run(`${budget}.onnx`, { data, budget, evaluations: 8, savePlan: at(`${budget}.json`) })
    const used = USED[budget]!(report)
    expect(used).toBeLessThanOrEqual(1)
    expect(used).toBeGreaterThan(0.9)
    expect(report.output.totalBytes).toBe(fs.statSync(at(`${budget}.onnx`)).size)
    const { allocation } = report
    expect(allocation).toMatchObject({ solver: 'ilp', sensitivities: QUANTIZE_DEFAULTS.sensitivity, metric: 'kl' })
    expect(allocation!.layers.map(({ name, bits }) => [name, bits])).toEqual(
      report.layers.map(({ name, bits }) => [name, bits]),
    )
    for (const { limit, used: taken } of allocation!.constraints) expect(taken).toBeLessThanOrEqual(limit)
    expect(allocation!.candidates.filter(({ chosen }) => chosen).length).toBeLessThanOrEqual(1)
    expect(allocation!.measured).toBeLessThanOrEqual(allocation!.candidates[0]!.measured!)
    if (allocation!.uniform) expect(allocation!.measured).toBeLessThanOrEqual(allocation!.uniform.measured!)
    expect(allocation!.gap ?? 0).toBeLessThan(1e-6)
    expect(allocation!.evaluations).toBeGreaterThan(1)
    expect(new Set(report.layers.map(({ bits, groupSize }) => `${bits} ${groupSize}`)).size).toBeGreaterThan(1)
  })

  it('has an output nearer to the float model than uniform has, on data that nothing has seen', async () => {
    const fresh = small.draw(64, 999)
    const errorOf = async (name: string) =>
      relativeError(await outputsOf(model, small, fresh), await outputsOf(at(name), small, fresh))
    await run('uniform.onnx', { data, bits: 3 })
    expect(await errorOf('3.5bit.onnx')).toBeLessThan(await errorOf('uniform.onnx'))
  })

  it('comes to the same bytes on two threads, and a dry run to the same allocation', async () => {
    await run('two.onnx', { data, budget: '3.5bit', threads: 2, evaluations: 8 })
    expect(bytesOf('two.onnx') === bytesOf('3.5bit.onnx')).toBe(true)
  })
})

describe('a budget that cannot be kept', () => {
  /** Fails when anything is measured. */
  const atOnce: RunOptions = {
    onProgress: ({ stage }) => {
      if (stage === 'measure' || stage === 'calibrate') throw new Error('measured before the budget was refused')
    },
  }

  it.each([
    ['1.5bit', /1\.5bit.*the least is 2bit/],
    ['1.9bpw', /1\.9bpw.*the least is 2\.\d+bpw/],
    ['1kB', /1kB.*the least is \d+ bytes/],
    ['0.05x', /0\.05x.*the least is \d+ bytes/],
    ['4bit,1kB', /1kB.*the least is \d+ bytes/],
  ])('is refused before anything is measured: %s', async (budget, message) => {
    await expect(run('no.onnx', { data, budget }, atOnce)).rejects.toMatchObject({
      code: 'infeasible',
      message: expect.stringMatching(message),
      hint: expect.any(String),
    })
    expect(fs.existsSync(at('no.onnx'))).toBe(false)
  })
})

describe('an analysis', () => {
  const analysis = at('analysis.json')

  it('that was saved allocates as a run that measures: by its predictions alone, and on data', async () => {
    const config = { data, sensitivity: ['kl'], configurations: 0, threads: 1, output: analysis, force: true } as const
    await analyzeModel(model, config)
    const budget = '3.5bit'
    // The analysis has no codebooks.
    const method = 'gptq'
    const fresh = await run(undefined, { data, budget, method, sensitivity: ['kl'], evaluations: 10, dryRun: true })
    const tried = await run(undefined, { data, analysis, budget, evaluations: 10, dryRun: true })
    expect(tried.allocation).toEqual(fresh.allocation)
    const alone = await run('saved.onnx', { analysis, budget })
    expect(alone.calibration).toBeUndefined()
    expect(alone.allocation).toMatchObject({ sensitivities: ['kl'], measured: undefined, evaluations: 0 })
    expect(alone.allocation!.candidates[0]!.predicted).toBe(fresh.allocation!.candidates[0]!.predicted)
    expect(meanBits(alone)).toBeLessThanOrEqual(3.5)
    expect(alone.warnings.join()).not.toMatch(/other settings/)
  })

  it('has no group size but those that were measured', async () => {
    const asked = run(undefined, { analysis, budget: '3bit', groupSize: 128, dryRun: true })
    await expect(asked).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining('was not measured at'),
    })
  })

  it('of other settings is used with a warning, and that of another model is refused', async () => {
    const other = await run(undefined, { data, samples: 30, analysis, budget: '3bit', evaluations: 0, dryRun: true })
    expect(other.warnings.join()).toMatch(/measured with other settings or data: samples/)
    const stranger = at('stranger.onnx')
    fs.writeFileSync(stranger, encodeModel(smallModel('MLP').proto))
    await expect(quantizeModel(stranger, at('no.onnx'), { analysis, budget: '4bit' })).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining('of another model'),
    })
  })
})

describe('a plan', () => {
  it('that was saved gives the same file', async () => {
    const again = await run('again.onnx', { data, plan: at('3.5bit.json') })
    expect(again.allocation).toBeUndefined()
    const payload = (name: string) => {
      const { initializer } = decodeModel(fs.readFileSync(at(name))).graph!
      return initializer.map(({ name: own, rawData }) => [own, Buffer.from(rawData).toString('base64')])
    }
    expect(payload('again.onnx')).toEqual(payload('3.5bit.onnx'))
  })
})

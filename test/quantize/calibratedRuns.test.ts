/** Calibrated runs as a whole: the same bytes every time, statistics and progress on disk, budgets, what is left behind. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import type { QuantizeConfig } from '../../src/config.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import type { RunOptions } from '../../src/progress.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { outputsOf, relativeError, smallModel, writeCase, writeSamples } from './calibratedModels.ts'

const directory = useTempDir()
const BASE = { bits: 3, threads: 1, force: true } as const
const INPUTS = ['data.npy', 'model.onnx']

/** A folder of its own with a model, its data, and runs in it. */
function caseOf(name: string) {
  const model = smallModel(name)
  const { folder, model: source, data } = writeCase(directory, model)
  const at = (file: string) => path.join(folder, file)
  const run = (out: string | undefined, config: Partial<QuantizeConfig>, options?: RunOptions) =>
    quantizeModel(source, out && at(out), { ...BASE, ...config }, options)
  const bytes = (file: string) => fs.readFileSync(at(file)).toString('base64')
  const files = () => fs.readdirSync(folder).sort()
  const fresh = model.draw(100, 999)
  const errorOf = async (out: string) =>
    relativeError(await outputsOf(source, model, fresh), await outputsOf(at(out), model, fresh))
  return { model, source, data: [data], at, run, bytes, files, errorOf }
}

/** Counts solved groups, resumed ones apart; aborts after `limit` of them. */
function counter(limit = Number.POSITIVE_INFINITY) {
  const abort = new AbortController()
  const details: string[] = []
  const options: RunOptions = {
    signal: abort.signal,
    onProgress: ({ stage, detail }) => {
      if (stage !== 'calibrate' || detail === undefined) return
      details.push(detail)
      if (details.length === limit) abort.abort()
    },
  }
  const resumed = () => details.filter((detail) => detail === 'resumed').length
  return { options, resumed, solved: () => details.length - resumed() }
}

describe('a calibrated run', () => {
  it.each(['MLP', 'LSTM'])('of %s writes the same bytes on any number of threads', async (name) => {
    const { run, data, bytes, files } = caseOf(name)
    for (const threads of [1, 2, 3]) await run(`${threads}.onnx`, { data, threads, samples: 60 })
    await run('again.onnx', { data, threads: 1, samples: 60 })
    for (const other of ['2.onnx', '3.onnx', 'again.onnx']) expect(bytes(other) === bytes('1.onnx'), other).toBe(true)
    expect(files()).toEqual(['1.onnx', '2.onnx', '3.onnx', 'again.onnx', ...INPUTS])
  })

  it('has its own random choices with another seed, which are as good', async () => {
    const { run, data, errorOf } = caseOf('MLP')
    await run('rtn.onnx', { method: 'rtn', symmetric: 'no' })
    const made = async (seed: number) => (await run(`${seed}.onnx`, { data, seed, samples: 80 })).layers
    const [zero, seven] = [await made(0), await made(7)]
    for (const [i, { relativeError: error }] of zero.entries()) expect(error).not.toBe(seven[i]!.relativeError)
    for (const seed of [0, 7]) expect(await errorOf(`${seed}.onnx`)).toBeLessThan(0.4 * (await errorOf('rtn.onnx')))
  })

  it('keeps a budget in bytes, and its dry run says the bytes before', async () => {
    const { run, data, at, files } = caseOf('convnet')
    const config = { bits: undefined, budget: '12kB', groupSize: 32, data, samples: 30 } as const
    const dry = await run(undefined, { ...config, dryRun: true })
    expect(files()).toEqual(INPUTS)
    const report = await run('out.onnx', config)
    expect(report.output.totalBytes).toBe(fs.statSync(at('out.onnx')).size)
    expect(report.output.totalBytes).toBeLessThanOrEqual(12_000)
    expect(report.output.totalBytes).toBeGreaterThan(11_000)
    expect(dry.output.totalBytes).toBe(report.output.totalBytes)
    expect(dry.calibration).toEqual(report.calibration)
    expect(files()).toEqual([...INPUTS, 'out.onnx'])
    // A byte less, and a smaller configuration takes its place.
    const less = await run('less.onnx', { ...config, budget: `${report.output.totalBytes - 1}B` })
    expect(less.output.totalBytes).toBeLessThan(report.output.totalBytes)
  })

  it('leaves nothing behind when it is aborted, or fails on its data', async () => {
    const { run, data, at, files } = caseOf('MLP')
    const stats = [at('run.stats')]
    await expect(run('out.onnx', { data, stats }, counter(1).options)).rejects.toMatchObject({ code: 'interrupted' })
    expect(files()).toEqual(INPUTS)
    const bad = smallModel('MLP').draw(20, 1)
    const values = bad.values.map((value, i) => (i === 70 ? Number.NaN : value))
    const broken = writeSamples(at('bad.npy'), { ...bad, values })
    await expect(run('out.onnx', { data: [broken], stats })).rejects.toMatchObject({ code: 'data' })
    expect(files()).toEqual(['bad.npy', ...INPUTS])
  })
})

describe('statistics', () => {
  const it_ = caseOf('MLP')
  const { run, data, at, errorOf, files, model } = it_
  const [first, second] = [at('first.stats'), at('second.stats')]

  it('are written by a run with data, and are used instead of data', async () => {
    await run('rtn.onnx', { method: 'rtn', symmetric: 'no' })
    await run('data.onnx', { data, stats: [first] })
    expect(files()).toEqual(['data.npy', 'data.onnx', 'first.stats', 'model.onnx', 'rtn.onnx'])
    const report = await run('stats.onnx', { stats: [first] })
    expect(report.calibration).toMatchObject({ source: first, samples: 120, heldOut: 24, groups: 3 })
    for (const { calibration } of report.layers) expect(calibration!.rejected.length).toBeGreaterThan(0)
    expect(await errorOf('stats.onnx')).toBeLessThan(0.5 * (await errorOf('rtn.onnx')))
  })

  it('of disjoint data add up', async () => {
    const more = writeSamples(at('more.npy'), model.draw(60, 200))
    await run('more.onnx', { data: [more], stats: [second] })
    const report = await run('merged.onnx', { stats: [first, second] })
    expect(report.calibration).toMatchObject({ source: `${first}, ${second}`, samples: 180, heldOut: 36 })
    expect(report.calibration!.positions).toBe(144)
    expect(await errorOf('merged.onnx')).toBeLessThan(0.5 * (await errorOf('rtn.onnx')))
  })

  it('of another model, of the same data twice, or beside data that would replace them, are errors', async () => {
    const other = caseOf('transformer')
    await expect(other.run('out.onnx', { stats: [first] })).rejects.toMatchObject({ code: 'data' })
    expect(other.files()).toEqual(INPUTS)
    const copy = at('copy.stats')
    fs.copyFileSync(first, copy)
    await expect(run('out.onnx', { stats: [first, copy] })).rejects.toMatchObject({ code: 'data' })
    const before = fs.readFileSync(first)
    await expect(run('out.onnx', { data, stats: [first] })).rejects.toMatchObject({ code: 'usage' })
    expect(fs.readFileSync(first).equals(before)).toBe(true)
    expect(files()).not.toContain('out.onnx')
  })

  it('are written once under a budget whose first choice turns out too large', async () => {
    // Scales that float16 cannot hold take more bytes than planned.
    const tiny = caseOf('tiny MLP')
    const report = await tiny.run('out.onnx', {
      ...{
        bits: undefined,
        budget: '4.7bpw',
        solver: 'uniform',
        groupSize: 32,
        format: 'standard',
        data: tiny.data,
        samples: 20,
        stats: [tiny.at('run.stats')],
      },
    })
    expect(report.layers.some(({ scaleType }) => scaleType === 'float32')).toBe(true)
    expect(report.totals.bitsPerWeight).toBeLessThanOrEqual(4.7)
    expect(tiny.files()).toEqual([...INPUTS, 'out.onnx', 'run.stats'])
  })
})

describe('an interrupted run', () => {
  it('goes on where it stopped, to the same bytes', async () => {
    const { run, data, at, bytes, files } = caseOf('transformer')
    const whole = counter()
    await run('whole.onnx', { data }, whole.options)
    expect([whole.solved(), whole.resumed()]).toEqual([5, 0])
    const resume = at('progress')
    const stopped = counter(2)
    await expect(run('out.onnx', { data, resume }, stopped.options)).rejects.toMatchObject({ code: 'interrupted' })
    expect(files()).toEqual([...INPUTS, 'progress', 'whole.onnx'])
    for (const changed of [{ bits: 4 }, { damping: 0.1 }, { seed: 3 }, { samples: 100 }] as const) {
      await expect(run('out.onnx', { data, resume, ...changed })).rejects.toMatchObject({ code: 'usage' })
    }
    const other = writeSamples(at('other.npy'), smallModel('transformer').draw(120, 5))
    await expect(run('out.onnx', { data: [other], resume })).rejects.toMatchObject({ code: 'usage' })
    fs.rmSync(other)
    const rest = counter()
    await run('out.onnx', { data, resume, threads: 2 }, rest.options)
    expect([rest.solved(), rest.resumed()]).toEqual([3, 2])
    expect(bytes('out.onnx') === bytes('whole.onnx')).toBe(true)
    expect(files()).toEqual([...INPUTS, 'out.onnx', 'whole.onnx'])
  })

  it('that had solved all layers reports as many positions as a whole one', async () => {
    const { run, data, at } = caseOf('MLP')
    const whole = await run(undefined, { data, dryRun: true })
    expect(whole.calibration!.positions).toBe(96)
    const resume = at('progress')
    const stopped = counter(3)
    await expect(run('out.onnx', { data, resume }, stopped.options)).rejects.toMatchObject({ code: 'interrupted' })
    const rest = counter()
    const report = await run('out.onnx', { data, resume }, rest.options)
    expect([rest.solved(), rest.resumed()]).toEqual([0, 3])
    expect(report.calibration).toEqual(whole.calibration)
  })
})

/** Runs of method codebook: what the written file computes, the same bytes every time, and what is left behind. */
import fs from 'node:fs'
import { describe, expect, it } from 'vitest'
import type { QuantizeConfig } from '../../src/config.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import type { RunOptions } from '../../src/progress.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { caseOf, only, positiveGate, tiny } from './rsqModels.ts'

const directory = useTempDir()
const { files, bytes, at, errorOf } = caseOf(directory, tiny({ hidden: 144 }))
const INPUTS = ['data.npy', 'model.onnx']
const COMMON = { method: 'codebook', accuracyLevel: 0, threads: 1, verify: false, force: true } as const
/** From the weights alone. */
const runBlind = (out: string | undefined, config: Partial<QuantizeConfig>, options?: RunOptions) =>
  quantizeModel(at('model.onnx'), out && at(out), { ...COMMON, ...config }, options)
const run = (out: string | undefined, config: Partial<QuantizeConfig>, options?: RunOptions) =>
  runBlind(out, { data: [at('data.npy')], samples: 16, ...config }, options)
const layers = only('b0/gate')

describe('a calibrated codebook', () => {
  it.each([
    ['trellis', 2],
    ['jlcm', 2],
    ['vq', 2],
  ] as const)('%s at %i bits is what onnxruntime computes, closer than without data', async (codebook, bits) => {
    const wide = layers.map((layer) => (layer.bits === 'skip' ? layer : { ...layer, bits }))
    const fitted = await run('data.onnx', { codebook, bits, layers: wide, verify: true })
    const quantized = fitted.layers.filter((layer) => layer.method === 'codebook')
    expect(quantized).toHaveLength(1)
    await runBlind('blind.onnx', { codebook, bits, layers: wide })
    expect(await errorOf('data.onnx')).toBeLessThan(await errorOf('blind.onnx'))
    for (const file of ['data.onnx', 'blind.onnx']) fs.rmSync(at(file))
  })

  it('loses less than the best grid of as many bits', async () => {
    const two = layers.map((layer) => (layer.bits === 'skip' ? layer : ({ ...layer, bits: 2 } as const)))
    await run('trellis.onnx', { codebook: 'trellis', bits: 2, layers: two })
    await run('grid.onnx', { method: 'gptq', bits: 2, groupSize: 'channel', layers: two })
    expect(await errorOf('trellis.onnx')).toBeLessThan(0.9 * (await errorOf('grid.onnx')))
    for (const file of ['trellis.onnx', 'grid.onnx']) fs.rmSync(at(file))
  })
})

/** Aborts at the first event that counts. */
function abortAt(counts: (detail: string | undefined) => boolean): RunOptions {
  const abort = new AbortController()
  return {
    signal: abort.signal,
    onProgress: ({ detail }) => {
      if (counts(detail)) abort.abort()
    },
  }
}

describe('a run', () => {
  const config = { codebook: 'trellis', bits: 3, layers: only('b0/gate', 'b0/down') } as const

  it('writes the same bytes on any number of threads, and nothing else', async () => {
    for (const threads of [1, 3]) await run(`${threads}.onnx`, { ...config, threads })
    expect(bytes('3.onnx') === bytes('1.onnx')).toBe(true)
    expect(files()).toEqual(['1.onnx', '3.onnx', ...INPUTS])
    for (const file of ['1.onnx', '3.onnx']) fs.rmSync(at(file))
  })

  it('goes on where it stopped, to the same bytes', async () => {
    const saved = { ...config, resume: at('progress') }
    const solved = abortAt((detail) => detail !== undefined)
    await expect(run('out.onnx', saved, solved)).rejects.toMatchObject({ code: 'interrupted' })
    expect(files()).toEqual([...INPUTS, 'progress'])
    await expect(run('out.onnx', { ...saved, trellisWindow: 12 })).rejects.toMatchObject({ code: 'usage' })
    const report = await run('out.onnx', saved)
    await run('whole.onnx', config)
    expect(bytes('out.onnx') === bytes('whole.onnx')).toBe(true)
    expect(report.layers).toHaveLength(2)
    for (const file of ['out.onnx', 'whole.onnx']) fs.rmSync(at(file))
  })

  it('solves from saved statistics', async () => {
    const stats = [at('sums')]
    await run('first.onnx', { ...config, stats })
    const report = await runBlind('out.onnx', { ...config, stats })
    expect(report.layers.every(({ method }) => method === 'codebook')).toBe(true)
    expect(await errorOf('out.onnx')).toBeLessThan(0.5)
    for (const file of files().filter((file) => !INPUTS.includes(file))) fs.rmSync(at(file))
  })

  it('keeps a budget with everything included', async () => {
    const report = await run('out.onnx', {
      codebook: 'jlcm',
      budget: '3.3bpw',
      solver: 'uniform',
      layers: [
        { pattern: 'embed*', bits: 'skip' },
        { pattern: 'logits*', bits: 'skip' },
      ],
    })
    expect(report.totals.bitsPerWeight).toBeLessThanOrEqual(3.3)
    expect(report.totals.bitsPerWeight).toBeGreaterThan(2)
    fs.rmSync(at('out.onnx'))
  })
})

describe('codebook auto', () => {
  const positive = caseOf(directory, positiveGate())
  const layers = only('b0/gate', 'b0/down').map((layer) =>
    layer.bits === 'skip' ? layer : { ...layer, bits: 4 as const },
  )
  const config = { ...COMMON, bits: 4, layers, data: [positive.at('data.npy')] } as const
  const quantize = (out: string, own: Partial<QuantizeConfig> = {}, options?: RunOptions) =>
    quantizeModel(positive.at('model.onnx'), positive.at(out), { ...config, ...own }, options)
  const decisions = ({ layers }: Awaited<ReturnType<typeof quantize>>) =>
    layers.map(({ name, codebook, calibration, notes }) => {
      const { tables, grid } = calibration!.forms ?? {}
      return [name, codebook?.name, tables === undefined ? undefined : tables < grid!, ...notes]
    })

  it('puts a layer on a grid that loses less there, and no other', async () => {
    const report = await quantize('auto.onnx', { verify: true })
    expect(decisions(report)).toEqual([
      ['b0/gate', undefined, false, 'on a grid, which loses less than tables here'],
      ['b0/down', 'trellis', true],
    ])
    const named = await quantize('named.onnx', { codebook: 'trellis' })
    expect(decisions(named)).toEqual([
      ['b0/gate', 'trellis', undefined],
      ['b0/down', 'trellis', undefined],
    ])
    const [auto, tables] = [await positive.errorOf('auto.onnx'), await positive.errorOf('named.onnx')]
    expect(auto).toBeLessThan(tables)
  })

  it('goes on where it stopped, to the same bytes', async () => {
    const saved = { resume: positive.at('progress') }
    const first = abortAt((detail) => detail?.includes('held-out') ?? false)
    await expect(quantize('out.onnx', saved, first)).rejects.toMatchObject({ code: 'interrupted' })
    const report = await quantize('out.onnx', saved)
    expect(decisions(report).map(([, codebook]) => codebook)).toEqual([undefined, 'trellis'])
    expect(positive.bytes('out.onnx') === positive.bytes('auto.onnx')).toBe(true)
  })

  it('keeps a budget of bytes to which tables came close', async () => {
    const size = (file: string) => fs.statSync(positive.at(file)).size
    await quantize('tables.onnx', { codebook: 'trellis' })
    const { bits: _, ...open } = config
    const budget = `${size('tables.onnx')}B`
    const report = await quantizeModel(positive.at('model.onnx'), positive.at('kept.onnx'), {
      ...open,
      budget,
      solver: 'uniform',
    })
    expect(size('kept.onnx')).toBeLessThanOrEqual(size('tables.onnx'))
    expect(report.layers.map(({ bits }) => bits)).toEqual([4, 4])
    // Zero points are bytes that no table needs.
    expect(report.layers.map(({ scheme }) => scheme)).not.toContain('asymmetric')
  })
})

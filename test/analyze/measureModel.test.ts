/** `analyze` with data: parts that merge to the bytes of the whole, the same at any number of threads, and what it refuses. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { readAnalysis } from '../../src/analyze/analysisFile.ts'
import type { AnalyzeConfig } from '../../src/config.ts'
import { analyzeModel } from '../../src/pipeline.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { smallModel, writeSamples } from '../quantize/calibratedModels.ts'
import { withOutput, writeModel } from './measuredModels.ts'

const directory = useTempDir()

function caseOf(name: string) {
  const small = smallModel(name)
  const { model, folder } = writeModel(directory, withOutput(small.proto, 'logits'))
  const data = [writeSamples(path.join(folder, 'x.npy'), small.draw(16, 100))]
  const at = (file: string) => path.join(folder, file)
  const analyze = (output: string | undefined, config: Partial<AnalyzeConfig> = {}) =>
    analyzeModel(model, {
      ...{ data, threads: 1, configurations: 0, probes: 4, layers: [{ pattern: 'm2', bits: 'skip' }] },
      ...(output === undefined ? {} : { output: at(output) }),
      ...config,
    })
  const bytes = (file: string) => fs.readFileSync(at(file), 'utf8')
  return { analyze, at, bytes, folder, model }
}

const merged = (output: string, merge: readonly string[]) => analyzeModel(undefined, { merge, output })

describe('an analysis on data', () => {
  // Parts stop at different layers; the table of the last model is read twice.
  it.each(['convnet', 'tied embedding'])('of %s in parts is byte for byte the whole', async (name) => {
    const { analyze, at, bytes } = caseOf(name)
    const sensitivity = ['kl', 'pairwise', 'hessian'] as const
    const bits = 3
    const whole = await analyze('whole.json', { sensitivity, bits })
    for (const shard of ['1/3', '2/3', '3/3']) {
      const part = await analyze(`part${shard[0]}.json`, { sensitivity, bits, shard, threads: Number(shard[0]) })
      expect(part.analysis!.layers.length).toBeLessThan(whole.analysis!.layers.length)
    }
    const report = await merged(at('merged.json'), [at('part3.json'), at('part1.json'), at('part2.json')])
    expect(bytes('merged.json') === bytes('whole.json')).toBe(true)
    expect(report.analysis).toEqual({ ...whole.analysis, path: at('merged.json') })
    await expect(merged(at('less.json'), [at('part1.json'), at('part2.json')])).rejects.toMatchObject({ code: 'usage' })
  })

  it('holds what its report says, with drawn configurations to judge it by, on any number of threads', async () => {
    const { analyze, at, bytes, folder } = caseOf('MLP')
    const config = { sensitivity: ['kl', 'coverage'], configurations: 3 } as const
    const report = await analyze('one.json', config)
    await analyze('two.json', { ...config, threads: 2 })
    expect(bytes('two.json') === bytes('one.json')).toBe(true)
    const analysis = readAnalysis(at('one.json'))
    expect(analysis).toMatchObject({ metric: 'kl', samples: { fitted: 13, heldOut: 3 }, shard: null, layerCount: 2 })
    // The layer that is skipped is not measured.
    expect(analysis.layers.map(({ name, place }) => [name, place])).toEqual([
      ['h1', 0],
      ['y', 1],
    ])
    expect(analysis.configurations.length).toBe(3)
    expect(report.analysis!.agreements.map(({ sensitivity }) => sensitivity)).toContain('coverage')
    expect(report.analysis!.layers.map(({ candidates }) => candidates.map(({ loss }) => loss))).toEqual(
      analysis.layers.map(({ candidates }) => candidates.map(({ loss }) => loss.mean)),
    )
    expect(fs.readdirSync(folder).sort()).toEqual(['model.onnx', 'one.json', 'two.json', 'x.npy'])
  })

  it('has other group sizes and grids among its candidates when they are asked for', async () => {
    const { analyze } = caseOf('MLP')
    const { analysis } = await analyze(undefined, { candidates: 'all', bits: 4 })
    const own = analysis!.layers[0]!.candidates.map(({ groupSize, symmetric }) => `${groupSize} ${symmetric}`)
    expect(own.sort()).toEqual(['128', '32', '64'].flatMap((size) => [`${size} auto`, `${size} yes`]))
    const one = await analyze(undefined, { layers: [{ pattern: 'h1', bits: 5 }] })
    expect(one.analysis!.layers[0]!.candidates.map(({ bits }) => bits)).toEqual([5])
    expect(one.analysis!.layers[1]!.candidates.map(({ bits }) => bits)).toEqual([8, 6, 5, 4, 3, 2])
  })

  it('is not written over what is there, and nothing is measured then', async () => {
    const { analyze, at, bytes } = caseOf('MLP')
    fs.writeFileSync(at('there.json'), 'mine')
    await expect(analyze('there.json')).rejects.toMatchObject({ code: 'output' })
    await expect(analyze('model.onnx', { force: true })).rejects.toMatchObject({ code: 'output' })
    expect(bytes('there.json')).toBe('mine')
  })

  it('of a model without layers that get smaller is refused', async () => {
    const { analyze } = caseOf('MLP')
    await expect(analyze(undefined, { layers: [{ pattern: '*', bits: 'skip' }] })).rejects.toMatchObject({
      code: 'model',
    })
  })
})

/** What a calibrated run says of its settings, and the files that it saves on the way, where data and budgets are unusual. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { fixturePath } from '../../fixtures/generate.ts'
import type { QuantizeConfig } from '../../src/config.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { METADATA } from '../../src/onnx/metadata.ts'
import { encodeModel } from '../../src/onnx/proto.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import { makeRandom } from '../../src/random.ts'
import { makeNode, model, value } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { writeNpy } from '../oracles/npy.ts'
import { normals } from './roundTrip.ts'

const directory = useTempDir()
const inDirectory = (name: string) => path.join(directory, name)

function writeData(name: string, seed: number): string {
  const random = makeRandom(seed)
  const values = Array.from({ length: 20 * 64 }, () => random.normal())
  fs.writeFileSync(inDirectory(name), writeNpy('f4', [20, 64], values))
  return inDirectory(name)
}

const source = fixturePath('matmul')
const data = writeData('first.npy', 1)

async function quantize(out: string, config: Partial<QuantizeConfig>) {
  await quantizeModel(source, inDirectory(out), { bits: 4, threads: 1, force: true, ...config })
  const { metadataProps } = loadModel(inDirectory(out)).proto
  const said = metadataProps.find(({ key }) => key === METADATA.config)!.value
  return { settings: JSON.parse(said) as Record<string, unknown>, bytes: fs.readFileSync(inDirectory(out)) }
}

describe('metadata of a calibrated model', () => {
  const plain = {
    bits: 4,
    groupSize: 32,
    method: 'gptq',
    symmetric: 'auto',
    layers: [],
    format: 'auto',
    accuracyLevel: 4,
    seed: 0,
  }

  it('say which samples there were and how they were read, and no path', async () => {
    const saved = { stats: [inDirectory('first.stats')], resume: inDirectory('first.resume'), scratch: directory }
    const { settings } = await quantize('said.onnx', { data: [data], samples: 10, ...saved })
    const sampling = { samples: 10, holdout: 0.2, select: 'random', rename: {}, set: {} }
    expect(settings).toEqual({ ...plain, damping: 0.05, ...sampling })
  })

  it('of statistics alone say nothing of samples', async () => {
    const { settings } = await quantize('stats.onnx', { stats: [inDirectory('first.stats')], damping: 0.1 })
    expect(settings).toEqual({ ...plain, damping: 0.1 })
  })

  it('without data are as ever', async () => {
    expect((await quantize('plain.onnx', {})).settings).toEqual({ ...plain, method: 'auto' })
  })
})

describe('saved files', () => {
  it('go with patterns too, which stand for the files that they match', async () => {
    const resume = inDirectory('pattern.resume')
    const controller = new AbortController()
    const onProgress = ({ stage, done }: { stage: string; done: number }) => {
      if (stage === 'calibrate' && done > 0) controller.abort()
    }
    const config = { bits: 4, threads: 1, resume, data: [inDirectory('f*t.npy')] } as const
    const stopped = quantizeModel(source, inDirectory('never.onnx'), config, { signal: controller.signal, onProgress })
    await expect(stopped).rejects.toMatchObject({ code: 'interrupted' })
    expect(fs.existsSync(resume)).toBe(true)
    // The same data under its own name: the checkpoint is of this run.
    const { bytes } = await quantize('resumed.onnx', { data: [data], resume })
    expect(bytes.equals((await quantize('whole.onnx', { data: [data] })).bytes)).toBe(true)
  })

  it('are written once where a second plan is needed to keep the budget', async () => {
    const file = inDirectory('tiny.onnx')
    // Scales below float16 take 256 bytes more than planned.
    const graph = { initializer: [normals('w', [64, 64], 1e-6)], node: [makeNode('MatMul', ['x', 'w'], ['y'])] }
    const ends = { input: [value('x', [1, 64])], output: [value('y', [1, 64])] }
    fs.writeFileSync(file, encodeModel(model({ ...graph, ...ends })))
    const config = { groupSize: 32, symmetric: 'yes', scales: 'float', threads: 1, dryRun: true } as const
    const free = await quantizeModel(file, undefined, { ...config, data: [data], bits: 4 })
    expect(free.layers[0]!.scaleType).toBe('float32')
    const stats = [inDirectory('tiny.stats')]
    const limit = free.output.totalBytes - 150
    const limited = { ...config, data: [data], budget: `${limit}B`, stats }
    await quantizeModel(file, undefined, limited)
    // A dry run writes nothing.
    expect(fs.existsSync(stats[0]!)).toBe(false)
    const report = await quantizeModel(file, inDirectory('tiny.q.onnx'), { ...limited, dryRun: false })
    expect(report.totals.meanBits).toBeLessThan(4)
    expect((await quantizeModel(file, undefined, { ...config, bits: 3, stats })).calibration!.samples).toBe(20)
  })
})

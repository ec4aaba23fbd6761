/** Runs of method rsq: importance of tokens, the same bytes every time, and what is left behind. */
import fs from 'node:fs'
import { describe, expect, it } from 'vitest'
import { IMPORTANCE_NAMES } from '../../src/config.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { METADATA } from '../../src/onnx/metadata.ts'
import type { RunOptions } from '../../src/progress.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { writeNpy } from '../oracles/npy.ts'
import { badBasis, caseOf, only, tiny } from './rsqModels.ts'

const directory = useTempDir()
const INPUTS = ['data.npy', 'model.onnx']

describe('importance of tokens', () => {
  const { run, tensors, files } = caseOf(directory, tiny({ positions: true }))
  const plain = { rotation: 'off', samples: 16, layers: only('b0/gate') } as const

  it('without any, and without rotations, the tensors are those of gptq', async () => {
    await run('gptq.onnx', { samples: plain.samples, layers: plain.layers, method: 'gptq' })
    const report = await run('none.onnx', { ...plain, tokenImportance: 'none' })
    expect(report.rsq).toEqual({ trials: [], importance: undefined, refused: [], notes: [] })
    expect(tensors('none.onnx')).toEqual(tensors('gptq.onnx'))
  })

  it.each(IMPORTANCE_NAMES)('by %s makes other codes', async (tokenImportance) => {
    const { rsq } = await run('out.onnx', { ...plain, tokenImportance })
    expect(rsq!.importance).toBe(tokenImportance)
    const name = `importance by ${tokenImportance}`
    expect(rsq!.trials).toEqual([expect.objectContaining({ name, kept: true, loss: undefined })])
    expect(tensors('out.onnx')).not.toEqual(tensors('gptq.onnx'))
    expect(files()).toEqual(['data.npy', 'gptq.onnx', 'model.onnx', 'none.onnx', 'out.onnx'])
  })

  it('follows its settings', async () => {
    const made = new Set<string>()
    const settings = [{}, { importanceMin: 0.5 }, { importanceExponent: 2 }, { importanceLength: 'linear' }] as const
    for (const own of [...settings, { importanceQuantile: 0.7 }]) {
      await run('out.onnx', { ...plain, tokenImportance: 'attention', ...own })
      made.add(JSON.stringify(tensors('out.onnx')))
    }
    expect(made.size).toBe(5)
  })

  it('is kept by auto only where the loss falls by more than chance', async () => {
    const { rsq } = await run('out.onnx', { ...plain, samples: 40, tokenImportance: 'auto' })
    const [first, ...tried] = rsq!.trials
    expect(first!.name).toBe('as it is')
    expect(tried[0]!.name).toBe('importance by attention')
    for (const { kept, change, standardError } of tried) expect(kept).toBe(change! < -standardError!)
    const last = tried.findLast(({ kept }) => kept)
    expect(rsq!.importance).toBe(last?.name.replace('importance by ', ''))
  })

  it('fits to rolled copies', async () => {
    const report = await run('rolled.onnx', { ...plain, tokenImportance: 'none', roll: 3 })
    expect(report.calibration).toMatchObject({ heldOut: 3, samples: 3 * 13 + 3, positions: 3 * 13 * 8 })
    expect(tensors('rolled.onnx')).not.toEqual(tensors('none.onnx'))
  })
})

/** Counts what is reported; aborts at `limit`. */
function counter(limit = Number.POSITIVE_INFINITY, counts: (detail: string | undefined) => boolean = () => true) {
  const abort = new AbortController()
  const counted = { events: 0 }
  const options: RunOptions = {
    signal: abort.signal,
    onProgress: ({ detail }) => {
      if (counts(detail) && ++counted.events === limit) abort.abort()
    },
  }
  return { counted, options }
}

describe('a run', () => {
  const { run, bytes, files, at } = caseOf(directory, badBasis())
  const source = bytes('model.onnx')
  const layers = only('b0/gate', 'logits')
  const few = { layers, samples: 10, rotationSeeds: 2 } as const

  it('writes the same bytes on any number of threads, and nothing else', async () => {
    const config = {
      ...few,
      layers: only('b0/gate'),
      onlineRotation: true,
      select: 'el2n',
      tokenImportance: 'attention',
    } as const
    for (const threads of [1, 3]) await run(`${threads}.onnx`, { ...config, threads })
    expect(bytes('3.onnx') === bytes('1.onnx')).toBe(true)
    expect(bytes('model.onnx') === source).toBe(true)
    expect(files()).toEqual(['1.onnx', '3.onnx', ...INPUTS])
    const said = loadModel(at('1.onnx')).proto.metadataProps.find(({ key }) => key === METADATA.config)!.value
    expect(JSON.parse(said)).toMatchObject({ method: 'rsq', rotation: 'auto', rotationSeeds: 2, onlineRotation: true })
    for (const file of ['1.onnx', '3.onnx']) fs.rmSync(at(file))
  })

  it('leaves nothing behind wherever it is aborted, in its folder for scratch neither', async () => {
    fs.mkdirSync(at('scratch'))
    const scratch = at('scratch')
    const config = { ...few, rotation: 'on', tokenImportance: 'student-kl', scratch } as const
    const whole = counter()
    await run(undefined, { ...config, dryRun: true }, whole.options)
    expect(fs.readdirSync(scratch)).toEqual([])
    for (const share of [0.1, 0.4, 0.7]) {
      const { options } = counter(Math.ceil(share * whole.counted.events))
      await expect(run('out.onnx', config, options)).rejects.toMatchObject({ code: 'interrupted' })
      expect(files()).toEqual([...INPUTS, 'scratch'])
      expect(fs.readdirSync(scratch)).toEqual([])
    }
    fs.rmdirSync(scratch)
    expect(bytes('model.onnx') === source).toBe(true)
  })

  it('leaves nothing behind when it fails on its data', async () => {
    const bad = Array.from({ length: 80 }, (_, i) => BigInt(i === 79 ? 99 : i % 5))
    fs.writeFileSync(at('bad.npy'), writeNpy('i8', [10, 8], bad))
    await expect(run('out.onnx', { ...few, data: [at('bad.npy')] })).rejects.toMatchObject({ code: 'data' })
    expect(files()).toEqual(['bad.npy', ...INPUTS])
    fs.rmSync(at('bad.npy'))
  })

  it('goes on where it stopped, to the same bytes', async () => {
    const saved = { ...few, rotation: 'on', tokenImportance: 'attention', resume: at('progress') } as const
    const solved = counter(1, (detail) => detail !== undefined)
    await expect(run('out.onnx', saved, solved.options)).rejects.toMatchObject({ code: 'interrupted' })
    expect(files()).toEqual([...INPUTS, 'progress'])
    await expect(run('out.onnx', { ...saved, importanceMin: 0.2 })).rejects.toMatchObject({ code: 'usage' })
    const resumed = counter(undefined, (detail) => detail === 'resumed')
    await run('out.onnx', saved, resumed.options)
    expect(resumed.counted.events).toBe(1)
    await run('whole.onnx', { ...saved, resume: undefined })
    expect(bytes('out.onnx') === bytes('whole.onnx')).toBe(true)
    expect(files()).toEqual([...INPUTS, 'out.onnx', 'whole.onnx'])
  })
})

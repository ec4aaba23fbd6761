/** Method rsq: rotates where that helps and says so, and computes the same; what cannot be rotated stays as it is. */
import { describe, expect, it } from 'vitest'
import { loadModel } from '../../src/onnx/load.ts'
import type { QuantizeReport } from '../../src/report.ts'
import { chain, floats } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { writeNpy } from '../oracles/npy.ts'
import { residualConvNet } from '../rsq/streamModels.ts'
import { badBasis, caseOf, onGrid, only, tiny } from './rsqModels.ts'

const directory = useTempDir()
const INPUTS = ['data.npy', 'model.onnx']
const STREAM = /^stream of 32 channels, \d+ writers, \d+ readers, seed \d$/
const HEADS = 'heads of 1 attentions, seed 0'

const trialsOf = ({ rsq }: QuantizeReport) => rsq!.trials
const trial = (report: QuantizeReport, name: RegExp) => trialsOf(report).find((each) => name.test(each.name))!

describe('a transformer in a bad basis', () => {
  const { run, lossOf } = caseOf(directory, badBasis())
  const layers = only('b0/up', 'logits')

  it('is rotated by auto, and much better for it in the written file', async () => {
    await run('gptq.onnx', { layers, method: 'gptq' })
    const report = await run('out.onnx', { layers, tokenImportance: 'none', rotationSeeds: 2 })
    expect(await lossOf('out.onnx')).toBeLessThan(0.5 * (await lossOf('gptq.onnx')))
    const [first, stream, heads] = trialsOf(report)
    expect(trialsOf(report)).toHaveLength(3)
    expect(first).toMatchObject({ name: 'as it is', kept: true, difference: undefined, change: undefined })
    expect(stream!.name).toMatch(STREAM)
    expect(stream!.kept).toBe(true)
    expect(stream!.change! + stream!.standardError!).toBeLessThan(0)
    expect(stream!.loss! / first!.loss! - 1).toBeCloseTo(stream!.change!, 9)
    expect(stream!.difference!).toBeGreaterThan(0)
    expect(stream!.difference!).toBeLessThan(1e-5)
    expect(heads!.name).toBe(HEADS)
    // What was kept last is what the run comes to.
    const last = trialsOf(report).findLast(({ kept }) => kept)!
    expect(report.calibration!.outputs[0]!.kl).toBeCloseTo(last.loss!, 9)
    const notes = ['trials are calibrated with 3 bits, one scale per output']
    expect(report.rsq).toMatchObject({ importance: undefined, refused: [], notes })
  })

  it('is calibrated within a mixed budget', async () => {
    const budget = { bits: undefined, budget: '3bit', solver: 'ilp', sensitivity: ['kl'], evaluations: 2 } as const
    const skipped = ['b0/q', 'b0/k', 'b0/v', 'b0/o', 'b0/down', 'embedded'].map(
      (pattern) => ({ pattern, bits: 'skip' }) as const,
    )
    const rsq = { rotation: 'on', rotationSeeds: 1, tokenImportance: 'attention' } as const
    const report = await run('mixed.onnx', { ...budget, ...rsq, layers: skipped, samples: 10 })
    expect(report.totals.meanBits).toBeLessThanOrEqual(3)
    expect(report.allocation).toMatchObject({ solver: 'ilp' })
    expect(trialsOf(report).map(({ kept }) => kept)).toEqual([true, true, true])
    expect(report.rsq!.importance).toBe('attention')
  })
})

describe('a transformer that rotations harm', () => {
  const { run, tensors, lossOf } = caseOf(directory, onGrid())
  const config = { layers: only('b0/gate', 'b0/up'), tokenImportance: 'none', rotationSeeds: 1 } as const

  it('stays as it is under auto: the tensors of gptq', async () => {
    const report = await run('out.onnx', config)
    await run('gptq.onnx', { layers: config.layers, method: 'gptq' })
    expect(trialsOf(report).map(({ kept }) => kept)).toEqual([true, false, false])
    expect(trial(report, STREAM).loss!).toBeGreaterThan(trialsOf(report)[0]!.loss!)
    expect(tensors('out.onnx')).toEqual(tensors('gptq.onnx'))
    expect(await lossOf('out.onnx')).toBeLessThan(1e-6)
  })

  it('is rotated where that is asked for, and nothing is compared', async () => {
    const report = await run('on.onnx', { ...config, rotation: 'on' })
    for (const { kept, loss, change } of trialsOf(report)) {
      expect({ kept, loss, change }).toEqual({ kept: true, loss: undefined, change: undefined })
    }
    expect(trialsOf(report).map(({ name }) => name)).toEqual([expect.stringMatching(STREAM), HEADS])
    expect(await lossOf('on.onnx')).toBeGreaterThan(1e-5)
  })
})

describe('a rotated model computes what the original does', () => {
  it.each([
    ['simplified', 'auto', false, true],
    ['simplified', 'standard', true, false],
    ['layer', 'standard', true, true],
    ['layer', 'auto', false, false],
    ['skip', 'auto', true, true],
  ] as const)('norms %s, format %s, biases %s, transforms %s', async (norm, format, bias, onlineRotation) => {
    const { run, at, errorOf } = caseOf(directory, tiny({ norm, bias, kvHeads: bias ? 1 : 2 }))
    // What is not quantized is as exact as float32, so that nothing hides an error.
    const layers = [...only(), { pattern: 'b0/up*', bits: 8 }] as const
    const config = { layers, groupSize: 16, format, rotation: 'on', onlineRotation, verify: true } as const
    const report = await run('out.onnx', { ...config, samples: 10, tokenImportance: 'none', rotationSeeds: 1 })
    const names = trialsOf(report).map(({ name }) => name.replace(/ .*/, ''))
    expect(names).toEqual(['stream', 'heads', ...(onlineRotation ? ['transforms'] : [])])
    for (const { difference } of trialsOf(report)) expect(difference).toBeLessThan(1e-5)
    expect(report.layers).toHaveLength(1)
    expect(await errorOf('out.onnx')).toBeLessThan(3e-3)
    const nodes = loadModel(at('out.onnx')).proto.graph!.node.filter(({ output }) => /\/hadamard/.test(output[0]!))
    expect(nodes.length > 0).toBe(onlineRotation)
  })
})

describe('a model without a stream', () => {
  const weights = [floats('a', [32, 32]), floats('b', [32, 32], (i) => Math.sin(i))]
  const values = Array.from({ length: 12 * 32 }, (_, i) => Math.cos(i * i))
  const chained = () => caseOf(directory, chain(weights), writeNpy('f4', [12, 32], values))

  it('is calibrated as by gptq, with a note', async () => {
    const { run, tensors } = chained()
    const report = await run('out.onnx')
    await run('gptq.onnx', { method: 'gptq' })
    expect(report.rsq).toMatchObject({ trials: [], importance: undefined, refused: [] })
    expect(report.rsq!.notes).toContain('nothing in the model can be rotated')
    expect(tensors('out.onnx')).toEqual(tensors('gptq.onnx'))
  })

  it('is an error where it must be rotated, and nothing is left behind', async () => {
    const { run, files } = chained()
    const message = expect.stringMatching(/model\.onnx: nothing in it can be rotated: it has no residual stream/)
    for (const config of [{ rotation: 'on' }, { strict: true }, { rotation: 'on', dryRun: true }] as const) {
      await expect(run('out.onnx', config)).rejects.toMatchObject({ code: 'model', message })
      expect(files()).toEqual(INPUTS)
    }
  })

  it('of convolutions is refused, and the report says why', async () => {
    const pixels = Array.from({ length: 10 * 192 }, (_, i) => Math.cos(i * i))
    const { run, files } = caseOf(directory, residualConvNet(), writeNpy('f4', [10, 3, 8, 8], pixels))
    const report = await run('out.onnx', { layers: only('logits') })
    expect(report.rsq!.refused).toEqual([expect.stringMatching(/^b\d\/sum: .*convolution/)])
    const [why] = report.rsq!.refused
    expect(report.rsq!.notes).toContain('nothing in the model can be rotated')
    const message = expect.stringContaining(why!)
    await expect(run('no.onnx', { rotation: 'on' })).rejects.toMatchObject({ code: 'model', message })
    expect(files()).toEqual([...INPUTS, 'out.onnx'])
  })
})

import { describe, expect, it } from 'vitest'
import { EVAL_DEFAULTS } from '../../src/config.ts'
import { evaluate } from '../../src/eval/evaluate.ts'
import { npmModels } from '../helpers/npmModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import {
  buildModel,
  datasetOf,
  floatWeight,
  makeNode,
  matMulNBits,
  normalTensor,
  valueInfo,
  writeModel,
} from './models.ts'

const directory = useTempDir()
const config = { ...EVAL_DEFAULTS, data: ['x.npy'], runs: 2, threads: 1 }

describe('evaluate', () => {
  it('finds a real model equal to itself', async () => {
    const model = npmModels.wakeWordOld
    const report = await evaluate(
      model,
      model,
      (inputs) => {
        const [{ name, dims }] = inputs as [(typeof inputs)[number]]
        const shape = dims.slice(1).map(Number)
        return datasetOf({ [name]: normalTensor([5, ...shape], 1) })
      },
      { ...config, batchSize: 1, thresholds: { minSqnr: 200, maxSize: 400_000, minCosine: 1 } },
    )
    expect(report.outputs).toHaveLength(1)
    expect(report.outputs[0]).toMatchObject({ sqnr: Number.POSITIVE_INFINITY, cosine: 1, maxAbsoluteDifference: 0 })
    expect(report.data).toEqual({ source: 'x.npy', samples: 5, random: false, filledInputs: [] })
    expect(report.reference).toEqual({ path: model, totalBytes: 303734, files: [{ path: model, bytes: 303734 }] })
    expect(report.latencyMilliseconds.runs).toBe(2)
    expect(report).toMatchObject({ execution: [], accuracyLevels: [], passed: true, warnings: [] })
    expect(report.thresholds.map((t) => t.passed)).toEqual([true, true, true])
  })

  it('puts the parts of a quantized model together, and fails a missed threshold', async () => {
    const [K, N] = [64, 16]
    const [inputs, outputs] = [[valueInfo('x', ['n', K])], [valueInfo('y', ['n', N])]]
    const { node, initializers } = matMulNBits('nb', 'x', 'y', K, N)
    const candidate = writeModel(directory, 'c.onnx', buildModel({ inputs, outputs, nodes: [node], initializers }))
    const float = { nodes: [makeNode('MatMul', ['x', 'w'], ['y'])], initializers: [floatWeight('w', [K, N], 1)] }
    const reference = writeModel(directory, 'r.onnx', buildModel({ inputs, outputs, ...float }))
    const open = () => datasetOf({ x: normalTensor([10, K], 1) }, [0, 1, 2, 3, 4, 5, 6, 7, 8, 15])
    const thresholds = { maxKl: 1e-6, maxAccuracyDrop: 1 }
    const report = await evaluate(reference, candidate, open, { ...config, labels: 'labels.npy', thresholds })
    expect(report.execution).toEqual([{ node: 'nb', operator: 'MatMulNBits', status: 'low-bit kernel' }])
    expect(report.accuracyLevels.map((l) => l.level)).toEqual([0, 4])
    expect(report.accuracyLevels[1]!.outputs).toEqual(report.outputs)
    expect(report.metrics[0]).toMatchObject({ name: 'accuracy', count: 10 })
    expect(report.thresholds.map((t) => [t.name, t.passed])).toEqual([
      ['maxKl', false],
      ['maxAccuracyDrop', true],
    ])
    expect(report.passed).toBe(false)
    expect(report.candidate.totalBytes).toBeLessThan(report.reference.totalBytes)
  })

  it('refuses a threshold without its figure before the data is opened', async () => {
    const open = () => expect.unreachable()
    const run = evaluate(npmModels.wakeWord, npmModels.wakeWord, open, {
      ...config,
      thresholds: { maxAccuracyDrop: 0.1 },
    })
    await expect(run).rejects.toMatchObject({ code: 'usage' })
  })
})

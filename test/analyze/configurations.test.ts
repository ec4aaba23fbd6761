/** Whole configurations are the model with all weights replaced; what measuring them leaves predicts others. */
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import type { Analysis, Sensitivity } from '../../src/analyze/analysis.ts'
import { Configurations } from '../../src/analyze/configurations.ts'
import { predict } from '../../src/analyze/losses.ts'
import { measure } from '../../src/analyze/measure.ts'
import { sweepLayers } from '../../src/analyze/sweep.ts'
import {
  DataType,
  type ModelProto,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
  makeValueInfo,
  type TensorProto,
} from '../../src/onnx/proto.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { type SmallModel, smallModel, writeSamples } from '../quantize/calibratedModels.ts'
import { normals } from '../quantize/roundTrip.ts'
import { logSoftmax, lossOf, type Opened, openMeasured, withOutput, writeModel } from './measuredModels.ts'

const directory = useTempDir()

async function opened(proto: ModelProto, draw: SmallModel['draw'], setting: Parameters<typeof openMeasured>[2] = {}) {
  const { model, folder } = writeModel(directory, proto)
  return openMeasured(model, [writeSamples(path.join(folder, 'x.npy'), draw(60, 100))], setting)
}

const measured = (parts: Opened, sensitivities: readonly Sensitivity[], more: { probes?: number } = {}) =>
  measure(
    {
      ...{ ...parts, sensitivities, damping: 0.05, shard: undefined, configurations: 0, probes: 8, seed: 0, ...more },
      fingerprint: { model: '', data: '', settings: '' },
    },
    parts.data,
    parts.store,
    {},
  )

describe('a whole configuration', () => {
  it.each([
    ['MLP', 'logits', 'kl', 1],
    ['convnet', 'y', 'relative', 2],
    // Both weights of an LSTM move one bias.
    ['LSTM', 'y', 'relative', 1],
  ] as const)('of %s loses what the edited model does', async (name, output, metric, sites) => {
    const small = smallModel(name)
    const proto = withOutput(small.proto, output)
    const parts = await opened(proto, small.draw)
    const { layers, grouped, data, store, source } = parts
    const { figures } = await sweepLayers({ ...parts, damping: 0.05, wanted: () => true, sketch: 0, seed: 0, run: {} })
    const configurations = await Configurations.open(source, layers, grouped, data, store, {})
    expect((await configurations.evaluate(layers.map(() => undefined))).mean).toBeLessThan(1e-12)
    const choices = [
      layers.map(({ options }) => options.length - 1),
      layers.map(({ options }, l) => (l + 1) % options.length),
      layers.map((_, l) => (l === 1 ? undefined : 2)),
    ]
    for (const choice of choices) {
      const changes = layers.flatMap((options, l) => {
        const k = choice[l]
        return k === undefined ? [] : [{ options, solved: { ...store.get(l, k) } }]
      })
      expect(changes.filter(({ solved }) => solved.correction).length).toBeGreaterThanOrEqual(sites)
      const expected = await lossOf(proto, data, changes, metric)
      const { mean } = await configurations.evaluate(choice)
      expect(Math.abs(mean - expected), String(choice)).toBeLessThan(1e-3 * expected + 1e-7)
    }
    // One layer alone is what the sweep measured.
    const alone = await configurations.evaluate(layers.map((_, l) => (l === 0 ? 3 : undefined)))
    expect(Math.abs(alone.mean - figures[0]![3]!.loss.mean)).toBeLessThan(1e-3 * alone.mean + 1e-7)
    const { evaluations } = configurations
    expect(evaluations).toBe(choices.length + 2)
    expect(await configurations.evaluate([...choices[0]!])).toEqual(await configurations.evaluate(choices[0]!))
    expect(configurations.evaluations).toBe(evaluations)
    await configurations.close()
    await parts.close()
  })
})

/** y = (x·a + x·b)·c with b equal to a: all errors of a and b point the same way, and add up twice. */
function linearNet(output: string): ModelProto {
  const a = normals('a', [64, 32], 0.2)
  const initializer: TensorProto[] = [
    a,
    makeTensor({ name: 'b', dims: a.dims, dataType: DataType.FLOAT, rawData: a.rawData }),
    normals('c', [32, 24], output === 'y' ? 0.2 : 0.02),
  ]
  const node = [
    makeNode('MatMul', ['x', 'a'], ['xa'], { name: 'first' }),
    makeNode('MatMul', ['x', 'b'], ['xb'], { name: 'second' }),
    makeNode('Add', ['xa', 'xb'], ['sum']),
    makeNode('MatMul', ['sum', 'c'], [output], { name: 'third' }),
  ]
  const input = [makeValueInfo('x', DataType.FLOAT, [undefined, 64])]
  const graph = {
    name: 'g',
    initializer,
    node,
    input,
    output: [makeValueInfo(output, DataType.FLOAT, [undefined, 24])],
  }
  return makeModel({ irVersion: 10n, opsetImport: [makeOpset('', 17)], graph })
}

const lossesOf = ({ layers }: Analysis) => layers.map(({ candidates }) => candidates.map(({ loss }) => loss.mean))

describe('what measuring leaves', () => {
  it.each(['y', 'logits'])('sketches predict the losses of pairs of a nearly linear net, output %s', async (output) => {
    const parts = await opened(linearNet(output), smallModel('MLP').draw)
    const { analysis, configurations } = await measured(parts, ['pairwise', 'clado'])
    expect(analysis.metric).toBe(output === 'y' ? 'relative' : 'kl')
    const singles = lossesOf(analysis)
    const widths = analysis.layers[0]!.candidates.map(({ bits }) => bits)
    for (const k of [widths.indexOf(6), widths.indexOf(5), widths.indexOf(4)]) {
      for (const choice of [
        [k, k, 0],
        [k, 0, k],
        [k, k, k],
      ]) {
        const real = (await configurations!.evaluate(choice)).mean
        expect(Math.abs(predict(analysis, 'pairwise', choice) / real - 1), `${choice}`).toBeLessThan(0.08)
        expect(Math.abs(predict(analysis, 'clado', choice) / real - 1), `${choice}`).toBeLessThan(0.08)
      }
      const added = singles[0]![k]! + singles[1]![k]! + singles[2]![0]!
      const together = (await configurations!.evaluate([k, k, 0])).mean
      expect(together / added).toBeGreaterThan(1.7)
    }
    // A pair is a run with two layers changed.
    const pair = analysis.pairs!.find(([i, , j]) => i === 0 && j === 1)!
    expect(pair[4]).toBe((await configurations!.evaluate([pair[1], pair[3], undefined])).mean)
    await configurations!.close()
    await parts.close()
  })

  it('levels, all but one, and drawn configurations are runs of the whole network', async () => {
    const parts = await opened(linearNet('logits'), smallModel('MLP').draw, { layers: [{ pattern: 'third', bits: 5 }] })
    const { analysis, configurations } = await measured(parts, ['coverage', 'shapley'])
    const counts = analysis.layers.map(({ candidates }) => candidates.length)
    expect(counts).toEqual([6, 6, 1])
    expect(analysis.levels!.map(({ choice }) => choice)).toEqual([0, 1, 2, 3, 4, 5].map((k) => [k, k, 0]))
    for (const [i, { choice, loss }] of analysis.levels!.entries()) {
      expect(loss).toBe((await configurations!.evaluate(choice)).mean)
      for (const [l, { leaveOneOut }] of analysis.layers.entries()) {
        const others = choice.map((k, m) => (m === l ? undefined : k))
        expect(leaveOneOut![i]).toBe((await configurations!.evaluate(others)).mean)
      }
    }
    await configurations!.close()
    await parts.close()
  })

  it('traces are those of the Fisher matrix of softmax regression', async () => {
    const weight = normals('w', [64, 20], 0.02)
    const node = [makeNode('MatMul', ['x', 'w'], ['logits'], { name: 'only' })]
    const input = [makeValueInfo('x', DataType.FLOAT, [undefined, 64])]
    const output = [makeValueInfo('logits', DataType.FLOAT, [undefined, 20])]
    const graph = { name: 'g', initializer: [weight], node, input, output }
    const proto = makeModel({ irVersion: 10n, opsetImport: [makeOpset('', 17)], graph })
    const parts = await opened(proto, smallModel('MLP').draw)
    const { analysis, configurations } = await measured(parts, ['hessian'], { probes: 60 })
    // tr E[xxᵀ ⊗ (diag p − ppᵀ)] = E ‖x‖² (1 − ‖p‖²)
    const w = new Float32Array(weight.rawData.slice().buffer)
    let trace = 0
    for (const { feeds } of parts.data.held.batches(1)) {
      const x = feeds.get('x')!.data as Float32Array
      const scores = Float32Array.from({ length: 20 }, (_, c) =>
        x.reduce((sum, value, i) => sum + value * w[i * 20 + c]!, 0),
      )
      const p = logSoftmax(scores).map(Math.exp)
      trace += x.reduce((sum, value) => sum + value ** 2, 0) * (1 - p.reduce((sum, value) => sum + value ** 2, 0))
    }
    trace /= parts.data.held.count
    const { value, standardError, probes } = analysis.layers[0]!.trace!
    expect(probes).toBeLessThanOrEqual(60)
    expect(Math.abs(value - trace)).toBeLessThan(3 * standardError + 0.01 * trace)
    expect(standardError).toBeLessThan(0.1 * trace)
    await configurations!.close()
    await parts.close()
  })
})

/** Losses of single layers are those of the edited model in onnxruntime, and do not depend on threads or on parts. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { type SweepOptions, sweepLayers } from '../../src/analyze/sweep.ts'
import { DataType, makeModel, makeNode, makeOpset, makeTensor, makeValueInfo } from '../../src/onnx/proto.ts'
import { makeRandom } from '../../src/random.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { type SmallModel, smallModel, writeSamples } from '../quantize/calibratedModels.ts'
import { normals } from '../quantize/roundTrip.ts'
import { lossOf, type Opened, openMeasured, withOutput, writeModel } from './measuredModels.ts'

const directory = useTempDir()

const sweepOf = (opened: Opened, more: Partial<SweepOptions> = {}) =>
  sweepLayers({ ...opened, damping: 0.05, wanted: () => true, sketch: 0, seed: 0, run: {}, ...more })

function written(small: SmallModel, name: string) {
  const proto = withOutput(small.proto, name)
  const { model, folder } = writeModel(directory, proto)
  return { proto, model, data: writeSamples(path.join(folder, 'x.npy'), small.draw(60, 100)) }
}

describe('the loss of a layer alone', () => {
  it.each([
    ['MLP', 'logits', 'kl'],
    ['convnet', 'y', 'relative'],
  ] as const)('in %s with output %s is that of the edited model', async (name, output, metric) => {
    const { proto, model, data } = written(smallModel(name), output)
    const opened = await openMeasured(model, [data], { layers: [{ pattern: 'c3', bits: 4 }] })
    const { figures, notes } = await sweepOf(opened)
    expect(notes.size).toBe(0)
    let corrections = 0
    for (const [l, options] of opened.layers.entries()) {
      const own = figures[l]!
      expect(own.length).toBe(options.options.length)
      for (const [k, { plan, choice }] of options.options.entries()) {
        const solved = opened.store.get(l, k)
        expect([solved.weight.bits, choice.bits]).toEqual([plan.bits, plan.bits])
        if (solved.correction) corrections++
        // The narrowest, the widest and one between: each takes a session of its own.
        if (k % 3 !== 1 && k !== own.length - 1) continue
        const loss = await lossOf(proto, opened.data, [{ options, solved }], metric)
        expect(Math.abs(own[k]!.loss.mean - loss), `${options.layer.name} ${k}`).toBeLessThan(1e-3 * loss + 1e-7)
        expect(own[k]!.loss.standardError).toBeGreaterThan(0)
      }
      expect(own.at(-1)!.loss.mean).toBeGreaterThanOrEqual(own[0]!.loss.mean)
    }
    expect(corrections).toBeGreaterThan(0)
    await opened.close()
  })

  it('in a branch is not measured, and is solved nevertheless', async () => {
    const { model, data } = written(smallModel('If'), 'logits')
    const opened = await openMeasured(model, [data], { bits: 3 })
    const { figures } = await sweepOf(opened)
    expect(opened.layers.map(({ layer }) => layer.name)).toEqual(['m', 'then_result', 'else_result'])
    expect(figures.map((own) => own![0]!.loss.mean > 0)).toEqual([true, false, false])
    for (const l of [0, 1, 2]) {
      expect(opened.store.has(l, 0)).toBe(true)
      expect(figures[l]![0]!.relativeError).toBeGreaterThan(0)
    }
    await opened.close()
  })

  it('is the same at any number of threads, and for some of the layers alone', async () => {
    const { model, data } = written(smallModel('convnet'), 'logits')
    const swept = async (threads: number, wanted: SweepOptions['wanted']) => {
      const opened = await openMeasured(model, [data], { threads, bits: 3 })
      const sweep = await sweepOf(opened, { wanted, sketch: 512 })
      await opened.close()
      return sweep
    }
    const one = await swept(1, () => true)
    const two = await swept(2, () => true)
    expect(two.figures).toEqual(one.figures)
    expect(two.sketches).toEqual(one.sketches)
    const part = await swept(1, (layer) => layer % 2 === 1)
    expect(part.figures).toEqual(one.figures.map((own, l) => (l % 2 === 1 ? own : undefined)))
    expect(part.sketches).toEqual(one.sketches.map((own, l) => (l % 2 === 1 ? own : undefined)))
  })
})

describe('tokens', () => {
  const [length, size, classes] = [6, 32, 12]
  const wide = makeTensor({ name: 'last', dims: [1n], dataType: DataType.INT64, int64Data: [2n] })
  const initializer = [
    normals('table', [40, size], 1),
    normals('w1', [size, size], 0.3),
    normals('b1', [size], 0.3),
    normals('w2', [size, classes], 0.3),
    wide,
  ]
  const node = [
    makeNode('Gather', ['table', 'input_ids'], ['e'], { name: 'embed' }),
    makeNode('Cast', ['attention_mask'], ['mask'], { attributes: { to: DataType.FLOAT } }),
    makeNode('Unsqueeze', ['mask', 'last'], ['wide']),
    makeNode('Mul', ['e', 'wide'], ['kept']),
    makeNode('MatMul', ['kept', 'w1'], ['h'], { name: 'one' }),
    makeNode('Add', ['h', 'b1'], ['hb']),
    makeNode('Relu', ['hb'], ['r']),
    makeNode('MatMul', ['r', 'w2'], ['logits'], { name: 'two' }),
  ]
  const input = ['input_ids', 'attention_mask'].map((name) => makeValueInfo(name, DataType.INT64, [undefined, length]))
  const output = [makeValueInfo('logits', DataType.FLOAT, [undefined, length, classes])]
  const graph = { name: 'g', initializer, node, input, output }
  const proto = makeModel({ irVersion: 10n, opsetImport: [makeOpset('', 17)], graph })

  it('that are padding do not count, and an embedding without statistics is rounded', async () => {
    const { model, folder } = writeModel(directory, proto)
    const random = makeRandom(3)
    const lines = Array.from({ length: 40 }, (_, sample) => {
      const input_ids = Array.from({ length }, () => random.below(40))
      const attention_mask = Array.from({ length }, (_, token) => (token < 2 + (sample % 5) ? 1 : 0))
      return JSON.stringify({ input_ids, attention_mask })
    })
    const data = path.join(folder, 'x.jsonl')
    fs.writeFileSync(data, lines.join('\n'))
    const opened = await openMeasured(model, [data])
    const { figures, notes } = await sweepOf(opened)
    expect(opened.layers.map(({ layer }) => layer.name)).toEqual(['embed', 'one', 'two'])
    expect([...notes.values()]).toEqual([1])
    for (const [l, options] of opened.layers.entries()) {
      for (const k of [0, options.options.length - 1]) {
        const solved = opened.store.get(l, k)
        const { loss, proxy } = figures[l]![k]!
        expect(proxy === undefined).toBe(options.layer.name === 'embed')
        const expected = await lossOf(proto, opened.data, [{ options, solved }], 'kl')
        expect(Math.abs(loss.mean - expected)).toBeLessThan(1e-3 * expected + 1e-7)
      }
    }
    await opened.close()
  })
})

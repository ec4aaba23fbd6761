import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { gatherStatistics } from '../../src/calibration/gather.ts'
import { tapOf } from '../../src/calibration/taps.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { DataType, encodeModel, makeValueInfo } from '../../src/onnx/proto.ts'
import { importanceByLayer } from '../../src/rsq/collectScores.ts'
import { studentScores } from '../../src/rsq/studentScores.ts'
import { Net, WIDTH } from '../analyze/residualModels.ts'
import { expectClose } from '../calibration/tapRuns.ts'
import { allValues } from '../calibration/walks.ts'
import { datasetOf, normalTensor } from '../eval/models.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { slowFrequency, slowWeights } from '../oracles/importanceOracle.ts'
import {
  attending,
  attention,
  collected,
  mask,
  padding,
  range,
  SAMPLES,
  stored,
  TOKENS,
  walkOf,
  x,
} from './attentionModels.ts'

const temp = useTempDir()

describe('importance of tokens in a network', () => {
  const proto = attending({}, 2)
  const data = datasetOf({ x, attention_mask: padding })

  test.each(['activation-norm', 'activation-difference', 'token-similarity', 'attention', 'first'] as const)(
    'has mean 1 in each sequence and nothing for padding or held-out batches; equal for any batches and order: %s',
    async (strategy) => {
      const fit = [3, 0, 4, 2]
      const [one, again, other] = [
        await collected(proto, data, { strategy }, { fit }),
        await collected(proto, data, { strategy }, { fit }),
        await collected(proto, data, { strategy }, { fit: [...fit].reverse(), batchSize: 1 }),
      ]
      expect(again).toEqual(one)
      expect(one.blocks.map(({ name }) => name)).toEqual(['l0', 'l1'])
      for (const [b, { weights }] of one.blocks.entries()) {
        expect(weights.map((own) => own?.length ?? 0)).toEqual([2 * TOKENS, 2 * TOKENS, 0])
        for (const [place, sample] of fit.entries()) {
          const from = (place % 2) * TOKENS
          const own = weights[Math.floor(place / 2)]!.subarray(from, from + TOKENS)
          const counts = mask.slice(sample * TOKENS, (sample + 1) * TOKENS)
          const number = counts.reduce((a, c) => a + c, 0)
          expect(own.reduce((a, c) => a + c, 0) / number).toBeCloseTo(1, 5)
          expect(counts.every((count, t) => count === 1 || own[t] === 0)).toBe(true)
          expect(new Set(own).size).toBeGreaterThan(number > 2 && number < TOKENS && strategy !== 'first' ? 2 : 0)
          expectClose(other.blocks[b]!.weights[3 - place]!, own, `sample ${sample}`, 1e-4)
        }
      }
    },
  )

  test('does not change when the stream is turned', async () => {
    // Hadamard matrix of order 8, orthonormal and symmetric.
    const Q = (i: number, j: number) =>
      (range(3).filter((b) => (i >> b) & (j >> b) & 1).length % 2 ? -1 : 1) / Math.sqrt(8)
    const turn = (rows: ArrayLike<number>) =>
      Float32Array.from(rows, (_, at) =>
        range(WIDTH).reduce((sum, k) => sum + rows[at - (at % WIDTH) + k]! * Q(k, at % WIDTH), 0),
      )
    const plain = attending({}, 2)
    const initializer = plain.graph!.initializer.map((tensor) => {
      const values = stored(plain, tensor.name)
      const cols = Number(tensor.dims[1])
      // Columns of readers, rows of writers.
      const read = () =>
        values.map((_, at) =>
          range(WIDTH).reduce((sum, k) => sum + Q(k, Math.floor(at / cols)) * values[k * cols + (at % cols)]!, 0),
        )
      const turned = /(o|down)\.weight$/.test(tensor.name)
        ? turn(values)
        : /(q|k|v|up|head)\.weight$/.test(tensor.name)
          ? read()
          : undefined
      return turned ? { ...tensor, rawData: new Uint8Array(turned.buffer) } : tensor
    })
    const rotated = { ...plain, graph: { ...plain.graph!, initializer } }
    const turnedX: FeedTensor = { ...x, data: turn(x.data as Float32Array) }
    for (const strategy of ['activation-norm', 'attention', 'activation-difference', 'token-similarity'] as const) {
      const [a, b] = [
        await collected(plain, datasetOf({ x }), { strategy }),
        await collected(rotated, datasetOf({ x: turnedX }), { strategy }),
      ]
      for (const [i, { weights }] of a.blocks.entries()) {
        weights.forEach((own, batch) => void expectClose(b.blocks[i]!.weights[batch]!, own!, strategy, 1e-4))
      }
    }
  })

  test('of the first chunk alone, with nothing for others, gives the statistics of truncated data', async () => {
    const causal = attending({}, 2)
    const { index, layers } = modelLayers(causal)
    const layer = layers.find(({ name }) => /l1\/attn\/o/.test(name))!
    const tap = tapOf(layer.uses[0]!, layer, index)
    if ('reason' in tap) throw new Error(tap.reason)
    const gathered = async (given: FeedTensor, first: boolean) => {
      const { blocks } = await collected(causal, datasetOf({ x: given }), {
        strategy: 'first',
        rMin: 0,
        chunks: { keep: [0], of: 3 },
      })
      const importance = first ? importanceByLayer(blocks)(layer.constant.name) : undefined
      const walk = walkOf(causal, datasetOf({ x: given }))
      await walk.advance(walk.graph.nodes.indexOf(layer.uses[0]!.node))
      const options = { first: 0, end: walk.batches.length, side: 'float', run: {}, importance } as const
      const [statistics] = await gatherStatistics(walk, tap, options)
      walk.close()
      return statistics!
    }
    const zeroed = {
      ...x,
      data: (x.data as Float32Array).map((v, i) => (Math.floor(i / WIDTH) % TOKENS < 2 ? v : 1e3)),
    }
    const [weighted, cut] = [await gathered(x, true), await gathered(zeroed, true)]
    // What comes later is not seen at all.
    expectClose(cut.gram, weighted.gram, 'gram', 1e-5)
    expect(weighted.weight).toBeCloseTo(SAMPLES * TOKENS, 3)
    const short: FeedTensor = {
      ...x,
      dims: [SAMPLES, 2, WIDTH],
      data: (x.data as Float32Array).filter((_, i) => Math.floor(i / WIDTH) % TOKENS < 2),
    }
    const truncated = await gathered(short, false)
    // Of mean 1, two tokens of six weigh three times as much each.
    expectClose(
      weighted.gram,
      truncated.gram.map((v) => 3 * v),
      'gram',
    )
    expectClose(
      weighted.sum,
      truncated.sum.map((v) => 3 * v),
      'sum',
    )
  })

  test('by frequency and by a student is the same in all blocks', async () => {
    const net = new Net()
    net.input[0] = makeValueInfo('input_ids', DataType.INT64, [undefined, undefined])
    const stream = net.add('Gather', [net.weight('embedding', [7, WIDTH]), 'input_ids'], 'x')
    const one = net.add('Add', [stream, attention(net, stream, 'a')], 's1')
    const two = net.add('Add', [one, net.feedForward(one, 'f')], 's2')
    const model = net.model([net.linear(two, 'logits', [WIDTH, 7])])
    const ids = mask.map((_, i) => (i * i + (i % 5)) % 7)
    const input_ids: FeedTensor = { type: 'int64', dims: [SAMPLES, TOKENS], data: BigInt64Array.from(ids, BigInt) }
    const tokens = datasetOf({ input_ids, attention_mask: padding })
    const fit = [1, 2, 4]
    const places = (sample: number) =>
      range(TOKENS)
        .map((t) => sample * TOKENS + t)
        .filter((at) => mask[at] === 1)
    const { blocks } = await collected(model, tokens, { strategy: 'token-frequency' }, { fit, batchSize: 3 })
    const all = fit.flatMap((sample) => places(sample).map((at) => ids[at]!))
    for (const { weights } of blocks) {
      fit.forEach((sample, row) => {
        const own = places(sample).map((at) => ids[at]!)
        // Equal counts have no place between the least and the largest.
        const expected = slowWeights(slowFrequency(own, all), 0.01, 1).map((value) => (Number.isNaN(value) ? 1 : value))
        const found = places(sample).map((at) => weights[0]![row * TOKENS + (at % TOKENS)]!)
        expectClose(found, expected, 'weights')
      })
    }
    const other = {
      ...model,
      graph: {
        ...model.graph!,
        initializer: model.graph!.initializer.map((tensor) =>
          tensor.name === 'logits.weight'
            ? {
                ...tensor,
                rawData: new Uint8Array(stored(model, tensor.name).map((v) => Math.round(2 * v) / 2).buffer),
              }
            : tensor,
        ),
      },
    }
    const files = [model, other].map((proto, i) => {
      const file = path.join(temp, `${i}.onnx`)
      fs.writeFileSync(file, encodeModel(proto))
      return file
    })
    const scores = await studentScores(tokens.subset(fit), 2, files[0]!, files[1]!, {})
    expect(scores.map((own) => own.length)).toEqual([2 * TOKENS, TOKENS])
    const batches = [...tokens.subset(fit).batches(3)]
    const [[p], [q]] = [await allValues(model, batches), await allValues(other, batches)]
    const log = (row: number[]) => row.map((v) => v - Math.log(row.reduce((sum, w) => sum + Math.exp(w), 0)))
    fit.forEach((sample, row) => {
      for (const at of places(sample)) {
        const part = (values: typeof p) =>
          log(Array.from(values!.get('logits')!.data.slice((row * TOKENS + (at % TOKENS)) * 7), Number).slice(0, 7))
        const [lp, lq] = [part(p), part(q)]
        const kl = lp.reduce((sum, v, i) => sum + Math.exp(v) * (v - lq[i]!), 0)
        expect(scores[Math.floor(row / 2)]![(row % 2) * TOKENS + (at % TOKENS)]).toBeCloseTo(kl, 5)
      }
    })
    const student = await collected(model, tokens, { strategy: 'student-kl', studentScores: scores }, { fit })
    expect(student.blocks[0]!.weights).toEqual(student.blocks[1]!.weights)
    expect(new Set(student.blocks[0]!.weights[0]).size).toBeGreaterThan(3)
    await expect(collected(proto, datasetOf({ x }), { strategy: 'token-frequency' })).rejects.toThrow(/token ids/)
    await expect(collected(model, tokens, { strategy: 'student-kl' })).rejects.toThrow(RangeError)
  })

  test('is looked up by constant; a layer of several blocks and one of none have no weights', async () => {
    const { blocks } = await collected(proto, data, { strategy: 'activation-norm' })
    const [first, second] = blocks
    const lookup = importanceByLayer([first!, { ...second!, layers: [...second!.layers, 'l0/mlp/up.weight'] }])
    expect(lookup('l0/attn/q.weight')!(1)).toBe(first!.weights[1])
    expect(lookup('l1/mlp/up.weight')!(1)).toBe(second!.weights[1])
    expect(lookup('l0/mlp/up.weight')).toBeUndefined()
    expect(lookup('head.weight')).toBeUndefined()
  })

  test('is not weighed where the stream is none of tokens, or there is none', async () => {
    const net = new Net()
    net.input[0] = makeValueInfo('x', DataType.FLOAT, [undefined, WIDTH, 4, 4])
    const images = net.model([net.add('Add', ['x', net.conv('x', 'conv')], 'y')])
    const found = await collected(images, datasetOf({ x: normalTensor([2, WIDTH, 4, 4], 1) }), {
      strategy: 'activation-norm',
    })
    expect(found.notes).toEqual([
      expect.stringMatching(/^tokens are not weighed in .*\[2, 8, 4, 4\] has no row for each token/),
    ])
    expect(importanceByLayer(found.blocks)('conv.weight')).toBeUndefined()
    const plain = new Net()
    const none = await collected(plain.model([plain.linear('x', 'y')]), datasetOf({ x }), {})
    expect([none.blocks, none.notes.length]).toEqual([[], 1])
  })
})

import { describe, expect, it } from 'vitest'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { type ModelProto, makeNode } from '../../src/onnx/proto.ts'
import { OutputJudge } from '../../src/quantize/outputJudge.ts'
import { draw, drawn, feed, smallModel, weight } from '../calibration/tapRuns.ts'
import { allValues, walkThrough } from '../calibration/walks.ts'
import { datasetOf } from '../eval/models.ts'
import { kl, softmax } from '../oracles/metricsOracle.ts'

const data = datasetOf({ x: drawn([9, 4], 1) })
const parts = { fit: data.subset([4, 0, 6, 2]), held: data.subset([1, 5, 3]), weights: new Set(['w0', 'w1']) }
const batches = [...parts.fit.batches(2), ...parts.held.batches(2)]

/** relu(x·w0)·w1. */
function network(w0: Float32Array, w1: Float32Array, output: string): ModelProto {
  return smallModel({
    nodes: [
      makeNode('MatMul', ['x', 'w0'], ['a']),
      makeNode('Relu', ['a'], ['b']),
      makeNode('MatMul', ['b', 'w1'], [output]),
    ],
    weights: [weight('w0', [4, 4], w0), weight('w1', [4, 4], w1)],
    inputs: { x: [undefined, 4] },
    outputs: [output],
  })
}

const [first, second] = [draw([4, 4], 2), draw([4, 4], 3)]
const square = (values: Float32Array) => feed([4, 4], values)
const scaled = (values: Float32Array, by: number) => values.map((value) => value * by)

/** Rows of the output on all samples. */
async function rowsOf(model: ModelProto, output: string): Promise<number[][]> {
  const values = await allValues(model, batches)
  return values.flatMap((own) => {
    const { data: all } = own.get(output) as FeedTensor
    const numbers = Array.from(all as Float32Array)
    return Array.from({ length: numbers.length / 4 }, (_, row) => numbers.slice(4 * row, 4 * row + 4))
  })
}

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length

describe('losses of candidates', () => {
  it.each([
    ['logits', (p: number[], q: number[]) => kl(softmax(p), softmax(q))],
    [
      'y',
      (p: number[], q: number[]) =>
        p.reduce((sum, value, i) => sum + (value - q[i]!) ** 2, 0) / p.reduce((sum, value) => sum + value ** 2, 0),
    ],
  ] as const)('are those of the whole model with the candidate alone: %s', async (output, lossOf) => {
    const walk = walkThrough(network(first, second, output), parts)
    try {
      const judge = await OutputJudge.open(walk, {})
      const float = await rowsOf(network(first, second, output), output)
      const expected = async (w0: Float32Array, w1: Float32Array) => {
        const rows = await rowsOf(network(w0, w1, output), output)
        return mean(float.map((row, i) => lossOf(row, rows[i]!)))
      }
      const factors = [0.9, 0.5]
      const losses = await judge.losses(factors.map((factor) => new Map([['w0', square(scaled(first, factor))]])))
      const own = losses.map(mean)
      for (const [i, factor] of factors.entries())
        expect(own[i]).toBeCloseTo(await expected(scaled(first, factor), second), 5)
      expect(own[0]).toBeLessThan(own[1]!)
      // Layers before may be quantized by then: that is not the candidate's doing.
      walk.change('w0', square(scaled(first, 0.8)))
      await walk.advance(1)
      const [later] = await judge.losses([new Map([['w1', square(scaled(second, 1.1))]])])
      expect(mean(later!)).toBeCloseTo(await expected(first, scaled(second, 1.1)), 5)
    } finally {
      walk.close()
    }
  })
})

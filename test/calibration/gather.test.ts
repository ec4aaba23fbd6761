import { describe, expect, it } from 'vitest'
import { checkFinite, type GatherOptions, gatherStatistics } from '../../src/calibration/gather.ts'
import { type Tap, tapOf } from '../../src/calibration/taps.ts'
import type { Walk } from '../../src/calibration/walk.ts'
import type { InputStatistics } from '../../src/hessian/statistics.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { type ModelProto, makeNode, makeTensor } from '../../src/onnx/proto.ts'
import { datasetOf } from '../eval/models.ts'
import { im2col } from '../oracles/im2col.ts'
import { runRecurrence } from '../oracles/recurrentOracle.ts'
import { draw, drawn, expectClose, feed, slowStatistics, smallModel, type Vectors, weight } from './tapRuns.ts'
import { walkThrough } from './walks.ts'

const w = (name: string, dims: readonly number[], seed: number) => weight(name, dims, draw(dims, seed))

/** The tap of the layer whose weight has this name. */
function tapFor(model: ModelProto, name: string): Tap {
  const { index, layers } = modelLayers(model)
  const layer = layers.find(({ constant }) => constant.name === name)!
  const tap = tapOf(layer.uses[0]!, layer, index)
  if ('reason' in tap) throw new Error(tap.reason)
  return tap
}

const ALL = { first: 0, side: 'both', run: {} } as const
const gather = (walk: Walk, tap: Tap, options: Partial<GatherOptions> = {}) =>
  gatherStatistics(walk, tap, { ...ALL, end: walk.batches.length, ...options })

function expectSums(
  actual: readonly InputStatistics[],
  x: Vectors,
  float?: Vectors,
  weights?: readonly number[],
): void {
  const slow = slowStatistics(x, float, weights)
  expect(actual.length).toBe(x.length)
  for (const [b, { cols, weight: count, gram, sum, cross, crossSum }] of actual.entries()) {
    expect([cols, count]).toEqual([x[b]![0]!.length, slow.count])
    expectClose(gram, slow.gram[b]!, 'gram')
    expectClose(sum, slow.sum[b]!, 'sum')
    expect([cross === undefined, crossSum === undefined]).toEqual([!float, !float])
    if (float) expectClose(cross!, slow.cross![b]!, 'cross')
    if (float) expectClose(crossSum!, slow.crossSum![b]!, 'crossSum')
  }
}

const rowsIn = (data: ArrayLike<number>, cols: number) =>
  Array.from({ length: data.length / cols }, (_, row) => Array.from({ length: cols }, (_, i) => data[row * cols + i]!))
const times = (rows: readonly number[][], matrix: ArrayLike<number>, cols: number) =>
  rows.map((row) =>
    Array.from({ length: cols }, (_, j) => row.reduce((sum, v, i) => sum + v * matrix[i * cols + j]!, 0)),
  )

/** h = x·w0; y = h·w1, all 8 wide; x [n, 3, 8]. */
const chain = smallModel({
  nodes: [makeNode('MatMul', ['x', 'w0'], ['h'], { name: 'first' }), makeNode('MatMul', ['h', 'w1'], ['y'])],
  weights: [w('w0', [8, 8], 1), w('w1', [8, 8], 2)],
  inputs: { x: [undefined, 3, 8] },
})
const x = drawn([7, 3, 8], 3)
const samples = datasetOf({ x })
const parts = { fit: samples.subset([5, 0, 3, 1, 6]), held: samples.subset([2, 4]), weights: new Set(['w0', 'w1']) }
/** Rows of x of these samples, three a sample. */
const rowsOf = (numbers: readonly number[]) =>
  numbers.flatMap((n) => rowsIn(x.data as Float32Array, 8).slice(3 * n, 3 * n + 3))

describe('gathered statistics', () => {
  it('are sums over all batches, or over those that are held out', async () => {
    const walk = walkThrough(chain, parts)
    expect([walk.fitBatches, walk.batches.length]).toEqual([3, 4])
    const tap = tapFor(chain, 'w0')
    expectSums(await gather(walk, tap), [rowsOf([0, 1, 2, 3, 4, 5, 6])])
    expectSums(await gather(walk, tap, { end: 3 }), [rowsOf([5, 0, 3, 1, 6])])
    expectSums(await gather(walk, tap, { first: 3 }), [rowsOf([2, 4])])
    walk.close()
  })

  it('relate the two networks where they differ; either side has its own', async () => {
    const walk = walkThrough(chain, parts)
    const [own, changed] = [draw([8, 8], 1), draw([8, 8], 7)]
    walk.change('w0', feed([8, 8], changed))
    await walk.advance(1)
    const tap = tapFor(chain, 'w1')
    const rows = rowsOf([5, 0, 3, 1, 6])
    const [float, quantized] = [times(rows, own, 8), times(rows, changed, 8)]
    expectSums(await gather(walk, tap, { end: 3 }), [quantized], [float])
    expectSums(await gather(walk, tap, { end: 3, side: 'float' }), [float])
    expectSums(await gather(walk, tap, { end: 3, side: 'quantized' }), [quantized])
    walk.close()
  })

  it('do not count padding, in batches with and without', async () => {
    const mask = [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1]
    const tokens = datasetOf({
      x: drawn([5, 3, 8], 4),
      attention_mask: { type: 'int64', dims: [5, 3], data: BigInt64Array.from(mask, BigInt) },
    })
    const rows = rowsIn(draw([5, 3, 8], 4), 8)
    for (const order of [
      [0, 2, 1, 3, 4],
      [3, 4, 0, 2, 1],
    ]) {
      const walk = walkThrough(chain, { fit: tokens.subset(order), held: tokens.subset([]) })
      expect(walk.batches.filter(({ weights }) => weights).length).toBe(2)
      expectSums(await gather(walk, tapFor(chain, 'w0')), [rows], undefined, mask)
      walk.close()
    }
  })

  it('of unfolded images do not depend on how batches are cut up', async () => {
    const window = {
      groups: 2,
      kernel: [3, 2],
      strides: [2, 1],
      dilations: [1, 1],
      pads: [1, 0, 1, 1],
      autoPad: 'NOTSET',
    } as const
    const conv = makeNode('Conv', ['x', 'w'], ['y'], {
      attributes: { group: 2, kernel_shape: [3, 2], strides: [2, 1], pads: [1, 0, 1, 1] },
    })
    const model = smallModel({ nodes: [conv], weights: [w('w', [6, 2, 3, 2], 1)], inputs: { x: [undefined, 4, 5, 6] } })
    const images = datasetOf({ x: drawn([7, 4, 5, 6], 5) })
    const walk = walkThrough(model, { fit: images, held: images.subset([]), batchSize: 5 })
    const wanted = im2col(draw([7, 4, 5, 6], 5), [7, 4, 5, 6], window)
    const tap = tapFor(model, 'w')
    const perImage = 2 * 12 * 3 * 6
    for (const unfoldedFloats of [undefined, 1, 2 * perImage, 3 * perImage - 1, 3 * perImage, 1e9]) {
      const options = unfoldedFloats === undefined ? {} : { unfoldedFloats }
      expectSums(await gather(walk, tap, options), wanted)
    }
    walk.close()
  })

  it('of a recurrent node’s state: what it reads may be made of constants alone, and change', async () => {
    const shape = makeTensor({ name: 'shape', dims: [3n], dataType: 7, int64Data: [1n, 2n, 8n] })
    const model = smallModel({
      nodes: [
        makeNode('ConstantOfShape', ['shape'], ['start'], {
          attributes: { value: makeTensor({ dims: [1n], dataType: 1, floatData: [0.5] }) },
        }),
        makeNode('Transpose', ['wi'], ['turned'], { attributes: { perm: [0, 2, 1] } }),
        makeNode('RNN', ['x', 'turned', 'wr', '', '', 'start'], ['y'], { attributes: { hidden_size: 8 } }),
      ],
      weights: [w('wi', [1, 8, 8], 1), w('wr', [1, 8, 8], 2), shape],
      inputs: { x: [4, 2, 8] },
    })
    const input = drawn([4, 2, 8], 3)
    const one = {
      ...datasetOf({ x: input }),
      *batches() {
        yield { feeds: new Map([['x', input]]), count: 2, start: 0 }
      },
    }
    const walk = walkThrough(model, {
      fit: one,
      held: datasetOf({ x: input }).subset([]),
      weights: new Set(['wi', 'wr']),
    })
    const states = (stored: Float32Array) => {
      const turned = stored.map((_, i) => stored[(i % 8) * 8 + Math.floor(i / 8)]!)
      const initialH = new Float32Array(16).fill(0.5)
      const sizes = { steps: 4, batch: 2, inputs: 8, hidden: 8, backwards: [false] }
      return runRecurrence({
        operator: 'RNN',
        ...sizes,
        x: input.data as Float32Array,
        w: turned,
        r: draw([1, 8, 8], 2),
        initialH,
      }).before
    }
    const tap = tapFor(model, 'wr')
    const [own, changed] = [draw([1, 8, 8], 1), draw([1, 8, 8], 6)]
    expectSums(await gather(walk, tap), states(own))
    walk.change('wi', feed([1, 8, 8], changed))
    expectSums(await gather(walk, tap), states(changed), states(own))
    walk.close()
  })

  it('stop when told to', async () => {
    const walk = walkThrough(chain, parts)
    const stopped = gather(walk, tapFor(chain, 'w0'), { run: { signal: AbortSignal.abort() } })
    await expect(stopped).rejects.toMatchObject({ code: 'interrupted' })
    walk.close()
  })
})

describe('numbers that are not finite', () => {
  const damaged = (at: number, value: number, dims = [7, 3, 8]) => {
    const data = draw(dims, 3)
    data[at] = value
    return datasetOf({ x: feed(dims, data) })
  }

  it('name the node, and the sample by its number in the data', async () => {
    const data = damaged(4 * 24 + 9, Number.NaN)
    const walk = walkThrough(chain, { fit: data.subset([6, 2, 0, 4, 1]), held: data.subset([]) })
    await walk.advance(1)
    await expect(gather(walk, tapFor(chain, 'w1'))).rejects.toMatchObject({
      code: 'data',
      message: expect.stringMatching(/^the model computes NaN at node '?first'? \(MatMul\) for sample 4$/),
      hint: expect.stringContaining('leave the sample out'),
    })
    walk.close()
  })

  it('name the input, where the data itself has them', async () => {
    const data = damaged(2 * 24, -Infinity)
    const walk = walkThrough(chain, { fit: data.subset([6, 5]), held: data.subset([3, 0, 2]) })
    const tap = tapFor(chain, 'w0')
    await gather(walk, tap, { end: walk.fitBatches })
    const held = gather(walk, tap, { first: walk.fitBatches })
    await expect(held).rejects.toThrow(/computes -Infinity at input '?x'? for sample 2$/)
    // Batches of which no statistics are gathered are checked alike.
    await checkFinite(walk, tap, { first: 0, end: walk.fitBatches })
    const checked = checkFinite(walk, tap, { first: walk.fitBatches, end: walk.batches.length })
    await expect(checked).rejects.toThrow(/computes -Infinity at input '?x'? for sample 2$/)
    walk.close()
  })

  it('name the quantized model, where the float one has none', async () => {
    const walk = walkThrough(chain, parts)
    walk.change('w0', feed([8, 8], new Float32Array(64).fill(Infinity)))
    await walk.advance(1)
    await expect(gather(walk, tapFor(chain, 'w1'))).rejects.toThrow(/^the quantized model computes .* for sample 5$/)
    walk.close()
  })

  it('of an input [steps, batch, …] belong to the sample on axis 1', async () => {
    const model = smallModel({
      nodes: [
        makeNode('Transpose', ['x'], ['t'], { attributes: { perm: [1, 0, 2] } }),
        makeNode('RNN', ['t', 'wi', 'wr'], ['y'], { attributes: { hidden_size: 8 } }),
      ],
      weights: [w('wi', [1, 8, 8], 1), w('wr', [1, 8, 8], 2)],
      inputs: { x: [undefined, 3, 8] },
    })
    const data = damaged(4 * 24, Number.NaN)
    const walk = walkThrough(model, { fit: data.subset([6, 4, 1, 0]), held: data.subset([]), batchSize: 4 })
    await walk.advance(1)
    for (const name of ['wi', 'wr']) await expect(gather(walk, tapFor(model, name))).rejects.toThrow(/for sample 4$/)
    walk.close()
  })

  it('do not matter at padding; where a position counts they do', async () => {
    const mask = [1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 0, 1]
    const weights = { type: 'int64', dims: [4, 3], data: BigInt64Array.from(mask, BigInt) } as const
    const data = draw([4, 3, 8], 3)
    const clean = rowsIn(data, 8)
    for (const [position, counts] of mask.entries()) if (!counts) data.fill(Number.NaN, 8 * position, 8 * position + 8)
    const padded = datasetOf({ x: feed([4, 3, 8], data), attention_mask: weights })
    const walk = walkThrough(chain, { fit: padded, held: padded.subset([2]) })
    for (const [at, name] of ['w0', 'w1'].entries()) {
      await walk.advance(at)
      const tap = tapFor(chain, name)
      const inputs = at === 0 ? clean : times(clean, draw([8, 8], 1), 8)
      expectSums(await gather(walk, tap, { end: walk.fitBatches }), [inputs], undefined, mask)
      await checkFinite(walk, tap, { first: 0, end: walk.batches.length })
    }
    walk.close()
    data[8 * 7 + 3] = Number.NaN
    const other = walkThrough(chain, { fit: padded, held: padded.subset([2]) })
    await other.advance(1)
    const tap = tapFor(chain, 'w1')
    const message = /computes NaN at node '?first'? \(MatMul\) for sample 2$/
    await expect(gather(other, tap)).rejects.toThrow(message)
    await expect(checkFinite(other, tap, { first: 2, end: 3 })).rejects.toThrow(message)
    other.close()
  })

  it('do not matter beyond the length of a sequence', async () => {
    const lengths = makeTensor({ name: 'lengths', dims: [2n], dataType: 6, int32Data: [3, 1] })
    const model = smallModel({
      nodes: [makeNode('RNN', ['x', 'wi', 'wr', '', 'lengths'], ['y'], { attributes: { hidden_size: 8 } })],
      weights: [w('wi', [1, 8, 8], 1), w('wr', [1, 8, 8], 2), lengths],
      inputs: { x: [3, 2, 8] },
    })
    const data = draw([3, 2, 8], 3)
    const within = rowsIn(data, 8).filter((_, at) => at % 2 === 0 || at === 1)
    data.fill(Number.NaN, 3 * 8, 4 * 8)
    data[5 * 8] = Infinity
    const input = feed([3, 2, 8], data)
    const one = {
      ...datasetOf({ x: input }).subset([0, 1]),
      *batches() {
        yield { feeds: new Map([['x', input]]), count: 2, start: 0 }
      },
    }
    const walk = walkThrough(model, { fit: one, held: datasetOf({ x: input }).subset([]) })
    const tap = tapFor(model, 'wi')
    expect(tap.source.kind).toBe('steps')
    expectSums(await gather(walk, tap), [within])
    await checkFinite(walk, tap, { first: 0, end: 1 })
    walk.close()
    data[2 * 8 + 1] = Number.NaN
    const other = walkThrough(model, { fit: one, held: datasetOf({ x: input }).subset([]) })
    await expect(gather(other, tap)).rejects.toThrow(/for sample 0$/)
    other.close()
  })

  it('may be products alone: inputs too large for float32 squares', async () => {
    const data = damaged(0, 1e30)
    const walk = walkThrough(chain, { fit: data, held: data.subset([]) })
    await expect(gather(walk, tapFor(chain, 'w0'))).rejects.toThrow(/read '?x'? are too large for float32/)
    walk.close()
  })
})

import { describe, expect, it } from 'vitest'
import { gramModel } from '../../src/calibration/gramModel.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { type AttributeValue, DataType, makeNode } from '../../src/onnx/proto.ts'
import { floatToHalf, halfToFloat } from '../../src/quant/float16.ts'
import { indicesOf } from '../oracles/im2col.ts'
import {
  draw,
  drawn,
  energy,
  expectClose,
  expectStatistics,
  feed,
  rowsOf,
  runModel,
  runTap,
  slowStatistics,
  smallModel,
  squares,
  tapIn,
  weight,
} from './tapRuns.ts'

const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

interface Case {
  readonly operator: string
  readonly domain?: string
  readonly attributes?: Readonly<Record<string, AttributeValue>>
  /** Shape of the weight and of the other operand. */
  readonly w: readonly number[]
  readonly x: readonly number[]
  readonly left?: boolean
  /** The model does not say the shape of x. */
  readonly hidden?: boolean
  readonly blocks?: number
  readonly positions?: 'rows' | 'other'
  /** Axis of x that is summed over; the last when absent. */
  readonly axis?: number
  readonly opset?: number
}

function build(c: Case) {
  const data = draw(c.w, 4)
  const inputs = c.left ? ['w', 'x'] : ['x', 'w']
  const options = { domain: c.domain ?? '', attributes: c.attributes ?? {} }
  const model = smallModel({
    nodes: [makeNode(c.operator, inputs, ['y'], options)],
    weights: [weight('w', c.w, data)],
    inputs: { x: c.hidden ? undefined : c.x },
    opset: c.opset ?? 17,
  })
  return { model, data, x: draw(c.x, 5) }
}

/** The vectors along one axis of x, in row-major order of the other axes. */
function vectorsAlong(x: Float32Array, dims: readonly number[], axis: number): number[][] {
  const stride = product(dims.slice(axis + 1))
  const others = dims.map((size, a) => (a === axis ? 1 : size))
  return indicesOf(others).map((at) => {
    const start = at.reduce((flat, i, a) => flat + i * product(dims.slice(a + 1)), 0)
    return Array.from({ length: dims[axis]! }, (_, k) => x[start + k * stride]!)
  })
}

const cases: [string, Case][] = [
  ['MatMul', { operator: 'MatMul', w: [6, 12], x: [2, 5, 6], positions: 'rows' }],
  ['MatMul of a matrix', { operator: 'MatMul', w: [6, 12], x: [7, 6], hidden: true, positions: 'rows' }],
  ['MatMul of a vector', { operator: 'MatMul', w: [6, 12], x: [6], positions: 'rows' }],
  ['MatMul with the weight first', { operator: 'MatMul', w: [12, 6], x: [6, 5], left: true, axis: 0 }],
  ['MatMul with the weight first, batches', { operator: 'MatMul', w: [12, 6], x: [2, 3, 6, 5], left: true, axis: 2 }],
  [
    'MatMul with the weight first, hidden',
    { operator: 'MatMul', w: [12, 6], x: [3, 6, 5], left: true, axis: 1, hidden: true },
  ],
  ['MatMul with the weight first, a vector', { operator: 'MatMul', w: [12, 6], x: [6], left: true, positions: 'rows' }],
  [
    'MatMul with the weight first, a hidden vector',
    { operator: 'MatMul', w: [12, 6], x: [6], left: true, hidden: true },
  ],
  ['MatMul of a weight with one matrix', { operator: 'MatMul', w: [1, 6, 12], x: [2, 5, 6], positions: 'rows' }],
  ['MatMul with a vector as weight', { operator: 'MatMul', w: [70], x: [3, 70], positions: 'rows' }],
  ['MatMul with a vector as weight first', { operator: 'MatMul', w: [70], x: [2, 70, 3], left: true, axis: 1 }],
  ['MatMul of many with one matrix', { operator: 'MatMul', w: [3, 6, 12], x: [5, 6], positions: 'rows' }],
  ['Gemm', { operator: 'Gemm', w: [6, 12], x: [7, 6], positions: 'rows' }],
  ['Gemm with transB', { operator: 'Gemm', w: [12, 6], x: [7, 6], attributes: { transB: 1 }, positions: 'rows' }],
  ['Gemm with transA', { operator: 'Gemm', w: [6, 12], x: [6, 7], attributes: { transA: 1 }, axis: 0 }],
  ['Gemm with the weight first', { operator: 'Gemm', w: [12, 6], x: [6, 7], left: true, axis: 0 }],
  [
    'Gemm with the weight first, both turned',
    { operator: 'Gemm', w: [6, 12], x: [7, 6], left: true, attributes: { transA: 1, transB: 1 }, positions: 'rows' },
  ],
  [
    'FusedMatMul',
    {
      operator: 'FusedMatMul',
      domain: 'com.microsoft',
      w: [12, 6],
      x: [2, 6, 5],
      attributes: { transA: 1, transB: 1 },
      axis: 1,
    },
  ],
]

describe('products', () => {
  it.each(cases)('%s: vectors by definition, and ‖Y‖² = tr(W H Wᵀ)', async (_name, c) => {
    const { model, data, x } = build(c)
    const { index, layer, tap } = tapIn(model)
    expect([tap.blocks, tap.positions]).toEqual([1, c.positions ?? 'other'])
    const feeds = { x: feed(c.x, x) }
    const actual = await runTap(tap, index, { quantized: feeds })
    expectStatistics(actual, slowStatistics([vectorsAlong(x, c.x, c.axis ?? c.x.length - 1)]))
    const y = (await runModel(model, feeds)).get('y')!.data as Float32Array
    expectClose([energy(rowsOf(layer, data), actual)], [squares(y)], 'energy')
  })

  it('are not scaled by alpha', async () => {
    const one = build({ operator: 'Gemm', w: [6, 12], x: [7, 6] })
    const other = build({ operator: 'Gemm', w: [6, 12], x: [7, 6], attributes: { alpha: { float: 3 } } })
    const run = async ({ model, x }: typeof one) => {
      const { index, tap } = tapIn(model)
      return runTap(tap, index, { quantized: { x: feed([7, 6], x) } })
    }
    expect(await run(other)).toEqual(await run(one))
  })

  it('of FusedGemm do not see its activation function', async () => {
    const attributes = { activation: 'Relu', transA: 1 }
    const c = { operator: 'FusedGemm', domain: 'com.microsoft', w: [6, 12], x: [6, 7], attributes, axis: 0 }
    const { model, x } = build(c)
    const { index, tap } = tapIn(model)
    const actual = await runTap(tap, index, { quantized: { x: feed(c.x, x) } })
    expectStatistics(actual, slowStatistics([vectorsAlong(x, c.x, 0)]))
  })

  it('of Attention are rows of its input', async () => {
    const model = smallModel({
      nodes: [makeNode('Attention', ['x', 'w', 'b'], ['y'], { domain: 'com.microsoft', attributes: { num_heads: 2 } })],
      weights: [weight('w', [8, 24], draw([8, 24], 1)), weight('b', [24], draw([24], 2))],
      inputs: { x: [2, 5, 8] },
    })
    const { index, tap } = tapIn(model)
    expect(tap.positions).toBe('rows')
    const x = draw([2, 5, 8], 3)
    const actual = await runTap(tap, index, { quantized: { x: feed([2, 5, 8], x) } })
    expectStatistics(actual, slowStatistics([vectorsAlong(x, [2, 5, 8], 2)]))
  })
})

const batched: [string, Case][] = [
  ['as many matrices', { operator: 'MatMul', w: [3, 6, 12], x: [3, 5, 6] }],
  ['more axes in front', { operator: 'MatMul', w: [3, 6, 12], x: [4, 3, 5, 6] }],
  ['axes of the weight without effect', { operator: 'MatMul', w: [1, 3, 6, 12], x: [4, 3, 5, 6], hidden: true }],
  ['two axes', { operator: 'MatMul', w: [2, 3, 6, 12], x: [2, 3, 5, 6] }],
  ['a tensor that is repeated', { operator: 'MatMul', w: [3, 6, 12], x: [4, 1, 5, 6] }],
  ['a matrix of which the model does not know', { operator: 'MatMul', w: [3, 6, 12], x: [5, 6], hidden: true }],
  ['the weight first', { operator: 'MatMul', w: [3, 12, 6], x: [3, 6, 5], left: true }],
  ['the weight first, more axes', { operator: 'MatMul', w: [3, 12, 6], x: [4, 3, 6, 5], left: true }],
  ['the weight first, a hidden vector', { operator: 'MatMul', w: [3, 12, 6], x: [6], left: true, hidden: true }],
]

describe('products with batches of matrices', () => {
  it.each(batched)('%s: each block of rows has the Gram matrix of its matrix', async (_name, c) => {
    const { model, data, x } = build(c)
    const { index, layer, tap } = tapIn(model)
    const batch = c.w.slice(0, -2)
    expect([tap.blocks, tap.positions]).toEqual([product(batch), 'other'])
    const feeds = { x: feed(c.x, x) }
    const actual = await runTap(tap, index, { quantized: feeds })
    // The matrices of x that meet matrix b of the weight: those whose last batch index is b, or all where there is none.
    const axis = c.left && c.x.length > 1 ? c.x.length - 2 : c.x.length - 1
    const front = c.x.slice(0, -2)
    const own = batch.filter((size) => size > 1)
    const expected = Array.from({ length: product(batch) }, (_, b) => {
      const blockIndex = indicesOf(own)[b]!
      return indicesOf(front).flatMap((at, place) => {
        const met = at.slice(-own.length)
        if (!met.every((i, a) => front.slice(-own.length)[a] === 1 || i === blockIndex[a])) return []
        const size = product(c.x.slice(-2))
        return vectorsAlong(x.subarray(place * size, (place + 1) * size), c.x.slice(-2), axis - front.length)
      })
    })
    expectStatistics(actual, slowStatistics(expected))
    const y = (await runModel(model, feeds)).get('y')!.data as Float32Array
    expectClose([energy(rowsOf(layer, data), actual)], [squares(y)], 'energy')
  })
})

const rows: Case = { operator: 'MatMul', w: [6, 12], x: [2, 5, 6] }

describe('gramModel', () => {
  it('weighs positions once', async () => {
    const { model, x } = build(rows)
    const { index, tap } = tapIn(model)
    const f = draw(rows.x, 9)
    const weights = [1, 0, 2, 0.5, 3, 1, 0, 0.25, 1, 2]
    const feeds = { quantized: { x: feed(rows.x, x) }, float: { x: feed(rows.x, f) }, weights }
    const expected = slowStatistics([vectorsAlong(x, rows.x, 2)], [vectorsAlong(f, rows.x, 2)], weights)
    expectStatistics(await runTap(tap, index, feeds), expected)
    const { float: _float, ...alone } = feeds
    const { cross: _cross, crossSum: _sum, ...rest } = expected
    expectStatistics(await runTap(tap, index, alone), rest)
  })

  it('does not look at positions of weight 0, of either network', async () => {
    const { model, x } = build(rows)
    const { index, tap } = tapIn(model)
    const f = draw(rows.x, 9)
    const weights = [1, 0, 2, 0.5, 3, 1, 0, 0.25, 1, 2]
    const [xs, fs] = [vectorsAlong(x, rows.x, 2), vectorsAlong(f, rows.x, 2)]
    const expected = slowStatistics([xs], [fs], weights)
    x.fill(Number.NaN, 6, 12)
    x[36] = -Infinity
    f[7] = Infinity
    f[41] = Number.NaN
    const feeds = { quantized: { x: feed(rows.x, x) }, float: { x: feed(rows.x, f) }, weights }
    expectStatistics(await runTap(tap, index, feeds), expected)
    // At a position that counts it shows.
    x[0] = Number.NaN
    expect((await runTap(tap, index, { ...feeds, quantized: { x: feed(rows.x, x) } })).sum[0]![0]).toBeNaN()
  })

  it('refuses weights where they have no place, and types that do not belong to the reads', () => {
    const { index, tap } = tapIn(build({ operator: 'Gemm', w: [6, 12], x: [6, 7], attributes: { transA: 1 } }).model)
    const type = { dataType: DataType.FLOAT, rank: 2 }
    expect(() => gramModel(tap, index, [type], { cross: false, weighted: true })).toThrow(RangeError)
    expect(() => gramModel(tap, index, [], { cross: false, weighted: false })).toThrow(RangeError)
  })

  it('shows NaN and infinity', async () => {
    const { model, x } = build(rows)
    const { index, tap } = tapIn(model)
    x[8] = Number.NaN
    x[15] = Number.POSITIVE_INFINITY
    const { gram, sum } = await runTap(tap, index, { quantized: { x: feed(rows.x, x) } })
    expect(Array.from({ length: 6 }, (_, j) => Number.isFinite(gram[0]![j * 7]))).toEqual([
      true,
      true,
      false,
      false,
      true,
      true,
    ])
    expect(sum[0]![2]).toBeNaN()
    expect(sum[0]![3]).toBe(Number.POSITIVE_INFINITY)
  })

  it('computes in float32 whatever it reads', async () => {
    const { model, x } = build(rows)
    const { index, tap } = tapIn(model)
    const halves = x.map((v) => halfToFloat(floatToHalf(v)))
    const half: FeedTensor = { type: 'float16', dims: rows.x, data: Uint16Array.from(x, floatToHalf) }
    const double: FeedTensor = { type: 'double', dims: rows.x, data: Float64Array.from(x) }
    const plain = await runTap(tap, index, { quantized: { x: feed(rows.x, x) } })
    expect(await runTap(tap, index, { quantized: { x: double } })).toEqual(plain)
    expectStatistics(
      await runTap(tap, index, { quantized: { x: half } }),
      slowStatistics([vectorsAlong(halves, rows.x, 2)]),
    )
  })

  it.each([7, 11, 13, 18, 21, 25])('runs for models of opset %i', async (opset) => {
    for (const c of [rows, { ...rows, w: [12, 6], x: [3, 6, 5], left: true, axis: 1 }]) {
      const { model, x } = build({ ...c, opset })
      const { index, tap } = tapIn(model)
      const actual = await runTap(tap, index, { quantized: { x: drawn(c.x, 5) } })
      expectStatistics(actual, slowStatistics([vectorsAlong(x, c.x, 'axis' in c ? 1 : 2)]))
    }
  })

  it('gives the same bits at any number of threads, and a symmetric matrix', async () => {
    const dims = [3, 200, 64]
    const { model, x } = build({ operator: 'MatMul', w: [64, 8], x: dims })
    const { index, tap } = tapIn(model)
    const run = (threads: number) => runTap(tap, index, { quantized: { x: feed(dims, x) } }, threads)
    const [one, two] = [await run(1), await run(2)]
    expect(two).toEqual(one)
    expect(one.gram[0]).toEqual(one.gram[0]!.map((_, at) => one.gram[0]![(at % 64) * 64 + Math.floor(at / 64)]))
  })
})

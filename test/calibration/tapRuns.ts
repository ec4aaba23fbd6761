/** @file Taps of small models, their Gram models run in onnxruntime, and the same statistics by slow sums in float64. */
import { expect } from 'vitest'
import { gramModel } from '../../src/calibration/gramModel.ts'
import { type Tap, tapOf } from '../../src/calibration/taps.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import type { ModelIndex } from '../../src/onnx/graph.ts'
import { modelLayers, type WeightedLayer } from '../../src/onnx/layers.ts'
import {
  DataType,
  encodeModel,
  type ModelProto,
  makeModel,
  makeOpset,
  makeTensor,
  makeValueInfo,
  type NodeProto,
  type TensorProto,
} from '../../src/onnx/proto.ts'
import { makeRandom } from '../../src/random.ts'
import { openSession } from '../../src/runtime/session.ts'

const count = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

/** Seeded float32 numbers with a mean that is not zero. */
export function draw(dims: readonly number[], seed: number): Float32Array {
  const random = makeRandom(seed)
  return Float32Array.from({ length: count(dims) }, () => random.normal() + 0.5)
}

export const feed = (dims: readonly number[], data: Float32Array): FeedTensor => ({ type: 'float', dims, data })
export const drawn = (dims: readonly number[], seed: number): FeedTensor => feed(dims, draw(dims, seed))

export function weight(name: string, dims: readonly number[], data: Float32Array): TensorProto {
  return makeTensor({ name, dims: dims.map(BigInt), dataType: DataType.FLOAT, floatData: [...data] })
}

interface Parts {
  readonly nodes: readonly NodeProto[]
  readonly weights?: readonly TensorProto[]
  /** Name → dimensions, or undefined for an input of unknown rank. */
  readonly inputs: Readonly<Record<string, readonly (number | undefined)[] | undefined>>
  readonly outputs?: readonly string[]
  readonly opset?: number
}

export function smallModel({ nodes, weights = [], inputs, outputs = ['y'], opset = 17 }: Parts): ModelProto {
  return makeModel({
    irVersion: 8n,
    opsetImport: [makeOpset('', opset), makeOpset('com.microsoft', 1)],
    graph: {
      name: 'g',
      node: [...nodes],
      initializer: [...weights],
      input: Object.entries(inputs).map(([name, dims]) => makeValueInfo(name, DataType.FLOAT, dims)),
      output: outputs.map((name) => makeValueInfo(name, DataType.FLOAT)),
    },
  })
}

export async function runModel(model: ModelProto, feeds: Readonly<Record<string, FeedTensor>>) {
  return runBytes(encodeModel(model), new Map(Object.entries(feeds)))
}

async function runBytes(bytes: Uint8Array, feeds: ReadonlyMap<string, FeedTensor>, threads = 1) {
  const session = await openSession({ bytes, path: 'test' }, { threads })
  try {
    return await session.run(feeds)
  } finally {
    await session.dispose()
  }
}

/** The layer of a weight, with the tap of its first use. */
function findTap(model: ModelProto, name = 'w', use = 0) {
  const { index, layers } = modelLayers(model)
  const layer = layers.find(({ constant }) => constant.name === name)
  if (!layer) throw new Error(`no layer ${name}`)
  return { index, layer, found: tapOf(layer.uses[use]!, layer, index) }
}

export function tapIn(model: ModelProto, name = 'w', use = 0) {
  const { found, ...rest } = findTap(model, name, use)
  if ('reason' in found) throw new Error(found.reason)
  return { ...rest, tap: found }
}

export function reasonIn(model: ModelProto, name = 'w'): string {
  const { found } = findTap(model, name)
  return 'reason' in found ? found.reason : 'has a tap'
}

const TYPES: Readonly<Record<string, number>> = {
  float: DataType.FLOAT,
  float16: DataType.FLOAT16,
  double: DataType.DOUBLE,
  int32: DataType.INT32,
}

export interface Feeds {
  readonly quantized: Readonly<Record<string, FeedTensor>>
  readonly float?: Readonly<Record<string, FeedTensor>>
  readonly weights?: readonly number[]
}

/** Statistics as plain arrays; `gram` and `cross` [block][K · K], sums [block][K]. */
export interface Statistics {
  readonly count: number
  readonly gram: number[][]
  readonly sum: number[][]
  readonly cross?: number[][]
  readonly crossSum?: number[][]
}

/** Run a tap's model; checks the shapes of what it returns. */
export async function runTap(tap: Tap, index: ModelIndex, feeds: Feeds, threads = 1): Promise<Statistics> {
  const { quantized, float, weights } = feeds
  const types = tap.reads.map((name) => {
    const { type, dims } = quantized[name]!
    return { dataType: TYPES[type]!, rank: dims.length }
  })
  const bytes = gramModel(tap, index, types, { cross: float !== undefined, weighted: weights !== undefined })
  const given = new Map<string, FeedTensor>()
  for (const name of tap.reads) {
    given.set(`quantized/${name}`, quantized[name]!)
    if (float) given.set(`float/${name}`, float[name]!)
  }
  if (weights) given.set('weights', feed([weights.length], Float32Array.from(weights)))
  const results = await runBytes(bytes, given, threads)
  const { blocks, cols } = tap
  const dims: Record<string, number[]> = { gram: [blocks, cols, cols], sum: [blocks, cols], count: [1] }
  if (float) Object.assign(dims, { cross: [blocks, cols, cols], crossSum: [blocks, cols] })
  expect(Object.fromEntries([...results].map(([name, tensor]) => [name, tensor.dims]))).toEqual(dims)
  expect([...results.values()].every(({ type }) => type === 'float')).toBe(true)
  const split = (name: string) => {
    const data = [...(results.get(name)!.data as Float32Array)]
    const size = data.length / blocks
    return Array.from({ length: blocks }, (_, b) => data.slice(b * size, (b + 1) * size))
  }
  const both = float ? { cross: split('cross'), crossSum: split('crossSum') } : {}
  return { count: results.get('count')!.data[0] as number, gram: split('gram'), sum: split('sum'), ...both }
}

/** x by block and position. */
export type Vectors = readonly (readonly (readonly number[])[])[]

/** Σ w, Σ w x xᵀ, … one product at a time. */
export function slowStatistics(x: Vectors, float?: Vectors, weights?: readonly number[]): Statistics {
  const w = (t: number) => weights?.[t] ?? 1
  const outer = (left: Vectors) =>
    x.map((positions, b) => {
      const K = positions[0]!.length
      return Array.from({ length: K * K }, (_, at) => {
        const [i, j] = [Math.floor(at / K), at % K]
        return positions.reduce((sum, own, t) => sum + w(t) * left[b]![t]![i]! * own[j]!, 0)
      })
    })
  const total = (vectors: Vectors) =>
    vectors.map((positions) => positions[0]!.map((_, i) => positions.reduce((sum, own, t) => sum + w(t) * own[i]!, 0)))
  return {
    count: x[0]!.reduce((sum, _, t) => sum + w(t), 0),
    gram: outer(x),
    sum: total(x),
    ...(float ? { cross: outer(float), crossSum: total(float) } : {}),
  }
}

/** Equal to 1e-5 of the largest number of each statistic. */
export function expectStatistics(actual: Statistics, expected: Statistics): void {
  expect(Object.keys(actual).sort()).toEqual(Object.keys(expected).sort())
  expect(actual.count).toBeCloseTo(expected.count, 3)
  for (const name of ['gram', 'sum', 'cross', 'crossSum'] as const) {
    const wanted = expected[name]
    if (wanted) expectClose(actual[name]!.flat(), wanted.flat(), name)
  }
}

export function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, what: string, tolerance = 1e-5) {
  expect(actual.length, `length of ${what}`).toBe(expected.length)
  const limit = tolerance * Array.from(expected).reduce((most, v) => Math.max(most, Math.abs(v)), 1e-30)
  for (let i = 0; i < expected.length; i++) {
    if (!(Math.abs(actual[i]! - expected[i]!) <= limit))
      expect.fail(`${what}[${i}]: wanted ${expected[i]}, found ${actual[i]}`)
  }
}

/** Rows of a weight as its layer sees them: (outer, inner) pairs by columns. */
export function rowsOf(layer: WeightedLayer, data: ArrayLike<number>): number[][] {
  const { outer, reduction, inner } = layer.view
  return Array.from({ length: outer * inner }, (_, row) => {
    const [o, i] = [Math.floor(row / inner), row % inner]
    return Array.from({ length: reduction }, (_, k) => data[(o * reduction + k) * inner + i]!)
  })
}

/** Σ over rows r of w_r H wᵣᵀ, H of the row's block: ‖Y‖² where Y holds every product w_r · x_t once. */
export function energy(rows: readonly (readonly number[])[], { gram }: Statistics): number {
  const share = rows.length / gram.length
  return rows.reduce((sum, row, r) => {
    const own = gram[Math.floor(r / share)]!
    return sum + row.reduce((s, a, i) => s + row.reduce((q, b, j) => q + a * b * own[i * row.length + j]!, 0), 0)
  }, 0)
}

export const squares = (values: ArrayLike<number>) => Array.from(values).reduce((sum, v) => sum + v * v, 0)

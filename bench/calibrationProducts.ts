/**
 * @file The matrix products that a calibration with Hessians cannot avoid, run by onnxruntime with the shapes of a model.
 *
 * For a group of layers that read one tensor of K columns, with N output rows in all, over T positions:
 *
 * - two Gram matrices, of the quantized inputs and of float with quantized inputs: 2·2·T·K² operations, float32
 * - one triangular factor: K³/3, float64, measured as a plain product of as many operations
 * - the column recurrence, N·K² (every column's error goes to the later columns only), and one sweep of coordinate descent,
 *   2·N·K² (the residual of all columns), float32
 *
 * and two forward passes of the model. A multiplication and an addition are two operations.
 */
import { readFileSync } from 'node:fs'
import { decodeNpy } from '../src/data/npy.ts'
import { DataType, encodeModel, makeModel, makeNode, makeOpset, makeValueInfo } from '../src/onnx/proto.ts'
import { makeRandom } from '../src/random.ts'
import { openSession } from '../src/runtime/session.ts'

/** Layers that read the same tensor. */
export interface LayerGroup {
  readonly columns: number
  /** Output rows of all its layers. */
  readonly rows: number
  readonly layers: readonly string[]
}

/** A number for each part: seconds of all batches, or operations. */
export interface ProductTimes {
  readonly gram: number
  readonly factor: number
  readonly updates: number
  readonly forward: number
}

interface Workload {
  readonly model: string
  /** .npy of the token ids, [sequences, length]. */
  readonly tokens: string
  readonly groups: readonly LayerGroup[]
  readonly sequences: number
  readonly length: number
  /** Share of the batches that are run; the rest is counted by scaling up. */
  readonly share: number
}

/** Positions of one Gram product. */
const BATCH_POSITIONS = 4096
/** Sequences of one forward pass: its logits are the largest tensor. */
const BATCH_SEQUENCES = 4

interface Shape {
  readonly m: number
  readonly n: number
  readonly k: number
  /** A is stored [k, m]. */
  readonly transA?: boolean
  readonly double?: boolean
}

/** Numbers in (−1, 1): no zeros and no denormals, which could be faster or slower than others. */
function fill<T extends Float32Array | Float64Array>(values: T): T {
  const random = makeRandom(1)
  const period = Array.from({ length: 4093 }, () => random.uniform() * 2 - 1)
  for (let i = 0; i < values.length; i++) values[i] = period[i % period.length]!
  return values
}

/** Mean seconds of C [m, n] = A·B over `runs` runs, after one that is not counted. */
async function timeProduct({ m, n, k, transA = false, double = false }: Shape, runs: number): Promise<number> {
  const elementType = double ? DataType.DOUBLE : DataType.FLOAT
  const bytes = encodeModel(
    makeModel({
      irVersion: 8n,
      opsetImport: [makeOpset('', 13)],
      graph: {
        name: 'product',
        node: [makeNode('Gemm', ['a', 'b'], ['c'], { attributes: { transA: transA ? 1 : 0 } })],
        input: ['a', 'b'].map((name) => makeValueInfo(name, elementType, [undefined, undefined])),
        output: [makeValueInfo('c', elementType, [undefined, undefined])],
      },
    }),
  )
  const session = await openSession({ bytes, path: 'product' })
  const tensor = (dims: readonly [number, number]) => ({
    type: double ? ('double' as const) : ('float' as const),
    dims,
    data: fill(double ? new Float64Array(dims[0] * dims[1]) : new Float32Array(dims[0] * dims[1])),
  })
  const feeds = new Map([
    ['a', tensor(transA ? [k, m] : [m, k])],
    ['b', tensor([k, n])],
  ])
  await session.run(feeds)
  const started = performance.now()
  for (let i = 0; i < runs; i++) await session.run(feeds)
  const seconds = (performance.now() - started) / 1000 / runs
  await session.dispose()
  return seconds
}

/** Seconds of all groups: equal shapes are measured once. */
async function timeGroups(
  groups: readonly LayerGroup[],
  runs: number,
  shapesOf: (group: LayerGroup) => readonly Shape[],
): Promise<number> {
  const known = new Map<string, number>()
  let sum = 0
  for (const shape of groups.flatMap(shapesOf)) {
    const key = JSON.stringify(shape)
    const seconds = known.get(key) ?? (await timeProduct(shape, runs))
    known.set(key, seconds)
    sum += seconds
  }
  return sum
}

/** Seconds of one forward pass over all sequences. */
async function timeForward({ model, tokens, sequences, length, share }: Workload): Promise<number> {
  const { data } = decodeNpy(new Uint8Array(readFileSync(tokens)), tokens)
  const session = await openSession(model)
  const [input] = session.inputs
  const run = (batch: number) => {
    const size = BATCH_SEQUENCES * length
    const ids = (data as BigInt64Array).subarray(batch * size, (batch + 1) * size)
    return session.run(
      new Map([[input!.name, { type: 'int64' as const, dims: [ids.length / length, length], data: ids }]]),
    )
  }
  await run(0)
  const batches = Math.ceil((share * sequences) / BATCH_SEQUENCES)
  const started = performance.now()
  for (let batch = 0; batch < batches; batch++) await run(batch)
  const seconds = (performance.now() - started) / 1000
  await session.dispose()
  return (seconds * sequences) / Math.min(sequences, batches * BATCH_SEQUENCES)
}

/** Run the products on part of the batches. */
export async function measureProducts(workload: Workload): Promise<ProductTimes> {
  const { groups, sequences, length, share } = workload
  const positions = sequences * length
  const batch = Math.min(BATCH_POSITIONS, positions)
  const batches = positions / batch
  const gram = await timeGroups(groups, Math.ceil(share * batches), ({ columns }) => [
    { m: columns, n: columns, k: batch, transA: true },
  ])
  const factor = await timeGroups(groups, 1, ({ columns }) => [
    { m: columns, n: columns, k: Math.ceil(columns / 6), double: true },
  ])
  const updates = await timeGroups(groups, 1, ({ columns, rows }) => [
    { m: rows, n: columns, k: Math.ceil(columns / 2) },
    { m: rows, n: columns, k: columns },
  ])
  return { gram: 2 * gram * batches, factor, updates, forward: 2 * (await timeForward(workload)) }
}

/** Operations of what {@link measureProducts} measures; those of attention are left out. */
export function countOperations(groups: readonly LayerGroup[], positions: number): ProductTimes {
  const sum = (of: (group: LayerGroup) => number) => groups.reduce((all, group) => all + of(group), 0)
  return {
    gram: sum(({ columns }) => 4 * positions * columns ** 2),
    factor: sum(({ columns }) => columns ** 3 / 3),
    updates: sum(({ columns, rows }) => 3 * rows * columns ** 2),
    forward: sum(({ columns, rows }) => 4 * positions * rows * columns),
  }
}

export interface BlockSize {
  readonly name: string
  readonly weightBytes: number
  readonly gramBytes: number
}

/**
 * The transformer block (layers whose names have the same number) with the most bytes: its weights in float32, and two
 * Gram matrices a group in float64. Layers without a number, such as the head, are no block.
 */
export function largestBlock(groups: readonly LayerGroup[]): BlockSize {
  const blocks = new Map<string, BlockSize>()
  for (const { columns, rows, layers } of groups) {
    const name = /^\D*\d+/.exec(layers[0]!)?.[0]
    if (name === undefined) continue
    const known = blocks.get(name) ?? { name, weightBytes: 0, gramBytes: 0 }
    blocks.set(name, {
      name,
      weightBytes: known.weightBytes + rows * columns * 4,
      gramBytes: known.gramBytes + 2 * columns * columns * 8,
    })
  }
  const size = (block: BlockSize) => block.weightBytes + block.gramBytes
  const largest = [...blocks.values()].sort((a, b) => size(b) - size(a))[0]
  if (!largest) throw new Error('no layer name has a number: the model has no blocks')
  return largest
}

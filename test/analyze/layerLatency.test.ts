/** Latencies of layers: what really runs, from tables that are made up, and one small table that is measured. */
import { beforeAll, describe, expect, it } from 'vitest'
import { inferShapes } from '../../src/analyze/inferShapes.ts'
import type { LatencyTimes } from '../../src/analyze/latencyFile.ts'
import { type LatencyQuestion, type LayerLatencies, layerLatencies } from '../../src/analyze/layerLatency.ts'
import { type Kernel, kernelName, type ProductShape } from '../../src/eval/kernelLatency.ts'
import { roofline } from '../../src/eval/roofline.ts'
import { intAttribute } from '../../src/onnx/attributes.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { loadModel } from '../../src/onnx/load.ts'
import type { ModelProto } from '../../src/onnx/proto.ts'
import { applyLayersInPlace } from '../../src/onnx/represent/apply.ts'
import { planLayer } from '../../src/onnx/represent/plan.ts'
import { storedTensors } from '../../src/onnx/represent/stored.ts'
import type { ProgressEvent } from '../../src/progress.ts'
import type { Bits } from '../../src/quant/quantizedWeight.ts'
import {
  branching,
  buildModel,
  DataType,
  floatWeight,
  makeNode,
  normalTensor,
  tensor,
  valueInfo,
  writeModel,
} from '../eval/models.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()
const WIDTHS: readonly Bits[] = [8, 6, 5, 4, 3, 2]
const FLOAT: Kernel = { form: 'float' }

/** A lookup in a tied embedding, two products of one weight, a convolution, and the product of the embedding. */
function network(): ModelProto {
  return buildModel({
    inputs: [valueInfo('ids', ['batch', 'seq'], DataType.INT64), valueInfo('image', [1, 8, 6, 6])],
    outputs: [valueInfo('logits', ['batch', 'seq', 48]), valueInfo('pixels', [1, 8, 4, 4])],
    initializers: [floatWeight('table', [48, 64], 1), floatWeight('w', [64, 64], 2), floatWeight('k', [8, 8, 3, 3], 3)],
    nodes: [
      makeNode('Gather', ['table', 'ids'], ['h0'], { name: 'lookup' }),
      makeNode('MatMul', ['h0', 'w'], ['h1'], { name: 'first' }),
      makeNode('MatMul', ['h1', 'w'], ['h2'], { name: 'second' }),
      makeNode('Transpose', ['table'], ['turned'], { attributes: { perm: [1, 0] } }),
      makeNode('MatMul', ['h2', 'turned'], ['logits'], { name: 'head' }),
      makeNode('Conv', ['image', 'k'], ['pixels'], { name: 'conv' }),
    ],
  })
}

const asModel = (proto: ModelProto) => ({ path: 'm.onnx', proto, payloads: new Map(), files: [] })

function question(
  proto: ModelProto,
  more: Partial<LatencyQuestion> = {},
  format: 'auto' | 'standard' = 'auto',
): LatencyQuestion {
  const level = more.accuracyLevel ?? 4
  const layers = modelLayers(asModel(proto).proto).layers.map((layer) => ({
    layer,
    options: WIDTHS.map((bits) => {
      const choice = { bits, groupSize: 32, symmetric: 'auto' as const }
      return { choice, plan: planLayer(layer, choice, { format, opset: 21, accuracyLevel: level }), storedBytes: 0 }
    }),
  }))
  return { model: asModel(proto), layers, positions: 5, accuracyLevel: level, threads: 1, ...more }
}

/** Different for every shape and kernel, with sums that tell which were added. */
const made = (shape: ProductShape, kernel: Kernel) => {
  const text = `${shape.rows} ${shape.cols} ${shape.positions} ${kernelName(kernel)}`
  let hash = 7
  for (const letter of text) hash = (hash * 31 + letter.charCodeAt(0)) % 1_000_003
  return (1 + hash) * 1e-6
}

const KERNELS: readonly Kernel[] = [
  FLOAT,
  ...([2, 4, 8] as const).flatMap((bits) =>
    ([0, 4] as const).map((accuracyLevel): Kernel => ({ form: 'MatMulNBits', bits, groupSize: 32, accuracyLevel })),
  ),
]

function madeUp(
  positions: readonly number[],
  models: { structure: string; positions: number; seconds: number }[] = [],
): LatencyTimes {
  const entries = [64, 48].flatMap((rows) =>
    positions.flatMap((count) =>
      KERNELS.map((kernel) => {
        const shape = { rows, cols: 64, positions: count }
        return { ...shape, kernel, seconds: made(shape, kernel) }
      }),
    ),
  )
  return { kind: 'measured', table: { machine: 'a fake', threads: 1, source: 'measured', entries }, models }
}

/** Kernels of the products in the file that a layer's plan is written as, in order. */
function writtenKernels(bits: Bits, weight: string, accuracyLevel: 0 | 4): Kernel[] {
  const proto = network()
  const layer = modelLayers(proto).layers.find(({ constant }) => constant.name === weight)!
  const plan = planLayer(
    layer,
    { bits, groupSize: 32, symmetric: 'auto' },
    { format: 'auto', opset: 21, accuracyLevel },
  )
  const tensors = storedTensors(plan, true, 'float32')
  const payloads = tensors.map(({ bytes }) => ({ kind: 'planned' as const, byteLength: bytes }))
  const model = asModel(proto)
  applyLayersInPlace(model, [{ plan, tensors, payloads }], accuracyLevel)
  return model.proto
    .graph!.node.filter((node) => node.opType === 'MatMulNBits')
    .map((node) => ({
      form: 'MatMulNBits',
      bits: intAttribute(node, 'bits', 0) as 4,
      groupSize: intAttribute(node, 'block_size', 0),
      accuracyLevel: intAttribute(node, 'accuracy_level', 0) as 4,
    }))
}

describe('latencies of layers', () => {
  it.each([0, 4] as const)('are those of the kernels in the written file, level %i', async (accuracyLevel) => {
    const asked = question(network(), { accuracyLevel, times: madeUp([5]) })
    const { float, options, source } = await layerLatencies(asked)
    const names = asked.layers.map(({ layer }) => layer.constant.name)
    expect(names).toEqual(['table', 'w', 'k'])
    const head = { rows: 48, cols: 64, positions: 5 }
    const body = { rows: 64, cols: 64, positions: 5 }
    expect(float).toEqual([made(head, FLOAT), 2 * made(body, FLOAT), 0])
    WIDTHS.forEach((bits, k) => {
      const [one] = writtenKernels(bits, 'table', accuracyLevel)
      expect(options[0]![k]).toBe(made(head, one!))
      const two = writtenKernels(bits, 'w', accuracyLevel)
      expect(two).toHaveLength(2)
      expect(options[1]![k]).toBe(made(body, two[0]!) + made(body, two[1]!))
      expect(options[2]![k]).toBe(0)
    })
    // 3 bits run as 4, but as 8 in the table, whose rows are looked up too.
    expect(options[0]![4]).toBe(options[0]![0])
    expect(options[1]![4]).toBe(options[1]![3])
    expect(source).toBe('measured')
  })

  it('take positions from shapes where the model fixes them', async () => {
    const proto = (dims: readonly (number | string)[]) =>
      buildModel({
        inputs: [valueInfo('x', [...dims.slice(0, -1), 64])],
        outputs: [valueInfo('y', dims)],
        initializers: [floatWeight('w', [64, 48], 1)],
        nodes: [makeNode('MatMul', ['x', 'w'], ['y'], { name: 'product' })],
      })
    for (const [dims, positions] of [
      [['batch', 'seq', 48], 5],
      [['batch', 48], 5],
      [['batch', 1, 48], 5],
      [['batch', 7, 48], 7],
      [[2, 7, 48], 14],
      [[3, 48], 3],
      [[2, 'seq', 48], 5],
    ] as const) {
      const { float } = await layerLatencies(question(proto(dims), { times: madeUp([3, 5, 7, 14]) }))
      expect(float, dims.join(' ')).toEqual([made({ rows: 48, cols: 64, positions }, FLOAT)])
    }
  })

  it('take shapes that the runtime infers', async () => {
    const proto = network()
    // h1 and h2 are declared nowhere: only the runtime knows that they are [2, 7, 64].
    proto.graph!.input[0] = buildModel({ inputs: [valueInfo('ids', [2, 7], 7)], outputs: [], nodes: [] }).graph!
      .input[0]!
    proto.graph!.output[0] = buildModel({ inputs: [], outputs: [valueInfo('logits', [2, 7, 48])], nodes: [] }).graph!
      .output[0]!
    const asked = question(proto)
    const shapes = await inferShapes(asked.model, modelLayers(proto))
    const { float } = await layerLatencies({ ...asked, shapes, times: madeUp([14]) })
    expect(float[1]).toBe(2 * made({ rows: 64, cols: 64, positions: 14 }, FLOAT))
  })

  it('of products in branches are counted once, with a note', async () => {
    const inner = (name: string) =>
      buildModel({
        inputs: [],
        outputs: [valueInfo(`${name}.y`, ['seq', 48])],
        initializers: [floatWeight(`${name}.w`, [64, 48], 1)],
        nodes: [makeNode('MatMul', ['x', `${name}.w`], [`${name}.y`], { name: `${name}.product` })],
      })
    const proto = buildModel({
      inputs: [valueInfo('x', ['seq', 64]), valueInfo('c', [], DataType.BOOL)],
      outputs: [valueInfo('y', ['seq', 48])],
      nodes: [branching('c', 'y', inner('a'), inner('b'))],
    })
    const { float, notes } = await layerLatencies(question(proto, { times: madeUp([5]) }))
    const seconds = made({ rows: 48, cols: 64, positions: 5 }, FLOAT)
    expect(float).toEqual([seconds, seconds])
    expect(notes).toContain('2 layers in loops or branches: counted as if run once')
  })

  it('note what DequantizeLinear decodes in every run', async () => {
    const { options, float, notes } = await layerLatencies(question(network(), { times: madeUp([5]) }, 'standard'))
    expect(notes.join()).toContain('1 layer that DequantizeLinear decodes in every run: not counted')
    expect(options[2]!.every((seconds) => seconds === float[2])).toBe(true)
  })

  it('that a file lacks are an error that says which', async () => {
    const asked = question(network(), { positions: 6, times: madeUp([5]) })
    await expect(layerLatencies(asked)).rejects.toMatchObject({
      code: 'usage',
      message: 'the latencies of a fake lack [6, 64] × [64, 48], float',
    })
    await expect(layerLatencies({ ...asked, positions: 0.5 })).rejects.toThrow(RangeError)
  })

  it('come from a roofline, without the rest', async () => {
    const machine = { flopsPerSecond: 1e9, bytesPerSecond: 1e9, speedup: { 4: 2 } }
    const found = await layerLatencies(question(network(), { times: { kind: 'roofline', machine } }))
    const body = { rows: 64, cols: 64, positions: 5 }
    const nibbles: Kernel = { form: 'MatMulNBits', bits: 4, groupSize: 32, accuracyLevel: 4 }
    expect(found.options[1]![3]).toBe(2 * roofline(machine, body, nibbles))
    expect(found).toMatchObject({ rest: 0, source: 'roofline', times: { kind: 'roofline', machine } })
    expect(found.notes).toHaveLength(1)
    expect(found.notes[0]).toMatch(/^a roofline says nothing of other operators/)
  })
})

describe('measured on this machine', () => {
  let asked: LatencyQuestion
  let found: LayerLatencies
  const events: ProgressEvent[] = []
  beforeAll(async () => {
    const model = loadModel(writeModel(temp, 'network.onnx', network()))
    const feeds = new Map([
      ['ids', tensor('int64', [1, 5], BigInt64Array.from([1n, 2n, 3n, 4n, 5n]))],
      ['image', normalTensor([1, 8, 6, 6], 1)],
    ])
    asked = { ...question(model.proto), model, feeds }
    found = await layerLatencies(asked, { onProgress: (event) => events.push(event) })
  })

  it('every kernel once, and the float model', () => {
    if (found.times.kind !== 'measured') throw new Error(found.times.kind)
    const { table, models } = found.times
    // Six widths, three kernels.
    const kernels = ['float', ...[2, 4, 8].map((bits) => `${bits}-bit MatMulNBits in blocks of 32, level 4`)]
    expect(table.entries.map(({ rows, kernel }) => `${rows} ${kernelName(kernel)}`).sort()).toEqual(
      [48, 64].flatMap((rows) => kernels.map((kernel) => `${rows} ${kernel}`)).sort(),
    )
    expect(models).toHaveLength(1)
    expect(models[0]!.seconds).toBeGreaterThan(0)
    const inProducts = found.float[0]! + found.float[1]! + found.float[2]!
    expect(found.rest).toBe(Math.max(0, models[0]!.seconds - inProducts))
    expect(found.float.map((seconds) => seconds > 0)).toEqual([true, true, false])
    expect(events.map(({ stage, done, total }) => [stage, done, total])).toEqual([
      ['measure', 0, 2],
      ['measure', 1, 2],
    ])
  })

  it('kept times give the same latencies, without measuring', async () => {
    expect(await layerLatencies({ ...asked, feeds: undefined, times: found.times })).toEqual(found)
  })

  it('the rest is what the float model takes besides', async () => {
    if (found.times.kind !== 'measured') throw new Error(found.times.kind)
    const { table, models } = found.times
    const withWhole = (seconds: number, more: Partial<LatencyQuestion> = {}) =>
      layerLatencies({ ...asked, times: { kind: 'measured', table, models: [{ ...models[0]!, seconds }] }, ...more })
    const slow = await withWhole(10)
    expect(slow.rest + slow.float[0]! + slow.float[1]!).toBeCloseTo(10, 12)
    expect(slow.notes).toEqual([])
    const fast = await withWhole(1e-9)
    expect(fast.rest).toBe(0)
    expect(fast.notes).toEqual([expect.stringMatching(/^the float model runs faster than its products do one by one/)])
    expect((await withWhole(10, { threads: 0 })).notes).toEqual([
      'latencies are those with 1 thread, not with one thread per core',
    ])
  })

  it('the rest belongs to the structure, not to the weights', async () => {
    const times: LatencyTimes =
      found.times.kind === 'measured'
        ? { ...found.times, models: [{ ...found.times.models[0]!, seconds: 10 }] }
        : found.times
    const tuned = network()
    tuned.graph!.initializer[1] = floatWeight('w', [64, 64], 99)
    expect((await layerLatencies(question(tuned, { times }))).rest).toBeGreaterThan(9)
    const longer = network()
    longer.graph!.node.push(makeNode('Neg', ['pixels'], ['minus'], { name: 'neg' }))
    const other = await layerLatencies(question(longer, { times }))
    expect(other.rest).toBe(0)
    expect(other.notes).toEqual([expect.stringMatching(/^how long the float model takes is not known/)])
  })

  it('stops when it is told to', async () => {
    const signal = AbortSignal.abort()
    await expect(layerLatencies(asked, { signal })).rejects.toMatchObject({ code: 'interrupted' })
  })
})

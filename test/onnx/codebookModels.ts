/** @file Models with one weight that is indices into tables, and what onnxruntime must compute from them. */
import * as ort from 'onnxruntime-node'
import { expect } from 'vitest'
import { QUANTIZE_DEFAULTS } from '../../src/config.ts'
import { setAttributeInPlace } from '../../src/onnx/attributes.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import type { OnnxModel, Payload } from '../../src/onnx/model.ts'
import { DataType, encodeModel, type ModelProto, makeNode, makeOpset, makeTensor } from '../../src/onnx/proto.ts'
import { packLayer } from '../../src/onnx/represent/packLayer.ts'
import { type LayerPlan, planLayer, type Target } from '../../src/onnx/represent/plan.ts'
import { groupsOf, rowsOf, storedBytes } from '../../src/onnx/represent/stored.ts'
import {
  type CodebookForm,
  type CodebookWeight,
  type Coding,
  type IndexBits,
  lanesOf,
  tableLength,
} from '../../src/quant/codebookWeight.ts'
import { floatToHalf } from '../../src/quant/float16.ts'
import { dequantize } from '../../src/quant/quantizedWeight.ts'
import { buildOutput } from '../../src/quantize/buildOutput.ts'
import { makeRandom } from '../../src/random.ts'
import { model, value } from '../helpers/smallModels.ts'
import { codebookValues } from '../oracles/storedCodebookOracle.ts'

export interface Form {
  readonly bits: IndexBits
  readonly form: CodebookForm
}

export const one = (coding: Coding, shared = false): CodebookForm => ({ coding, tables: 1, shared, permuted: false })
export const scalar = (tables: number, permuted = false): CodebookForm => ({
  ...one({ kind: 'scalar' }),
  tables,
  permuted,
})

/** All forms, for a weight of some rows. */
export function formsOf(rows: number): Form[] {
  const tables = [1, 3, 20, rows].filter((t) => t <= rows)
  return [
    ...([2, 3, 4] as const).flatMap((bits) => tables.map((t, i) => ({ bits, form: scalar(t, i === 1) }))),
    { bits: 4, form: one({ kind: 'scalar' }, true) },
    { bits: 2, form: one({ kind: 'vector', dim: 4 }) },
    { bits: 4, form: one({ kind: 'vector', dim: 2 }) },
    ...([2, 3, 4] as const).flatMap((bits) =>
      ([8, 12] as const).map((window) => ({ bits, form: one({ kind: 'trellis', window }, true) })),
    ),
  ]
}

export const nameOf = ({ bits, form }: Form) =>
  `${bits} bits, ${Object.values(form.coding).join(' ')}, ${form.tables} tables${form.shared ? ', shared' : ''}`

/** A weight of the planned form with random contents. */
export function randomWeight(plan: LayerPlan, seed = 1): CodebookWeight {
  const random = makeRandom(seed)
  const rows = rowsOf(plan)
  const cols = plan.layer.view.reduction
  const bits = plan.bits as IndexBits
  const { coding, tables, permuted, runs } = plan.codebook!
  const codes = (coding.kind === 'vector' ? lanesOf(coding, rows) : rows) * cols
  const ofRow = (n: number) => (tables === rows ? n : permuted ? random.below(tables) : Math.floor((n * tables) / rows))
  return {
    ...{ rows, cols, bits, coding, groupSize: plan.groupSize, scaleType: 'float16' },
    codes: Uint8Array.from({ length: codes }, () => random.below(coding.kind === 'vector' ? 256 : 2 ** bits)),
    tables: Int8Array.from({ length: tables * tableLength(coding, bits) }, () => random.below(255) - 127),
    tableOf: runs
      ? Uint16Array.from(runs.flatMap((count, table) => new Array<number>(count).fill(table)))
      : Uint16Array.from({ length: rows }, (_, n) => ofRow(n)),
    scales: Float32Array.from({ length: rows * groupsOf(plan) }, () => (1 + random.below(63)) / 64),
  }
}

/** What the definition says, [rows · cols]. */
export function definition(weight: CodebookWeight): Float32Array {
  const { coding } = weight
  const size = coding.kind === 'vector' ? coding.dim : coding.kind === 'trellis' ? coding.window : 0
  return Float32Array.from(codebookValues({ ...weight, kind: coding.kind, size }).flat())
}

type Graph = 'MatMul' | 'Gemm' | 'Conv' | 'Gather' | 'tied'

/** A model with weight `w` of N rows and K columns, whose output y shows the weight itself: x is the unit matrix. */
export function source(graph: Graph, rows: number, cols: number, dataType: number): ModelProto {
  const dims = graph === 'MatMul' ? [cols, rows] : graph === 'Conv' ? [rows, cols, 1] : [rows, cols]
  const bytes = new Uint8Array(rows * cols * (dataType === DataType.FLOAT ? 4 : 2))
  const transposed = makeNode('Transpose', ['w'], ['wt'], { attributes: { perm: [1, 0] } })
  const nodes = {
    MatMul: [makeNode('MatMul', ['x', 'w'], ['y'], { name: 'layer' })],
    Gemm: [makeNode('Gemm', ['x', 'w', 'c'], ['y'], { name: 'layer', attributes: { transB: 1 } })],
    Conv: [makeNode('Conv', ['x', 'w'], ['y'], { name: 'layer' })],
    Gather: [makeNode('Gather', ['w', 'i'], ['y'], { name: 'layer' })],
    tied: [
      makeNode('Gather', ['w', 'i'], ['e'], { name: 'layer' }),
      transposed,
      makeNode('MatMul', ['x', 'wt'], ['y'], { name: 'head' }),
    ],
  }[graph]
  const bias = makeTensor({
    name: 'c',
    dataType,
    dims: [BigInt(rows)],
    rawData: new Uint8Array(Float32Array.from({ length: rows }, (_, i) => i - 3).buffer),
  })
  const x = graph === 'Conv' ? [1, cols, cols] : [cols, cols]
  const inputs = { x: value('x', x, dataType), i: value('i', [2, rows], DataType.INT64) }
  const looks = graph === 'Gather' || graph === 'tied'
  return model(
    {
      node: nodes,
      initializer: [
        makeTensor({ name: 'w', dataType, dims: dims.map(BigInt), rawData: bytes }),
        ...(graph === 'Gemm' ? [bias] : []),
      ],
      input: [...(graph === 'Gather' ? [] : [inputs.x]), ...(looks ? [inputs.i] : [])],
      output: [
        ...(graph === 'Gather' ? [] : [value('y', graph === 'Conv' ? [1, rows, cols] : [cols, rows], dataType)]),
        ...(looks ? [value(graph === 'tied' ? 'e' : 'y', [2, rows, cols], dataType)] : []),
      ],
    },
    { opsetImport: [makeOpset('', 17)] },
  )
}

export function planFor(
  proto: ModelProto,
  { bits, form }: Form,
  groupSize: number | 'channel',
  target: Target,
): LayerPlan {
  const layer = modelLayers(proto).layers.find(({ constant }) => constant.name === 'w')!
  return planLayer(layer, { bits, groupSize, symmetric: 'auto', codebook: form }, target)
}

export function write(
  proto: ModelProto,
  layers: { plan: LayerPlan; weight: CodebookWeight }[],
  target: Target,
): OnnxModel {
  const files: OnnxModel = { path: 'm.onnx', proto, payloads: new Map(), files: [] }
  const stored = layers.map(({ plan, weight }) => {
    const packed = packLayer(plan, weight)
    const payloads = packed.bytes.map((bytes): Payload => ({ kind: 'memory', byteLength: bytes.length, bytes }))
    return {
      plan,
      choice: { scheme: 'symmetric' as const, method: 'minmax' as const },
      tensors: packed.tensors,
      payloads,
    }
  })
  const { model: built, written } = buildOutput(files, stored, [], target, QUANTIZE_DEFAULTS, {
    version: 'test',
    sha256: ['0'],
  })
  expect(written.length).toBeGreaterThan(0)
  return built
}

/** Bytes of the tensors that hold something of a layer: all but small constants that any layer shares. */
export function tensorBytes({ proto, payloads }: OnnxModel): number {
  return proto
    .graph!.initializer.filter(({ name }) => /^qtool\/\d/.test(name))
    .reduce((sum, tensor) => sum + (payloads.get(tensor)?.byteLength ?? tensor.rawData.length), 0)
}

export async function outputs(
  built: OnnxModel,
  feeds: Record<string, ort.Tensor>,
  accuracy?: 0,
  optimizedModelFilePath?: string,
): Promise<Record<string, Float32Array>> {
  for (const [tensor, payload] of built.payloads) {
    if (payload.kind === 'memory') tensor.rawData = new Uint8Array(payload.bytes)
  }
  if (accuracy === 0) {
    for (const n of built.proto.graph!.node) if (n.opType === 'MatMulNBits') setAttributeInPlace(n, 'accuracy_level', 0)
  }
  const session = await ort.InferenceSession.create(encodeModel(built.proto), {
    logSeverityLevel: 4,
    intraOpNumThreads: 1,
    ...(optimizedModelFilePath ? { optimizedModelFilePath } : {}),
    ...(accuracy === 0 ? { extra: { session: { qdq_matmulnbits_accuracy_level: '0' } } } : {}),
  })
  const result = await session.run(feeds)
  await session.release()
  return Object.fromEntries(
    Object.entries(result).map(([name, { data }]) => [name, Float32Array.from(data as Float32Array)]),
  )
}

export const halves = (values: Float32Array) => Uint16Array.from(values, floatToHalf)

/** Unit matrix, and all rows forwards and, with negative indices, backwards. */
export function feedsFor(graph: Graph, rows: number, cols: number): Record<string, ort.Tensor> {
  const unit = new Float32Array(cols * cols)
  for (let k = 0; k < cols; k++) unit[k * cols + k] = 1
  const x = new ort.Tensor('float32', unit, graph === 'Conv' ? [1, cols, cols] : [cols, cols])
  const index = BigInt64Array.from({ length: 2 * rows }, (_, i) => (i < rows ? BigInt(i) : BigInt(rows - i - 1)))
  const i = new ort.Tensor('int64', index, [2, rows])
  return { ...(graph === 'Gather' ? {} : { x }), ...(graph === 'Gather' || graph === 'tied' ? { i } : {}) }
}

/** What the outputs must be when the weight is `real` [rows, cols]. */
export function expectedOutputs(
  graph: Graph,
  rows: number,
  cols: number,
  real: Float32Array,
): Record<string, Float32Array> {
  const bias = graph === 'Gemm' ? 1 : 0
  const columns = Float32Array.from({ length: rows * cols }, (_, i) => {
    const n = i % rows
    return real[n * cols + Math.floor(i / rows)]! + bias * (n - 3)
  })
  const looked = new Float32Array(2 * rows * cols)
  for (let n = 0; n < rows; n++) {
    looked.set(real.subarray(n * cols, (n + 1) * cols), n * cols)
    looked.set(real.subarray((rows - 1 - n) * cols, (rows - n) * cols), (rows + n) * cols)
  }
  if (graph === 'Gather') return { y: looked }
  if (graph === 'tied') return { y: columns, e: looked }
  return { y: graph === 'Conv' ? real : columns }
}

export async function check(
  form: Form,
  graph: Graph,
  [rows, cols]: readonly [number, number],
  {
    format = 'auto',
    groupSize = 'channel',
    opset,
    smallTable = 0,
  }: { format?: Target['format']; groupSize?: number | 'channel'; opset?: number; smallTable?: number } = {},
) {
  const proto = source(graph, rows, cols, DataType.FLOAT)
  const target: Target = { format, opset: opset ?? (format === 'standard' ? 21 : 18), accuracyLevel: 0, smallTable }
  const plan = planFor(proto, form, groupSize, target)
  const what = `${nameOf(form)}, ${graph} ${rows} × ${cols}, ${format}, ${groupSize}`
  expect(plan.codebook, what).toBe(form.form)
  const weight = randomWeight(plan)
  const real = definition(weight)
  expect(dequantize(weight), what).toEqual(real)
  const built = write(proto, [{ plan, weight }], target)
  expect(tensorBytes(built), what).toBe(storedBytes(plan, true, 'float16'))
  if (format === 'standard')
    expect(
      built.proto.graph!.node.filter(({ domain }) => domain !== ''),
      what,
    ).toEqual([])
  const found = await outputs(built, feedsFor(graph, rows, cols), 0)
  for (const [name, expected] of Object.entries(expectedOutputs(graph, rows, cols, real))) {
    expect(firstDifference(found[name]!, expected), `${name} of ${what}`).toBe('none')
  }
}

export function firstDifference(found: Float32Array, expected: Float32Array): string {
  if (found.length !== expected.length) return `${found.length} values, not ${expected.length}`
  const at = expected.findIndex((v, i) => v !== found[i])
  return at < 0 ? 'none' : `at ${at}: ${found[at]}, not ${expected[at]}`
}

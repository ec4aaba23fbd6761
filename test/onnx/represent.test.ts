/**
 * Every representation, run by onnxruntime: a model whose weight was replaced by random codes must compute what the
 * original computes with the dequantized weight in its place. Packing, node building and attributes are all in the path.
 */
import * as ort from 'onnxruntime-node'
import { describe, expect, it } from 'vitest'
import { QUANTIZE_DEFAULTS } from '../../src/config.ts'
import { setAttributeInPlace } from '../../src/onnx/attributes.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import type { OnnxModel } from '../../src/onnx/model.ts'
import {
  DataType,
  encodeModel,
  type GraphProto,
  type ModelProto,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
} from '../../src/onnx/proto.ts'
import { packLayer } from '../../src/onnx/represent/packLayer.ts'
import { type LayerPlan, planLayer, type Target } from '../../src/onnx/represent/plan.ts'
import { groupsOf, rowsOf } from '../../src/onnx/represent/stored.ts'
import { BITS, type Bits, dequantize, type QuantizedWeight } from '../../src/quant/quantizedWeight.ts'
import { buildOutput } from '../../src/quantize/buildOutput.ts'
import { makeRandom } from '../../src/random.ts'

interface Case {
  readonly name: string
  readonly weight: readonly number[]
  readonly input: readonly number[]
  readonly inputType?: 'float' | 'int64'
  readonly graph: Partial<Pick<GraphProto, 'node'>>
  readonly extra?: Record<string, readonly number[]>
}

const node = makeNode
const CASES: Case[] = [
  {
    name: 'MatMul',
    weight: [70, 9],
    input: [3, 70],
    graph: { node: [node('MatMul', ['x', 'w'], ['y'], { name: 'mm' })] },
  },
  {
    name: 'MatMul through Transpose',
    weight: [9, 64],
    input: [3, 64],
    graph: {
      node: [
        node('Transpose', ['w'], ['wt'], { attributes: { perm: [1, 0] } }),
        node('MatMul', ['x', 'wt'], ['y'], { name: 'mm' }),
      ],
    },
  },
  {
    name: 'Gemm transB alpha beta',
    weight: [5, 40],
    input: [3, 40],
    extra: { c: [5] },
    graph: {
      node: [
        node('Gemm', ['x', 'w', 'c'], ['y'], {
          name: 'g',
          attributes: { transB: 1, alpha: { float: 0.5 }, beta: { float: 2 } },
        }),
      ],
    },
  },
  {
    name: 'Gemm transA, row bias',
    weight: [40, 5],
    input: [40, 3],
    extra: { c: [1, 5] },
    graph: { node: [node('Gemm', ['x', 'w', 'c'], ['y'], { name: 'g', attributes: { transA: 1 } })] },
  },
  {
    name: 'FusedMatMul transB',
    weight: [5, 40],
    input: [3, 40],
    graph: {
      node: [
        node('FusedMatMul', ['x', 'w'], ['y'], {
          name: 'f',
          domain: 'com.microsoft',
          attributes: { transB: 1, alpha: { float: 0.25 } },
        }),
      ],
    },
  },
  { name: 'weight on the left', weight: [7, 50], input: [50, 4], graph: { node: [node('MatMul', ['w', 'x'], ['y'])] } },
  {
    name: 'batched MatMul',
    weight: [2, 36, 5],
    input: [2, 3, 36],
    graph: { node: [node('MatMul', ['x', 'w'], ['y'])] },
  },
  {
    name: 'Conv 2-D',
    weight: [6, 4, 3, 3],
    input: [1, 4, 7, 7],
    graph: { node: [node('Conv', ['x', 'w'], ['y'], { attributes: { pads: [1, 1, 1, 1] } })] },
  },
  {
    name: 'depthwise Conv',
    weight: [8, 1, 3, 3],
    input: [1, 8, 6, 6],
    graph: { node: [node('Conv', ['x', 'w'], ['y'], { attributes: { group: 8 } })] },
  },
  {
    name: 'ConvTranspose',
    weight: [32, 3, 2, 2],
    input: [1, 32, 4, 4],
    graph: { node: [node('ConvTranspose', ['x', 'w'], ['y'], { attributes: { strides: [2, 2] } })] },
  },
  {
    name: 'embedding',
    weight: [21, 48],
    input: [2, 5],
    inputType: 'int64',
    graph: { node: [node('Gather', ['w', 'x'], ['y'], { name: 'emb' })] },
  },
  {
    name: 'embedding of odd width',
    weight: [21, 37],
    input: [2, 5],
    inputType: 'int64',
    graph: { node: [node('Gather', ['w', 'x'], ['y'], { name: 'emb' })] },
  },
  {
    name: 'tied embedding and head',
    weight: [20, 64],
    input: [2, 5],
    inputType: 'int64',
    graph: {
      node: [
        node('Gather', ['w', 'x'], ['e'], { name: 'emb' }),
        node('Transpose', ['w'], ['wt'], { attributes: { perm: [1, 0] } }),
        node('MatMul', ['e', 'wt'], ['y'], { name: 'head' }),
      ],
    },
  },
  {
    name: 'MatMul and element-wise reader',
    weight: [32, 6],
    input: [3, 32],
    graph: {
      node: [
        node('MatMul', ['x', 'w'], ['a'], { name: 'mm' }),
        node('ReduceMax', ['w'], ['m'], { attributes: { keepdims: 0 } }),
        node('Add', ['a', 'm'], ['y']),
      ],
    },
  },
]

const OPSET = 17

function makeCase(c: Case, weight: Float32Array): { proto: ModelProto; feeds: Record<string, ort.Tensor> } {
  const random = makeRandom(7)
  const count = c.input.reduce((a, b) => a * b, 1)
  const type = c.inputType === 'int64' ? DataType.INT64 : DataType.FLOAT
  const tensor = (name: string, dims: readonly number[], data: Float32Array) =>
    makeTensor({ name, dataType: DataType.FLOAT, dims: dims.map(BigInt), rawData: new Uint8Array(data.slice().buffer) })
  const extra = Object.entries(c.extra ?? {}).map(([name, dims]) =>
    tensor(
      name,
      dims,
      Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => random.normal()),
    ),
  )
  const value = (name: string, elemType: number, dims?: readonly number[]) => ({
    name,
    type: {
      value: {
        case: 'tensorType' as const,
        value: {
          elemType,
          ...(dims
            ? { shape: { dim: dims.map((d) => ({ value: { case: 'dimValue' as const, value: BigInt(d) } })) } }
            : {}),
        },
      },
    },
  })
  const proto = makeModel({
    irVersion: 8n,
    opsetImport: [makeOpset('', OPSET), makeOpset('com.microsoft', 1)],
    graph: {
      name: 'g',
      node: c.graph.node!,
      initializer: [tensor('w', c.weight, weight), ...extra],
      input: [value('x', type, c.input)],
      output: [value('y', DataType.FLOAT)],
    },
  })
  const x =
    c.inputType === 'int64'
      ? new ort.Tensor(
          'int64',
          BigInt64Array.from({ length: count }, () => BigInt(random.below(c.weight[0]!))),
          c.input,
        )
      : new ort.Tensor(
          'float32',
          Float32Array.from({ length: count }, () => random.normal()),
          c.input,
        )
  return { proto, feeds: { x } }
}

function randomWeight(plan: LayerPlan, symmetric: boolean, seed: number): QuantizedWeight {
  const random = makeRandom(seed)
  const rows = rowsOf(plan)
  const cols = plan.layer.view.reduction
  const groups = groupsOf(plan)
  const levels = 2 ** plan.bits
  return {
    rows,
    cols,
    bits: plan.bits,
    groupSize: plan.groupSize,
    codes: Uint8Array.from({ length: rows * cols }, () => random.below(levels)),
    scales: Float32Array.from({ length: rows * groups }, () => (1 + random.below(63)) / 64),
    zeroPoints: symmetric ? undefined : Uint8Array.from({ length: rows * groups }, () => random.below(levels)),
    scaleType: 'float16',
  }
}

/** The dequantized weight in the layout of the stored tensor. */
function storedLayout(plan: LayerPlan, real: Float32Array): Float32Array {
  const { outer, reduction, inner } = plan.layer.view
  const out = new Float32Array(real.length)
  for (let a = 0; a < outer; a++)
    for (let k = 0; k < reduction; k++)
      for (let c = 0; c < inner; c++) out[(a * reduction + k) * inner + c] = real[(a * inner + c) * reduction + k]!
  return out
}

async function run(bytes: Uint8Array, feeds: Record<string, ort.Tensor>): Promise<Float32Array> {
  const session = await ort.InferenceSession.create(bytes, { logSeverityLevel: 4, intraOpNumThreads: 1 })
  const y = (await session.run(feeds)).y!.data as Float32Array
  await session.release()
  return y
}

function inlined(model: OnnxModel): Uint8Array {
  for (const [tensor, payload] of model.payloads) {
    if (payload.kind !== 'memory') throw new Error('contents are not here')
    tensor.rawData = new Uint8Array(payload.bytes)
  }
  return encodeModel(model.proto)
}

async function checkCase(
  c: Case,
  bits: Bits,
  groupSize: number | 'channel',
  symmetric: boolean,
  format: Target['format'],
) {
  const count = c.weight.reduce((a, b) => a * b, 1)
  const { proto, feeds } = makeCase(c, new Float32Array(count))
  const source: OnnxModel = { path: 'm.onnx', proto, payloads: new Map(), files: [] }
  const target: Target = { format, opset: format === 'standard' ? 21 : 18, accuracyLevel: 0 }
  const plan = planLayer(
    modelLayers(proto).layers.find((l) => l.constant.name === 'w')!,
    { bits, groupSize, symmetric: 'auto' },
    target,
  )
  const weight = randomWeight(plan, symmetric, bits * 100 + count)
  const packed = packLayer(plan, weight)
  const { model, written } = buildOutput(
    source,
    [
      {
        plan,
        choice: { scheme: symmetric ? 'symmetric' : 'asymmetric', method: 'minmax' },
        tensors: packed.tensors,
        payloads: packed.bytes.map((bytes) => ({ kind: 'memory', byteLength: bytes.length, bytes })),
      },
    ],
    [],
    target,
    QUANTIZE_DEFAULTS,
    { version: 'test', sha256: ['0'] },
  )
  expect(written.length).toBeGreaterThan(0)
  // Float activations everywhere: this test is about weights.
  for (const n of model.proto.graph!.node) if (n.opType === 'MatMulNBits') setAttributeInPlace(n, 'accuracy_level', 0)
  if (format === 'standard') {
    const domains = model.proto.graph!.node.map((n) => n.domain)
    expect(domains.filter((d) => d !== '' && c.name !== 'FusedMatMul transB')).toEqual([])
  }
  const reference = makeCase(c, storedLayout(plan, dequantize(weight)))
  const expected = await run(encodeModel(reference.proto), reference.feeds)
  const session = await ort.InferenceSession.create(inlined(model), {
    logSeverityLevel: 4,
    intraOpNumThreads: 1,
    extra: { session: { qdq_matmulnbits_accuracy_level: '0' } },
  })
  const actual = (await session.run(feeds)).y!.data as Float32Array
  await session.release()
  const largest = expected.reduce((m, v) => Math.max(m, Math.abs(v)), 0)
  const worst = actual.reduce((m, v, i) => Math.max(m, Math.abs(v - expected[i]!)), 0)
  expect(actual.length).toBe(expected.length)
  expect(
    worst / largest,
    `${bits} bits, group ${groupSize}, ${symmetric ? 'symmetric' : 'asymmetric'}, ${plan.uses}`,
  ).toBeLessThan(2e-6)
}

for (const format of ['auto', 'contrib', 'standard'] as const) {
  describe(`format ${format}`, () => {
    for (const c of CASES) {
      it(c.name, async () => {
        for (const bits of BITS) {
          for (const groupSize of [16, 32, 'channel'] as const) {
            for (const symmetric of [true, false]) await checkCase(c, bits, groupSize, symmetric, format)
          }
        }
      })
    }
  })
}

import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  copiesFor,
  type Kernel,
  kernelModel,
  kernelName,
  kernelsOf,
  measureKernels,
} from '../../src/eval/kernelLatency.ts'
import { measureTable, secondsOf } from '../../src/eval/latencyTable.ts'
import { parseProfile, profileRun } from '../../src/eval/profile.ts'
import { intAttribute } from '../../src/onnx/attributes.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { encodeModel, type ModelProto } from '../../src/onnx/proto.ts'
import { applyLayersInPlace } from '../../src/onnx/represent/apply.ts'
import { type LayerPlan, planLayer, type Target } from '../../src/onnx/represent/plan.ts'
import { storedTensors } from '../../src/onnx/represent/stored.ts'
import type { Bits } from '../../src/quant/quantizedWeight.ts'
import { openSession } from '../../src/runtime/session.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { buildModel, floatWeight, makeNode, normalTensor, valueInfo, writeModel } from './models.ts'

const lowBit = (bits: 2 | 4 | 8, groupSize: number, accuracyLevel: 0 | 4): Kernel => ({
  form: 'MatMulNBits',
  bits,
  groupSize,
  accuracyLevel,
})
const temp = useTempDir()

const FLOAT: Kernel = { form: 'float' }

/** y = x · w, and with `isTied` an embedding lookup in the same w. */
function productModel(cols: number, isTied: boolean): ModelProto {
  const weight = floatWeight('w', isTied ? [48, cols] : [cols, 48], 1)
  const nodes = isTied
    ? [
        makeNode('Gather', ['w', 'ids'], ['rows'], { name: 'lookup' }),
        makeNode('Transpose', ['w'], ['wT'], { attributes: { perm: [1, 0] } }),
        makeNode('MatMul', ['x', 'wT'], ['y'], { name: 'product' }),
      ]
    : [makeNode('MatMul', ['x', 'w'], ['y'], { name: 'product' })]
  return buildModel({
    inputs: [valueInfo('x', [2, cols]), ...(isTied ? [valueInfo('ids', [3], 7)] : [])],
    outputs: [valueInfo('y', [2, 48]), ...(isTied ? [valueInfo('rows', [3, cols])] : [])],
    initializers: [weight],
    nodes,
  })
}

/** The model with zeros for codes, written as its plan says. */
function written(proto: ModelProto, bits: Bits, groupSize: number | 'channel', target: Target) {
  const layer = modelLayers(proto).layers[0]!
  const plan = planLayer(layer, { bits, groupSize, symmetric: 'auto' }, target)
  const tensors = storedTensors(plan, true, 'float32')
  const payloads = tensors.map(({ bytes }) => ({
    kind: 'memory' as const,
    byteLength: bytes,
    bytes: new Uint8Array(bytes),
  }))
  const model = { path: 'm.onnx', proto, payloads: new Map(), files: [] }
  applyLayersInPlace(model, [{ plan, tensors, payloads }], target.accuracyLevel)
  // Bytes in the message itself, for a file.
  for (const [tensor, payload] of model.payloads as Map<{ rawData: Uint8Array }, { bytes: Uint8Array }>) {
    tensor.rawData = payload.bytes
  }
  return { plan, proto: model.proto }
}

describe('kernelsOf', () => {
  const widths: Bits[] = [2, 3, 4, 5, 6, 8]
  const auto = (accuracyLevel: 0 | 4): Target => ({ format: 'auto', opset: 21, accuracyLevel })

  it.each([0, 4] as const)('names the kernels that are written at accuracy level %i', (level) => {
    for (const isTied of [false, true]) {
      for (const bits of widths) {
        for (const groupSize of [16, 32, 256, 'channel'] as const) {
          const { plan, proto } = written(productModel(80, isTied), bits, groupSize, auto(level))
          const node = proto.graph!.node.find((n) => n.opType === 'MatMulNBits')!
          const attribute = (name: string) => intAttribute(node, name, -1)
          const kernel = lowBit(attribute('bits') as 2, attribute('block_size'), attribute('accuracy_level') as 4)
          expect(
            kernelsOf(plan, level).filter(({ form }) => form !== 'float'),
            plan.storage,
          ).toEqual([kernel])
          expect(kernelsOf(plan, level)).toHaveLength(plan.layer.uses.length)
        }
      }
    }
  })

  it('decodes 3 bits into the 4-bit kernel, 5 and 6 into that of 8', () => {
    const kernels = widths.map((bits) => kernelsOf(written(productModel(64, false), bits, 32, auto(0)).plan, 0)[0])
    expect(kernels).toEqual([
      lowBit(2, 32, 4),
      lowBit(4, 32, 0),
      lowBit(4, 32, 0),
      ...[5, 6, 8].map(() => lowBit(8, 32, 4)),
    ])
  })

  it('knows what the runtime makes of DequantizeLinear', async () => {
    const standard: Target = { format: 'standard', opset: 21, accuracyLevel: 0 }
    for (const [bits, groupSize, kernel] of [
      [4, 32, lowBit(4, 32, 4)],
      [8, 'channel', lowBit(8, 32, 4)],
      [5, 32, lowBit(8, 32, 4)],
    ] as const) {
      const { plan, proto } = written(productModel(64, false), bits, groupSize, standard)
      expect(kernelsOf(plan, 0)).toEqual([kernel])
      const file = writeModel(temp, `${bits}.onnx`, proto)
      const executed = await profileRun(file, new Map([['x', normalTensor([2, 64], 1)]]), 1)
      expect(executed.map((node) => node.operator)).toContain('MatMulNBits')
    }
  })

  it('leaves a product in float whose weight is decoded for another reader as well', async () => {
    const proto = productModel(64, false)
    proto.graph!.node.push(makeNode('Neg', ['w'], ['minus'], { name: 'neg' }))
    proto.graph!.output.push(
      buildModel({ inputs: [], outputs: [valueInfo('minus', [64, 48])], nodes: [] }).graph!.output[0]!,
    )
    const { plan, proto: model } = written(proto, 4, 32, { format: 'standard', opset: 21, accuracyLevel: 4 })
    expect(plan.uses).toEqual(['DequantizeLinear'])
    expect(kernelsOf(plan, 4)).toEqual([FLOAT])
    const file = writeModel(temp, 'shared.onnx', model)
    const executed = await profileRun(file, new Map([['x', normalTensor([2, 64], 1)]]), 1)
    expect(executed.map((node) => node.operator)).not.toContain('MatMulNBits')
  })

  it('leaves convolutions in float', () => {
    const proto = buildModel({
      inputs: [valueInfo('x', [1, 4, 8, 8])],
      outputs: [valueInfo('y', [1, 8, 6, 6])],
      initializers: [floatWeight('w', [8, 4, 3, 3], 1)],
      nodes: [makeNode('Conv', ['x', 'w'], ['y'], { name: 'conv' })],
    })
    for (const format of ['auto', 'standard'] as const) {
      const plan: LayerPlan = written(structuredClone(proto), 4, 32, { format, opset: 21, accuracyLevel: 4 }).plan
      expect(kernelsOf(plan, 4)).toEqual([FLOAT])
    }
  })
})

describe('timed models', () => {
  it('run each of their products in the kernel they are named after, whatever is fetched', async () => {
    const shape = { rows: 32, cols: 64, positions: 2 }
    const feeds = new Map([['x', normalTensor([2, 64], 1)]])
    for (const kernel of [FLOAT, lowBit(4, 32, 0), lowBit(2, 64, 4), lowBit(8, 16, 4)]) {
      const bytes = encodeModel(kernelModel(shape, kernel, 3))
      const prefix = kernelName(kernel).replaceAll(' ', '-')
      const session = await openSession({ bytes, path: prefix }, { threads: 1, profilePrefix: path.join(temp, prefix) })
      await session.run(feeds, ['y0'])
      session.endProfiling()
      await session.dispose()
      const file = fs.readdirSync(temp).find((name) => name.startsWith(`${prefix}_`))!
      const executed = parseProfile(fs.readFileSync(path.join(temp, file), 'utf8'))
      const operator = kernel.form === 'float' ? 'MatMul' : 'MatMulNBits'
      expect(executed.map((node) => node.operator)).toEqual([operator, operator, operator])
    }
  })

  it('have few copies of large weights, and no more than 32 of small ones', () => {
    expect([8, 1024, 4096].map((n) => copiesFor({ rows: n, cols: n, positions: 1 }))).toEqual([32, 4, 1])
  })
})

describe('measuring', () => {
  const options = { threads: 1, runs: 5, copies: 4 }

  it('gives the time of one product, which grows with the product', async () => {
    const kernels = [FLOAT, lowBit(4, 32, 4)]
    const small = await measureKernels({ rows: 32, cols: 32, positions: 1 }, kernels, options)
    const large = await measureKernels({ rows: 512, cols: 512, positions: 16 }, kernels, options)
    for (const k of [0, 1]) {
      expect(small[k]).toBeGreaterThan(0)
      expect(large[k]).toBeGreaterThan(2 * small[k]!)
      // 8.4 million floating-point operations take at least microseconds, and no second.
      expect(large[k]).toBeGreaterThan(2e-6)
      expect(large[k]).toBeLessThan(0.5)
    }
  })

  it('measures each shape and kernel once, with the float product', async () => {
    const shape = { rows: 16, cols: 32, positions: 2 }
    const other = { ...shape, positions: 1 }
    const four = lowBit(4, 32, 4)
    const requests = [
      { shape, kernels: [four] },
      { shape: { ...shape }, kernels: [lowBit(8, 32, 4), FLOAT, { ...four }] },
      { shape: other, kernels: [] },
    ]
    const table = await measureTable(requests, options)
    expect(table.entries.map((e) => `${e.positions} ${kernelName(e.kernel)}`)).toEqual([
      '2 float',
      '2 4-bit MatMulNBits in blocks of 32, level 4',
      '2 8-bit MatMulNBits in blocks of 32, level 4',
      '1 float',
    ])
    const read = JSON.parse(JSON.stringify(table))
    expect(read).toEqual(table)
    expect(read).toMatchObject({ source: 'measured', threads: 1, machine: expect.stringContaining('cores') })
    expect(secondsOf(read, other, FLOAT)).toBe(table.entries[3]!.seconds)
    expect(secondsOf(read, other, four)).toBeUndefined()
  })

  it('stops when aborted, and says which kernel does not exist', async () => {
    const shape = { rows: 16, cols: 32, positions: 1 }
    const aborted = measureKernels(shape, [FLOAT], options, { signal: AbortSignal.abort() })
    await expect(aborted).rejects.toMatchObject({ code: 'interrupted' })
    await expect(measureKernels(shape, [lowBit(4, 8, 4)], options)).rejects.toMatchObject({
      code: 'model',
      message: expect.stringContaining('4-bit MatMulNBits in blocks of 8'),
    })
  })
})

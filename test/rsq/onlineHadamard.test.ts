/** Transforms inside the graph: the layers compute the same on what is transformed. */
import { describe, expect, it } from 'vitest'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import {
  DataType,
  type ModelProto,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
  makeValueInfo,
} from '../../src/onnx/proto.ts'
import { tensorBytes } from '../../src/onnx/tensorData.ts'
import { floatToHalf, halfToFloat } from '../../src/quant/float16.ts'
import { makeRandom } from '../../src/random.ts'
import { insertHadamards, type OnlineHadamards } from '../../src/rsq/onlineHadamard.ts'
import { inMemory } from './headModels.ts'
import { runModel } from './streamModels.ts'
import { type FloatType, type LinearForm, Parts } from './streamParts.ts'

const OPTIONS = { seed: 4, largest: 64 }

interface FeedForwardOptions {
  readonly type?: FloatType
  readonly hidden?: number
  readonly form?: LinearForm
  /** Takes away what tells the number of axes of the hidden tensor. */
  readonly unknownRank?: boolean
}

/** x → relu(x·up) → down and side, which both read the hidden tensor; y = down + side. */
function feedForward({
  type = 'double',
  hidden = 96,
  form = 'matmul',
  unknownRank,
}: FeedForwardOptions = {}): ModelProto {
  const parts = new Parts(24, type, 5)
  parts.linear('x', 'up', [24, hidden])
  parts.add('Relu', ['up'], 'hidden')
  parts.linear('hidden', 'down', [hidden, 24], { form, bias: true })
  parts.linear('hidden', 'side', [hidden, 24])
  parts.add('Add', ['down', 'side'], 'y')
  const dims = unknownRank ? undefined : [undefined, undefined, 24]
  const graph = {
    name: 'g',
    node: parts.nodes,
    initializer: parts.tensors,
    input: [makeValueInfo('x', parts.elementType, dims)],
    output: [makeValueInfo('y')],
  }
  return makeModel({ irVersion: 10n, opsetImport: [makeOpset('', 17)], graph })
}

function feeds(type: FloatType, lead: readonly number[]): Map<string, FeedTensor> {
  const random = makeRandom(2)
  const dims = [...lead, 24]
  const values = Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => random.normal())
  return new Map([
    ['x', { type, dims, data: type === 'double' ? Float64Array.from(values) : Float32Array.from(values) }],
  ])
}

const layersOf = (proto: ModelProto, ...names: readonly string[]) =>
  proto.graph!.node.filter(({ name }) => names.includes(name))

/** What onnxruntime reads. */
function whole({ model }: OnlineHadamards): ModelProto {
  for (const tensor of model.proto.graph!.initializer) {
    if (model.payloads.has(tensor)) tensor.rawData = new Uint8Array(tensorBytes(model, tensor))
  }
  return model.proto
}

async function largestDifference(a: ModelProto, b: ModelProto, given: Map<string, FeedTensor>): Promise<number> {
  const [x, y] = [(await runModel(a, given)).get('y')!, (await runModel(b, given)).get('y')!]
  expect(y.dims).toEqual(x.dims)
  const [p, q] = [Array.from(x.data as Float64Array), Array.from(y.data as Float64Array)]
  return Math.max(...p.map((value, i) => Math.abs(value - q[i]!))) / Math.max(...p.map(Math.abs))
}

describe('a transform inside the graph', () => {
  it.each<readonly [string, FeedForwardOptions, readonly string[], number]>([
    ['one layer, block 48 of 96', {}, ['down/product'], 48],
    ['both layers of a tensor', {}, ['down/product', 'side'], 48],
    ['both, unknown rank', { unknownRank: true }, ['down/product', 'side'], 48],
    ['block 64 of 192', { hidden: 192 }, ['down/product', 'side'], 64],
    ['block 60 of 180', { hidden: 180 }, ['side'], 60],
    ['Gemm', { form: 'gemm' }, ['down/gemm'], 48],
    ['float32', { type: 'float' }, ['down/product', 'side'], 48],
  ])('leaves the outputs as they are: %s', async (_, options, names, block) => {
    const proto = feedForward(options)
    const done = insertHadamards(inMemory(proto), layersOf(proto, ...names), OPTIONS)
    expect(done.refused).toEqual([])
    expect(done.copies).toEqual([])
    expect(done.transforms.map((each) => [each.block, each.layers])).toEqual([[block, names]])
    const type = options.type ?? 'double'
    const after = whole(done)
    const products = (model: ModelProto) => model.graph!.node.filter(({ opType }) => opType === 'MatMul').length
    expect(products(after)).toBe(products(proto) + 1)
    const leads = options.unknownRank
      ? [[2, 5], [7], [2, 2, 3]]
      : [
          [2, 5],
          [1, 1],
          [3, 2],
        ]
    for (const lead of leads) {
      expect(await largestDifference(proto, after, feeds(type, lead))).toBeLessThan(type === 'double' ? 1e-13 : 1e-5)
    }
  })

  it('also where the weight is stored with another axis and read through a Reshape, whose shape something asks for', async () => {
    const proto = feedForward()
    const { node, initializer } = proto.graph!
    const weight = initializer.find(({ name }) => name === 'side.weight')!
    weight.dims = [96n, 1n, 24n]
    const shape = new Uint8Array(BigInt64Array.from([96n, 24n]).buffer)
    initializer.push(makeTensor({ name: 'matrixShape', dims: [2n], dataType: DataType.INT64, rawData: shape }))
    const [side] = layersOf(proto, 'side')
    side!.input[1] = 'side.matrix'
    node.unshift(
      makeNode('Reshape', ['side.weight', 'matrixShape'], ['side.matrix']),
      makeNode('Shape', ['side.weight'], ['asked']),
    )
    proto.graph!.output.push(makeValueInfo('asked'))
    const done = insertHadamards(inMemory(proto), [side!], OPTIONS)
    expect(done.refused).toEqual([])
    expect(done.transforms.map(({ layers }) => layers)).toEqual([['side']])
    expect(await largestDifference(proto, whole(done), feeds('double', [2, 5]))).toBeLessThan(1e-13)
  })

  it('really transforms: an outlier channel of the input is spread over its block', async () => {
    const proto = feedForward()
    const done = insertHadamards(inMemory(proto), layersOf(proto, 'side'), OPTIONS)
    const after = whole(done)
    const side = after.graph!.node.find(({ name }) => name === 'side')!
    after.graph!.output.push(makeValueInfo('hidden'), makeValueInfo(side.input[0]!))
    const results = await runModel(after, feeds('double', [1, 1]))
    const [before, turned] = [results.get('hidden')!, results.get(side.input[0]!)!].map(
      ({ data }) => data as Float64Array,
    )
    const energy = (values: Float64Array) => values.reduce((sum, x) => sum + x * x, 0)
    for (const at of [0, 48]) {
      const parts = [before!.slice(at, at + 48), turned!.slice(at, at + 48)]
      expect(energy(parts[1]!)).toBeCloseTo(energy(parts[0]!), 10)
      expect(parts[0]).not.toEqual(parts[1])
    }
    // The block's matrix and the rotated weight give the old weight.
    expect(done.model.proto.graph!.initializer.some(({ name }) => name === 'hadamard_48')).toBe(true)
  })

  it('makes up for the rounding of the block in half precision', () => {
    const proto = feedForward({ hidden: 32 })
    const random = makeRandom(8)
    const weights = Float32Array.from({ length: 32 * 24 }, () => halfToFloat(floatToHalf(random.normal())))
    const bytes = new Uint8Array(Uint16Array.from(weights, floatToHalf).buffer)
    const at = proto.graph!.initializer.findIndex(({ name }) => name === 'side.weight')
    proto.graph!.initializer[at] = makeTensor({
      name: 'side.weight',
      dims: [32n, 24n],
      dataType: DataType.FLOAT16,
      rawData: bytes,
    })
    const { model } = insertHadamards(inMemory(proto), layersOf(proto, 'side'), OPTIONS)
    const halves = (name: string) => {
      const tensor = model.proto.graph!.initializer.find((each) => each.name === name)!
      const raw = new Uint8Array(tensorBytes(model, tensor))
      return Float64Array.from(new Uint16Array(raw.buffer), halfToFloat)
    }
    const [block, turned] = [halves('hadamard_32'), halves('side.weight')]
    let along = 0
    let square = 0
    for (let i = 0; i < 32; i++) {
      for (let j = 0; j < 24; j++) {
        let back = 0
        for (let k = 0; k < 32; k++) back += block[i * 32 + k]! * turned[k * 24 + j]!
        along += back * weights[i * 24 + j]!
        square += weights[i * 24 + j]! ** 2
      }
    }
    // 1/√32 in half precision is too small by 1.05e-4.
    expect(Math.abs(along / square - 1)).toBeLessThan(4e-5)
  })

  it('is refused with a reason, and nothing changes', () => {
    const refusals = (proto: ModelProto, ...names: readonly string[]) => {
      const done = insertHadamards(inMemory(proto), layersOf(proto, ...names), OPTIONS)
      expect(done.transforms).toEqual([])
      expect(done.model.proto).toEqual(proto)
      return done.refused
    }
    const prefix = 'no transform before it: '
    expect(refusals(feedForward({ hidden: 92 }), 'side')).toEqual([
      { node: 'side', reason: `${prefix}no block from 16 to 64 divides its 92 inputs` },
    ])
    expect(refusals(feedForward(), 'hidden')).toEqual([
      { node: 'hidden', reason: `${prefix}it does not multiply data with a stored matrix` },
    ])
    const shared = feedForward()
    shared.graph!.node.find(({ name }) => name === 'side')!.input[1] = 'down.weight'
    expect(refusals(shared, 'side')).toEqual([{ node: 'side', reason: `${prefix}its weight is used elsewhere` }])
  })
})

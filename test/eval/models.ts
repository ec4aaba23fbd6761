/** @file Small models and data sets for the tests of this folder. */
import fs from 'node:fs'
import path from 'node:path'
import { type Dataset, upTo } from '../../src/data/dataset.ts'
import type { FeedTensor, FeedType } from '../../src/data/modelInput.ts'
import {
  DataType,
  encodeModel,
  type ModelProto,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
  type NodeProto,
  type TensorProto,
} from '../../src/onnx/proto.ts'
import { makeRandom } from '../../src/random.ts'

export { DataType, makeNode }

type Dims = readonly (number | string)[]

export function valueInfo(name: string, dims: Dims, elemType = DataType.FLOAT) {
  const dim = dims.map((d) => ({
    value:
      typeof d === 'number' ? { case: 'dimValue' as const, value: BigInt(d) } : { case: 'dimParam' as const, value: d },
  }))
  return { name, type: { value: { case: 'tensorType' as const, value: { elemType, shape: { dim } } } } }
}

const bytesOf = (data: ArrayBufferView) => new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)

export function constant(name: string, dims: readonly number[], data: ArrayBufferView, dataType: number): TensorProto {
  return makeTensor({ name, dims: dims.map(BigInt), dataType, rawData: bytesOf(data) })
}

const count = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

/** Standard normal float32 weights. */
export function floatWeight(name: string, dims: readonly number[], seed: number, scale = 1): TensorProto {
  const random = makeRandom(seed)
  return constant(
    name,
    dims,
    Float32Array.from({ length: count(dims) }, () => scale * random.normal()),
    DataType.FLOAT,
  )
}

/** Random bytes as codes; 4-bit types have two in a byte. */
export function codes(name: string, dims: readonly number[], dataType: number, seed: number): TensorProto {
  const random = makeRandom(seed)
  const halves = dataType === DataType.INT4 || dataType === DataType.UINT4
  const length = Math.ceil(count(dims) / (halves ? 2 : 1))
  return constant(
    name,
    dims,
    Uint8Array.from({ length }, () => random.below(256)),
    dataType,
  )
}

let scales = 0

/**
 * A scale of its own: onnxruntime makes one constant of equal scalars, and a DequantizeLinear whose scale has another
 * reader is not fused.
 */
export function scale(name: string, dims: readonly number[] = [], value = 1 / (64 + scales++)): TensorProto {
  return constant(name, dims, new Float32Array(count(dims)).fill(value), DataType.FLOAT)
}

export interface GraphParts {
  readonly inputs: readonly ReturnType<typeof valueInfo>[]
  readonly outputs: readonly ReturnType<typeof valueInfo>[]
  readonly initializers?: readonly TensorProto[]
  readonly nodes: readonly NodeProto[]
}

export function buildModel(parts: GraphParts): ModelProto {
  return makeModel({
    irVersion: 10n,
    opsetImport: [makeOpset('', 21), makeOpset('com.microsoft', 1)],
    graph: {
      name: 'g',
      input: [...parts.inputs],
      output: [...parts.outputs],
      initializer: [...(parts.initializers ?? [])],
      node: [...parts.nodes],
    },
  })
}

/** A MatMulNBits node of 4 (or `bits`) bits, block 32, with its constants. */
export function matMulNBits(
  name: string,
  input: string,
  output: string,
  K: number,
  N: number,
  options: { bits?: number; accuracyLevel?: number; seed?: number } = {},
): { node: NodeProto; initializers: TensorProto[] } {
  const { bits = 4, accuracyLevel = 4, seed = 1 } = options
  const blocks = Math.ceil(K / 32)
  return {
    node: makeNode('MatMulNBits', [input, `${name}.B`, `${name}.S`], [output], {
      name,
      domain: 'com.microsoft',
      attributes: { K, N, bits, block_size: 32, accuracy_level: accuracyLevel },
    }),
    initializers: [
      codes(`${name}.B`, [N, blocks, 4 * bits], DataType.UINT8, seed),
      scale(`${name}.S`, [N, blocks], 2 ** -bits),
    ],
  }
}

/** Node `If` on `condition` with two graphs as branches. */
export function branching(condition: string, output: string, thenGraph: ModelProto, elseGraph: ModelProto): NodeProto {
  const attribute = (name: string, { graph }: ModelProto) => ({ name, type: 5, g: { ...graph!, name } })
  const attributes = [attribute('then_branch', thenGraph), attribute('else_branch', elseGraph)]
  const node = makeNode('If', [condition], [output], { name: 'if' })
  node.attribute = makeModel({ graph: { node: [{ attribute: attributes }] } }).graph!.node[0]!.attribute
  return node
}

export function writeModel(directory: string, name: string, model: ModelProto): string {
  const file = path.join(directory, name)
  fs.writeFileSync(file, encodeModel(model))
  return file
}

export function tensor(type: FeedType, dims: readonly number[], data: FeedTensor['data']): FeedTensor {
  return { type, dims, data }
}

export function normalTensor(dims: readonly number[], seed: number): FeedTensor {
  const random = makeRandom(seed)
  return tensor(
    'float',
    dims,
    Float32Array.from({ length: count(dims) }, () => random.normal()),
  )
}

/** A data set of tensors whose first axis is samples, all of them sliced alike. */
export function datasetOf(
  feeds: Readonly<Record<string, FeedTensor>>,
  labels?: readonly number[],
  order = upTo(Object.values(feeds)[0]!.dims[0]!),
): Dataset {
  return {
    count: order.length,
    notes: [],
    filled: [],
    order,
    labels: labels && Int32Array.from(order, (sample) => labels[sample]!),
    exactBatch: undefined,
    *batches(batchSize) {
      for (let start = 0; start < order.length; start += batchSize) {
        const samples = order.subarray(start, start + batchSize)
        const picked = Object.entries(feeds).map(([name, whole]) => [name, pick(whole, samples)] as const)
        yield { feeds: new Map(picked), count: samples.length, start }
      }
    },
    subset: (indices) =>
      datasetOf(
        feeds,
        labels,
        Int32Array.from(indices, (place) => order[place]!),
      ),
  }
}

/** Samples of a tensor, in this order. */
function pick({ type, dims, data }: FeedTensor, samples: Int32Array): FeedTensor {
  const per = data.length / dims[0]!
  const picked = data.slice(0, samples.length * per)
  samples.forEach((sample, i) => {
    picked.set(data.subarray(sample * per, (sample + 1) * per) as never, i * per)
  })
  return tensor(type, [samples.length, ...dims.slice(1)], picked)
}

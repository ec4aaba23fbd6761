/** @file Networks whose channels can be permuted, or just not. Weights are integers, so that every sum is exact, or any numbers. */
import type { FeedTensor } from '../../src/data/modelInput.ts'
import type { OnnxModel } from '../../src/onnx/model.ts'
import {
  type AttributeValue,
  DataType,
  encodeModel,
  type ModelProto,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
  makeValueInfo,
  type NodeProto,
  type TensorProto,
} from '../../src/onnx/proto.ts'
import { tensorBytes } from '../../src/onnx/tensorData.ts'
import { floatToHalf } from '../../src/quant/float16.ts'
import { makeRandom } from '../../src/random.ts'
import { openSession } from '../../src/runtime/session.ts'

export type Numbers = 'integers' | 'numbers'
type Attributes = Readonly<Record<string, AttributeValue>>

/** A network in the making, from x to y. */
export class Net {
  readonly nodes: NodeProto[] = []
  readonly tensors: TensorProto[] = []
  readonly outputs = ['y']
  readonly numbers: Numbers
  readonly #random = makeRandom(11)

  constructor(numbers: Numbers) {
    this.numbers = numbers
  }

  /** Integers of −3 … 3, or normal numbers; above 0 where asked. */
  #value(positive: boolean): number {
    const value = this.numbers === 'integers' ? this.#random.below(7) - 3 : 0.4 * this.#random.normal()
    return positive ? Math.abs(value) + 1 : value
  }

  weight(name: string, dims: readonly number[], { half = false, positive = false } = {}): string {
    const values = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => this.#value(positive))
    const data = half ? Uint16Array.from(values, floatToHalf) : values
    const dataType = half ? DataType.FLOAT16 : DataType.FLOAT
    this.tensors.push(makeTensor({ name, dataType, dims: dims.map(BigInt), rawData: new Uint8Array(data.buffer) }))
    return name
  }

  constant(dims: readonly number[], values: readonly number[]): string {
    const name = `c${this.tensors.length}`
    const rawData = new Uint8Array(Float32Array.from(values).buffer)
    this.tensors.push(makeTensor({ name, dataType: DataType.FLOAT, dims: dims.map(BigInt), rawData }))
    return name
  }

  integers(values: readonly number[], dims: readonly number[] = [values.length]): string {
    const name = `i${this.tensors.length}`
    const rawData = new Uint8Array(BigInt64Array.from(values, BigInt).buffer)
    this.tensors.push(makeTensor({ name, dataType: DataType.INT64, dims: dims.map(BigInt), rawData }))
    return name
  }

  /** Returns its (first) output. */
  op(opType: string, inputs: readonly string[], attributes: Attributes = {}, output?: string, domain = ''): string {
    const made = output ?? `${opType}${this.nodes.length}`
    this.nodes.push(makeNode(opType, inputs, [made], { name: `n/${made}`, attributes, domain }))
    return made
  }

  /** Multiples of 1/16 as integers: whatever an activation does, sums behind it are exact. */
  settle(name: string): string {
    return this.numbers === 'integers' ? this.op('Round', [this.op('Mul', [name, this.constant([], [16])])]) : name
  }

  /** x·W + b. */
  linear(name: string, x: string, from: number, to: number, output?: string): string {
    const product = this.op('MatMul', [x, this.weight(`${name}.weight`, [from, to])])
    return this.op('Add', [product, this.weight(`${name}.bias`, [to])], {}, output)
  }

  conv(name: string, x: string, dims: readonly number[], attributes: Attributes = {}, output?: string): string {
    const weights = [this.weight(`${name}.weight`, dims), this.weight(`${name}.bias`, dims.slice(0, 1))]
    const same = { pads: dims.slice(2).flatMap((k) => [k >> 1, k >> 1]) }
    return this.op('Conv', [x, ...weights], { ...same, ...attributes }, output)
  }

  norm(name: string, x: string, channels: number): string {
    const vectors = ['scale', 'shift', 'mean'].map((kind) => this.weight(`${name}.${kind}`, [channels]))
    return this.op('BatchNormalization', [x, ...vectors, this.weight(`${name}.var`, [channels], { positive: true })])
  }

  /** @param dims of x. */
  model(dims: readonly (number | undefined)[], opset = 17): ModelProto {
    const graph = {
      name: 'g',
      node: this.nodes,
      initializer: this.tensors,
      input: [makeValueInfo('x', DataType.FLOAT, dims)],
      output: this.outputs.map((name) => makeValueInfo(name)),
    }
    return makeModel({ irVersion: 8n, opsetImport: [makeOpset('', opset), makeOpset('com.microsoft', 1)], graph })
  }
}

/** A model whose tensors have their bytes in themselves. */
export function inMemory(proto: ModelProto): OnnxModel {
  return { path: 'model.onnx', proto, payloads: new Map(), files: [] }
}

/** Bytes of every initializer by name. */
export function bytesOf(model: OnnxModel): Map<string, Buffer> {
  return new Map(model.proto.graph!.initializer.map((t) => [t.name, Buffer.from(tensorBytes(model, t))]))
}

/** Run a model on x, with no node changed by the runtime. */
export async function run(model: OnnxModel, dims: readonly number[], numbers: Numbers): Promise<Float32Array> {
  const random = makeRandom(3)
  const next = () => (numbers === 'integers' ? random.below(9) - 4 : random.normal())
  const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, next)
  const whole = makeModel(model.proto)
  for (const tensor of whole.graph!.initializer) tensor.rawData = new Uint8Array(tensorBytes(model, tensor))
  const source = { bytes: encodeModel(whole), path: 'model.onnx' }
  const session = await openSession(source, { threads: 1, optimization: 'disabled' })
  try {
    const outputs = await session.run(new Map<string, FeedTensor>([['x', { type: 'float', dims: [...dims], data }]]))
    return outputs.get('y')!.data as Float32Array
  } finally {
    await session.dispose()
  }
}

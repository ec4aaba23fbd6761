/**
 * @file Seeded small models, one kind of network each, and data for them with what makes calibration matter: correlated
 * channels, a few of them far larger than the rest, means that are not zero. The numbers of a model and of its data come from
 * different seeds, so any number of samples of the same kind can be drawn.
 */
import fs from 'node:fs'
import path from 'node:path'
import * as ort from 'onnxruntime-node'
import {
  type AttributeValue,
  DataType,
  decodeModel,
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
import { floatToHalf } from '../../src/quant/float16.ts'
import { makeRandom, type Random } from '../../src/random.ts'
import { writeNpy } from '../oracles/npy.ts'

/** Values of the one input, sample by sample. */
export interface Samples {
  readonly type: 'float32' | 'int64'
  /** Of one sample. */
  readonly shape: readonly number[]
  readonly values: readonly number[]
}

export interface SmallModel {
  readonly name: string
  readonly proto: ModelProto
  /** Draw samples; other seeds give other samples of the same kind. */
  readonly draw: (count: number, seed: number) => Samples
  /** The input takes float16. */
  readonly half: boolean
}

/** Collects tensors and nodes; every node's output has the name that is asked for. */
class Builder {
  readonly #random: Random
  readonly initializer: TensorProto[] = []
  readonly node: NodeProto[] = []
  readonly #half: boolean

  constructor(seed: number, half = false) {
    this.#random = makeRandom(seed)
    this.#half = half
  }

  /** A tensor of normal numbers times `scale`. */
  weight(name: string, dims: readonly number[], scale: number): string {
    const count = dims.reduce((a, b) => a * b, 1)
    return this.numbers(
      name,
      dims,
      Array.from({ length: count }, () => this.#random.normal() * scale),
    )
  }

  numbers(name: string, dims: readonly number[], values: readonly number[]): string {
    this.initializer.push(tensorOf(name, dims, values, this.#half))
    return name
  }

  add(op: string, inputs: readonly string[], output: string, attributes: Record<string, AttributeValue> = {}): string {
    this.node.push(makeNode(op, inputs, [output], { name: output, attributes }))
    return output
  }
}

function tensorOf(name: string, dims: readonly number[], values: readonly number[], half: boolean): TensorProto {
  const numbers = half ? Uint16Array.from(values, floatToHalf) : Float32Array.from(values)
  const rawData = new Uint8Array(numbers.buffer)
  return makeTensor({ name, dims: dims.map(BigInt), dataType: half ? DataType.FLOAT16 : DataType.FLOAT, rawData })
}

type Dims = readonly (number | undefined)[]

function modelOf(
  { initializer, node }: Pick<Builder, 'initializer' | 'node'>,
  input: { readonly type: number; readonly dims: Dims },
  output: { readonly name: string; readonly type: number; readonly dims: Dims },
): ModelProto {
  const graph = {
    name: 'g',
    initializer,
    node,
    input: [makeValueInfo('x', input.type, input.dims)],
    output: [makeValueInfo(output.name, output.type, output.dims)],
  }
  return makeModel({ irVersion: 10n, opsetImport: [makeOpset('', 17)], graph })
}

/**
 * Positions of correlated channels: a third as many hidden causes as channels, noise, a mean, and every 16th channel ten
 * times as large.
 */
function correlated(positions: number, channels: number, seed: number): number[] {
  const fixed = makeRandom(channels)
  const causes = Math.ceil(channels / 3)
  const mixing = Array.from({ length: channels * causes }, () => fixed.normal() / Math.sqrt(causes))
  const random = makeRandom(seed)
  const values: number[] = []
  for (let position = 0; position < positions; position++) {
    const hidden = Array.from({ length: causes }, () => random.normal())
    for (let c = 0; c < channels; c++) {
      const sum = hidden.reduce((all, cause, i) => all + cause * mixing[c * causes + i]!, 0)
      values.push((0.3 + sum + 0.1 * random.normal()) * (c % 16 === 3 ? 10 : 1))
    }
  }
  return values
}

const vectors = (channels: number) => (count: number, seed: number) =>
  ({ type: 'float32', shape: [channels], values: correlated(count, channels, seed) }) as const

const sequences = (length: number, channels: number) => (count: number, seed: number) =>
  ({ type: 'float32', shape: [length, channels], values: correlated(count * length, channels, seed) }) as const

/** Gemm with a bias, MatMul + Add, MatMul alone. */
function perceptron(name: string, half: boolean, size = 1): SmallModel {
  const b = new Builder(1, half)
  b.add('Gemm', ['x', b.weight('w1', [64, 64], 0.1 * size), b.weight('b1', [64], 0.1)], 'h1', { transB: 1 })
  b.add('Relu', ['h1'], 'a1')
  b.add('MatMul', ['a1', b.weight('w2', [64, 48], 0.15)], 'm2')
  b.add('Add', ['m2', b.weight('b2', [48], 0.1)], 'h2')
  b.add('Relu', ['h2'], 'a2')
  b.add('MatMul', ['a2', b.weight('w3', [48, 32], 0.2)], 'y')
  const type = half ? DataType.FLOAT16 : DataType.FLOAT
  const proto = modelOf(b, { type, dims: [undefined, 64] }, { name: 'y', type, dims: [undefined, 32] })
  return { name, proto, draw: vectors(64), half }
}

/** Convolutions: full without a bias, depthwise, 1 × 1 with a bias; normalized in between, and a Gemm without a bias. */
function convnet(): SmallModel {
  const b = new Builder(2)
  const normalize = (from: string, to: string) => {
    const vector = (name: string, at: (i: number) => number) =>
      b.numbers(
        `${to}/${name}`,
        [32],
        Array.from({ length: 32 }, (_, i) => at(i)),
      )
    const scale = vector('scale', (i) => 0.5 + (i % 5) / 4)
    const parts = [scale, vector('shift', (i) => (i % 7) / 8 - 0.3), vector('mean', () => 0.2), vector('var', () => 2)]
    b.add('BatchNormalization', [from, ...parts], `${to}/n`)
    b.add('Relu', [`${to}/n`], to)
  }
  b.add('Conv', ['x', b.weight('w1', [32, 8, 3, 3], 0.1)], 'c1', { pads: [1, 1, 1, 1] })
  normalize('c1', 'a1')
  b.add('Conv', ['a1', b.weight('w2', [32, 1, 5, 5], 0.2)], 'c2', { pads: [2, 2, 2, 2], group: 32 })
  normalize('c2', 'a2')
  b.add('Conv', ['a2', b.weight('w3', [48, 32, 1, 1], 0.2), b.weight('b3', [48], 0.1)], 'c3')
  b.add('Relu', ['c3'], 'a3')
  b.add('AveragePool', ['a3'], 'p', { kernel_shape: [3, 3], strides: [3, 3] })
  b.add('Flatten', ['p'], 'f')
  b.add('Gemm', ['f', b.weight('w4', [192, 24], 0.1)], 'y')
  const type = DataType.FLOAT
  const proto = modelOf(b, { type, dims: [undefined, 8, 6, 6] }, { name: 'y', type, dims: [undefined, 24] })
  const draw = (count: number, seed: number): Samples => {
    // Channels are correlated at each pixel; they go before the pixels.
    const pixels = correlated(count * 36, 8, seed)
    const values = pixels.map((_, i) => {
      const [sample, channel, pixel] = [Math.floor(i / 288), Math.floor(i / 36) % 8, i % 36]
      return pixels[(sample * 36 + pixel) * 8 + channel]!
    })
    return { type: 'float32', shape: [8, 6, 6], values }
  }
  return { name: 'convnet', proto, draw, half: false }
}

/** One attention head and a feed-forward part with residual sums, normalized before each. */
function transformer(): SmallModel {
  const b = new Builder(3)
  const size = 48
  const ones = (name: string) => b.numbers(name, [size], new Array<number>(size).fill(1))
  b.add('LayerNormalization', ['x', ones('ln1')], 'n1')
  for (const name of ['q', 'k', 'v']) b.add('MatMul', ['n1', b.weight(`w${name}`, [size, size], 0.15)], name)
  b.add('Transpose', ['k'], 'kT', { perm: [0, 2, 1] })
  b.add('MatMul', ['q', 'kT'], 'scores')
  b.add('Div', ['scores', b.numbers('root', [], [Math.sqrt(size)])], 'scaled')
  b.add('Softmax', ['scaled'], 'p', { axis: -1 })
  b.add('MatMul', ['p', 'v'], 'mixed')
  b.add('MatMul', ['mixed', b.weight('wo', [size, size], 0.15)], 'o')
  b.add('Add', ['x', 'o'], 'r1')
  b.add('LayerNormalization', ['r1', ones('ln2')], 'n2')
  b.add('MatMul', ['n2', b.weight('wu', [size, 96], 0.15)], 'u')
  b.add('Add', ['u', b.weight('bu', [96], 0.1)], 'ub')
  b.add('Relu', ['ub'], 'ua')
  b.add('MatMul', ['ua', b.weight('wd', [96, size], 0.15)], 'd')
  b.add('Add', ['r1', 'd'], 'r2')
  b.add('LayerNormalization', ['r2', ones('ln3')], 'n3')
  b.add('MatMul', ['n3', b.weight('wh', [size, 40], 0.2)], 'y')
  const type = DataType.FLOAT
  const proto = modelOf(b, { type, dims: [undefined, 8, size] }, { name: 'y', type, dims: [undefined, 8, 40] })
  return { name: 'transformer', proto, draw: sequences(8, size), half: false }
}

/** An LSTM without a bias, which takes time before batch, and a MatMul. */
function recurrent(): SmallModel {
  const b = new Builder(4)
  b.add('Transpose', ['x'], 'xT', { perm: [1, 0, 2] })
  const weights = [b.weight('W', [1, 128, 32], 0.08), b.weight('R', [1, 128, 32], 0.15)]
  b.add('LSTM', ['xT', ...weights], 'h', { hidden_size: 32 })
  b.add('Squeeze', ['h', 'axis'], 's')
  b.initializer.push(
    makeTensor({
      name: 'axis',
      dims: [1n],
      dataType: DataType.INT64,
      rawData: new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]),
    }),
  )
  b.add('Transpose', ['s'], 'sT', { perm: [1, 0, 2] })
  b.add('MatMul', ['sT', b.weight('wy', [32, 32], 0.3)], 'y')
  const type = DataType.FLOAT
  const proto = modelOf(b, { type, dims: [undefined, 8, 32] }, { name: 'y', type, dims: [undefined, 8, 32] })
  return { name: 'LSTM', proto, draw: sequences(8, 32), half: false }
}

/** A table that is looked up and is the output layer too, through a Transpose. */
function tied(): SmallModel {
  const b = new Builder(5)
  const size = 48
  b.weight('table', [64, size], 1)
  b.add('Gather', ['table', 'x'], 'e')
  b.add('MatMul', ['e', b.weight('w1', [size, 96], 0.15)], 'h')
  b.add('Relu', ['h'], 'a')
  b.add('MatMul', ['a', b.weight('w2', [96, size], 0.15)], 'd')
  b.add('Add', ['e', 'd'], 'r')
  b.add('Transpose', ['table'], 'tableT', { perm: [1, 0] })
  b.add('MatMul', ['r', 'tableT'], 'logits')
  const output = { name: 'logits', type: DataType.FLOAT, dims: [undefined, 8, 64] }
  const proto = modelOf(b, { type: DataType.INT64, dims: [undefined, 8] }, output)
  const draw = (count: number, seed: number): Samples => {
    const random = makeRandom(seed)
    const values = Array.from({ length: count * 8 }, () => Math.floor(64 * random.uniform() ** 2))
    return { type: 'int64', shape: [8], values }
  }
  return { name: 'tied embedding', proto, draw, half: false }
}

/** A layer before an If whose branches have layers of their own; the condition always holds. */
function conditional(): SmallModel {
  const b = new Builder(6)
  b.add('MatMul', ['x', b.weight('w1', [64, 64], 0.1)], 'm')
  b.add('Relu', ['m'], 'a')
  b.add('ReduceMax', ['a'], 'max', { keepdims: 0 })
  b.add('Greater', ['max', b.numbers('low', [], [-1])], 'c')
  const branch = (name: string) => {
    const inner = new Builder(name.length + 10)
    inner.add('MatMul', ['a', inner.weight(`w_${name}`, [64, 32], 0.1)], name)
    const { initializer, node } = inner
    return { name, initializer, node, output: [makeValueInfo(name, DataType.FLOAT, [undefined, 32])] }
  }
  const attribute = (['then', 'else'] as const).map((name) => ({
    name: `${name}_branch`,
    type: 5,
    g: branch(`${name}_result`),
  }))
  const graph = makeModel({ graph: { node: [{ opType: 'If', name: 'if', input: ['c'], output: ['z'], attribute }] } })
  b.node.push(graph.graph!.node[0]!)
  b.add('Add', ['z', b.weight('bz', [32], 0.1)], 'y')
  const type = DataType.FLOAT
  const proto = modelOf(b, { type, dims: [undefined, 64] }, { name: 'y', type, dims: [undefined, 32] })
  return { name: 'If', proto, draw: vectors(64), half: false }
}

export const MODELS: readonly SmallModel[] = [
  perceptron('MLP', false),
  convnet(),
  transformer(),
  recurrent(),
  tied(),
  conditional(),
  perceptron('float16 MLP', true),
]

/** Weights of its first layer are too small for float16. */
const TINY = perceptron('tiny MLP', false, 1e-8)

/** @throws RangeError for a name that no model has. */
export function smallModel(name: string): SmallModel {
  const found = [...MODELS, TINY].find((model) => model.name === name)
  if (!found) throw new RangeError(`no small model is called ${name}`)
  return found
}

/** Write samples as a .npy. @returns its path. */
export function writeSamples(file: string, { type, shape, values }: Samples): string {
  const count = values.length / shape.reduce((a, b) => a * b, 1)
  const isInteger = type === 'int64'
  fs.writeFileSync(file, writeNpy(isInteger ? 'i8' : 'f4', [count, ...shape], isInteger ? values.map(BigInt) : values))
  return file
}

/** Write a model and samples to calibrate on into a new folder. */
export function writeCase(
  directory: string,
  { name, proto, draw }: SmallModel,
  samples = 120,
): { readonly folder: string; readonly model: string; readonly data: string } {
  const folder = fs.mkdtempSync(path.join(directory, `${name.replaceAll(' ', '-')}-`))
  const model = path.join(folder, 'model.onnx')
  fs.writeFileSync(model, encodeModel(proto))
  return { folder, model, data: writeSamples(path.join(folder, 'data.npy'), draw(samples, 100)) }
}

/** What a model computes of samples, in onnxruntime; float16 outputs as numbers. */
export async function outputsOf(file: string | Uint8Array, model: SmallModel, samples: Samples): Promise<Float32Array> {
  const [result] = (await runModel(file, model, samples)).values()
  return result!
}

/** The values of tensors inside a model, by name. */
export async function innerValues(
  file: string,
  model: SmallModel,
  samples: Samples,
  names: readonly string[],
): Promise<Map<string, Float32Array>> {
  const proto = decodeModel(fs.readFileSync(file))
  proto.graph!.output = names.map((name) => makeValueInfo(name))
  return runModel(encodeModel(proto), model, samples)
}

async function runModel(
  file: string | Uint8Array,
  { half }: SmallModel,
  { type, shape, values }: Samples,
): Promise<Map<string, Float32Array>> {
  const options = { logSeverityLevel: 4, intraOpNumThreads: 1 } as const
  const session = await ort.InferenceSession.create(file as Uint8Array, options)
  const dims = [values.length / shape.reduce((a, b) => a * b, 1), ...shape]
  const x =
    type === 'int64'
      ? new ort.Tensor('int64', BigInt64Array.from(values, BigInt), dims)
      : half
        ? new ort.Tensor('float16', Uint16Array.from(values, floatToHalf), dims)
        : new ort.Tensor('float32', Float32Array.from(values), dims)
  const results = await session.run({ x })
  await session.release()
  const numbers = ({ type: made, data }: ort.Tensor) =>
    made === 'float16' ? Float32Array.from(data as unknown as Uint16Array, halfToNumber) : (data as Float32Array)
  return new Map(Object.entries(results).map(([name, tensor]) => [name, numbers(tensor)]))
}

function halfToNumber(bits: number): number {
  const exponent = (bits >> 10) & 31
  const fraction = (bits & 1023) / 1024
  const size = exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15)
  return bits & 0x8000 ? -size : size
}

/** ‖a − b‖² / ‖a‖² */
export function relativeError(a: Float32Array, b: Float32Array): number {
  let error = 0
  let norm = 0
  a.forEach((v, i) => {
    error += (v - b[i]!) ** 2
    norm += v * v
  })
  return error / norm
}

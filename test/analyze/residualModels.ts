/** @file Networks with a residual stream, piece by piece. Weights are seeded normal numbers, or as given. */
import { analyseMainGraph, type MainGraph } from '../../src/calibration/mainGraph.ts'
import { type Layers, modelLayers } from '../../src/onnx/layers.ts'
import {
  type AttributeValue,
  DataType,
  type ModelProto,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
  makeValueInfo,
  type NodeProto,
  type TensorProto,
} from '../../src/onnx/proto.ts'
import { makeRandom } from '../../src/random.ts'

/** Numbers on the stream. */
export const WIDTH = 8

type Dims = readonly (number | undefined)[]

export class Net {
  readonly initializer: TensorProto[] = []
  readonly node: NodeProto[] = []
  readonly input = [makeValueInfo('x', DataType.FLOAT, [undefined, undefined, WIDTH])]
  readonly #random = makeRandom(1)

  weight(name: string, dims: readonly number[], at: (i: number) => number = () => this.#random.normal() / 3): string {
    const values = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => at(i))
    const rawData = new Uint8Array(values.buffer)
    this.initializer.push(makeTensor({ name, dims: dims.map(BigInt), dataType: DataType.FLOAT, rawData }))
    return name
  }

  /** A node with one output, which it is called by. */
  add(op: string, inputs: readonly string[], output: string, attributes: Record<string, AttributeValue> = {}): string {
    this.node.push(makeNode(op, inputs, [output], { name: output, attributes }))
    return output
  }

  norm(from: string, to: string): string {
    return this.add('LayerNormalization', [from, this.weight(`${to}.scale`, [WIDTH], () => 1)], to)
  }

  linear(from: string, to: string, dims: readonly [number, number] = [WIDTH, WIDTH]): string {
    return this.add('MatMul', [from, this.weight(`${to}.weight`, dims)], to)
  }

  /** Self-attention with one head; the mask is added to its scores. @returns what is to be added to the stream. */
  attention(from: string, path: string, mask?: string): string {
    const [q, k, v] = ['q', 'k', 'v'].map((name) => this.linear(from, `${path}/${name}`)) as [string, string, string]
    const turned = this.add('Transpose', [k], `${path}/kT`, { perm: [0, 2, 1] })
    const scores = this.add('MatMul', [q, turned], `${path}/scores`)
    const masked = mask ? this.add('Add', [scores, mask], `${path}/masked`) : scores
    const shares = this.add('Softmax', [masked], `${path}/softmax`, { axis: -1 })
    return this.linear(this.add('MatMul', [shares, v], `${path}/mixed`), `${path}/o`)
  }

  /** With a bias and the tanh form of GELU, which adds a tensor to what is made of it. */
  feedForward(from: string, path: string, hidden = 2 * WIDTH): string {
    const up = this.linear(from, `${path}/up`, [WIDTH, hidden])
    const h = this.add('Add', [up, this.weight(`${path}/bias`, [hidden])], `${path}/biased`)
    const cube = this.add('Pow', [h, this.weight(`${path}/three`, [], () => 3)], `${path}/cube`)
    const sum = this.add('Add', [h, cube], `${path}/inner`)
    return this.linear(this.add('Tanh', [sum], `${path}/tanh`), `${path}/down`, [hidden, WIDTH])
  }

  conv(from: string, to: string, [outputs, inputs]: readonly [number, number] = [WIDTH, WIDTH], size = 3): string {
    const pad = (size - 1) / 2
    const weight = this.weight(`${to}.weight`, [outputs, inputs, size, size])
    return this.add('Conv', [from, weight], to, { pads: [pad, pad, pad, pad] })
  }

  model(outputs: readonly string[], dims?: Dims): ModelProto {
    const output = outputs.map((name) => (dims ? makeValueInfo(name, DataType.FLOAT, dims) : makeValueInfo(name)))
    const { initializer, node, input } = this
    const opsetImport = [makeOpset('', 17), makeOpset('com.microsoft', 1)]
    return makeModel({ irVersion: 10n, opsetImport, graph: { name: 'g', initializer, node, input, output } })
  }
}

/** The graph and the layers of a model. */
export function opened(proto: ModelProto): { readonly graph: MainGraph; readonly found: Layers } {
  const found = modelLayers(proto)
  return { graph: analyseMainGraph(found.index), found }
}

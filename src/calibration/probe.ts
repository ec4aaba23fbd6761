/**
 * @file Results from inside a part of the network, with nodes of our own after it: small tensors leave the runtime where
 * the tensors that they are computed from would be large.
 */
import {
  type AttributeValue,
  DataType,
  decodeModel,
  encodeModel,
  makeNode,
  makeTensor,
  makeValueInfo,
  type NodeProto,
  type TensorProto,
} from '../onnx/proto.ts'
import type { Probed } from './walk.ts'

const PREFIX = 'qtool/probe/'
/** From here on ReduceSum takes its axes as an input. */
const REDUCE_SUM_INPUT = 13

/** What is to be computed from tensors of the network; nodes are of the network's opset. */
export class Probe {
  readonly #opset: number
  readonly #nodes: NodeProto[] = []
  readonly #initializers: TensorProto[] = []
  readonly #inputs = new Map<string, number>()
  readonly #reads = new Set<string>()
  readonly #outputs: string[] = []
  #names = 0

  /** @param opset of the default domain in the network's model. */
  constructor(opset: number) {
    this.#opset = opset
  }

  /** A tensor of the network; constants too. @returns its name. */
  read(name: string): string {
    this.#reads.add(name)
    return name
  }

  /** Add a node of the default domain; returns the name of its one output. */
  node(opType: string, inputs: readonly string[], attributes: Readonly<Record<string, AttributeValue>> = {}): string {
    const output = `${PREFIX}${this.#names++}`
    this.#nodes.push(makeNode(opType, inputs, [output], { name: output, attributes }))
    return output
  }

  /** A vector of int64. */
  ints(values: readonly number[]): string {
    return this.#constant(
      makeTensor({ dataType: DataType.INT64, dims: [BigInt(values.length)], int64Data: values.map(BigInt) }),
    )
  }

  /** A float32 scalar. */
  float(value: number): string {
    return this.#constant(makeTensor({ dataType: DataType.FLOAT, dims: [], floatData: [value] }))
  }

  #constant({ $typeName: _type, $unknown: _unknown, ...fields }: TensorProto): string {
    const name = `${PREFIX}${this.#names++}`
    this.#initializers.push(makeTensor({ ...fields, name }))
    return name
  }

  /** A float32 input that each run must be given. @returns its name. */
  input(label: string, rank: number): string {
    const name = PREFIX + label
    this.#inputs.set(name, rank)
    return name
  }

  /** As float32. */
  toFloat(x: string): string {
    return this.node('Cast', [x], { to: DataType.FLOAT })
  }

  /** Some of a tensor's dimensions, as a vector of int64; negative places count from the end. From opset 11 on. */
  dims(x: string, places: readonly number[]): string {
    return this.node('Gather', [this.node('Shape', [x]), this.ints(places)], { axis: 0 })
  }

  /** Reshape to dimensions that vectors hold, one after the other. */
  reshape(x: string, ...shape: readonly string[]): string {
    return this.node('Reshape', [x, shape.length === 1 ? shape[0]! : this.node('Concat', shape, { axis: 0 })])
  }

  /** Sums over axes, which go. */
  sum(x: string, axes: readonly number[]): string {
    if (this.#opset < REDUCE_SUM_INPUT) return this.node('ReduceSum', [x], { axes: [...axes], keepdims: 0 })
    return this.node('ReduceSum', [x, this.ints(axes)], { keepdims: 0 })
  }

  /** Fetch this: a tensor of the network that was read, or one that was added. */
  fetch(name: string): void {
    if (!this.#outputs.includes(name)) this.#outputs.push(name)
  }

  /** For `Walk.openTrial`. */
  get probed(): Probed {
    return {
      reads: [...this.#reads],
      outputs: this.#outputs,
      extend: (bytes) => {
        const proto = decodeModel(bytes)
        const graph = proto.graph!
        graph.node.push(...this.#nodes)
        graph.initializer.push(...this.#initializers)
        for (const [name, rank] of this.#inputs) {
          graph.input.push(makeValueInfo(name, DataType.FLOAT, Array<undefined>(rank).fill(undefined)))
        }
        graph.output = this.#outputs.map((name) => makeValueInfo(name))
        return encodeModel(proto)
      },
    }
  }
}

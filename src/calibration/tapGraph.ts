/** @file A small graph in the making: nodes with fresh names, shared integer constants, inputs. */
import { irVersionOf } from '../onnx/opsetHistory.ts'
import {
  type AttributeValue,
  DataType,
  encodeModel,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
  makeValueInfo,
  type NodeProto,
  type TensorProto,
} from '../onnx/proto.ts'

/** Oldest opset whose operators the graph is written in; none of them is written otherwise up to the newest known one. */
const OLDEST_TAP_OPSET = 18

/** Inputs of a layer: `x` [T, K] or [blocks, T, K], or with the last two axes exchanged. */
export interface Positions {
  readonly x: string
  readonly layout: 'TK' | 'KT'
  /** Weights [T] of the positions; all 1 when absent. Only with layout TK. */
  readonly weights?: string
}

export interface TapGraph {
  /** Add a node; returns the name of its one output. */
  node(opType: string, inputs: readonly string[], attributes?: Readonly<Record<string, AttributeValue>>): string
  /** Add a node that is already made. */
  push(node: NodeProto): void
  fresh(): string
  /** An int64 constant: a vector, or a scalar for a number. */
  ints(values: readonly number[] | number): string
  constant(tensor: TensorProto): string
  /** Declare an input, once for each name. */
  input(name: string, dataType: number): string
  reshape(x: string, shape: readonly number[]): string
  reshapeTo(x: string, shape: string): string
  transpose(x: string, perm: readonly number[]): string
  /** Vectors of int64 one after the other. */
  join(vectors: readonly string[]): string
  /** `x` as float32. */
  toFloat(x: string): string
  /** The model that computes `outputs` (name → value), all of them float32. */
  encode(outputs: ReadonlyMap<string, string>): Uint8Array
}

/**
 * @param sourceOpset of the model that nodes are copied from. The graph has it too, or a newer one where it is older than
 *   {@link OLDEST_TAP_OPSET}; the only nodes that are copied, recurrent ones, kept their meaning (src/onnx/opsetHistory.ts).
 */
export function makeTapGraph(sourceOpset: number): TapGraph {
  const opset = Math.max(sourceOpset, OLDEST_TAP_OPSET)
  const nodes: NodeProto[] = []
  const initializers: TensorProto[] = []
  const inputs = new Map<string, number>()
  const known = new Map<string, string>()
  let names = 0
  const fresh = () => `n${names++}`
  const graph: TapGraph = {
    fresh,
    node(opType, operands, attributes = {}) {
      const output = fresh()
      nodes.push(makeNode(opType, operands, [output], { attributes }))
      return output
    },
    push: (node) => void nodes.push(node),
    ints(values) {
      const key = JSON.stringify(values)
      const old = known.get(key)
      if (old !== undefined) return old
      const dims = typeof values === 'number' ? [] : [BigInt(values.length)]
      const int64Data = [values].flat().map((v) => BigInt(v as number))
      const name = graph.constant(makeTensor({ dataType: DataType.INT64, dims, int64Data }))
      known.set(key, name)
      return name
    },
    constant({ $typeName: _type, $unknown: _unknown, ...fields }) {
      const name = fresh()
      initializers.push(makeTensor({ ...fields, name }))
      return name
    },
    input(name, dataType) {
      inputs.set(name, dataType)
      return name
    },
    reshape: (x, shape) => graph.reshapeTo(x, graph.ints(shape)),
    reshapeTo: (x, shape) => graph.node('Reshape', [x, shape]),
    transpose: (x, perm) => graph.node('Transpose', [x], { perm }),
    join: (vectors) => graph.node('Concat', vectors, { axis: 0 }),
    toFloat: (x) => graph.node('Cast', [x], { to: DataType.FLOAT }),
    encode(outputs) {
      for (const [name, x] of outputs) nodes.push(makeNode('Identity', [x], [name]))
      return encodeModel(
        makeModel({
          irVersion: BigInt(irVersionOf(opset)),
          opsetImport: [makeOpset('', opset)],
          graph: {
            name: 'tap',
            node: nodes,
            initializer: initializers,
            input: [...inputs].map(([name, type]) => makeValueInfo(name, type)),
            output: [...outputs.keys()].map((name) => makeValueInfo(name, DataType.FLOAT)),
          },
        }),
      )
    },
  }
  return graph
}

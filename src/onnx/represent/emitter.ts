/** @file Adds constants and nodes to a scope of the model being written, under names of its own. */
import { nodesOf, type Scope } from '../graph.ts'
import { INLINE_LIMIT, type Payload } from '../model.ts'
import { type AttributeValue, DataType, makeNode, makeTensor, type NodeProto, type TensorProto } from '../proto.ts'

/** Prefix of every node and tensor that qtool adds for a weight; `qtool eval` recognises decode nodes by it. */
export const DECODE_PREFIX = 'qtool/'

export interface Emitter {
  readonly opset: number
  /** Add a constant whose bytes are a payload, and return its name. */
  tensor(step: string, dataType: number, dims: readonly number[], payload: Payload): string
  /** Add a small int64 constant (a shape, axes), and return its name. */
  int64(step: string, values: readonly number[]): string
  /** Add a small uint8 constant, and return its name. */
  uint8(step: string, dims: readonly number[], values: readonly number[]): string
  /** Add a float32 scalar constant, and return its name. */
  scalar(step: string, value: number): string
  /** Add a node and return the name of its output: `output` if given, else a fresh one. */
  node(step: string, opType: string, inputs: readonly string[], options?: NodeOptions): string
  /** Add an already made node. */
  push(node: NodeProto): void
  /** A name that nothing in the model has yet. */
  fresh(step: string): string
}

export interface NodeOptions {
  readonly attributes?: Readonly<Record<string, AttributeValue>>
  readonly output?: string
}

/**
 * @param scope    where constants go: initializers of a graph, Constant nodes of a function.
 * @param weight   name of the weight that the nodes decode; part of every new name.
 * @param sink     new nodes are appended here; the caller puts them into the scope.
 * @param payloads new large constants are entered here.
 */
export function makeEmitter(
  scope: Scope,
  weight: string,
  opset: number,
  unused: (wanted: string) => string,
  sink: NodeProto[],
  payloads: Map<TensorProto, Payload>,
): Emitter {
  const fresh = (step: string) => unused(`${DECODE_PREFIX}${weight}/${step}`)
  const add = (step: string, fields: Parameters<typeof makeTensor>[0]): { name: string; tensor: TensorProto } => {
    const name = fresh(step)
    if (scope.graph) {
      const tensor = makeTensor({ ...fields, name })
      scope.graph.initializer.push(tensor)
      return { name, tensor }
    }
    const tensor = makeTensor(fields)
    nodesOf(scope).unshift(makeNode('Constant', [], [name], { name, attributes: { value: tensor } }))
    return { name, tensor }
  }
  const emitter: Emitter = {
    opset,
    fresh,
    tensor(step, dataType, dims, payload) {
      const inline = payload.kind === 'memory' && payload.byteLength <= INLINE_LIMIT
      const made = add(step, {
        dataType,
        dims: dims.map(BigInt),
        ...(inline ? { rawData: new Uint8Array(payload.bytes) } : {}),
      })
      if (!inline) payloads.set(made.tensor, payload)
      return made.name
    },
    int64(step, values) {
      const bytes = new Uint8Array(new BigInt64Array(values.map(BigInt)).buffer)
      return add(step, { dataType: DataType.INT64, dims: [BigInt(values.length)], rawData: bytes }).name
    },
    uint8(step, dims, values) {
      return add(step, { dataType: DataType.UINT8, dims: dims.map(BigInt), rawData: Uint8Array.from(values) }).name
    },
    scalar(step, value) {
      return add(step, { dataType: DataType.FLOAT, dims: [], rawData: new Uint8Array(Float32Array.of(value).buffer) })
        .name
    },
    node(step, opType, inputs, { attributes = {}, output } = {}) {
      const name = fresh(step)
      const result = output ?? name
      sink.push(makeNode(opType, inputs, [result], { name, attributes }))
      return result
    },
    push(node) {
      sink.push(node)
    },
  }
  return emitter
}

/** Slice along one axis, [0, end); an attribute form before opset 10. */
export function emitSlice(
  to: Emitter,
  step: string,
  input: string,
  axis: number,
  end: number,
  output?: string,
): string {
  const named = output === undefined ? {} : { output }
  if (to.opset < 10) {
    return to.node(step, 'Slice', [input], { attributes: { starts: [0], ends: [end], axes: [axis] }, ...named })
  }
  const starts = to.int64(`${step}.starts`, [0])
  const ends = to.int64(`${step}.ends`, [end])
  const axes = to.int64(`${step}.axes`, [axis])
  return to.node(step, 'Slice', [input, starts, ends, axes], named)
}

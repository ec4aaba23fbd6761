/** @file Adds constants and nodes to a scope of the model being written, under names of its own. */
import { nodesOf, type Scope } from '../graph.ts'
import { INLINE_LIMIT, type Payload } from '../model.ts'
import { type AttributeValue, DataType, makeNode, makeTensor, type NodeProto, type TensorProto } from '../proto.ts'

/** Prefix of every node and tensor that qtool adds for a weight, before the weight's number in the plan; `qtool eval` recognises decode nodes by it. */
export const DECODE_PREFIX = 'qtool/'

export interface Emitter {
  readonly opset: number
  /** Add a constant whose bytes are a payload, and return its name. */
  tensor(step: string, dataType: number, dims: readonly number[], payload: Payload): string
  /** A small int64 constant (a shape, axes), shared with other layers; a vector unless dims say else. Returns its name. */
  int64(values: readonly number[], dims?: readonly number[]): string
  /** A small uint8 constant, shared with other layers; returns its name. */
  uint8(dims: readonly number[], values: readonly number[]): string
  /** A small int32 constant, shared with other layers; returns its name. */
  int32(dims: readonly number[], values: readonly number[]): string
  /**
   * A uint8 constant that layers with the same key share; the payload of the first is written. Of an empty payload only
   * the size is meant (a dry run). Returns its name.
   */
  sharedTensor(key: string, dims: readonly number[], payload: Payload): string
  /** A float32 scalar constant, shared with other layers; returns its name. */
  scalar(value: number): string
  /** Add a node and return the name of its output: `output` if given, else a fresh one. */
  node(step: string, opType: string, inputs: readonly string[], options?: NodeOptions): string
  /** Add an already made node. */
  push(node: NodeProto): void
  /** A name that nothing in the model has yet. */
  fresh(step: string): string
}

interface NodeOptions {
  readonly attributes?: Readonly<Record<string, AttributeValue>>
  readonly output?: string
}

/** What the emitters of one model share. */
export interface EmitContext {
  /** Opset of the default domain in a scope. */
  readonly opset: (scope: Scope) => number
  /** A name that nothing in the model has yet. */
  readonly unused: (wanted: string) => string
  /** New large constants are entered here. */
  readonly payloads: Map<TensorProto, Payload>
  /** Small constants (shapes, shifts, masks) that a scope has already, by contents: layers share them. */
  readonly shared: Map<Scope, Map<string, string>>
}

/**
 * @param scope where constants go: initializers of a graph, Constant nodes of a function.
 * @param id    short name of the layer: it is part of every new name, and names are most of what a small layer's nodes
 *   take in the file.
 * @param sink  new nodes are appended here; the caller puts them into the scope.
 */
export function makeEmitter(context: EmitContext, scope: Scope, id: string, sink: NodeProto[]): Emitter {
  const { payloads } = context
  const opset = context.opset(scope)
  const fresh = (step: string) => context.unused(`${DECODE_PREFIX}${id}/${step}`)
  const add = (name: string, fields: Parameters<typeof makeTensor>[0]): TensorProto => {
    if (scope.graph) {
      const tensor = makeTensor({ ...fields, name })
      scope.graph.initializer.push(tensor)
      return tensor
    }
    const tensor = makeTensor(fields)
    nodesOf(scope).unshift(makeNode('Constant', [], [name], { name, attributes: { value: tensor } }))
    return tensor
  }
  const sharedNames = (): Map<string, string> => {
    const known = context.shared.get(scope) ?? new Map<string, string>()
    context.shared.set(scope, known)
    return known
  }
  const large = (name: string, dataType: number, dims: readonly number[], payload: Payload): void => {
    const inline = payload.kind === 'memory' && payload.byteLength <= INLINE_LIMIT
    const rawData = inline ? { rawData: new Uint8Array(payload.bytes) } : {}
    const tensor = add(name, { dataType, dims: dims.map(BigInt), ...rawData })
    if (!inline) payloads.set(tensor, payload)
  }
  const small = (dataType: number, dims: readonly number[], bytes: Uint8Array<ArrayBuffer>): string => {
    const known = sharedNames()
    const key = `${dataType}:${dims.join(',')}:${bytes.join(',')}`
    const name = known.get(key) ?? context.unused(`${DECODE_PREFIX}k${known.size}`)
    if (!known.has(key)) add(name, { dataType, dims: dims.map(BigInt), rawData: bytes })
    known.set(key, name)
    return name
  }
  return {
    opset,
    fresh,
    tensor(step, dataType, dims, payload) {
      const name = fresh(step)
      large(name, dataType, dims, payload)
      return name
    },
    sharedTensor(key, dims, payload) {
      const known = sharedNames()
      const name = known.get(key) ?? context.unused(`${DECODE_PREFIX}k${known.size}`)
      if (!known.has(key)) large(name, DataType.UINT8, dims, payload.byteLength > 0 ? payload : unknownBytes(dims))
      known.set(key, name)
      return name
    },
    int64: (values, dims = [values.length]) =>
      small(DataType.INT64, dims, new Uint8Array(new BigInt64Array(values.map(BigInt)).buffer)),
    uint8: (dims, values) => small(DataType.UINT8, dims, Uint8Array.from(values)),
    int32: (dims, values) => small(DataType.INT32, dims, new Uint8Array(Int32Array.from(values).buffer)),
    scalar: (value) => small(DataType.FLOAT, [], new Uint8Array(Float32Array.of(value).buffer)),
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
}

function unknownBytes(dims: readonly number[]): Payload {
  const byteLength = dims.reduce((a, b) => a * b, 1)
  if (byteLength > INLINE_LIMIT) return { kind: 'planned', byteLength }
  return { kind: 'memory', byteLength, bytes: new Uint8Array(byteLength) }
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
  return to.node(step, 'Slice', [input, to.int64([0]), to.int64([end]), to.int64([axis])], named)
}

/** Sum along one axis; an attribute form before opset 13. @param keepdims 1 keeps the axis, at length 1. */
export function emitSum(to: Emitter, step: string, input: string, axis: number, keepdims: 0 | 1): string {
  if (to.opset < 13) return to.node(step, 'ReduceSum', [input], { attributes: { axes: [axis], keepdims } })
  return to.node(step, 'ReduceSum', [input, to.int64([axis])], { attributes: { keepdims } })
}

/** @file Streams with a node put into them, which stands in the way of turning them or does not. */
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { type ModelProto, makeNode, makeTensor, type NodeProto } from '../../src/onnx/proto.ts'
import { findStreams } from '../../src/rsq/findStreams.ts'
import { type StreamModelOptions, transformer } from './streamModels.ts'

export const find = (model: ModelProto) => findStreams(analyseMainGraph(modelLayers(model).index))

export const nodeNamed = (model: ModelProto, name: string) => model.graph!.node.find((node) => node.name === name)!

export function floats(name: string, dims: readonly number[], value: (i: number) => number) {
  const count = dims.reduce((a, b) => a * b, 1)
  const rawData = new Uint8Array(Float32Array.from({ length: count }, (_, i) => value(i)).buffer)
  return makeTensor({ name, dims: dims.map(BigInt), dataType: 1, rawData })
}

/** Puts a node behind the one that makes `after`; `reader` reads it instead, at the given input. */
export function insert(
  model: ModelProto,
  after: string,
  reader: string,
  make: (from: string) => NodeProto,
  tensors: ReturnType<typeof floats>[] = [],
): ModelProto {
  const { node, initializer } = model.graph!
  const made = make(after)
  const at = node.findIndex(({ output }) => output.includes(after))
  node.splice(at + 1, 0, made)
  initializer.push(...tensors)
  const target = nodeNamed(model, reader)
  target.input = target.input.map((name) => (name === after ? made.output[0]! : name))
  return model
}

/** Pre-norm, without biases. */
export const pre = (options: StreamModelOptions = {}) => transformer({ norm: 'simplified', ...options })
/** A node of this type that takes the tensor as its first input. */
export const op =
  (type: string, others: readonly string[] = [], attributes = {}) =>
  (from: string) =>
    makeNode(type, [from, ...others], ['new'], { name: 'new', attributes })

/** Multiplies the tokens behind the last norm by their ids. */
export function masked(model: ModelProto): ModelProto {
  insert(model, 'finalNorm', 'logits', op('Mul', ['mask']))
  const rawData = new Uint8Array(BigInt64Array.from([-1n]).buffer)
  model.graph!.initializer.push(makeTensor({ name: 'last', dims: [1n], dataType: 7, rawData }))
  model.graph!.node.unshift(
    makeNode('Cast', ['input_ids'], ['idsFloat'], { attributes: { to: 1 } }),
    makeNode('Unsqueeze', ['idsFloat', 'last'], ['mask']),
  )
  return model
}

/** The first block's sum, which the second norm and the second sum read. */
export const SUM = 'b0/mlpNorm/sum'
export const NEXT = 'b1/attnNorm/sum'

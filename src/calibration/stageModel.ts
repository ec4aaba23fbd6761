/**
 * @file A part of the main graph as a model of its own: what is alive at its first cut goes in, what later parts need
 * comes out. Weights are inputs, so that one session computes with float weights, quantized ones and candidates alike.
 */

import type { OnnxModel } from '../onnx/model.ts'
import {
  DataLocation,
  DataType,
  decodeModel,
  encodeModel,
  type ModelProto,
  makeModel,
  makeTensor,
  makeValueInfo,
  type NodeProto,
  type TensorProto,
} from '../onnx/proto.ts'
import { tensorByteLength, tensorBytes } from '../onnx/tensorData.ts'
import { forEachTensor } from '../onnx/tensors.ts'
import type { MainGraph } from './mainGraph.ts'
import { canBeFed } from './tensors.ts'

/** A constant of more bytes is fed where it can be, so that it is not copied into the model's bytes. */
const EMBEDDED_BYTES = 1 << 18

export interface Stage {
  readonly from: number
  readonly to: number
  /** Names alive at `from` that the stage reads. */
  readonly inputs: readonly string[]
  /** Constants that must be fed. */
  readonly fed: readonly string[]
  /** Names that the stage makes for others. */
  readonly outputs: readonly string[]
  /** Nodes that run, constant ones included, in order. */
  readonly nodes: readonly NodeProto[]
}

export interface StageOptions {
  /** Names that do not depend on inputs. */
  readonly constants: ReadonlySet<string>
  /** Constants that are fed whatever their size: weights that change. */
  readonly fed: ReadonlySet<string>
  /** A node as the stage runs it; the same one, or a copy with other inputs. */
  readonly edit: (node: NodeProto) => NodeProto
}

/**
 * Which nodes and names nodes [from, to) and the wanted outputs take.
 * @param outputs names that nodes of the range make.
 */
export function planStage(
  graph: MainGraph,
  from: number,
  to: number,
  outputs: readonly string[],
  { constants, fed }: StageOptions,
): Stage {
  const taken = new Set<NodeProto>()
  const inputs = new Set<string>()
  const feeds = new Set<string>()
  // Backwards from what is wanted: what nobody needs here does not run.
  const pending = [...outputs]
  const seen = new Set<string>()
  while (pending.length > 0) {
    const name = pending.pop()!
    if (seen.has(name)) continue
    seen.add(name)
    const constant = graph.scope.constants.get(name)
    if (constant) {
      const { tensor } = constant
      const isLarge = canBeFed(tensor.dataType) && tensorByteLength(tensor) > EMBEDDED_BYTES
      if (fed.has(name) || isLarge) feeds.add(name)
      continue
    }
    const at = graph.madeAt.get(name)
    const isHere = at !== undefined && ((at >= from && at < to) || constants.has(name))
    if (!isHere) {
      inputs.add(name)
      continue
    }
    const node = graph.nodes[at]!
    taken.add(node)
    pending.push(...graph.reads.get(node)!)
  }
  const nodes = graph.nodes.filter((node) => taken.has(node))
  return { from, to, inputs: [...inputs], fed: [...feeds], outputs, nodes }
}

/**
 * The bytes of a stage's model.
 * @param typeOf ONNX element type and rank of what is fed, by name.
 */
export function encodeStage(
  model: OnnxModel,
  graph: MainGraph,
  stage: Stage,
  { edit }: StageOptions,
  typeOf: (name: string) => { readonly dataType: number; readonly rank: number },
): Uint8Array {
  const edited = stage.nodes.map(edit)
  const isFed = new Set([...stage.inputs, ...stage.fed])
  const added = edited.flatMap((node) => node.input).filter((name) => name.startsWith(ADDED_INPUT))
  const embedded = new Set(
    stage.nodes.flatMap((node) => graph.reads.get(node)!).filter((name) => graph.scope.constants.has(name)),
  )
  const initializer = [...embedded]
    .filter((name) => !isFed.has(name))
    .map((name) => {
      const { tensor } = graph.scope.constants.get(name)!
      const { dims, dataType } = tensor
      return makeTensor({ name, dims, dataType, rawData: new Uint8Array(tensorBytes(model, tensor)) })
    })
  const given = [...isFed, ...new Set(added)].map((name) => {
    const { dataType, rank } = typeOf(name)
    return makeValueInfo(name, dataType, Array<undefined>(rank).fill(undefined))
  })
  const { irVersion, opsetImport, functions } = model.proto
  const proto = makeModel({
    irVersion,
    opsetImport,
    functions,
    graph: {
      name: 'stage',
      node: edited,
      initializer,
      input: given,
      output: stage.outputs.map((name) => makeValueInfo(name)),
    },
  })
  return encodeModel(withPayloads(model, proto))
}

/** The same with the bytes of large tensors inside subgraphs and functions; a copy where there are any. */
function withPayloads(model: OnnxModel, proto: ModelProto): ModelProto {
  const tensors: TensorProto[] = []
  forEachTensor(proto, (tensor) => tensors.push(tensor))
  if (!tensors.some((tensor) => model.payloads.has(tensor))) return proto
  const copy = decodeModel(encodeModel(proto))
  let i = 0
  forEachTensor(copy, (tensor) => {
    const original = tensors[i++]!
    if (!model.payloads.has(original)) return
    tensor.rawData = new Uint8Array(tensorBytes(model, original))
    tensor.dataLocation = DataLocation.DEFAULT
    tensor.externalData = []
  })
  return copy
}

/** Names of inputs that edited nodes have and the model does not start so. */
export const ADDED_INPUT = 'qtool/added/'

/** ONNX's number of an element type named as in feeds. */
export function dataTypeOf(feedType: string): number {
  return DataType[feedType.toUpperCase() as keyof typeof DataType]
}

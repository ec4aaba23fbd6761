/** @file Cuts the nodes that compute one name out of a model, as a small model that runs on its own. */
import { definingScope, type ModelIndex, type Scope } from '../onnx/graph.ts'
import type { OnnxModel } from '../onnx/model.ts'
import {
  DataType,
  encodeModel,
  makeModel,
  makeNode,
  makeTensor,
  type NodeProto,
  type TensorProto,
} from '../onnx/proto.ts'
import { tensorBytes } from '../onnx/tensorData.ts'

/** A name that the extracted model takes as its input, fed as one element type and cast to another. */
export interface ProbeInput {
  readonly name: string
  readonly fedAs: number
  readonly castTo: number
}

/** Name of the extracted model's input and output. */
export const PROBE_INPUT = 'probe/input'
export const PROBE_OUTPUT = 'probe/output'

/**
 * The bytes of a model that computes `output` (of scope number `scope`) as float32 named {@link PROBE_OUTPUT}.
 * Constants it needs are read from the model's payloads.
 * @param input where to cut; everything before it is left out.
 * @param edit  applied to each node that is taken, which is a copy by reference: return another node to change it.
 * @throws Error when a needed name is neither constant nor produced (then the model is not what was written).
 */
export function extractComputation(
  model: OnnxModel,
  index: ModelIndex,
  scope: number,
  output: string,
  input?: ProbeInput,
  edit: (node: NodeProto) => NodeProto = (node) => node,
): Uint8Array {
  const nodes: NodeProto[] = []
  const initializers: TensorProto[] = []
  const seen = new Set<string>()
  const take = (at: Scope, name: string): void => {
    if (name === '' || name === input?.name || seen.has(name)) return
    seen.add(name)
    const owner = definingScope(at, name)
    const constant = owner?.constants.get(name)
    if (constant) {
      const { dims, dataType } = constant.tensor
      initializers.push(
        makeTensor({ name, dims, dataType, rawData: new Uint8Array(tensorBytes(model, constant.tensor)) }),
      )
      return
    }
    const producer = owner?.producers.get(name)
    if (!owner || !producer) throw new Error(`the written model has no '${name}'`)
    for (const needed of producer.input) take(owner, needed)
    if (!nodes.includes(producer)) nodes.push(producer)
  }
  const start = index.scopes[scope]!
  take(start, output)

  const tensorType = (elemType: number) => ({ value: { case: 'tensorType' as const, value: { elemType } } })
  const graph = {
    name: 'probe',
    node: [
      ...(input ? [makeNode('Cast', [PROBE_INPUT], [input.name], { attributes: { to: input.castTo } })] : []),
      ...nodes.map(edit),
      makeNode('Cast', [output], [PROBE_OUTPUT], { attributes: { to: DataType.FLOAT } }),
    ],
    initializer: initializers,
    input: input ? [{ name: PROBE_INPUT, type: tensorType(input.fedAs) }] : [],
    output: [{ name: PROBE_OUTPUT, type: tensorType(DataType.FLOAT) }],
  }
  const opsetImport = start.fn ? start.fn.opsetImport : model.proto.opsetImport
  return encodeModel(makeModel({ irVersion: model.proto.irVersion, opsetImport, graph }))
}

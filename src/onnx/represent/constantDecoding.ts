/**
 * @file The decode nodes of a written model that depend on constants alone, which onnxruntime computes when it loads the
 * model: what they give to the nodes that run, and what they take on the way.
 */
import { definingScope, type ModelIndex, nodesOf, type Scope } from '../graph.ts'
import type { GraphProto, ModelProto, NodeProto } from '../proto.ts'
import { elementBits } from '../tensorData.ts'
import { decodedForm, knowsForm, type TensorForm } from './decodedForm.ts'
import { DECODE_PREFIX } from './emitter.ts'

/** A tensor that decode nodes compute from constants, and that other nodes read. */
export interface DecodedTensor {
  readonly name: string
  /** Where its node is. */
  readonly scope: Scope
  /** Number of the layer, as it stands in the names of nodes. */
  readonly layer: string
  readonly form: TensorForm
  readonly bytes: number
}

export interface ConstantDecoding {
  readonly nodes: ReadonlySet<NodeProto>
  /** In the order of the nodes that give them. */
  readonly results: readonly DecodedTensor[]
  /**
   * Bytes of everything else that these nodes give. onnxruntime frees it when all layers are decoded, and not before, so
   * this is what loading the model takes on top; an upper bound, as it may leave nodes out.
   */
  readonly intermediateBytes: number
  /** Operators that decode constants, too, and whose results are not known: none, unless a representation brought a new one. */
  readonly unknown: ReadonlySet<string>
}

/** The number of a layer in the name of a node or tensor that qtool made for it; undefined for any other name. */
export function layerInName(name: string): string | undefined {
  if (!name.startsWith(DECODE_PREFIX)) return undefined
  const end = name.indexOf('/', DECODE_PREFIX.length)
  return end < 0 ? undefined : name.slice(DECODE_PREFIX.length, end)
}

/**
 * Find what is decoded at load.
 * @param index of the written model.
 * @param holds element types that results may have; a node that gives another is left to run.
 */
export function constantDecoding(index: ModelIndex, holds: (dataType: number) => boolean): ConstantDecoding {
  const found = new Map<NodeProto, DecodedTensor>()
  const unknown = new Set<string>()
  const made = new Map<Scope, Map<string, TensorForm>>()
  // Graphs come before their subgraphs, and nodes after those that they read.
  for (const scope of index.scopes) {
    const own = new Map<string, TensorForm>()
    made.set(scope, own)
    for (const node of nodesOf(scope)) {
      const layer = node.opType === 'Constant' ? undefined : layerInName(node.name)
      const inputs = layer === undefined ? undefined : constantInputs(index.model, scope, node, made)
      if (layer === undefined || !inputs) continue
      const form = decodedForm(node, scope, inputs)
      const name = node.output[0]!
      if (!knowsForm(node.opType) && node.opType !== 'DequantizeLinear') unknown.add(node.opType)
      // What leaves its graph must be made by a node.
      if (!form || !holds(form.dataType) || scope.outputs.has(name)) continue
      own.set(name, form)
      found.set(node, { name, scope, layer, form, bytes: bytesOf(form) })
    }
  }
  const readersOf = ({ name, scope }: DecodedTensor) => scope.readers.get(name) ?? []
  const isResult = (tensor: DecodedTensor) => readersOf(tensor).some(({ node }) => !found.has(node))
  // Another shape of a stored tensor that is needed as it is, too, is better left a node than stored twice.
  const views = [...found].filter(
    ([node, tensor]) =>
      node.opType === 'Reshape' &&
      readersOf(tensor).every((reader) => !found.has(reader.node)) &&
      readElsewhere(tensor.scope, node.input[0]!, found),
  )
  for (const [node] of views) found.delete(node)

  const all = [...found.values()]
  const results = all.filter(isResult)
  const total = (tensors: readonly DecodedTensor[]) => tensors.reduce((sum, { bytes }) => sum + bytes, 0)
  return { nodes: new Set(found.keys()), results, intermediateBytes: total(all) - total(results), unknown }
}

/** What a node reads; undefined unless all of it is constant. An input that is left out is an undefined entry. */
function constantInputs(
  model: ModelProto,
  scope: Scope,
  node: NodeProto,
  made: ReadonlyMap<Scope, ReadonlyMap<string, TensorForm>>,
): (TensorForm | undefined)[] | undefined {
  const inputs: (TensorForm | undefined)[] = []
  for (const name of node.input) {
    const form = name === '' ? undefined : knownForm(model.graph, scope, name, made)
    if (name !== '' && !form) return undefined
    inputs.push(form)
  }
  return inputs
}

function knownForm(
  main: GraphProto | undefined,
  scope: Scope,
  name: string,
  made: ReadonlyMap<Scope, ReadonlyMap<string, TensorForm>>,
): TensorForm | undefined {
  const owner = definingScope(scope, name)
  const constant = owner?.constants.get(name)
  if (!owner || !constant) return owner && made.get(owner)?.get(name)
  // Whoever runs the model may give another value for an initializer that is an input.
  if (owner.graph === main && main?.input.some((input) => input.name === name)) return undefined
  const { dataType, dims } = constant.tensor
  return { dataType, dims: dims.map(Number) }
}

function readElsewhere(scope: Scope, name: string, found: ReadonlyMap<NodeProto, DecodedTensor>): boolean {
  const owner = definingScope(scope, name)
  return owner?.constants.has(name) === true && (owner.readers.get(name) ?? []).some(({ node }) => !found.has(node))
}

function bytesOf({ dataType, dims }: TensorForm): number {
  return Math.ceil((dims.reduce((product, size) => product * size, 1) * elementBits(dataType)!) / 8)
}

/** @file Every tensor of a model, wherever it is: initializers, attributes, sparse tensors, subgraphs, local functions. */
import { quoted } from './names.ts'
import type { AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto } from './proto.ts'

/** Where in the model a tensor is. */
interface TensorPlace {
  /**
   * - `initializer` a graph's dense initializer
   * - `constant`    the `value` of a Constant node
   * - `other`       any other attribute, or a part of a sparse tensor
   */
  readonly role: 'initializer' | 'constant' | 'other'
  /** For messages, for example: tensor 'w', or: attribute 'value' of node 'c' (Constant). */
  describe(): string
}

type Visit = (tensor: TensorProto, place: TensorPlace) => void

/** Call `visit` for each tensor in the order of the decoded message: a node's tensors before its graph's initializers. */
export function forEachTensor(model: ModelProto, visit: Visit): void {
  if (model.graph) visitGraph(model.graph, visit)
  for (const training of model.trainingInfo) {
    if (training.initialization) visitGraph(training.initialization, visit)
    if (training.algorithm) visitGraph(training.algorithm, visit)
  }
  for (const fn of model.functions) {
    for (const node of fn.node) visitNode(node, visit)
    for (const attribute of fn.attributeProto) {
      visitAttribute(attribute, 'other', () => `function ${quoted(fn.name)}`, visit)
    }
  }
}

function visitGraph(graph: GraphProto, visit: Visit): void {
  for (const node of graph.node) visitNode(node, visit)
  for (const tensor of graph.initializer) {
    visit(tensor, { role: 'initializer', describe: () => `tensor ${quoted(tensor.name)}` })
  }
  for (const sparse of graph.sparseInitializer) {
    const place: TensorPlace = {
      role: 'other',
      describe: () => `sparse tensor ${quoted(sparse.values?.name ?? '')}`,
    }
    if (sparse.values) visit(sparse.values, place)
    if (sparse.indices) visit(sparse.indices, place)
  }
}

function visitNode(node: NodeProto, visit: Visit): void {
  const isConstant = node.opType === 'Constant' && (node.domain === '' || node.domain === 'ai.onnx')
  for (const attribute of node.attribute) {
    const role = isConstant && attribute.name === 'value' ? 'constant' : 'other'
    visitAttribute(attribute, role, () => describeNode(node), visit)
  }
}

function visitAttribute(attribute: AttributeProto, role: TensorPlace['role'], owner: () => string, visit: Visit): void {
  const place = (of: TensorPlace['role']): TensorPlace => ({
    role: of,
    describe: () => `attribute ${quoted(attribute.name)} of ${owner()}`,
  })
  if (attribute.t) visit(attribute.t, place(role))
  for (const tensor of attribute.tensors) visit(tensor, place('other'))
  for (const sparse of [...(attribute.sparseTensor ? [attribute.sparseTensor] : []), ...attribute.sparseTensors]) {
    if (sparse.values) visit(sparse.values, place('other'))
    if (sparse.indices) visit(sparse.indices, place('other'))
  }
  if (attribute.g) visitGraph(attribute.g, visit)
  for (const graph of attribute.graphs) visitGraph(graph, visit)
}

/** A node for messages: its name or, where it has none, its first output. */
export function describeNode(node: NodeProto): string {
  return `node ${quoted(node.name || node.output.find((name) => name !== '') || '')} (${node.opType || 'no operator'})`
}

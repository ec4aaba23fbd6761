/** @file The second reader: onnx-proto (protobufjs), which shares no code with the product's reader. */
import onnxProto from 'onnx-proto'

const { ModelProto } = onnxProto.onnx
type Tensor = onnxProto.onnx.ITensorProto
type Graph = onnxProto.onnx.IGraphProto
type Node = onnxProto.onnx.INodeProto

export function decodeIndependently(bytes: Uint8Array): onnxProto.onnx.ModelProto {
  return ModelProto.decode(bytes)
}

/** All dense tensors in the order: a node's attributes (subgraphs included), then its graph's initializers. */
export function tensorsIndependently(bytes: Uint8Array): Tensor[] {
  const found: Tensor[] = []
  const addNodes = (nodes: readonly Node[]): void => {
    for (const attribute of nodes.flatMap((node) => node.attribute ?? [])) {
      if (attribute.t) found.push(attribute.t)
      found.push(...(attribute.tensors ?? []))
      for (const graph of [...(attribute.g ? [attribute.g] : []), ...(attribute.graphs ?? [])]) addGraph(graph)
    }
  }
  const addGraph = (graph: Graph): void => {
    addNodes(graph.node ?? [])
    found.push(...(graph.initializer ?? []))
  }
  const model = decodeIndependently(bytes)
  if (model.graph) addGraph(model.graph)
  for (const fn of model.functions) addNodes(fn.node ?? [])
  return found
}

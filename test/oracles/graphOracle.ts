/** @file What a graph needs, by definition: every question asks all nodes anew. */
import type { GraphProto, NodeProto } from '../../src/onnx/proto.ts'

/** All names that a node's computation mentions, those inside its subgraphs included. */
function mentions(node: NodeProto): Set<string> {
  const names = new Set(node.input)
  const enter = (graph: GraphProto): void => {
    for (const { name } of graph.output) names.add(name)
    for (const inner of graph.node) for (const name of mentions(inner)) names.add(name)
  }
  for (const { g, graphs } of node.attribute) {
    if (g) enter(g)
    graphs.forEach(enter)
  }
  return names
}

/** Names that depend on an input of the graph. */
export function dependents(graph: GraphProto): Set<string> {
  const stored = new Set(graph.initializer.map(({ name }) => name))
  const found = new Set(graph.input.map(({ name }) => name).filter((name) => !stored.has(name)))
  for (let before = -1; before !== found.size; ) {
    before = found.size
    for (const node of graph.node) {
      if ([...mentions(node)].some((name) => found.has(name))) for (const name of node.output) if (name) found.add(name)
    }
  }
  return found
}

/** Is every node after the nodes that make what it mentions? */
export function isRunnable(nodes: readonly NodeProto[]): boolean {
  return nodes.every((node, at) =>
    nodes.slice(at).every((later) => !later.output.some((name) => name && mentions(node).has(name))),
  )
}

/** Names that depend on inputs, are there before node `cut`, and are read from there on or leave the graph. */
export function neededAcross(graph: GraphProto, nodes: readonly NodeProto[], cut: number): Set<string> {
  const there = new Set([
    ...graph.input.map(({ name }) => name),
    ...nodes.slice(0, cut).flatMap(({ output }) => output),
  ])
  const depends = dependents(graph)
  const isRead = (name: string) =>
    graph.output.some((output) => output.name === name) || nodes.slice(cut).some((node) => mentions(node).has(name))
  return new Set([...there].filter((name) => depends.has(name) && isRead(name)))
}

/** Places of the nodes that depend on inputs and read a stored name, directly or through nodes that do not. */
export function placesThatNeed(graph: GraphProto, nodes: readonly NodeProto[], name: string): number[] {
  const depends = dependents(graph)
  return nodes.flatMap((node, at) => {
    if (!mentions(node).has(name)) return []
    if (node.output.some((made) => depends.has(made))) return [at]
    return node.output.flatMap((made) => placesThatNeed(graph, nodes, made))
  })
}

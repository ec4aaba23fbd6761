/** @file Ways through the main graph: what lies between two tensors, who reads a tensor, and which node uses which layer. */

import { subgraphs } from '../onnx/attributes.ts'
import { functionKey, type Scope } from '../onnx/graph.ts'
import type { WeightedLayer, WeightUse } from '../onnx/layers.ts'
import type { FunctionProto, GraphProto, NodeProto } from '../onnx/proto.ts'
import type { MainGraph } from './mainGraph.ts'

/**
 * Places of the nodes on the ways from some names to others, ascending.
 * @param from names made by one node, or inputs.
 * @returns empty when no name in `to` depends on one in `from`.
 */
export function nodesBetween(
  { nodes, reads, madeAt }: MainGraph,
  from: readonly string[],
  to: readonly string[],
): number[] {
  const start = Math.max(...from.map((name) => madeAt.get(name) ?? -1))
  const behind = new Set<number>()
  const pending = [...to]
  while (pending.length > 0) {
    const at = madeAt.get(pending.pop()!)
    if (at === undefined || at <= start || behind.has(at)) continue
    behind.add(at)
    pending.push(...reads.get(nodes[at]!)!)
  }
  const reached = new Set(from)
  return [...behind]
    .sort((a, b) => a - b)
    .filter((at) => {
      const node = nodes[at]!
      if (!reads.get(node)!.some((name) => reached.has(name))) return false
      for (const name of node.output) if (name !== '') reached.add(name)
      return true
    })
}

/** Places of the nodes that read each name; the number of nodes stands for an output of the model. */
export function readersOf({ nodes, reads, outputs }: MainGraph): ReadonlyMap<string, readonly number[]> {
  const readers = new Map<string, number[]>()
  const add = (name: string, at: number) => {
    const known = readers.get(name)
    if (known) known.push(at)
    else readers.set(name, [at])
  }
  nodes.forEach((node, at) => {
    for (const name of reads.get(node)!) add(name, at)
  })
  for (const name of outputs) add(name, nodes.length)
  return readers
}

/** Layers by the place of the node that uses them; a use inside a subgraph or function is its outermost node's. */
export function layersByPlace(
  graph: MainGraph,
  layers: readonly WeightedLayer[],
): ReadonlyMap<number, readonly WeightedLayer[]> {
  const places = new Map(graph.nodes.map((node, at) => [node, at]))
  const holders = holdersOf(graph)
  const found = new Map<number, WeightedLayer[]>()
  for (const layer of layers) {
    const used = new Set(layer.uses.flatMap((use) => placesOfUse(graph, places, holders, layer, use)))
    for (const at of used) found.set(at, [...(found.get(at) ?? []), layer])
  }
  return found
}

type Body = GraphProto | FunctionProto

function placesOfUse(
  { nodes, reads }: MainGraph,
  places: ReadonlyMap<NodeProto, number>,
  holders: ReadonlyMap<Body, readonly number[]>,
  { constant }: WeightedLayer,
  { node, scope }: WeightUse,
): readonly number[] {
  const own = places.get(node)
  if (own !== undefined) return [own]
  const all = holders.get(bodyOf(scope)) ?? []
  // A function may be called with other weights each time.
  const given = all.filter((at) => reads.get(nodes[at]!)!.includes(constant.name))
  return given.length > 0 ? given : all
}

function bodyOf({ graph, fn }: Scope): Body {
  return (graph ?? fn)!
}

/** Places of the nodes that carry or call each subgraph and function, at any depth. */
function holdersOf({ nodes, index }: MainGraph): ReadonlyMap<Body, readonly number[]> {
  const holders = new Map<Body, number[]>()
  const visit = (node: NodeProto, at: number): void => {
    const called = index.functions.get(functionKey(node.domain, node.opType, node.overload))
    for (const body of [...subgraphs(node).map(({ graph }) => graph), ...(called ? [bodyOf(called)] : [])]) {
      const known = holders.get(body) ?? []
      // A function that calls itself is invalid; do not follow it.
      if (known.at(-1) === at) continue
      holders.set(body, [...known, at])
      for (const inner of body.node) visit(inner, at)
    }
  }
  nodes.forEach(visit)
  return holders
}

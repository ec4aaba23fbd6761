/**
 * @file The main graph as calibration walks it: nodes in an order in which they can run, what each reads (the captures of
 * its subgraphs included), which names are constant, and which are alive at a cut.
 *
 * A cut at p lies before node p. What is alive there is what the rest of the graph needs of the part before.
 */
import { subgraphs } from '../onnx/attributes.ts'
import type { ModelIndex, Scope } from '../onnx/graph.ts'
import type { GraphProto, NodeProto } from '../onnx/proto.ts'

export interface MainGraph {
  readonly index: ModelIndex
  readonly scope: Scope
  /** In an order in which every node comes after what it reads. */
  readonly nodes: readonly NodeProto[]
  /** Names of the main scope that a node reads, without repeats. */
  readonly reads: ReadonlyMap<NodeProto, readonly string[]>
  /** Place of the node that makes a name. Inputs and constants have none. */
  readonly madeAt: ReadonlyMap<string, number>
  /** Place of the last node that reads a name; nodes.length for graph outputs. */
  readonly lastReadAt: ReadonlyMap<string, number>
  /** Inputs that are fed: graph inputs without a default. */
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
}

/** Analyse the main graph of an indexed model. */
export function analyseMainGraph(index: ModelIndex): MainGraph {
  const scope = index.scopes[0]!
  const graph = scope.graph!
  const reads = new Map(graph.node.map((node) => [node, namesRead(node, scope)]))
  const nodes = runnableOrder(graph.node, scope, reads)
  const madeAt = new Map<string, number>()
  const lastReadAt = new Map<string, number>()
  nodes.forEach((node, at) => {
    for (const name of node.output) if (name) madeAt.set(name, at)
    for (const name of reads.get(node)!) lastReadAt.set(name, at)
  })
  for (const { name } of graph.output) lastReadAt.set(name, nodes.length)
  const inputs = graph.input.map((input) => input.name).filter((name) => !scope.constants.has(name))
  return { index, scope, nodes, reads, madeAt, lastReadAt, inputs, outputs: graph.output.map((output) => output.name) }
}

function namesRead(node: NodeProto, scope: Scope): string[] {
  const names = new Set(node.input.filter((name) => name !== ''))
  const visit = (graph: GraphProto): void => {
    const all = [...graph.node.flatMap((inner) => inner.input), ...graph.output.map((output) => output.name)]
    // Names that the subgraph makes itself are not those of the main graph: ONNX forbids to reuse a visible name.
    for (const name of all) if (isOfMainScope(name, scope)) names.add(name)
    for (const inner of graph.node) for (const sub of subgraphs(inner)) visit(sub.graph)
  }
  for (const sub of subgraphs(node)) visit(sub.graph)
  return [...names]
}

function isOfMainScope(name: string, scope: Scope): boolean {
  return (
    scope.producers.has(name) || scope.constants.has(name) || scope.graph!.input.some((input) => input.name === name)
  )
}

/** The nodes as they stand where they are sorted, as ONNX demands; else each after those it reads from. */
function runnableOrder(
  nodes: readonly NodeProto[],
  scope: Scope,
  reads: ReadonlyMap<NodeProto, readonly string[]>,
): NodeProto[] {
  const ordered = new Set<NodeProto>()
  // A stack of our own: a chain of thousands of nodes in the wrong order would exhaust the engine's.
  for (const root of nodes) {
    const stack = [root]
    while (stack.length > 0) {
      const node = stack.at(-1)!
      const before = ordered.has(node)
        ? []
        : reads.get(node)!.flatMap((name) => {
            const producer = scope.producers.get(name)
            return producer && !ordered.has(producer) && producer !== node ? [producer] : []
          })
      if (before.length === 0) {
        ordered.add(node)
        stack.pop()
      } else stack.push(...before)
    }
  }
  return [...ordered]
}

const RANDOM = new Set([
  'RandomNormal',
  'RandomUniform',
  'RandomNormalLike',
  'RandomUniformLike',
  'Multinomial',
  'Bernoulli',
  'Dropout',
])

/** Names that do not depend on any input: constants, and what nodes make of constants alone. */
export function constantNames(graph: MainGraph): ReadonlySet<string> {
  const known = new Set(graph.scope.constants.keys())
  for (const node of graph.nodes) {
    if (RANDOM.has(node.opType) || !graph.reads.get(node)!.every((name) => known.has(name))) continue
    for (const name of node.output) if (name) known.add(name)
  }
  return known
}

/** Names alive at a cut, in the order in which they are made; constants are not among them. */
export function aliveAt(graph: MainGraph, constants: ReadonlySet<string>, cut: number): string[] {
  const made = [...graph.madeAt].filter(([, at]) => at < cut).map(([name]) => name)
  return [...graph.inputs, ...made].filter((name) => !constants.has(name) && (graph.lastReadAt.get(name) ?? -1) >= cut)
}

/** Element types other than tensors, which cannot be handed over between sessions. */
const SEQUENCE_MAKERS = /^(Sequence|SplitToSequence|Optional|ConcatFromSequence|StringConcat|StringSplit)/

/** True where everything alive at a cut is a tensor of numbers. */
export function canCut(graph: MainGraph, alive: readonly string[]): boolean {
  return alive.every((name) => {
    const at = graph.madeAt.get(name)
    if (at === undefined) return true
    const { opType } = graph.nodes[at]!
    return !SEQUENCE_MAKERS.test(opType) || opType === 'SequenceLength' || opType === 'SequenceAt'
  })
}

/** First and last node that runs with data and needs a constant, directly or through what is made of it. */
export function constantUses(
  graph: MainGraph,
  constants: ReadonlySet<string>,
): ReadonlyMap<string, { readonly first: number; readonly last: number }> {
  const uses = new Map<string, { first: number; last: number }>()
  const widen = (name: string, first: number, last: number) => {
    const known = uses.get(name)
    uses.set(name, {
      first: Math.min(first, known?.first ?? first),
      last: Math.max(last, known?.last ?? last),
    })
  }
  for (let at = graph.nodes.length - 1; at >= 0; at--) {
    const node = graph.nodes[at]!
    const isConstant = node.output.some((name) => constants.has(name))
    const needed = isConstant ? node.output.flatMap((name) => uses.get(name) ?? []) : [{ first: at, last: at }]
    for (const name of graph.reads.get(node)!) {
      if (constants.has(name)) for (const { first, last } of needed) widen(name, first, last)
    }
  }
  return uses
}

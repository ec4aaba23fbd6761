/**
 * @file Is a graph a graph? Every name that is read must be made exactly once, and nothing may depend on itself.
 *
 * Names of an enclosing graph are visible in subgraphs (and may be shadowed there); a function sees only its own.
 * O(nodes + names read).
 */
import { QtoolError } from '../errors.ts'
import { quoted } from './names.ts'
import type { AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto } from './proto.ts'
import { describeNode } from './tensors.ts'

const HINT = 'the model is corrupt, or was edited wrongly; export it again'

/** Index of a name that is there before any node runs: an input or an initializer. */
const GIVEN = -1

interface Names {
  /** Name → index of the node that makes it, or {@link GIVEN}. */
  readonly makers: ReadonlyMap<string, number>
  readonly outer: Names | undefined
}

/**
 * Check the main graph, all subgraphs and all local functions.
 * @throws QtoolError `model` for a name that nothing makes, or that is made twice, and for a cycle.
 */
export function checkGraphs(model: ModelProto): void {
  if (model.graph) checkGraph(model.graph, undefined, 'the graph')
  for (const fn of model.functions) checkFunction(fn)
}

/** @returns the names of enclosing graphs that this graph reads. */
function checkGraph(graph: GraphProto, outer: Names | undefined, where: string): Set<string> {
  const makers = new Map<string, number>()
  for (const { name } of graph.input) {
    if (makers.has(name)) throw madeTwice(name, 'two graph inputs', where)
    makers.set(name, GIVEN)
  }
  // An initializer may have the name of an input, whose default value it then is.
  const initializers = new Set<string>()
  for (const tensor of [...graph.initializer, ...graph.sparseInitializer.map((sparse) => sparse.values)]) {
    if (!tensor?.name) continue
    if (initializers.has(tensor.name)) throw madeTwice(tensor.name, 'two initializers', where)
    initializers.add(tensor.name)
    makers.set(tensor.name, GIVEN)
  }
  const outputs = graph.output.map(({ name }) => name)
  return checkNodes(graph.node, makers, outputs, outer, where)
}

function checkFunction(fn: FunctionProto): void {
  const where = `function ${quoted(fn.name)}`
  const makers = new Map<string, number>()
  for (const name of fn.input) {
    if (makers.has(name)) throw madeTwice(name, 'two function inputs', where)
    makers.set(name, GIVEN)
  }
  checkNodes(fn.node, makers, fn.output, undefined, where)
}

function checkNodes(
  nodes: readonly NodeProto[],
  makers: Map<string, number>,
  outputs: readonly string[],
  outer: Names | undefined,
  where: string,
): Set<string> {
  nodes.forEach((node, index) => {
    for (const name of node.output) {
      if (name === '') continue
      const other = makers.get(name)
      if (other !== undefined) {
        const otherMaker = other === GIVEN ? 'an input or initializer' : describeNode(nodes[other]!)
        throw madeTwice(name, `${otherMaker} and ${describeNode(node)}`, where)
      }
      makers.set(name, index)
    }
  })
  const names: Names = { makers, outer }
  const fromOuter = new Set<string>()
  const resolve = (name: string, reader: () => string): number => {
    const maker = makers.get(name)
    if (maker !== undefined) return maker
    if (!isVisible(outer, name)) {
      const message = `${reader()} reads ${quoted(name)}, which no node, input or initializer of ${where} provides`
      throw new QtoolError('model', message, { hint: HINT })
    }
    fromOuter.add(name)
    return GIVEN
  }
  // The nodes that each node waits for, subgraphs' readings of this graph's names included.
  const waitsFor = nodes.map((node) => {
    const makersRead: number[] = []
    const read = (name: string): void => {
      const maker = resolve(name, () => describeNode(node))
      if (maker !== GIVEN) makersRead.push(maker)
    }
    for (const name of node.input) if (name !== '') read(name)
    for (const attribute of node.attribute) {
      for (const graph of graphsOf(attribute)) {
        const place = `the graph in attribute ${quoted(attribute.name)} of ${describeNode(node)}`
        for (const name of checkGraph(graph, names, place)) read(name)
      }
    }
    return makersRead
  })
  for (const name of outputs) if (name !== '') resolve(name, () => `the list of outputs of ${where}`)
  checkAcyclic(nodes, waitsFor, where)
  return fromOuter
}

function graphsOf(attribute: AttributeProto): GraphProto[] {
  return attribute.g ? [attribute.g, ...attribute.graphs] : attribute.graphs
}

function isVisible(names: Names | undefined, name: string): boolean {
  for (let scope = names; scope; scope = scope.outer) if (scope.makers.has(name)) return true
  return false
}

/** Kahn's algorithm. */
function checkAcyclic(nodes: readonly NodeProto[], waitsFor: readonly (readonly number[])[], where: string): void {
  // Nodes in execution order, which ONNX asks for and nearly every file has, cannot form a cycle.
  if (waitsFor.every((makers, index) => makers.every((maker) => maker < index))) return
  const dependents: number[][] = nodes.map(() => [])
  const waiting = waitsFor.map((makers, index) => {
    for (const maker of makers) dependents[maker]!.push(index)
    return makers.length
  })
  const ready = nodes.flatMap((_, index) => (waiting[index] === 0 ? [index] : []))
  for (let next = ready.pop(); next !== undefined; next = ready.pop()) {
    for (const dependent of dependents[next]!) if (--waiting[dependent]! === 0) ready.push(dependent)
  }
  const stuck = waiting.findIndex((count) => count > 0)
  if (stuck < 0) return
  // Every node that still waits, waits for another such node; following them must come round.
  const trail = [stuck]
  const positions = new Map([[stuck, 0]])
  for (;;) {
    const next = waitsFor[trail.at(-1)!]!.find((maker) => waiting[maker]! > 0)!
    const start = positions.get(next)
    if (start === undefined) {
      positions.set(next, trail.length)
      trail.push(next)
      continue
    }
    const cycle = trail.slice(start).reverse()
    const shown = cycle.slice(0, 5).map((index) => describeNode(nodes[index]!))
    const more = cycle.length > 5 ? ` → … (${cycle.length} nodes)` : ''
    throw new QtoolError('model', `${where} has a cycle: ${shown.join(' → ')}${more} → ${shown[0]}`, { hint: HINT })
  }
}

function madeTwice(name: string, makers: string, where: string): QtoolError {
  return new QtoolError('model', `${quoted(name)} is made twice in ${where}: by ${makers}`, { hint: HINT })
}

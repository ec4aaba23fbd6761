/**
 * @file An index over a model: its scopes (main graph, subgraphs of If/Loop/Scan, bodies of local functions), which
 * constants each holds, and who reads a name.
 *
 * Names are visible from a graph into its subgraphs, not out of them; a function body sees only its own names.
 */
import { subgraphs } from './attributes.ts'
import {
  DataType,
  type FunctionProto,
  type GraphProto,
  type ModelProto,
  makeTensor,
  type NodeProto,
  type TensorProto,
} from './proto.ts'

/** A tensor known when the model is read: an initializer, or the value of a Constant node. */
export interface Constant {
  readonly name: string
  readonly tensor: TensorProto
  readonly scope: Scope
  /** The Constant node that holds the tensor; undefined for an initializer. */
  readonly node: NodeProto | undefined
}

/** One reading of a name. */
export interface Reader {
  readonly scope: Scope
  readonly node: NodeProto
  readonly inputIndex: number
}

export interface Scope {
  /** '' for the main graph; otherwise the path to it, for messages. */
  readonly label: string
  /** The enclosing graph; undefined for the main graph and for functions. */
  readonly parent: Scope | undefined
  readonly graph: GraphProto | undefined
  readonly fn: FunctionProto | undefined
  readonly constants: Map<string, Constant>
  readonly producers: Map<string, NodeProto>
  /** Readers of names that this scope defines, its subgraphs' nodes included. */
  readonly readers: Map<string, Reader[]>
  /** Names that leave the scope. */
  readonly outputs: ReadonlySet<string>
}

/** The local function that a scope is, or lies in. */
export function enclosingFunction(scope: Scope): FunctionProto | undefined {
  let outermost = scope
  while (outermost.parent) outermost = outermost.parent
  return outermost.fn
}

/** The node list that a scope's proto holds. */
export function nodesOf(scope: Scope): NodeProto[] {
  return (scope.graph ?? scope.fn)!.node
}

export interface ModelIndex {
  readonly model: ModelProto
  /** The main graph first, each graph before its subgraphs, functions last. */
  readonly scopes: readonly Scope[]
  /** Local functions by `domain::name` (overloads are one entry each, the first wins). */
  readonly functions: ReadonlyMap<string, Scope>
}

/** Key of a local function, also computed from a node that calls it. */
export function functionKey(domain: string, name: string, overload = ''): string {
  return `${domain}::${name}${overload ? `::${overload}` : ''}`
}

/** The scope that defines `name` as seen from `scope`, or undefined. */
export function definingScope(scope: Scope, name: string): Scope | undefined {
  for (let s: Scope | undefined = scope; s; s = s.parent) {
    if (s.constants.has(name) || s.producers.has(name) || s.graph?.input.some((i) => i.name === name)) return s
    if (s.fn?.input.includes(name)) return s
  }
  return undefined
}

/** The constant that `name` means in `scope`, or undefined. */
export function findConstant(scope: Scope, name: string): Constant | undefined {
  return definingScope(scope, name)?.constants.get(name)
}

/** Index a model. The index is a snapshot: build it again after editing nodes. */
export function indexModel(model: ModelProto): ModelIndex {
  const scopes: Scope[] = []
  const functions = new Map<string, Scope>()
  if (model.graph) addGraph(model.graph, '', undefined, scopes)
  for (const fn of model.functions) {
    const scope = makeScope(`function ${functionKey(fn.domain, fn.name, fn.overload)}`, undefined, undefined, fn)
    functions.set(functionKey(fn.domain, fn.name, fn.overload), scope)
    addNodes(scope, scopes)
  }
  for (const scope of scopes) collectReaders(scope)
  return { model, scopes, functions }
}

function makeScope(
  label: string,
  parent: Scope | undefined,
  graph: GraphProto | undefined,
  fn: FunctionProto | undefined,
): Scope {
  const outputs = new Set(graph ? graph.output.map((o) => o.name) : fn!.output)
  return { label, parent, graph, fn, constants: new Map(), producers: new Map(), readers: new Map(), outputs }
}

function addGraph(graph: GraphProto, label: string, parent: Scope | undefined, scopes: Scope[]): void {
  const scope = makeScope(label, parent, graph, undefined)
  for (const tensor of graph.initializer) {
    scope.constants.set(tensor.name, { name: tensor.name, tensor, scope, node: undefined })
  }
  addNodes(scope, scopes)
}

function addNodes(scope: Scope, scopes: Scope[]): void {
  scopes.push(scope)
  for (const node of nodesOf(scope)) {
    for (const output of node.output) if (output) scope.producers.set(output, node)
    const value = node.opType === 'Constant' ? constantValue(node) : undefined
    const name = node.output[0]
    if (value && name) scope.constants.set(name, { name, tensor: value, scope, node })
    for (const sub of subgraphs(node)) {
      addGraph(
        sub.graph,
        `${scope.label}${scope.label ? '/' : ''}${node.name || node.opType}.${sub.name}`,
        scope,
        scopes,
      )
    }
  }
}

/** What a Constant node holds, where that is a tensor or a list of floats. */
function constantValue(node: NodeProto): TensorProto | undefined {
  const list = node.attribute.find((a) => a.name === 'value_floats')
  if (list) return makeTensor({ dataType: DataType.FLOAT, dims: [BigInt(list.floats.length)], floatData: list.floats })
  return node.attribute.find((a) => a.name === 'value')?.t
}

function collectReaders(scope: Scope): void {
  for (const node of nodesOf(scope)) {
    node.input.forEach((name, inputIndex) => {
      if (!name) return
      const owner = definingScope(scope, name)
      if (!owner) return
      const list = owner.readers.get(name)
      if (list) list.push({ scope, node, inputIndex })
      else owner.readers.set(name, [{ scope, node, inputIndex }])
    })
  }
}

/** A maker of names that no scope of the model uses yet. */
export function makeFreshNames(model: ModelProto): (wanted: string) => string {
  const taken = new Set<string>()
  for (const scope of indexModel(model).scopes) {
    for (const name of scope.constants.keys()) taken.add(name)
    for (const node of nodesOf(scope)) {
      taken.add(node.name)
      for (const output of node.output) taken.add(output)
    }
    for (const input of scope.graph?.input ?? []) taken.add(input.name)
    for (const input of scope.fn?.input ?? []) taken.add(input)
  }
  return (wanted) => {
    let name = wanted
    for (let i = 2; taken.has(name); i++) name = `${wanted}~${i}`
    taken.add(name)
    return name
  }
}

/** @file What a walk along a stream has found so far: its tensors, what writes and reads, and what stands in the way. */
import type { MainGraph } from '../calibration/mainGraph.ts'
import { storedTensor } from '../calibration/storedTensor.ts'
import type { Constant } from '../onnx/graph.ts'
import { quoted } from '../onnx/names.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { describeNode } from '../onnx/tensors.ts'
import type { AxisFacts } from './axisFacts.ts'
import { type Place, readerAt } from './products.ts'
import { storedNumbers } from './storedNumbers.ts'
import { strangerAt } from './storedWeights.ts'
import type { Norm, Reader, Writer } from './stream.ts'

/** What all walks of a graph know. */
export interface StreamFacts {
  readonly facts: AxisFacts
  /** Norms by each of their nodes. */
  readonly normsAt: ReadonlyMap<NodeProto, readonly Norm[]>
  /** Norms by their outputs. */
  readonly normOf: ReadonlyMap<string, Norm>
  /** Names that no input of the model changes. */
  readonly constants: ReadonlySet<string>
}

interface Obstacle {
  /** Place of the node in the graph; the number of nodes for outputs. */
  readonly at: number
  readonly node: string
  readonly reason: string
}

export class Findings {
  readonly graph: MainGraph
  readonly width: number
  readonly tensors = new Set<string>()
  readonly writers: Writer[] = []
  readonly readers: Reader[] = []
  readonly norms = new Set<Norm>()
  /** Nodes that add two tensors of the stream which both depend on the data. */
  readonly sums = new Set<NodeProto>()
  readonly obstacles: Obstacle[] = []
  readonly #seen = new Map<NodeProto, Set<string>>()

  constructor(graph: MainGraph, width: number) {
    this.graph = graph
    this.width = width
  }

  /** @param name of what stands in the way, where that is no node. */
  refuse(node: NodeProto | undefined, reason: string, name = ''): void {
    const at = node ? this.graph.nodes.indexOf(node) : this.graph.nodes.length
    this.obstacles.push({ at, node: node?.name || node?.output[0] || name, reason })
  }

  /** True the first time that something is looked at. */
  isNew(what: string, node: NodeProto, inputIndex = 0): boolean {
    const seen = this.#seen.get(node) ?? new Set()
    this.#seen.set(node, seen)
    const key = `${what} ${inputIndex}`
    return !seen.has(key) && seen.add(key) !== undefined
  }

  /** Takes a stored tensor as a writer. */
  write({ weight, axis, node, inputIndex }: Place): void {
    if (this.isNew('write', node, inputIndex)) this.writers.push({ constant: weight.constant, axis, node, inputIndex })
  }

  /** Takes a stored tensor that is added along its last axis as a writer. @returns false where an input is computed. */
  writeStored(node: NodeProto, inputIndex: number): boolean {
    const name = node.input[inputIndex]!
    const weight = storedTensor(this.graph, name)
    if (!weight) return false
    const axis = weight.dims.at(-1) === this.width ? weight.axisOf(-1) : undefined
    if (axis !== undefined) this.write({ weight, axis, node, inputIndex })
    else if (!isZero(weight.constant)) {
      this.refuse(node, `${describeNode(node)} adds ${quoted(name)}, whose last axis is not that of the channels`)
    }
    return true
  }

  /** Takes a node as a reader. @returns false where it is none. */
  read(node: NodeProto, inputIndex: number, norm: Norm | undefined): boolean {
    const place = readerAt(this.graph, node, inputIndex, this.width)
    if (!place) return false
    const { weight, axis } = place
    if (this.isNew('read', node)) {
      this.readers.push({ constant: weight.constant, axis, node, inputIndex: place.inputIndex, norm })
    }
    return true
  }

  /** Outputs of the model and captures of subgraphs among the readers of a name. */
  checkEnds(name: string): void {
    const { scope, nodes, reads } = this.graph
    if (scope.outputs.has(name)) {
      const reason = `${quoted(name)} is an output of the model, so its channels must stay as they are`
      this.refuse(scope.producers.get(name), reason, name)
    }
    const inner = scope.readers.get(name)?.find((reader) => reader.scope !== scope)
    if (!inner) return
    const holder = nodes.find((node) => reads.get(node)!.includes(name) && !node.input.includes(name))
    this.refuse(holder, `${quoted(name)} is read inside a subgraph, by ${describeNode(inner.node)}`, name)
  }

  /**
   * Looks for readers of the stream's weights that are not on it.
   * @returns look-ups of its tables elsewhere, whose results belong to the stream then; anything else is refused.
   */
  otherLookups(): NodeProto[] {
    const uses = new Map<Constant, (Writer | Reader)[]>()
    for (const use of [...this.writers, ...this.readers]) {
      uses.set(use.constant, [...(uses.get(use.constant) ?? []), use])
    }
    return [...uses].flatMap(([constant, known]) => {
      const stranger = strangerAt(this.graph, constant, usesAlike(known))
      if (!stranger) return []
      const { node, inputIndex, name } = stranger
      if (node?.opType === 'Gather' && inputIndex === 0 && this.isNew('lookup', node)) return [node]
      if (!this.isNew(`stranger ${constant.name}`, known[0]!.node)) return []
      const by = node ? `is also used by ${describeNode(node)}` : `is an output of the model as ${quoted(name)}`
      this.refuse(node, `the weight ${quoted(constant.name)} of the stream ${by}, in another way`, constant.name)
      return []
    })
  }
}

/** Known are uses along the axes along which the first one is made; others would be turned otherwise. */
function usesAlike(uses: readonly (Writer | Reader)[]) {
  const axesOf = (node: NodeProto, inputIndex: number) => {
    const here = uses.filter((use) => use.node === node && use.inputIndex === inputIndex)
    return [...new Set(here.map(({ axis }) => axis))].sort().join()
  }
  const wanted = axesOf(uses[0]!.node, uses[0]!.inputIndex)
  return (node: NodeProto, inputIndex: number): boolean | undefined => {
    const axes = axesOf(node, inputIndex)
    return axes === '' ? undefined : axes === wanted
  }
}

function isZero({ tensor }: Constant): boolean {
  return storedNumbers(tensor)?.every((value) => value === 0) ?? false
}

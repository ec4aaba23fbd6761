/**
 * @file What the model proves about the axes of its values, in one pass in the order of the graph: how many there are, and the
 * size of the last one. Declared shapes come first, then the rules of operators (axisRules.ts), contributed ones included.
 */
import type { MainGraph } from '../calibration/mainGraph.ts'
import { intsAttribute } from '../onnx/attributes.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { declarations, inferRanks } from '../onnx/ranks.ts'
import { lastAxisOf, ranksAddedAt, skippedSum } from './axisRules.ts'
import { integersOf } from './storedNumbers.ts'

export class AxisFacts {
  readonly graph: MainGraph
  readonly #proved: (name: string) => number | undefined
  readonly #ranks = new Map<string, number>()
  readonly #last = new Map<string, number>()

  constructor(graph: MainGraph) {
    this.graph = graph
    const proved = inferRanks(graph.index)
    this.#proved = (name) => proved(graph.scope, name)
    for (const { name, type } of declarations(graph.scope)) {
      const dim = type?.value.case === 'tensorType' ? type.value.value.shape?.dim.at(-1) : undefined
      // Some converters write −1 or 0 for what they do not know.
      if (dim?.value.case === 'dimValue' && dim.value.value > 0n) this.#last.set(name, Number(dim.value.value))
    }
    for (const node of graph.nodes) this.#learn(node)
  }

  #learn(node: NodeProto): void {
    const outputs = node.opType === 'Split' ? node.output : [node.output[0], skippedSum(node)]
    for (const name of outputs) {
      if (!name) continue
      const rank = this.rank(name) === undefined ? ranksAddedAt(this, node) : undefined
      if (rank !== undefined) this.#ranks.set(name, rank)
      const last = this.#last.has(name) ? undefined : lastAxisOf(this, node, name)
      if (last !== undefined) this.#last.set(name, last)
    }
  }

  /** Number of axes. */
  rank(name: string): number | undefined {
    return this.#ranks.get(name) ?? this.#proved(name)
  }

  /** Size of the last axis; 1 for a stored scalar. */
  last(name: string): number | undefined {
    const dims = this.graph.scope.constants.get(name)?.tensor.dims
    return dims ? Number(dims.at(-1) ?? 1n) : this.#last.get(name)
  }

  /** Integers that are stored in the model. */
  integers(name: string | undefined): number[] | undefined {
    return integersOf(this.graph, name)
  }

  /** Axes that a node names, by attribute or by input 1; undefined where there are none or they are computed. */
  axes(node: NodeProto): number[] | undefined {
    return intsAttribute(node, 'axes') ?? this.integers(node.input[1])
  }

  /** An axis counted from the end, −1 for the last; undefined where that is not known. */
  fromEnd(axis: number, rank: number | undefined): number | undefined {
    if (axis < 0) return axis
    return rank === undefined ? undefined : axis - rank
  }

  /** True where an axis of a value is its last, undefined where that is not known. */
  isLast(axis: number, rank: number | undefined): boolean | undefined {
    const place = this.fromEnd(axis, rank)
    return place === undefined ? undefined : place === -1
  }
}

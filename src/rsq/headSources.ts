/**
 * @file From the values of an attention back to the projection that makes them: which of its channels come to which place
 * of a head.
 *
 * What is followed is the flat index of the values: channel c of a head is where the index is c modulo the size of a head.
 * A Reshape leaves flat indices alone, whatever the shapes are. A Transpose that keeps the last axis last does so too as
 * long as that axis is a multiple of the head size. A part of packed queries, keys and values is a range modulo
 * another period.
 */
import type { MainGraph } from '../calibration/mainGraph.ts'
import { intAttribute, intsAttribute } from '../onnx/attributes.ts'
import { isFloatType } from '../onnx/chain.ts'
import type { Constant } from '../onnx/graph.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { isDefaultDomain } from '../onnx/ranks.ts'
import type { AxisFacts } from './axisFacts.ts'
import { dataReaders } from './mainReaders.ts'
import { type Piece, pieceOf } from './pieces.ts'
import { type Projection, projectionOf } from './products.ts'
import { shapeEndOf } from './shapeEnds.ts'
import { isOneNumber } from './storedNumbers.ts'

/** A use of a constant whose vectors along `axis` have heads: runs of the head size, each from one of `starts` on. */
export interface HeadUse {
  readonly node: NodeProto
  readonly inputIndex: number
  readonly constant: Constant
  readonly axis: number
  readonly starts: readonly number[]
}

/** The values are where the flat index modulo `period` is in [from, to). */
export interface Range {
  readonly period: number
  readonly from: number
  readonly to: number
}

interface State {
  readonly ranges: readonly Range[]
  /** A part along an axis that no Reshape has joined with the last one yet. */
  readonly piece?: Piece
}

/** Operators that are no obstacle, whatever they do to the shape. */
const RESHAPES = new Set(['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze'])
const SAME = new Set(['Identity', 'Dropout'])

export class HeadSources {
  readonly uses: HeadUse[] = []
  /** Nodes that the values come through. */
  readonly nodes = new Set<NodeProto>()
  /** Names of the values, and further nodes that may read them since they take other parts. */
  readonly names = new Map<string, ReadonlySet<NodeProto>>()
  readonly #graph: MainGraph
  readonly #facts: AxisFacts
  readonly #headSize: number
  readonly #states = new Map<string, string>()

  constructor(facts: AxisFacts, headSize: number) {
    this.#graph = facts.graph
    this.#facts = facts
    this.#headSize = headSize
  }

  /**
   * Follow a tensor of values back to its projections.
   * @param ranges where in it the values are, if not everywhere.
   * @returns why that cannot be done, as the end of a sentence.
   */
  follow(name: string, ranges: readonly Range[] = []): string | undefined {
    return this.#visit(name, { ranges: [{ period: this.#headSize, from: 0, to: this.#headSize }, ...ranges] })
  }

  #visit(name: string, state: State): string | undefined {
    const key = JSON.stringify(state)
    const known = this.#states.get(name)
    if (known !== undefined) return known === key ? undefined : 'its values are read in two ways'
    this.#states.set(name, key)
    const { scope, outputs } = this.#graph
    if (outputs.includes(name)) return 'its values are an output of the model'
    const node = scope.producers.get(name)
    if (scope.constants.has(name)) return 'a part of its values is stored in the model'
    if (!node) return 'a part of its values is an input of the model'
    this.names.set(name, new Set())
    this.nodes.add(node)
    const projection = projectionOf(this.#graph, node)
    if (projection) return this.#project(projection, state)
    const what = node.domain ? `${node.domain}.${node.opType}` : node.opType
    const obstacle = `${what} '${node.name || name}' stands between its values and their projection`
    if (!isDefaultDomain(node.domain)) return obstacle
    const [data = ''] = node.input
    if (SAME.has(node.opType)) return name === node.output[0] ? this.#visit(data, state) : obstacle
    if (RESHAPES.has(node.opType)) {
      const joined = state.piece ? this.#join(node, state) : state
      return joined ? this.#visit(data, joined) : obstacle
    }
    switch (node.opType) {
      case 'Cast':
        return isFloatType(intAttribute(node, 'to', 0)) ? this.#visit(data, state) : obstacle
      case 'Transpose': {
        const moved = this.#transposed(node, state)
        return moved ? this.#visit(data, moved) : obstacle
      }
      case 'Expand':
      case 'Tile':
        return !state.piece && this.#isMultiple(data, state) ? this.#visit(data, state) : obstacle
      case 'Concat':
        if (state.piece || !node.input.every((input) => this.#isMultiple(input, state))) return obstacle
        return this.#firstReason(node.input.map((input) => () => this.#visit(input, state)))
      case 'Gather': {
        // Whole heads, repeated for the queries that share them.
        const axis = this.#facts.fromEnd(intAttribute(node, 'axis', 0), this.#facts.rank(data))
        const isList = (this.#facts.rank(node.input[1]!) ?? 0) > 0
        if (!isList || axis === undefined || axis >= -1) return this.#part(node, name, state) ?? undefined
        return !state.piece && this.#isMultiple(data, state) ? this.#visit(data, state) : obstacle
      }
      case 'Split':
      case 'Slice':
        return this.#part(node, name, state) ?? undefined
      case 'Add':
        return this.#biased(node, state, obstacle)
      case 'Mul':
      case 'Div': {
        const factor = node.input.findIndex((input) => isOneNumber(this.#graph, input))
        if (factor < 0 || (node.opType === 'Div' && factor === 0)) return obstacle
        return this.#visit(node.input[1 - factor]!, state)
      }
    }
    return obstacle
  }

  #firstReason(steps: readonly (() => string | undefined)[]): string | undefined {
    for (const step of steps) {
      const reason = step()
      if (reason !== undefined) return reason
    }
    return undefined
  }

  /** The last axis of a tensor is a multiple of every period. */
  #isMultiple(name: string, { ranges }: State): boolean {
    const last = this.#facts.last(name)
    return last !== undefined && ranges.every(({ period }) => last % period === 0)
  }

  #transposed(node: NodeProto, state: State): State | undefined {
    const perm = intsAttribute(node, 'perm')
    if (!perm || perm.at(-1) !== perm.length - 1 || !this.#isMultiple(node.input[0]!, state)) return undefined
    const { piece, ranges } = state
    if (!piece) return state
    return { ranges, piece: { ...piece, axis: perm[perm.length + piece.axis]! - perm.length } }
  }

  /** A Reshape has the piece's axis in its output: one of the last ones, all of known size. */
  #join(node: NodeProto, { ranges, piece }: State): State | undefined {
    const { axis, from, to } = piece!
    const end = node.opType === 'Reshape' ? shapeEndOf(this.#facts, node).values.slice(axis) : []
    if (end.length !== -axis || !end.every((size) => size !== undefined && size > 0)) return undefined
    const unit = end.slice(1).reduce<number>((product, size) => product * size!, 1)
    if (ranges.some(({ period }) => unit % period !== 0)) return undefined
    return { ranges: [...ranges, { period: unit * end[0]!, from: from * unit, to: to * unit }] }
  }

  #part(node: NodeProto, name: string, state: State): string | undefined {
    const unclear = `${node.opType} '${node.name || name}' takes a part of a tensor that the model does not prove to be its values`
    const [data = ''] = node.input
    const piece = pieceOf(this.#facts, node, name)
    if (state.piece || !piece) return unclear
    const { axis, from, to } = piece
    const whole = this.#facts.last(data)
    const periods = state.ranges.map(({ period }) => period)
    if (whole === undefined || periods.some((period) => whole % period !== 0)) return unclear
    if (axis === -1 && periods.some((period) => from % period !== 0 || to % period !== 0)) return unclear
    const range = { period: whole, from, to }
    const next: State = axis === -1 ? { ranges: [...state.ranges, range] } : { ranges: state.ranges, piece }
    const reason = this.#visit(data, next)
    // Nodes that take what lies beside it may read the same tensor.
    const others = dataReaders(this.#graph, data).flatMap(({ node: other }) => {
      const its =
        other === node || other.output.length !== 1 ? undefined : pieceOf(this.#facts, other, other.output[0]!)
      return its && its.axis === axis && (its.to <= from || its.from >= to) ? [other] : []
    })
    if (this.names.has(data)) this.names.set(data, new Set(others))
    return reason
  }

  #startsIn(width: number, { ranges, piece }: State): number[] | undefined {
    if (piece || ranges.some(({ period }) => width % period !== 0)) return undefined
    const starts = Array.from({ length: width / this.#headSize }, (_, head) => head * this.#headSize)
    return starts.filter((start) =>
      ranges.every(({ period, from, to }) => start % period >= from && start % period < to),
    )
  }

  /** A stored vector along the last axis of the values, added to them. */
  #biased(node: NodeProto, state: State, obstacle: string): string | undefined {
    const inputIndex = node.input.findIndex((input) => this.#graph.scope.constants.has(input))
    const data = node.input[1 - inputIndex] ?? ''
    // One column would be repeated by the sum.
    if (inputIndex < 0 || !this.#isMultiple(data, state)) return obstacle
    return this.#addVector(node, inputIndex, state, obstacle) ?? this.#visit(data, state)
  }

  #addVector(node: NodeProto, inputIndex: number, state: State, obstacle: string): string | undefined {
    const constant = this.#graph.scope.constants.get(node.input[inputIndex] ?? '')
    if (!constant || !isFloatType(constant.tensor.dataType) || constant.tensor.dims.length === 0) return obstacle
    const axis = constant.tensor.dims.length - 1
    const starts = this.#startsIn(Number(constant.tensor.dims[axis]), state)
    if (!starts) return obstacle
    this.uses.push({ node, inputIndex, constant, axis, starts })
    return undefined
  }

  #project({ node, constant, outputAxis, outputs }: Projection, state: State): string | undefined {
    const starts = this.#startsIn(outputs, state)
    const unclear = `the outputs of '${node.name || node.output[0]}' do not divide into its heads`
    if (!starts || starts.length === 0) return unclear
    this.uses.push({ node, inputIndex: 1, constant, axis: outputAxis, starts })
    const bias = node.opType === 'Gemm' ? node.input[2] : undefined
    return bias ? this.#addVector(node, 2, state, unclear) : undefined
  }
}

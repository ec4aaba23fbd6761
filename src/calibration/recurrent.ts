/**
 * @file Taps of LSTM, GRU and RNN. The weight W meets the node's input at every step; R meets the state that the node
 * made in the step before, so the node itself is run and its states are shifted by one step.
 */
import { intAttribute } from '../onnx/attributes.ts'
import type { ModelIndex } from '../onnx/graph.ts'
import type { WeightUse } from '../onnx/layers.ts'
import { opsetOf } from '../onnx/opset.ts'
import { textAttribute } from '../onnx/opsetChanges.ts'
import { LATEST_OPSET, OLDEST_OPSET } from '../onnx/opsetHistory.ts'
import { cloneNode, DataType, type NodeProto } from '../onnx/proto.ts'
import type { NoTap, TapDraft } from './tap.ts'
import type { Positions, TapGraph } from './tapGraph.ts'

/** Places of inputs: X, W, R, B, sequence_lens, initial_h. */
const LENGTHS = 4
const INITIAL_STATE = 5

/** W (input 1) and R (input 2), both [directions, gates · hidden, …]. */
export function recurrentTap(use: WeightUse, index: ModelIndex): TapDraft | NoTap {
  const { node, inputIndex } = use
  const opset = opsetOf(index.model, use.scope)
  if (opset < OLDEST_OPSET || opset > LATEST_OPSET)
    return { reason: `what ${node.opType} computes in opset ${opset} is not known` }
  if (intAttribute(node, 'layout', 0) !== 0)
    return { reason: `onnxruntime does not run the ${node.opType} that reads it, because of its layout` }
  const lengths = node.input[LENGTHS] ?? ''
  if (inputIndex === 2) {
    return {
      blocks: directionsOf(node).length,
      reads: [...new Set(node.input.filter((name) => name !== ''))],
      source: { kind: 'states', node },
      identity: node.output,
    }
  }
  // Both directions see every step once, so that their rows share one Gram matrix.
  const x = node.input[0]!
  if (lengths) return { blocks: 1, reads: [x, lengths], source: { kind: 'steps', lengths } }
  // Positions are step by step, not sample by sample as tokens are.
  return { blocks: 1, reads: [x], source: { kind: 'rows' } }
}

/** Whether each direction of the node runs backwards. */
function directionsOf(node: NodeProto): readonly boolean[] {
  const direction = (textAttribute(node, 'direction') ?? 'forward').toLowerCase()
  return direction === 'bidirectional' ? [false, true] : [direction === 'reverse']
}

/** X [T, K] of an input [steps, batch, K], T step by step; positions beyond a sequence's length weigh nothing. */
export function emitSteps(graph: TapGraph, x: string, lengths: string, cols: number): Positions {
  return { x: graph.reshape(x, [-1, cols]), layout: 'TK', weights: withinLengths(graph, x, lengths) }
}

/**
 * X [T, K] or [directions, T, K]: the state before each step, T step by step.
 *
 * With linear_before_reset = 0 the candidate gate of a GRU multiplies its part of R with the state times the reset gate;
 * the state alone stands for it here, as its rows share their Gram matrix with the other gates'.
 *
 * @param operand the value of one of the node's inputs, of the type that the node reads.
 */
export function emitStates(
  graph: TapGraph,
  node: NodeProto,
  operand: (name: string) => string,
  cols: number,
): Positions {
  const copy = cloneNode(node)
  const states = graph.fresh()
  copy.name = ''
  copy.domain = ''
  copy.input = node.input.map((name) => name && operand(name))
  copy.output = [states]
  graph.push(copy)
  const all = graph.toFloat(states)
  const lengths = copy.input[LENGTHS]
  const initial = copy.input[INITIAL_STATE]
  const directions = directionsOf(node).map((isReverse, direction) => {
    const own = graph.node('Gather', [all, graph.ints(direction)], { axis: 1 })
    const first = initial ? firstState(graph, initial, direction) : undefined
    const before = statesBefore(graph, own, first, isReverse, lengths)
    return graph.reshape(before, [1, -1, cols])
  })
  const x =
    directions.length === 1 ? graph.reshape(directions[0]!, [-1, cols]) : graph.node('Concat', directions, { axis: 0 })
  return { x, layout: 'TK', ...(lengths ? { weights: withinLengths(graph, states, lengths) } : {}) }
}

/** [1, batch, K] of initial_h [directions, batch, K]. */
function firstState(graph: TapGraph, initial: string, direction: number): string {
  const own = graph.node('Gather', [graph.toFloat(initial), graph.ints(direction)], { axis: 0 })
  return graph.node('Unsqueeze', [own, graph.ints([0])])
}

/** States [steps, batch, K] moved by one step; a direction starts from `first`, or from zero. */
function statesBefore(
  graph: TapGraph,
  states: string,
  first: string | undefined,
  isReverse: boolean,
  lengths: string | undefined,
): string {
  if (!first) {
    // A negative pad takes a step away.
    return graph.node('Pad', [states, graph.ints(isReverse ? [-1, 0, 0, 1, 0, 0] : [1, 0, 0, -1, 0, 0])])
  }
  if (!isReverse) {
    const [start, end, axis] = [graph.ints([0]), graph.ints([-1]), graph.ints([0])]
    return graph.node('Concat', [first, graph.node('Slice', [states, start, end, axis])], { axis: 0 })
  }
  const [start, end, axis] = [graph.ints([1]), graph.ints([2 ** 31 - 1]), graph.ints([0])]
  const moved = graph.node('Concat', [graph.node('Slice', [states, start, end, axis]), first], { axis: 0 })
  if (!lengths) return moved
  // Backwards, a short sequence starts at its own last step.
  const last = graph.node('Sub', [asInt64(graph, lengths), graph.ints([1])])
  const isLast = graph.node('Equal', [stepNumbers(graph, states), last])
  return graph.node('Where', [graph.node('Unsqueeze', [isLast, graph.ints([2])]), first, moved])
}

/** Weights [steps · batch] of a value [steps, batch or directions, …]: 1 within a sequence, 0 beyond its length. */
function withinLengths(graph: TapGraph, value: string, lengths: string): string {
  const within = graph.node('Less', [stepNumbers(graph, value), asInt64(graph, lengths)])
  return graph.reshape(graph.toFloat(within), [-1])
}

/** [steps, 1]: 0, 1, … along axis 0 of `value`. */
function stepNumbers(graph: TapGraph, value: string): string {
  const count = graph.node('Squeeze', [graph.node('Shape', [value], { start: 0, end: 1 }), graph.ints([0])])
  const numbers = graph.node('Range', [graph.ints(0), count, graph.ints(1)])
  return graph.node('Unsqueeze', [numbers, graph.ints([1])])
}

function asInt64(graph: TapGraph, x: string): string {
  return graph.node('Cast', [x], { to: DataType.INT64 })
}

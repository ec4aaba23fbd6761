/** @file Stored tensors behind nodes that only change their shape, and whether everything that reads them is known. */
import type { MainGraph } from '../calibration/mainGraph.ts'
import { intsAttribute } from '../onnx/attributes.ts'
import { type ChainStep, chainStep, isFloatType } from '../onnx/chain.ts'
import type { Constant } from '../onnx/graph.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { dataReaders } from './mainReaders.ts'

/** A stored float tensor as a node sees it. */
export interface StoredWeight {
  readonly constant: Constant
  /** Its shape as the node sees it. */
  readonly dims: readonly number[]
  /** The axis of the stored tensor that an axis of `dims` is; undefined where it has been split or joined. */
  axisOf(axis: number): number | undefined
}

const MOST_STEPS = 8

/** The stored float tensor that a name of the main graph stands for, directly or after Transpose, Cast, Reshape, …. */
export function storedWeight({ scope }: MainGraph, name: string): StoredWeight | undefined {
  const path: NodeProto[] = []
  let constant = scope.constants.get(name)
  for (let from = name; !constant; constant = scope.constants.get(from)) {
    const node = scope.producers.get(from)
    if (!node?.input[0] || path.length > MOST_STEPS) return undefined
    path.unshift(node)
    from = node.input[0]
  }
  if (!isFloatType(constant.tensor.dataType)) return undefined
  const steps: ChainStep[] = []
  let [dims, type] = [constant.tensor.dims.map(Number), constant.tensor.dataType]
  for (const node of path) {
    const step = chainStep(node, scope, dims, type)
    if (!step) return undefined
    steps.push(step)
    ;[dims, type] = [[...step.to], step.dataType]
  }
  return { constant, dims, axisOf: (axis) => pulledBack(axis < 0 ? axis + dims.length : axis, steps) }
}

function pulledBack(axis: number, steps: readonly ChainStep[]): number | undefined {
  let current: number | undefined = axis
  for (const { node, from, to } of [...steps].reverse()) {
    if (current === undefined || current < 0 || current >= to.length) return undefined
    if (node.opType === 'Transpose') {
      current = intsAttribute(node, 'perm')?.[current] ?? to.length - 1 - current
      continue
    }
    const before = product(to.slice(0, current))
    const size = to[current]!
    const same = from.findIndex((dim, i) => dim === size && product(from.slice(0, i)) === before)
    current = same < 0 ? undefined : same
  }
  return current
}

const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

const SHAPE_ONLY = new Set(['Identity', 'Cast', 'Transpose', 'Flatten', 'Reshape', 'Squeeze', 'Unsqueeze'])

/** What reads a stored tensor, or what has been made of its shape. */
interface Stranger {
  /** Undefined for an output of the model. */
  readonly node: NodeProto | undefined
  readonly inputIndex: number
  /** What is read. */
  readonly name: string
}

/**
 * The first node or output that reads a stored tensor, directly or after shape-only nodes, and is none of the known uses.
 * @param isKnown true for a use that is known, false for a node in a known place that uses it otherwise.
 * @returns undefined where all uses are known.
 */
export function strangerAt(
  graph: MainGraph,
  { name: stored }: Constant,
  isKnown: (node: NodeProto, inputIndex: number) => boolean | undefined,
): Stranger | undefined {
  const pending = [stored]
  while (pending.length > 0) {
    const name = pending.pop()!
    if (graph.scope.outputs.has(name)) return { node: undefined, inputIndex: 0, name }
    for (const { node, inputIndex } of dataReaders(graph, name)) {
      const known = isKnown(node, inputIndex)
      if (known) continue
      const isStep = known === undefined && inputIndex === 0 && SHAPE_ONLY.has(node.opType)
      if (!isStep) return { node, inputIndex, name }
      pending.push(node.output[0]!)
    }
  }
  return undefined
}

/** @file Stored float tensors as nodes of the main graph see them: behind Transpose, Cast, Reshape and the like. */
import { intsAttribute } from '../onnx/attributes.ts'
import { type ChainStep, chainStep, isFloatType } from '../onnx/chain.ts'
import type { Constant } from '../onnx/graph.ts'
import type { NodeProto } from '../onnx/proto.ts'
import type { MainGraph } from './mainGraph.ts'

export interface StoredTensor {
  readonly constant: Constant
  /** Shape as the node sees it. */
  readonly dims: readonly number[]
  /** Nodes between, the one next to the constant first. */
  readonly path: readonly NodeProto[]
  /** The axis of the stored tensor that an axis of `dims` is; undefined where it has been split or joined. */
  axisOf(axis: number): number | undefined
}

const MOST_STEPS = 8

/**
 * The stored float tensor that a name of the main graph stands for; undefined for data, other types, and tensors that cannot
 * be changed where they are (a Constant node's list of numbers).
 */
export function storedTensor({ scope }: MainGraph, name: string): StoredTensor | undefined {
  const path: NodeProto[] = []
  let constant = scope.constants.get(name)
  for (let from = name; !constant; constant = scope.constants.get(from)) {
    const node = scope.producers.get(from)
    if (!node?.input[0] || path.length > MOST_STEPS) return undefined
    path.unshift(node)
    from = node.input[0]
  }
  const { node: holder, tensor } = constant
  if (!isFloatType(tensor.dataType) || (holder && !holder.attribute.some(({ t }) => t === tensor))) return undefined
  const steps: ChainStep[] = []
  let [dims, type] = [tensor.dims.map(Number), tensor.dataType]
  for (const node of path) {
    const step = chainStep(node, scope, dims, type)
    if (!step) return undefined
    steps.push(step)
    ;[dims, type] = [[...step.to], step.dataType]
  }
  return { constant, dims, path, axisOf: (axis) => pulledBack(axis < 0 ? axis + dims.length : axis, steps) }
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

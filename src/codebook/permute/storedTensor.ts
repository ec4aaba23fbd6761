/** @file Stored float tensors as nodes see them, behind Transpose, Cast, Reshape and the like, and who else reads them. */
import type { readersOf } from '../../calibration/graphPaths.ts'
import type { MainGraph } from '../../calibration/mainGraph.ts'
import { intsAttribute, subgraphs } from '../../onnx/attributes.ts'
import { type ChainStep, chainStep, isFloatType } from '../../onnx/chain.ts'
import type { Constant } from '../../onnx/graph.ts'
import type { NodeProto } from '../../onnx/proto.ts'

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
  return { constant, dims, path, axisOf: (axis) => pulledBack(axis, steps) }
}

function pulledBack(axis: number, steps: readonly ChainStep[]): number | undefined {
  let current = axis
  for (const { node, from, to } of [...steps].reverse()) {
    if (node.opType === 'Transpose') {
      current = intsAttribute(node, 'perm')?.[current] ?? to.length - 1 - current
      continue
    }
    const before = product(to.slice(0, current))
    current = from.findIndex((dim, i) => dim === to[current] && product(from.slice(0, i)) === before)
    if (current < 0) return undefined
  }
  return current
}

const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

/** One input of one node. */
export interface Use {
  readonly node: NodeProto
  readonly inputIndex: number
}

/** True when a stored tensor reaches nothing but these uses: no other node, no subgraph, no output of the model. */
export function isReadOnlyBy(
  { nodes, outputs }: MainGraph,
  readers: ReturnType<typeof readersOf>,
  { name: stored }: Constant,
  uses: readonly Use[],
  path: ReadonlySet<NodeProto>,
): boolean {
  const pending = [stored]
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    if (outputs.includes(name)) return false
    for (const at of readers.get(name) ?? []) {
      const node = nodes[at]!
      if (subgraphs(node).length > 0) return false
      const own = node.input.flatMap((input, inputIndex) => (input === name ? [inputIndex] : []))
      if (path.has(node) && own.length === 1 && own[0] === 0) pending.push(node.output[0]!)
      else if (!own.every((i) => uses.some((use) => use.node === node && use.inputIndex === i))) return false
    }
  }
  return true
}

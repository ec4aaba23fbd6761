/** @file Whether everything that reads a stored tensor is known. */
import type { MainGraph } from '../calibration/mainGraph.ts'
import type { Constant } from '../onnx/graph.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { dataReaders } from './mainReaders.ts'

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

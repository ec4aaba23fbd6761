/** @file Whether a stored tensor has no readers but known ones. */
import type { readersOf } from '../../calibration/graphPaths.ts'
import type { MainGraph } from '../../calibration/mainGraph.ts'
import { subgraphs } from '../../onnx/attributes.ts'
import type { Constant } from '../../onnx/graph.ts'
import type { NodeProto } from '../../onnx/proto.ts'

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

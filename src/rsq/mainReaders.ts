/** @file Who reads a value of the main graph. */
import { readersOf } from '../calibration/graphPaths.ts'
import type { MainGraph } from '../calibration/mainGraph.ts'
import { subgraphs } from '../onnx/attributes.ts'
import type { NodeProto } from '../onnx/proto.ts'

/** A node of the main graph that reads a value; `inputIndex` −1 where one of its subgraphs may. */
export interface MainReader {
  readonly node: NodeProto
  readonly inputIndex: number
}

const known = new WeakMap<MainGraph, ReturnType<typeof readersOf>>()

/** The readers of a value, a node once for each of its inputs. Outputs of the model are not among them. */
export function mainReaders(graph: MainGraph, name: string): MainReader[] {
  const places = known.get(graph) ?? readersOf(graph)
  known.set(graph, places)
  return (places.get(name) ?? []).flatMap((at) => {
    const node = graph.nodes[at]
    if (!node) return []
    const direct = node.input.flatMap((input, inputIndex) => (input === name ? [{ node, inputIndex }] : []))
    return subgraphs(node).length > 0 ? [...direct, { node, inputIndex: -1 }] : direct
  })
}

/** The readers but for those that only ask for the shape. */
export function dataReaders(graph: MainGraph, name: string): MainReader[] {
  return mainReaders(graph, name).filter(({ node }) => node.opType !== 'Shape' && node.opType !== 'Size')
}

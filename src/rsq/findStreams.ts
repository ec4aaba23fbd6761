/**
 * @file Residual streams of a model that can be rotated, and those that cannot with the reason, from the graph alone.
 *
 * A stream begins at a sum of two tensors that a norm reads; the walk from there (streamWalk.ts) finds all that has to be
 * turned with it. Computational invariance: Ashkboos et al., SliceGPT (2024), section 3, for RMSNorm; here also for streams
 * with LayerNorm, which need recentring or a rotation that keeps the mean (rotateStreams.ts).
 */
import { constantNames, type MainGraph } from '../calibration/mainGraph.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { describeNode } from '../onnx/tensors.ts'
import { AxisFacts } from './axisFacts.ts'
import type { Findings, StreamFacts } from './findings.ts'
import { findNorms, normWidth, skipNormOf } from './norms.ts'
import type { FoundStreams, Norm, RefusedStream, ResidualStream } from './stream.ts'
import { walkStream } from './streamWalk.ts'

/** Streams as {@link findStreams} orders them. */
interface Placed<T> {
  readonly at: number
  readonly found: T
}

/**
 * The residual streams of a graph.
 * @returns streams that any rotation can turn, in the order of the graph, each with everything that has to be edited; and
 *   sums of the same look that cannot be turned. Networks without norms or residual sums have neither.
 */
export function findStreams(graph: MainGraph): FoundStreams {
  const facts = new AxisFacts(graph)
  const norms = findNorms(facts)
  const normsAt = new Map<NodeProto, Norm[]>()
  for (const norm of norms) {
    for (const node of norm.nodes) normsAt.set(node, [...(normsAt.get(node) ?? []), norm])
  }
  const normOf = new Map(norms.map((norm) => [norm.output, norm]))
  const known: StreamFacts = { facts, normsAt, normOf, constants: constantNames(graph) }
  const streams: Placed<ResidualStream>[] = []
  const refused: Placed<RefusedStream>[] = []
  const covered = new Set<string>()
  for (const norm of norms) {
    if (covered.has(norm.input) || !comesFromSum(known, norm.input)) continue
    const width = normWidth(norm) ?? facts.last(norm.input)
    if (width === undefined || width < 2) continue
    const walk = walkStream(known, width, norm.input)
    for (const name of walk.tensors) covered.add(name)
    if (walk.sums.size === 0) continue
    const at = Math.min(...[...walk.tensors].map((name) => graph.madeAt.get(name) ?? 0))
    const obstacle = walk.obstacles.toSorted((a, b) => a.at - b.at)[0]
    if (obstacle) {
      // What cuts a stream in two stands in the way of both parts.
      const isKnown = refused.some(({ found }) => found.node === obstacle.node)
      if (!isKnown) refused.push({ at, found: { node: obstacle.node, reason: obstacle.reason } })
    } else streams.push({ at, found: streamOf(graph, walk) })
  }
  const convolutional = convolutionalSum(known, covered)
  if (convolutional) refused.push(convolutional)
  const inOrder = <T>(all: Placed<T>[]) => all.sort((a, b) => a.at - b.at).map(({ found }) => found)
  return { streams: inOrder(streams), refused: inOrder(refused) }
}

/** What a walk found, in the order of the graph. */
function streamOf({ nodes }: MainGraph, { width, tensors, writers, readers, norms }: Findings): ResidualStream {
  const places = new Map(nodes.map((node, at) => [node, at]))
  const order = <T extends { node: NodeProto; inputIndex: number }>(uses: readonly T[]) =>
    uses.toSorted((a, b) => places.get(a.node)! - places.get(b.node)! || a.inputIndex - b.inputIndex)
  const byNode = [...norms].sort((a, b) => places.get(a.nodes.at(-1)!)! - places.get(b.nodes.at(-1)!)!)
  return { width, tensors, writers: order(writers), readers: order(readers), norms: byNode }
}

const MOVES = new Set(['Identity', 'Cast', 'Dropout', 'Reshape', 'Squeeze', 'Unsqueeze', 'Transpose', 'Slice'])

/** True for a sum of two tensors that depend on the data, also behind nodes that move it, scale it or add a constant. */
function comesFromSum({ facts, constants }: StreamFacts, name: string): boolean {
  let current = name
  for (let steps = 0; steps < 16; steps++) {
    const node = facts.graph.scope.producers.get(current)
    if (!node) return false
    if (skipNormOf(node)) return true
    const data = node.input.filter((input) => input !== '' && !constants.has(input))
    if (node.opType === 'Add' || node.opType === 'Sum') {
      if (data.length > 1) return true
    } else if (node.opType === 'Mul' || node.opType === 'Div') {
      data.splice(0, data.length, ...data.filter((input) => facts.last(input) !== 1))
    } else if (!MOVES.has(node.opType)) return false
    if (data.length === 0) return false
    current = data[0]!
  }
  return false
}

/** Nodes between a convolution and the sum that it is added in. */
const BEFORE_SUM = new Set(['BatchNormalization', 'Identity', 'Dropout', 'Relu', 'Clip', 'Mul', 'Add', 'LeakyRelu'])

/** The first sum of a convolution's output and something else, outside of other streams. */
function convolutionalSum({ facts: { graph }, constants }: StreamFacts, covered: ReadonlySet<string>) {
  const isConvolution = (name: string, steps = 0): boolean => {
    const node = graph.scope.producers.get(name)
    if (node?.opType === 'Conv' || node?.opType === 'FusedConv') return true
    return node !== undefined && steps < 4 && BEFORE_SUM.has(node.opType) && isConvolution(node.input[0]!, steps + 1)
  }
  for (const [at, node] of graph.nodes.entries()) {
    if ((node.opType !== 'Add' && node.opType !== 'Sum') || covered.has(node.output[0]!)) continue
    const terms = node.input.filter((name) => !constants.has(name))
    if (terms.length < 2 || !terms.some((name) => isConvolution(name))) continue
    const reason = `convolutional stream: ${describeNode(node)} adds what convolutions give, and its channels cannot be turned`
    return { at, found: { node: node.name || node.output[0]!, reason } }
  }
  return undefined
}

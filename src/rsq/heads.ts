/**
 * @file Attention heads that can be rotated in the stored weights: the values of a head are multiplied by an orthogonal matrix
 * where they are projected, and by its inverse where the output projection reads them. Probabilities mix tokens, not the
 * channels of a head, so the function stays the same (QuaRot, Ashkboos et al. 2024). Found from the graph; names mean nothing.
 */
import type { MainGraph } from '../calibration/mainGraph.ts'
import { intAttribute, intsAttribute } from '../onnx/attributes.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { isDefaultDomain } from '../onnx/ranks.ts'
import { AxisFacts } from './axisFacts.ts'
import { HeadSources, type HeadUse, type Range } from './headSources.ts'
import { headTargets, widthOfTarget } from './headTargets.ts'
import { dataReaders } from './mainReaders.ts'
import { strangerAt } from './storedWeights.ts'

/** One attention: all constants that have its heads, on both sides. */
export interface HeadPair {
  /** The node that multiplies probabilities with values. */
  readonly node: NodeProto
  readonly headSize: number
  readonly uses: readonly HeadUse[]
}

/** An attention that stays as it is. */
interface RefusedHeads {
  /** Name of its node, or the node's output. */
  readonly node: string
  /** A sentence without a full stop, for users. */
  readonly reason: string
}

/** In the order of the graph. */
export interface FoundHeads {
  readonly pairs: readonly HeadPair[]
  readonly refused: readonly RefusedHeads[]
}

/** Where the values of an attention are. */
interface Values {
  /** Inputs that hold values, or hold them beside other things. */
  readonly inputIndex: number
  readonly headSize: number | undefined
  readonly ranges?: readonly Range[]
  /** Last dimension of the output, where that is not for the model to say. */
  readonly last?: number | undefined
  /** Why it cannot be done, where the node says so itself. */
  readonly refused?: string | undefined
  /** Weights and biases inside the node. */
  readonly own?: readonly HeadUse[]
  /** The node projects by itself: there is nothing to follow. */
  readonly isProjected?: boolean
}

/** Find the heads that can be rotated. */
export function findHeads(graph: MainGraph): FoundHeads {
  const facts = new AxisFacts(graph)
  const pairs: HeadPair[] = []
  const refused: RefusedHeads[] = []
  for (const node of graph.nodes) {
    const values = valuesOf(facts, node)
    if (!values) continue
    const found = values.refused ?? pairOf(facts, node, values)
    if (typeof found === 'string') refused.push({ node: node.name || node.output[0]!, reason: `not rotated: ${found}` })
    else pairs.push(found)
  }
  return withoutSharing(graph, pairs, refused)
}

function pairOf(facts: AxisFacts, node: NodeProto, values: Values): HeadPair | string {
  const { inputIndex, headSize, ranges, last, own = [], isProjected } = values
  if (headSize === undefined || !Number.isInteger(headSize)) return 'the size of its heads is not known'
  if (headSize < 2) return 'its heads have one channel'
  const targets = headTargets(facts, node.output[0]!, headSize, last)
  if (typeof targets === 'string') return targets
  if (isProjected) return { node, headSize, uses: [...own, ...targets] }
  const sources = new HeadSources(facts, headSize)
  const reason = sources.follow(node.input[inputIndex]!, ranges) ?? otherReader(facts.graph, node, inputIndex, sources)
  return reason ?? { node, headSize, uses: [...sources.uses, ...own, ...targets] }
}

/** Why something besides this attention reads the values. */
function otherReader(
  graph: MainGraph,
  attention: NodeProto,
  inputIndex: number,
  sources: HeadSources,
): string | undefined {
  for (const [name, allowed] of sources.names) {
    for (const { node, inputIndex: at } of dataReaders(graph, name)) {
      const isOurs = at >= 0 && (node === attention ? at === inputIndex : sources.nodes.has(node))
      if (isOurs || allowed.has(node)) continue
      return `${node.opType} '${node.name || node.output[0]}' reads its values as well`
    }
  }
  return undefined
}

function valuesOf(facts: AxisFacts, node: NodeProto): Values | undefined {
  const { graph } = facts
  if (isDefaultDomain(node.domain)) {
    if (node.opType === 'MatMul') return productValues(facts, node)
    return node.opType === 'Attention' ? standardValues(facts, node) : undefined
  }
  if (node.domain !== 'com.microsoft') return undefined
  const heads = intAttribute(node, 'num_heads', 0)
  const width = () => widthOfTarget(graph, node.output[0]!)
  switch (node.opType) {
    case 'FusedMatMul':
      return ['transB', 'transBatchA', 'transBatchB'].some((name) => intAttribute(node, name, 0) !== 0)
        ? undefined
        : productValues(facts, node)
    case 'Attention':
      return packedValues(graph, node, heads)
    case 'MultiHeadAttention': {
      const headSize = ratio(width(), heads)
      const refused =
        cached(graph, node, [6, 7]) ?? (node.input[2] ? undefined : 'its queries, keys and values are packed')
      if (!node.input[3] || refused || headSize === undefined) return { inputIndex: 2, headSize, refused }
      const bias = graph.scope.constants.get(node.input[3])
      if (bias?.tensor.dims.length !== 1) return { inputIndex: 2, headSize, refused: 'its bias is not stored' }
      const starts = headStarts(Number(bias.tensor.dims[0]), heads, headSize)
      return { inputIndex: 2, headSize, own: [{ node, inputIndex: 3, constant: bias, axis: 0, starts }] }
    }
    case 'GroupQueryAttention': {
      const headSize = ratio(width(), heads)
      const refused = cached(graph, node, [3, 4])
      if (node.input[2] || headSize === undefined) return { inputIndex: 2, headSize, refused }
      const keys = intAttribute(node, 'kv_num_heads', heads)
      const period = (heads + 2 * keys) * headSize
      return { inputIndex: 0, headSize, refused, ranges: [{ period, from: (heads + keys) * headSize, to: period }] }
    }
  }
  return undefined
}

/** Queries, keys and values lie one after the other: those of the values are the last. */
const headStarts = (whole: number, heads: number, headSize: number) =>
  Array.from({ length: heads }, (_, head) => whole - (heads - head) * headSize)

const ratio = (width: number | undefined, heads: number) =>
  width === undefined || heads < 1 ? undefined : width / heads

/** Caches hold values of earlier tokens. @param inputs of the node: past keys and values. Outputs 1 and 2 are the present ones. */
function cached({ scope, outputs }: MainGraph, node: NodeProto, inputs: readonly number[]): string | undefined {
  if (inputs.some((at) => node.input[at])) return 'its cached values are an input of the model'
  const present = node.output.slice(1, 3).filter((name) => name !== '')
  if (present.some((name) => outputs.includes(name))) return 'its values are an output of the model'
  return present.some((name) => scope.readers.has(name)) ? 'other nodes read its values' : undefined
}

/** A product of probabilities, which a Softmax makes, and values. */
function productValues(facts: AxisFacts, node: NodeProto): Values | undefined {
  const passing = new Set(['Identity', 'Cast', 'Dropout', 'Where', 'Mul', 'Div', 'Reshape', 'Slice'])
  let name = node.input[0] ?? ''
  for (let steps = 0; steps < 6; steps++) {
    const made = facts.graph.scope.producers.get(name)
    if (made?.opType === 'Softmax') {
      const last = facts.last(node.input[1]!) ?? facts.last(node.output[0]!)
      return { inputIndex: 1, headSize: last, last }
    }
    if (!made || !passing.has(made.opType)) return undefined
    name = made.input[made.opType === 'Where' ? 2 : 0] ?? ''
  }
  return undefined
}

/** Attention of opset 23: [batch, heads, tokens, channels], or heads and channels on one axis. */
function standardValues(facts: AxisFacts, node: NodeProto): Values {
  const heads = intAttribute(node, 'q_num_heads', 0)
  const last = heads > 0 ? undefined : facts.last(node.input[2]!)
  const headSize = heads > 0 ? ratio(widthOfTarget(facts.graph, node.output[0]!), heads) : last
  return { inputIndex: 2, headSize, last, refused: cached(facts.graph, node, [4, 5]) }
}

/** com.microsoft Attention projects by itself: the last columns of its weight [inputs, queries + keys + values]. */
function packedValues(graph: MainGraph, node: NodeProto, heads: number): Values {
  const refused = cached(graph, node, [4])
  const [weight, bias] = [1, 2].map((at) => graph.scope.constants.get(node.input[at] ?? ''))
  const whole = weight?.tensor.dims.length === 2 ? Number(weight.tensor.dims[1]) : undefined
  if (!weight || whole === undefined) return { inputIndex: 1, headSize: undefined, refused: 'its weight is not stored' }
  if (node.input[2] && !bias) return { inputIndex: 1, headSize: undefined, refused: 'its bias is not stored' }
  const size = intsAttribute(node, 'qkv_hidden_sizes')?.[2] ?? whole / 3
  const headSize = ratio(size, heads)
  const starts = headStarts(whole, heads, headSize ?? 0)
  const own: HeadUse[] = [{ node, inputIndex: 1, constant: weight, axis: 1, starts }]
  if (bias) own.push({ node, inputIndex: 2, constant: bias, axis: 0, starts })
  return { inputIndex: 1, headSize, refused, own, isProjected: true }
}

/** Matrices that other nodes use as well stay; vectors can be copied. Taking one pair away may leave others alone, too. */
function withoutSharing(graph: MainGraph, found: readonly HeadPair[], refused: RefusedHeads[]): FoundHeads {
  let pairs = found
  for (;;) {
    const uses = new Map<string, Set<string>>()
    for (const { uses: own, headSize } of pairs) {
      for (const use of own) {
        const known = uses.get(use.constant.name) ?? new Set()
        uses.set(use.constant.name, known.add(JSON.stringify([use.axis, headSize, use.starts])))
      }
    }
    const all = pairs.flatMap((pair) => pair.uses)
    const isKnown = (node: NodeProto, inputIndex: number) =>
      all.some((use) => use.node === node && use.inputIndex === inputIndex) || undefined
    const stays = pairs.filter(({ uses: own }) =>
      own.every(({ constant }) => {
        const isVector = constant.tensor.dims.filter((dim) => dim > 1n).length <= 1
        return isVector || (uses.get(constant.name)!.size === 1 && !strangerAt(graph, constant, isKnown))
      }),
    )
    if (stays.length === pairs.length) break
    for (const { node } of pairs.filter((pair) => !stays.includes(pair))) {
      const reason = 'not rotated: one of its weights is used elsewhere'
      refused.push({ node: node.name || node.output[0]!, reason })
    }
    pairs = stays
  }
  const place = new Map(graph.nodes.map((node, at) => [node.name || node.output[0], at]))
  return { pairs, refused: refused.sort((a, b) => place.get(a.node)! - place.get(b.node)!) }
}

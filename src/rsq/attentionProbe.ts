/**
 * @file Finds the self-attention of a block, and adds to a probe what tokens receive of it.
 *
 * Of plain graphs the Softmax is read. Fused operators hide it: of those whose queries and keys are tensors of the
 * network it is computed again, softmax(q·kᵀ·scale + bias).
 */
import type { Block } from '../calibration/blocks.ts'
import { nodesBetween } from '../calibration/graphPaths.ts'
import type { MainGraph } from '../calibration/mainGraph.ts'
import type { Probe } from '../calibration/probe.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { floatAttribute, intAttribute } from '../onnx/attributes.ts'
import { opsetOf } from '../onnx/opset.ts'
import type { NodeProto } from '../onnx/proto.ts'
import type { TokenBatch } from './importance.ts'

/** What hides keys from a query besides padding: that they come later, or nothing. */
type Hiding = 'later' | 'none'

/** Dimensions of a tensor are gathered by negative places. */
const OLDEST_OPSET = 11

export interface AttentionProbe {
  /** Names of what to fetch: [sequences, keys], or [sequences, queries, keys] by query. */
  readonly outputs: readonly string[]
  /** Inputs that each run needs, see {@link hiddenKeys}. */
  readonly hiding: ReadonlyMap<string, Hiding>
}

/** Why the attention of a block is not seen, in words that follow "its attention is not seen: ". */
export interface NoAttention {
  readonly reason: string
  /** True where the block has none, as far as the graph shows. */
  readonly absent: boolean
}

/**
 * Add the attention that tokens receive in a block, summed over its heads and, unless `byQuery`, over queries.
 * @param block its input is [sequences, tokens, width].
 * @param byQuery keep queries apart, so that those of padding can be left out.
 */
export function probeAttention(
  graph: MainGraph,
  block: Block,
  probe: Probe,
  byQuery: boolean,
): AttentionProbe | NoAttention {
  const found = findAttention(graph, block)
  if (found.length === 0) return { reason: 'there is no attention between the tokens of a sequence', absent: true }
  if (opsetOf(graph.index.model, graph.scope) < OLDEST_OPSET) return unseen(`its opset is below ${OLDEST_OPSET}`)
  const stream = probe.read(block.input)
  const outputs: string[] = []
  const hiding = new Map<string, Hiding>()
  for (const node of found) {
    const probabilities = node.opType === 'Softmax' ? probe.read(node.output[0]!) : rebuilt(node, probe, hiding)
    if (typeof probabilities !== 'string') return probabilities
    const heads = probe.reshape(
      probe.toFloat(probabilities),
      probe.dims(stream, [0]),
      probe.ints([-1]),
      probe.dims(probabilities, [-2, -1]),
    )
    const output = probe.sum(heads, byQuery ? [1] : [1, 2])
    probe.fetch(output)
    outputs.push(output)
  }
  return { outputs, hiding }
}

function unseen(reason: string): NoAttention {
  return { reason, absent: false }
}

const PRODUCTS = new Set(['MatMul', 'FusedMatMul', 'TransposeMatMul', 'Einsum'])

/** Nodes of the block in which its tokens attend to one another. */
function findAttention(graph: MainGraph, { input, output }: Block): NodeProto[] {
  const { nodes, madeAt, reads } = graph
  const maker = nodes[madeAt.get(input) ?? -1]
  // Norms that also give the sum: the block reads both.
  const from = maker ? maker.output.filter((name) => name !== '') : [input]
  const path = nodesBetween(graph, from, [output]).map((at) => nodes[at]!)
  const inside = new Set(path)
  const reached = new Set([...from, ...path.flatMap((node) => node.output)])
  const isReached = (name: string | undefined) => name !== undefined && name !== '' && reached.has(name)
  /** Products of two tensors that both depend on the block's input: not the keys of an encoder, not a router's weight. */
  const isBetweenTokens = (softmax: NodeProto): boolean => {
    const seen = new Set<NodeProto>()
    const pending = [softmax.input[0]!]
    while (pending.length > 0) {
      const node = nodes[madeAt.get(pending.pop()!) ?? -1]
      if (!node || seen.has(node) || !inside.has(node)) continue
      seen.add(node)
      if (!PRODUCTS.has(node.opType)) pending.push(...reads.get(node)!)
      else if (isReached(node.input[0]) && isReached(node.input[1])) return true
    }
    return false
  }
  return path.filter((node) => {
    if (node.opType === 'Softmax') return isLastAxis(graph, node) && isBetweenTokens(node)
    // Without keys of its own an operator has them in its first input.
    return (
      /Attention$/.test(node.opType) && isReached(node.input[0]) && (!node.input[1] || !isForeign(node, reached, graph))
    )
  })
}

/** True for keys that are computed from other data than the block's input: those of an encoder. */
function isForeign(node: NodeProto, reached: ReadonlySet<string>, { scope }: MainGraph): boolean {
  const keys = node.input[1]!
  return !reached.has(keys) && !scope.constants.has(keys)
}

function isLastAxis(graph: MainGraph, node: NodeProto): boolean {
  const opset = opsetOf(graph.index.model, graph.scope)
  const axis = intAttribute(node, 'axis', opset < 13 ? 1 : -1)
  // Scores have heads and queries before their keys.
  return axis === -1 || axis >= 2
}

/** Queries and keys of a fused operator, and what is done to their products. */
interface Fused {
  readonly heads: number
  /** Heads of keys, each for `heads / keyHeads` heads of queries. 0 where the tensors have an axis for heads. */
  readonly keyHeads: number
  readonly causal: boolean
  /** Names of constants or tensors; undefined where there are none. */
  readonly bias?: string | undefined
  readonly scoreBias?: string | undefined
}

/** The probabilities of a fused operator, [sequences, key heads, heads per key head, queries, keys]. */
function rebuilt(node: NodeProto, probe: Probe, hiding: Map<string, Hiding>): string | NoAttention {
  const fused = readFused(node)
  if (typeof fused === 'string') return unseen(`${node.opType} ${fused}`)
  const { heads, keyHeads, causal, bias, scoreBias } = fused
  const group = keyHeads === 0 ? 0 : heads / keyHeads
  if (!Number.isInteger(group)) return unseen(`${node.opType} has ${heads} heads for ${keyHeads} of keys`)
  let [q, k] = [probe.toFloat(probe.read(node.input[0]!)), probe.toFloat(probe.read(node.input[1]!))]
  if (bias !== undefined) q = withBias(probe, q, bias)
  let width: string
  if (group > 0) {
    width = probe.node('Div', [probe.toFloat(probe.dims(q, [2])), probe.float(heads)])
    q = probe.node('Transpose', [probe.reshape(q, probe.ints([0, 0, keyHeads, group, -1]))], { perm: [0, 2, 3, 1, 4] })
    k = probe.node('Transpose', [probe.reshape(k, probe.ints([0, 0, keyHeads, 1, -1]))], { perm: [0, 2, 3, 4, 1] })
  } else {
    width = probe.toFloat(probe.dims(q, [3]))
    q = probe.reshape(q, probe.dims(k, [0, 1]), probe.ints([-1]), probe.dims(q, [2, 3]))
    const own = probe.reshape(k, probe.dims(k, [0, 1]), probe.ints([1]), probe.dims(k, [2, 3]))
    k = probe.node('Transpose', [own], { perm: [0, 1, 2, 4, 3] })
  }
  const scale = floatAttribute(node, 'scale', 0)
  const products = probe.node('MatMul', [q, k])
  let scores =
    scale > 0
      ? probe.node('Mul', [products, probe.float(scale)])
      : probe.node('Div', [products, probe.node('Sqrt', [width])])
  if (scoreBias !== undefined) {
    if (group !== 1) return unseen(`${node.opType} adds a bias to scores of grouped heads`)
    const added = probe.toFloat(probe.read(scoreBias))
    const shaped = probe.reshape(added, probe.dims(added, [0, 1]), probe.ints([1]), probe.dims(added, [2, 3]))
    scores = probe.node('Add', [scores, shaped])
  }
  const kind = causal ? 'later' : 'none'
  const hidden = probe.input(`hidden/${kind}`, 5)
  hiding.set(hidden, kind)
  return probe.node('Softmax', [probe.node('Add', [scores, hidden])], { axis: -1 })
}

/** Added to the score of a key that is hidden: its share is 0, and a row of nothing else has no NaN. */
const HIDDEN = -1e30

/** What is added to scores: [sequences, 1, 1, queries, keys], 0 or a large negative number. */
export function hiddenKeys({ sequences, length, counts }: TokenBatch, hiding: Hiding): FeedTensor {
  const data = new Float32Array(sequences * length * length)
  for (let i = 0; i < data.length; i++) {
    const [query, key] = [Math.floor(i / length) % length, i % length]
    const sequence = Math.floor(i / (length * length))
    if ((hiding === 'later' && key > query) || counts?.[sequence * length + key] === 0) data[i] = HIDDEN
  }
  return { type: 'float', dims: [sequences, 1, 1, length, length], data }
}

/**
 * q with its part of the bias of q, k and v, one after another. That of k is not needed: it adds the same number to all
 * scores of a query.
 */
function withBias(probe: Probe, q: string, bias: string): string {
  const own = probe.toFloat(probe.read(bias))
  return probe.node('Add', [q, probe.node('Slice', [own, probe.ints([0]), probe.dims(q, [2])])])
}

/** What a fused operator says of itself, or why it cannot be computed again. */
function readFused(node: NodeProto): Fused | string {
  const { domain, opType, input } = node
  const given = (i: number) => input[i] || undefined
  if (!given(1)) return 'has queries and keys in one tensor'
  if (floatAttribute(node, 'softcap', 0) !== 0) return 'caps its scores'
  if (domain === 'com.microsoft' && opType === 'MultiHeadAttention') {
    const heads = intAttribute(node, 'num_heads', 1)
    const causal = intAttribute(node, 'unidirectional', 0) === 1
    return { heads, keyHeads: heads, causal, bias: given(3), scoreBias: given(5) }
  }
  if (domain === 'com.microsoft' && opType === 'GroupQueryAttention') {
    if (intAttribute(node, 'do_rotary', 0) === 1) return 'rotates queries and keys inside'
    if (intAttribute(node, 'local_window_size', -1) > 0) return 'has a local window'
    if (intAttribute(node, 'smooth_softmax', 0) === 1 || given(11)) return 'has an attention sink of its own'
    return {
      heads: intAttribute(node, 'num_heads', 1),
      keyHeads: intAttribute(node, 'kv_num_heads', 1),
      causal: true,
      scoreBias: given(10),
    }
  }
  if ((domain === '' || domain === 'ai.onnx') && opType === 'Attention') {
    if (given(3)) return 'takes a mask'
    const heads = intAttribute(node, 'q_num_heads', 0)
    const causal = intAttribute(node, 'is_causal', 0) === 1
    return { heads, keyHeads: heads === 0 ? 0 : intAttribute(node, 'kv_num_heads', heads), causal }
  }
  return 'hides its probabilities'
}

/**
 * @file The residual stream of a network: sums of a tensor and of what is computed from that tensor by layers, one after the
 * other. Found from the graph alone; names mean nothing.
 *
 * A sum is an Add or Sum, several that only add up further terms (x + attention + feed-forward), or the sum inside a
 * SkipLayerNormalization. The next one takes it as it is (pre-norm) or after nodes without layers that keep its shape
 * (LayerNormalization in post-norm transformers, Relu in residual convolutional networks).
 */

import type { WeightedLayer } from '../onnx/layers.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { nodesBetween, readersOf } from './graphPaths.ts'
import { constantNames, type MainGraph } from './mainGraph.ts'

/** One branch of the stream: output = input + layers(input), in the plainest case. */
export interface Branch {
  /** Name of the tensor on the stream. */
  readonly input: string
  readonly output: string
  /** In the order of the nodes that use them. */
  readonly layers: readonly WeightedLayer[]
}

interface Sum {
  readonly at: number
  readonly input: string
  /** Names of the stream after it; the sum itself first. */
  readonly outputs: readonly string[]
  /** Places of the nodes from the input to the sum. */
  readonly path: readonly number[]
}

/** A sum, and the nodes between the one before it and its input. */
interface Link {
  readonly sum: Sum
  readonly before: Sum
  readonly between: readonly number[]
}

const SKIP_NORMS = new Set(['SkipLayerNormalization', 'SkipSimplifiedLayerNormalization'])
/** Place of `input_skip_bias_sum` among the outputs of these. */
const SKIP_SUM = 3

/** Nodes that the stream may pass between two sums: without layers, they keep its shape or are parts of a norm that does. */
const PASSING = new Set(
  `LayerNormalization SimplifiedLayerNormalization RMSNormalization BatchNormalization InstanceNormalization
  GroupNormalization LpNormalization ReduceMean Add Sub Mul Div Pow Sqrt Reciprocal Neg Abs Where Identity Cast Dropout
  Relu LeakyRelu PRelu Elu Selu Clip Sigmoid Tanh Erf Gelu FastGelu BiasGelu QuickGelu HardSigmoid HardSwish Mish
  Softplus ThresholdedRelu`.split(/\s+/),
)
/** A norm of single operators and an activation have fewer nodes. */
const MOST_BETWEEN = 32

/**
 * The branches of the stream, as chains: in each, a branch's output is the next one's input. Where residual sums contain
 * others (a skip over the whole network, a mask that is added in every layer), the longest chain counts.
 *
 * The last output is taken as the others are: after the norm or activation that follows every sum, but not after a final
 * norm that only follows the last. The exception is a last SkipLayerNormalization that gives no sum away: its normalised
 * output is all there is.
 * @param layersAt layers by the place of the node that uses them.
 * @returns chains in the order of the graph; no branch is in two of them.
 */
export function residualChains(graph: MainGraph, layersAt: ReadonlyMap<number, readonly WeightedLayer[]>): Branch[][] {
  const stream = new Stream(graph, layersAt)
  return stream.chains()
}

class Stream {
  readonly #graph: MainGraph
  readonly #layersAt: ReadonlyMap<number, readonly WeightedLayer[]>
  readonly #constants: ReadonlySet<string>
  readonly #readers: ReadonlyMap<string, readonly number[]>
  readonly #sums: readonly Sum[]
  readonly #madeBy: ReadonlyMap<string, Sum>

  constructor(graph: MainGraph, layersAt: ReadonlyMap<number, readonly WeightedLayer[]>) {
    this.#graph = graph
    this.#layersAt = layersAt
    this.#constants = constantNames(graph)
    this.#readers = readersOf(graph)
    this.#sums = this.#findSums()
    this.#madeBy = new Map(this.#sums.flatMap((sum) => sum.outputs.map((name) => [name, sum] as const)))
  }

  /** Residual sums in the order of the graph. */
  #findSums(): Sum[] {
    const { nodes } = this.#graph
    const absorbed = new Set<number>()
    const found: Sum[] = []
    // Backwards: a sum takes in those that are terms of it before they are looked at themselves.
    for (let at = nodes.length - 1; at >= 0; at--) {
      const own = absorbed.has(at) ? undefined : this.#terms(nodes[at]!)
      if (!own) continue
      const terms = [...new Set(own.flatMap((name) => this.#expand(name, absorbed)))]
      const residual = this.#residual(terms.sort((a, b) => this.#madeAt(a) - this.#madeAt(b)))
      if (residual) found.push({ at, ...residual, outputs: this.#outputs(nodes[at]!) })
    }
    return found.reverse()
  }

  #madeAt(name: string): number {
    return this.#graph.madeAt.get(name) ?? -1
  }

  /** What a node adds up that depends on the data; undefined where it does not sum two such tensors. */
  #terms({ opType, input }: NodeProto): string[] | undefined {
    if (opType !== 'Add' && opType !== 'Sum' && !SKIP_NORMS.has(opType)) return undefined
    const added = SKIP_NORMS.has(opType) ? input.slice(0, 2) : input
    const terms = added.filter((name) => !this.#constants.has(name))
    return terms.length >= 2 ? terms : undefined
  }

  /** The terms of a term, where it is a sum that nothing else reads. */
  #expand(name: string, absorbed: Set<number>): string[] {
    const at = this.#madeAt(name)
    const node = this.#graph.nodes[at]
    if (!node || SKIP_NORMS.has(node.opType) || this.#readers.get(name)!.length > 1) return [name]
    const terms = this.#terms(node)
    if (!terms) return [name]
    absorbed.add(at)
    return terms.flatMap((term) => this.#expand(term, absorbed))
  }

  /** @param terms in the order in which they are made. */
  #residual(terms: readonly string[]): Pick<Sum, 'input' | 'path'> | undefined {
    for (const [i, input] of terms.slice(0, -1).entries()) {
      const path = nodesBetween(this.#graph, this.#withNorm(input), terms.slice(i + 1))
      if (path.some((at) => this.#layersAt.has(at))) return { input, path }
    }
    return undefined
  }

  /** With the norm of a sum, where one node gives both. */
  #withNorm(name: string): readonly string[] {
    const node = this.#graph.nodes[this.#madeAt(name)]
    return node && SKIP_NORMS.has(node.opType) ? node.output.filter((output) => output !== '') : [name]
  }

  #outputs({ opType, output }: NodeProto): string[] {
    const names = SKIP_NORMS.has(opType) ? [output[SKIP_SUM], output[0]] : [output[0]]
    const read = names.filter((name) => name && this.#readers.has(name)) as string[]
    return read.length > 0 ? read : [output[0]!]
  }

  /** Chains of sums, the longest first; of those with a node in common the first stays. */
  #sumChains(): { readonly links: ReadonlyMap<Sum, Link>; readonly chains: readonly Sum[][] } {
    const links = new Map<Sum, Link>()
    const after = new Map<Sum, Sum[]>()
    for (const sum of this.#sums) {
      const link = this.#linkTo(sum)
      if (!link) continue
      links.set(sum, link)
      after.set(link.before, [...(after.get(link.before) ?? []), sum])
    }
    const lengths = new Map<Sum, number>()
    const next = new Map<Sum, Sum>()
    for (const sum of [...this.#sums].reverse()) {
      let length = 0
      for (const other of after.get(sum) ?? []) {
        if (lengths.get(other)! <= length) continue
        length = lengths.get(other)!
        next.set(sum, other)
      }
      lengths.set(sum, length + 1)
    }
    const continued = new Set(next.values())
    const all = this.#sums
      .filter((sum) => !continued.has(sum))
      .map((first) => {
        const chain = [first]
        for (let sum = next.get(first); sum; sum = next.get(sum)) chain.push(sum)
        return chain
      })
    const taken = new Set<number>()
    const chains = all
      .sort((a, b) => b.length - a.length || this.#madeAt(a[0]!.input) - this.#madeAt(b[0]!.input))
      .filter((chain) => {
        const places = chain.flatMap(({ at, path }) => [at, ...path])
        if (places.some((at) => taken.has(at))) return false
        for (const at of places) taken.add(at)
        return true
      })
    return { links, chains: chains.sort((a, b) => a[0]!.at - b[0]!.at) }
  }

  /** The last sum that a sum's input comes from without layers. */
  #linkTo(sum: Sum): Link | undefined {
    const own = this.#madeBy.get(sum.input)
    if (own) return { sum, before: own, between: [] }
    const seen = new Set<number>()
    const pending = [this.#madeAt(sum.input)]
    let before: Sum | undefined
    while (pending.length > 0 && seen.size <= MOST_BETWEEN) {
      const at = pending.pop()!
      if (at < 0 || seen.has(at) || !this.#isPassing(at)) continue
      seen.add(at)
      for (const name of this.#graph.reads.get(this.#graph.nodes[at]!)!) {
        const source = this.#madeBy.get(name)
        if (!source) pending.push(this.#madeAt(name))
        else if (!before || source.at > before.at) before = source
      }
    }
    const between = before && nodesBetween(this.#graph, before.outputs, [sum.input])
    return between?.every((at) => this.#isPassing(at)) ? { sum, before: before!, between } : undefined
  }

  #isPassing(at: number): boolean {
    return PASSING.has(this.#graph.nodes[at]!.opType)
  }

  chains(): Branch[][] {
    const { links, chains } = this.#sumChains()
    const inside = chains.flatMap((chain) => chain.slice(1).map((sum) => this.#operators(links.get(sum)!.between)))
    const usual = commonest(inside) ?? ''
    const sums = new Set(chains.flat().map(({ at }) => at))
    return chains.map((chain) =>
      chain.map((sum, i) => ({
        input: sum.input,
        output: chain[i + 1]?.input ?? this.#closing(sum, usual),
        layers: this.#layersOf(sum, sums),
      })),
    )
  }

  #operators(places: readonly number[]): string {
    return places.map((at) => this.#graph.nodes[at]!.opType).join(' ')
  }

  /** The end of a chain: what the usual operators make of its last sum, where they follow it too. */
  #closing({ at, outputs }: Sum, usual: string): string {
    const { nodes } = this.#graph
    const [sum] = outputs
    if (usual === '') return sum!
    for (let after = at + 1; after < Math.min(nodes.length, at + 4 * MOST_BETWEEN); after++) {
      if (!this.#isPassing(after)) continue
      const name = nodes[after]!.output[0]!
      if (this.#operators(nodesBetween(this.#graph, outputs, [name])) === usual) return name
    }
    return sum!
  }

  /**
   * Layers on the way from the input to the sum, and those whose results only nodes of this way read, such as the keys of
   * an encoder's output. @param sums places of all sums: what lies before another one is no part of this branch.
   */
  #layersOf({ at: end, path }: Sum, sums: ReadonlySet<number>): WeightedLayer[] {
    const own = new Set(path)
    for (let at = end - 1; at >= 0; at--) {
      if (own.has(at) || sums.has(at)) continue
      const read = this.#graph.nodes[at]!.output.flatMap((name) => this.#readers.get(name) ?? [])
      if (read.length > 0 && read.every((reader) => own.has(reader))) own.add(at)
    }
    return [...new Set([...own].sort((a, b) => a - b).flatMap((at) => this.#layersAt.get(at) ?? []))]
  }
}

/** The text that occurs most often; the first of several. */
function commonest(texts: readonly string[]): string | undefined {
  const counts = new Map<string, number>()
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1)
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0]
}

/**
 * @file Everything that has to be permuted along with some channels: from the tensor that has them on to all readers, and back
 * to all that make tensors which meet them element by element (both sides of a gated unit). A layer ends the way on either
 * side: its rows make channels, its columns read them.
 */
import { readersOf } from '../../calibration/graphPaths.ts'
import type { MainGraph } from '../../calibration/mainGraph.ts'
import { type StoredTensor, storedTensor } from '../../calibration/storedTensor.ts'
import { subgraphs } from '../../onnx/attributes.ts'
import type { NodeProto } from '../../onnx/proto.ts'
import type { ChannelAxis } from './channelSet.ts'
import { called, isAdditive, kindOf } from './operators.ts'
import { type Place, passBackward, passForward } from './passages.ts'
import { type Product, productOf } from './products.ts'
import { Shapes } from './shapes.ts'
import { isReadOnlyBy, type Use } from './soleReaders.ts'

/** The main graph, with what the search asks of it again and again. */
export interface Network {
  readonly graph: MainGraph
  readonly shapes: Shapes
  readonly readers: ReturnType<typeof readersOf>
}

export function networkOf(graph: MainGraph): Network {
  return { graph, shapes: new Shapes(graph), readers: readersOf(graph) }
}

/** What is known of one constant. */
interface Edited {
  readonly axes: Map<number, ChannelAxis>
  readonly uses: Use[]
  readonly path: Set<NodeProto>
}

/** One set of channels in the making. */
export class Closure {
  /** Nodes whose weights have the channels as rows. */
  readonly makers = new Set<NodeProto>()
  readonly #network: Network
  readonly #channels: number
  readonly #places = new Map<string, Place>()
  readonly #pending: string[] = []
  /** Nodes that have been passed, each way: a layer may read its own gate's channels and make them as well. */
  readonly #backwards = new Set<NodeProto>()
  readonly #forwards = new Set<NodeProto>()
  readonly #edited = new Map<string, Edited>()

  constructor(network: Network, channels: number) {
    this.#network = network
    this.#channels = channels
  }

  get axes(): ChannelAxis[] {
    return [...this.#edited.values()].flatMap(({ axes }) => [...axes.values()])
  }

  /**
   * Follow the channels of a tensor until nothing is left to follow.
   * @returns why they have to stay as they are, as the end of a sentence; the set is of no use then.
   */
  follow(name: string, place: Place): string | undefined {
    let reason = this.#reach(name, place)
    for (let at = this.#pending.pop(); at !== undefined && !reason; at = this.#pending.pop()) reason = this.#visit(at)
    return reason ?? this.#otherReader()
  }

  #reach(name: string, place: Place): string | undefined {
    const known = this.#places.get(name)
    if (!known) {
      this.#places.set(name, place)
      this.#pending.push(name)
      return undefined
    }
    const isSame = known.axis === place.axis && known.block === place.block
    return isSame ? undefined : `its channels come to '${name}' in two ways`
  }

  #visit(name: string): string | undefined {
    const { graph, readers } = this.#network
    const place = this.#places.get(name)!
    if (graph.outputs.includes(name)) return `'${name}' is an output of the model`
    const maker = graph.scope.producers.get(name)
    if (!maker) return `'${name}', which meets its channels, is an input of the model`
    const reason = this.#backwards.has(maker) ? undefined : this.#backward(maker, name, place)
    if (reason) return reason
    const next = readers.get(name) ?? []
    if (next.length === 0) return `nothing reads '${name}'`
    for (const at of next) {
      const node = graph.nodes[at]!
      if (subgraphs(node).length > 0) return `${called(node)} may read its channels in a subgraph`
      if (node.opType === 'Shape' || node.opType === 'Size') continue
      const blocked = this.#forwards.has(node) ? undefined : this.#forward(node, name, place)
      if (blocked) return blocked
    }
    return undefined
  }

  /** From an output of a node to its inputs. */
  #backward(node: NodeProto, name: string, place: Place): string | undefined {
    const { graph, shapes } = this.#network
    this.#backwards.add(node)
    if (name !== node.output[0]) return mixes(node)
    const product = productOf(graph, node)
    if (product) return this.#make(node, product, place)
    this.#forwards.add(node)
    if (kindOf(node) === 'combining') return this.#combine(node, place)
    const before = passBackward(shapes, node, place, this.#channels)
    return before ? (this.#pass(node, place) ?? this.#reach(node.input[0]!, before)) : mixes(node)
  }

  /** From an input of a node to its output. */
  #forward(node: NodeProto, name: string, place: Place): string | undefined {
    const { graph, shapes } = this.#network
    this.#forwards.add(node)
    const product = productOf(graph, node)
    if (!product) this.#backwards.add(node)
    if (kindOf(node) === 'combining') return this.#combine(node, place)
    if (node.input[0] !== name || node.input.lastIndexOf(name) !== 0) return mixes(node)
    if (product) return this.#read(node, product, place)
    const after = passForward(shapes, node, place, this.#channels)
    return after ? (this.#pass(node, place) ?? this.#reach(node.output[0]!, after)) : mixes(node)
  }

  /** What else a node that channels pass reads and gives. */
  #pass(node: NodeProto, { block }: Place): string | undefined {
    const { graph, readers } = this.#network
    if (node.output.slice(1).some((name) => readers.has(name))) return mixes(node)
    const isNorm = kindOf(node) === 'batchNorm'
    for (const inputIndex of isNorm ? [1, 2, 3, 4] : []) {
      const vector = storedTensor(graph, node.input[inputIndex] ?? '')
      if (vector?.dims.length !== 1) return `a vector of ${called(node)} is not stored in the model`
      const reason = this.#edit({ node, inputIndex }, vector, 0, block)
      if (reason) return reason
    }
    return undefined
  }

  /** Element by element: all inputs have the channels where the output has them, or are the same for all channels. */
  #combine(node: NodeProto, place: Place): string | undefined {
    const { graph, shapes } = this.#network
    const data: string[] = []
    for (const [inputIndex, name] of node.input.entries()) {
      if (name === '') continue
      const stored = storedTensor(graph, name)
      if (stored) {
        const reason = this.#editVector({ node, inputIndex }, stored, place)
        if (reason) return reason
      } else if (!isOneNumber(graph, name) && shapes.declared(name, place.axis) !== 1) data.push(name)
    }
    if (isAdditive(node) && data.length > 1) {
      const [first, ...rest] = data.map((name) => this.#origins(name))
      if (rest.some((other) => other !== first)) {
        return `${called(node)} adds it to results of other layers, as a residual branch does`
      }
    }
    for (const name of [...data, node.output[0]!]) {
      const reason = this.#reach(name, place)
      if (reason) return reason
    }
    return undefined
  }

  /** The nodes that a tensor comes from without layers in between, as a text. */
  #origins(name: string): string {
    const { graph } = this.#network
    const seen = new Set<string>()
    const found = new Set<string>()
    const pending = [name]
    for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
      if (seen.has(at) || at === '') continue
      seen.add(at)
      const node = graph.scope.producers.get(at)
      if (!node) {
        if (!graph.scope.constants.has(at)) found.add(at)
      } else if (kindOf(node) === 'combining') pending.push(...node.input)
      else if (kindOf(node) === 'other') {
        if (!storedTensor(graph, at)) found.add(at)
      } else pending.push(node.input[0]!)
    }
    return JSON.stringify([...found].sort())
  }

  /** A layer makes the channels. */
  #make(node: NodeProto, product: Product, { axis, block }: Place): string | undefined {
    const { weight, outputAxis, channelAxis, groups, multiplier } = product
    if (outputAxis === undefined) return `the rows of ${called(node)} are not its channels`
    if (axis !== channelAxis || block === undefined) return mixes(node)
    if (groups > 1) {
      const before = block / (multiplier ?? 0)
      if (!Number.isInteger(before)) return `${called(node)} keeps groups of channels apart`
      return this.#throughGroups(node, product, block) ?? this.#reach(node.input[0]!, { axis, block: before })
    }
    this.makers.add(node)
    const reason = this.#edit({ node, inputIndex: 1 }, weight, outputAxis, block)
    return reason ?? this.#bias(node, product, { axis, block })
  }

  /** A layer reads the channels. */
  #read(node: NodeProto, product: Product, { axis, block }: Place): string | undefined {
    const { weight, inputAxis, channelAxis, groups, multiplier } = product
    if (axis !== channelAxis) return mixes(node)
    if (groups === 1) return this.#edit({ node, inputIndex: 1 }, weight, inputAxis, block)
    const isApart = block !== undefined && multiplier !== undefined && groups === this.#channels * block
    if (!isApart) return `${called(node)} keeps groups of channels apart`
    const after = block * multiplier
    return this.#throughGroups(node, product, after) ?? this.#reach(node.output[0]!, { axis, block: after })
  }

  /** A depthwise convolution has a row for each channel, or several. */
  #throughGroups(node: NodeProto, product: Product, block: number): string | undefined {
    this.makers.add(node)
    this.#forwards.add(node)
    this.#backwards.add(node)
    const reason = this.#edit({ node, inputIndex: 1 }, product.weight, 0, block)
    return reason ?? this.#bias(node, product, { axis: product.channelAxis, block })
  }

  #bias(node: NodeProto, { hasBias }: Product, place: Place): string | undefined {
    if (!hasBias) return undefined
    const bias = storedTensor(this.#network.graph, node.input[2]!)
    if (!bias) return `the bias of ${called(node)} is not stored in the model`
    return this.#editVector({ node, inputIndex: 2 }, bias, { axis: -1, block: place.block })
  }

  /** A stored tensor that is broadcast: where it is one wide, it is the same for all channels. */
  #editVector(use: Use, stored: StoredTensor, { axis, block }: Place): string | undefined {
    const at = stored.dims.length + axis
    return at < 0 || stored.dims[at] === 1 ? undefined : this.#edit(use, stored, at, block)
  }

  #edit(use: Use, stored: StoredTensor, seenAxis: number, block: number | undefined): string | undefined {
    const { constant, dims, path } = stored
    const width = dims[seenAxis]!
    const own = width / this.#channels
    if (!Number.isInteger(own) || own < 1 || (block !== undefined && own !== block)) {
      return `'${constant.name}' has ${width} channels where it has ${this.#channels}`
    }
    const axis = stored.axisOf(seenAxis)
    if (axis === undefined) return `the channels of '${constant.name}' are not along one axis`
    const edited: Edited = this.#edited.get(constant.name) ?? { axes: new Map(), uses: [], path: new Set() }
    this.#edited.set(constant.name, edited)
    const known = edited.axes.get(axis)
    if (known && known.block !== own) return `'${constant.name}' meets its channels in two ways`
    edited.axes.set(axis, { constant, axis, starts: [0], block: own })
    edited.uses.push(use)
    for (const node of path) edited.path.add(node)
    return undefined
  }

  /** A constant that nodes outside of the set read as well, or along another axis. */
  #otherReader(): string | undefined {
    const { graph, readers } = this.#network
    for (const { axes, uses, path } of this.#edited.values()) {
      const { constant } = [...axes.values()][0]!
      if (!isReadOnlyBy(graph, readers, constant, uses, path)) return `'${constant.name}' is used elsewhere as well`
      const distinct = new Set(uses.map(({ node, inputIndex }) => `${graph.nodes.indexOf(node)} ${inputIndex}`))
      if (axes.size > 1 && distinct.size > 1) return `'${constant.name}' is used in two ways`
    }
    return undefined
  }
}

function mixes(node: NodeProto): string {
  return `${called(node)} does not keep its channels apart`
}

function isOneNumber({ scope }: MainGraph, name: string): boolean {
  return scope.constants.get(name)?.tensor.dims.every((dim) => dim === 1n) ?? false
}

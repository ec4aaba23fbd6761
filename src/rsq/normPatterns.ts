/**
 * @file Norms that exporters write as single operators: x (or x − mean) divided by the root of its mean square, or by its
 * length. Gains and biases come after what is found here.
 */
import type { MainGraph } from '../calibration/mainGraph.ts'
import { intAttribute } from '../onnx/attributes.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { isDefaultDomain } from '../onnx/ranks.ts'
import type { AxisFacts } from './axisFacts.ts'
import { mainReaders } from './mainReaders.ts'
import { scalarOf } from './storedNumbers.ts'

/** A norm without gain and bias. */
export interface NormCore {
  readonly kind: 'mean' | 'plain'
  readonly input: string
  readonly output: string
  readonly nodes: readonly NodeProto[]
}

/** The norm whose last operation a node is: the division, or the product with the inverse root. */
export function normCoreAt(facts: AxisFacts, node: NodeProto): NormCore | undefined {
  if (!isDefaultDomain(node.domain) || node.input.length !== 2) return undefined
  const [first, second] = node.input as [string, string]
  if (node.opType === 'Div') return new Match(facts, node).divided(first, (match) => match.length(second))
  if (node.opType !== 'Mul') return undefined
  return (
    new Match(facts, node).divided(first, (match) => match.inverse(second)) ??
    new Match(facts, node).divided(second, (match) => match.inverse(first))
  )
}

/** One attempt: the nodes taken into the pattern so far. */
class Match {
  readonly #facts: AxisFacts
  readonly #graph: MainGraph
  readonly #last: NodeProto
  readonly #taken: Set<NodeProto>

  constructor(facts: AxisFacts, last: NodeProto) {
    this.#facts = facts
    this.#graph = facts.graph
    this.#last = last
    this.#taken = new Set([last])
  }

  /** @param lengthOf finds what the squares are made of. */
  divided(numerator: string, lengthOf: (match: Match) => string | undefined): NormCore | undefined {
    const squared = lengthOf(this)
    if (squared === undefined) return undefined
    const centred = this.#centred(numerator)
    const again = centred === undefined ? undefined : this.#centred(squared)
    if (centred !== undefined && again === centred) return this.#core('mean', centred)
    if (numerator === squared) return this.#core('plain', numerator)
    // One of them may be converted for itself, from the same tensor.
    const casts = new Set<NodeProto>()
    const [x, y] = [numerator, squared].map((name) => this.#uncast(name, casts))
    if (x !== y) return undefined
    for (const cast of casts) if (this.#isRead(cast)) this.#taken.add(cast)
    return this.#core('plain', x!)
  }

  /** True where only the pattern reads a node. */
  #isRead({ output }: NodeProto): boolean {
    return mainReaders(this.#graph, output[0]!).every(({ node }) => this.#taken.has(node))
  }

  /** The core, unless anything else reads what lies inside it. */
  #core(kind: NormCore['kind'], input: string): NormCore | undefined {
    const { scope } = this.#graph
    const inner = [...this.#taken].filter((node) => node !== this.#last)
    const names = inner.flatMap((node) => node.output).filter((name) => name !== '')
    if (names.some((name) => scope.outputs.has(name)) || !inner.every((node) => this.#isRead(node))) return undefined
    const nodes = this.#graph.nodes.filter((node) => this.#taken.has(node))
    return { kind, input, output: this.#last.output[0]!, nodes }
  }

  #producer(name: string): NodeProto | undefined {
    const node = this.#graph.scope.constants.has(name) ? undefined : this.#graph.scope.producers.get(name)
    return node && isDefaultDomain(node.domain) ? node : undefined
  }

  #uncast(name: string, taken = this.#taken): string {
    let current = name
    for (let node = this.#producer(name); node && ['Cast', 'Identity'].includes(node.opType); ) {
      taken.add(node)
      current = node.input[0]!
      node = this.#producer(current)
    }
    return current
  }

  /** Takes the node that makes a name, behind conversions, where it is one of these operators. */
  #take(name: string, ...operators: readonly string[]): NodeProto | undefined {
    const node = this.#producer(this.#uncast(name))
    if (!node || !operators.includes(node.opType)) return undefined
    this.#taken.add(node)
    return node
  }

  /** x of x − mean(x). */
  #centred(name: string): string | undefined {
    const before = [...this.#taken]
    const sub = this.#take(name, 'Sub')
    const mean = sub && this.#take(sub.input[1]!, 'ReduceMean')
    if (mean && this.#isAlongChannels(mean)) {
      const [x, y] = [sub.input[0]!, mean.input[0]!]
      if (x === y) return x
      const casts = new Set<NodeProto>()
      const same = this.#uncast(x, casts) === this.#uncast(y, casts)
      if (same) {
        for (const cast of casts) if (this.#isRead(cast)) this.#taken.add(cast)
        return this.#uncast(x, new Set())
      }
    }
    this.#taken.clear()
    for (const node of before) this.#taken.add(node)
    return undefined
  }

  #isAlongChannels(node: NodeProto): boolean {
    const axes = this.#facts.axes(node)
    const isLast = axes?.length === 1 && this.#facts.isLast(axes[0]!, this.#facts.rank(node.input[0]!)) === true
    return isLast && intAttribute(node, 'keepdims', 1) !== 0
  }

  /** What an inverse length is the inverse length of. */
  inverse(name: string): string | undefined {
    const node = this.#take(name, 'Reciprocal', 'Div', 'Pow')
    if (!node) return undefined
    if (node.opType === 'Reciprocal') return this.length(node.input[0]!)
    if (node.opType === 'Pow') {
      return scalarOf(this.#graph, node.input[1]!) === -0.5 ? this.#meanSquare(node.input[0]!) : undefined
    }
    return scalarOf(this.#graph, node.input[0]!) === 1 ? this.length(node.input[1]!) : undefined
  }

  /** What a length is the length of: the root of its mean square, or its norm. */
  length(name: string): string | undefined {
    const node = this.#take(name, 'Sqrt', 'Pow', 'Expand', 'Clip', 'Max', 'Add', 'ReduceL2')
    if (!node) return undefined
    switch (node.opType) {
      case 'Sqrt':
        return this.#meanSquare(node.input[0]!)
      case 'Pow':
        return scalarOf(this.#graph, node.input[1]!) === 0.5 ? this.#meanSquare(node.input[0]!) : undefined
      case 'ReduceL2':
        return this.#isAlongChannels(node) ? node.input[0]! : undefined
      case 'Expand':
        return this.length(node.input[0]!)
      default: {
        const data = this.#besidesScalars(node)
        return data === undefined ? undefined : this.length(data)
      }
    }
  }

  /** The one input of a node that is not a stored number. */
  #besidesScalars({ input }: NodeProto): string | undefined {
    const data = input.filter((name) => name !== '' && scalarOf(this.#graph, name) === undefined)
    return data.length === 1 ? data[0] : undefined
  }

  /** x of mean(x²) + ε. */
  #meanSquare(name: string): string | undefined {
    const safe = this.#take(name, 'Add', 'Max', 'Clip')
    const inner = safe ? this.#besidesScalars(safe) : name
    const mean = inner === undefined ? undefined : this.#take(inner, 'ReduceMean')
    if (!mean || !this.#isAlongChannels(mean)) return undefined
    const squares = this.#take(mean.input[0]!, 'Pow', 'Mul')
    if (!squares) return undefined
    const [x, y] = squares.input as [string, string]
    return (squares.opType === 'Mul' ? x === y : scalarOf(this.#graph, y) === 2) ? x : undefined
  }
}

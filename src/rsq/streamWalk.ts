/**
 * @file The closure of a stream: from one of its tensors to all that must share its basis, the constants that write to
 * them, the norms, and the layers that read them; and everything that stands in the way of turning it.
 *
 * A tensor of the stream has the channels along its last axis. Sums tie all their terms together, so do nodes that hand
 * channels on (passages.ts); a product with a stored weight ends the walk, as reader or as writer.
 */
import { quoted } from '../onnx/names.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { describeNode } from '../onnx/tensors.ts'
import { isBranchNorm, walkBehind } from './behindNorm.ts'
import { Findings, type StreamFacts } from './findings.ts'
import { dataReaders } from './mainReaders.ts'
import { oddNorm, skipNormOf } from './norms.ts'
import { isSum, postNormReason, producerReason, readerReason, refuseReader, sandwichReason } from './obstacles.ts'
import { passageOf } from './passages.ts'
import { patchEmbeddingAt } from './patchEmbedding.ts'
import { writerAt } from './products.ts'
import type { Norm } from './stream.ts'

/**
 * Walk along a stream.
 * @param width number of channels.
 * @param start name of a tensor of the stream.
 */
export function walkStream(known: StreamFacts, width: number, start: string): Findings {
  const walk = new StreamWalk(known, width)
  walk.run(start)
  return walk.found
}

class StreamWalk {
  readonly found: Findings
  readonly #known: StreamFacts
  readonly #pending: string[] = []

  constructor(known: StreamFacts, width: number) {
    this.found = new Findings(known.facts.graph, width)
    this.#known = known
  }

  run(start: string): void {
    this.#add(start)
    while (this.#pending.length > 0) {
      const name = this.#pending.pop()!
      this.#visitProducer(name)
      this.#visitReaders(name)
      if (this.#pending.length > 0) continue
      for (const node of this.found.otherLookups()) {
        this.#join(node, 0)
        this.#add(node.output[0])
      }
    }
  }

  #add(name: string | undefined): void {
    if (!name || this.found.tensors.has(name)) return
    this.found.tensors.add(name)
    this.#pending.push(name)
  }

  /** An input of a node becomes part of the stream: a stored tensor that writes to it, or one that is computed. */
  #join(node: NodeProto, inputIndex: number): void {
    const name = node.input[inputIndex]
    if (name && !this.found.writeStored(node, inputIndex)) this.#add(name)
  }

  #visitProducer(name: string): void {
    const node = this.found.graph.scope.producers.get(name)
    if (!node) {
      const reason = `the stream begins at the input ${quoted(name)} of the model, which cannot be turned`
      this.found.refuse(undefined, reason, name)
      return
    }
    const norm = this.#known.normOf.get(name)
    if (norm) this.#refuseNorm(norm)
    else if (isSum(node) || skipNormOf(node)?.sum === node.output.indexOf(name)) this.#joinSum(node)
    else if (!this.#joinPassage(node) && !this.#joinLayer(node) && !this.#joinPatches(name)) {
      const { facts } = this.#known
      const isNorm = oddNorm(facts, node) !== undefined || node.opType === 'EmbedLayerNormalization'
      this.found.refuse(node, isNorm ? postNormReason(node) : producerReason(node))
    }
  }

  #passage(node: NodeProto) {
    if (this.#known.normsAt.has(node)) return undefined
    const passage = passageOf(this.#known.facts, node, this.found.width)
    return passage && 'inputs' in passage ? passage : undefined
  }

  #joinPassage(node: NodeProto): boolean {
    const passage = this.#passage(node)
    for (const input of passage?.inputs ?? []) this.#join(node, input)
    return passage !== undefined
  }

  #joinLayer(node: NodeProto): boolean {
    const { found } = this
    const writer = writerAt(found.graph, node, found.width)
    if (!writer) return false
    found.write(writer)
    if (node.opType === 'Gemm' && node.input[2] && !found.writeStored(node, 2)) {
      found.refuse(node, `${describeNode(node)} adds ${quoted(node.input[2])}, which is not stored`)
    }
    return true
  }

  #joinPatches(name: string): boolean {
    const patches = patchEmbeddingAt(this.#known.facts, name, this.found.width)
    for (const weight of patches?.weights ?? []) this.found.write(weight)
    for (const between of patches?.between ?? []) {
      this.found.checkEnds(between)
      const [, second] = this.#readersOf(between)
      if (second) this.found.refuse(second.node, readerReason(second.node, 'the stream'))
    }
    return patches !== undefined
  }

  /** All terms of a sum, and what comes of it. */
  #joinSum(node: NodeProto): void {
    if (!this.found.isNew('sum', node)) return
    const skip = skipNormOf(node)
    const terms = skip ? [0, 1, skip.bias] : node.input.map((_, i) => i)
    for (const i of terms) this.#join(node, i)
    const computed = terms.filter((i) => node.input[i] && !this.#known.constants.has(node.input[i]))
    if (computed.length > 1) this.found.sums.add(node)
    this.#add(skip ? node.output[skip.sum] : node.output[0])
    if (!skip) return
    const norm = this.#known.normOf.get(node.output[0]!)
    if (norm) this.#passNorm(norm)
    else this.found.refuse(node, `${describeNode(node)} ${oddNorm(this.#known.facts, node)}`)
  }

  /** A norm comes to a sum: no rotation passes its gain. The walk goes on, so that one stream is refused once. */
  #refuseNorm(norm: Norm): void {
    const node = norm.nodes.at(-1)!
    const isOfBranch = isBranchNorm(this.#known, norm, this.found.width)
    this.found.refuse(node, isOfBranch ? sandwichReason(node) : postNormReason(node))
    if (!isOfBranch) this.#add(norm.input)
  }

  /** Nodes that read channels; what subgraphs read is refused by itself. */
  #readersOf(name: string) {
    return dataReaders(this.found.graph, name).filter(({ inputIndex }) => inputIndex >= 0)
  }

  #visitReaders(name: string): void {
    this.found.checkEnds(name)
    for (const { node, inputIndex } of this.#readersOf(name)) this.#visitReader(node, inputIndex)
  }

  #visitReader(node: NodeProto, inputIndex: number): void {
    const norms = this.#known.normsAt.get(node)
    const passage = this.#passage(node)
    if (isSum(node) && !norms) this.#joinSum(node)
    else if (skipNormOf(node) && inputIndex < 2) this.#joinSum(node)
    else if (norms && !skipNormOf(node)) {
      for (const norm of norms) {
        this.#add(norm.input)
        this.#passNorm(norm)
      }
    } else if (passage?.inputs.includes(inputIndex)) {
      this.#joinPassage(node)
      for (const output of passage.outputs) this.#add(output)
    } else if (!this.found.read(node, inputIndex, undefined)) {
      refuseReader(this.#known.facts, this.found, node, inputIndex, 'the stream')
    }
  }

  #passNorm(norm: Norm): void {
    const sums = walkBehind(this.#known, this.found, norm)
    if (sums.length > 0) this.#refuseNorm(norm)
    for (const node of sums) this.#joinSum(node)
  }
}

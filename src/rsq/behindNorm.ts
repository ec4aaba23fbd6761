/**
 * @file What lies behind a norm of a stream: nodes that hand channels on, and the layers that read them. What a norm gives
 * must come to readers: added to a stream it would bring its gain along, which no rotation passes.
 */
import type { NodeProto } from '../onnx/proto.ts'
import { describeNode } from '../onnx/tensors.ts'
import type { Findings, StreamFacts } from './findings.ts'
import { dataReaders } from './mainReaders.ts'
import { normWidth, skipNormOf } from './norms.ts'
import { isSum, refuseReader } from './obstacles.ts'
import { passageOf } from './passages.ts'
import { writerAt } from './products.ts'
import type { Norm } from './stream.ts'

/**
 * Takes a norm and its readers into what is found.
 * @returns sums of what the norm gives, which stand in the way.
 */
export function walkBehind(known: StreamFacts, found: Findings, norm: Norm): NodeProto[] {
  if (found.norms.has(norm)) return []
  found.norms.add(norm)
  const width = normWidth(norm)
  const last = norm.nodes.at(-1)!
  if (width !== undefined && width !== found.width) {
    found.refuse(last, `${describeNode(last)} has a gain of ${width} numbers for ${found.width} channels`)
    return []
  }
  const sums: NodeProto[] = []
  // A set that grows while it is gone through.
  const names = new Set([norm.output])
  for (const name of names) {
    found.checkEnds(name)
    for (const { node, inputIndex } of dataReaders(found.graph, name)) {
      if (inputIndex < 0 || found.read(node, inputIndex, norm)) continue
      const isAdded = skipNormOf(node) ? inputIndex < 2 : isSum(node) && !known.normsAt.has(node)
      if (isAdded) sums.push(node)
      else for (const output of passOn(known, found, norm, node, inputIndex)) names.add(output)
    }
  }
  return sums
}

/** Names that carry a normalised tensor on behind a node. */
function passOn(known: StreamFacts, found: Findings, norm: Norm, node: NodeProto, inputIndex: number) {
  const passage = known.normsAt.has(node) ? undefined : passageOf(known.facts, node, found.width)
  const isAlone = passage && 'inputs' in passage && passage.inputs.length === 1 && passage.inputs[0] === inputIndex
  if (!isAlone) {
    refuseReader(known.facts, found, node, inputIndex, 'the normalised stream')
    return []
  }
  if (passage.keepsConstants || !norm.bias) return passage.outputs
  found.refuse(node, `${describeNode(node)} weighs tokens behind a norm whose bias would have to be weighed with them`)
  return []
}

/** True for a norm of what a layer gives, not of a sum. */
export function isBranchNorm({ facts, constants }: StreamFacts, { input }: Norm, width: number): boolean {
  const { graph } = facts
  let name = input
  for (let steps = 0; steps < 8; steps++) {
    const node = graph.scope.producers.get(name)
    if (!node || skipNormOf(node)) return false
    if (writerAt(graph, node, width)) return true
    const data = node.input.filter((term) => term !== '' && !constants.has(term))
    const isPassed = isSum(node) || passageOf(facts, node, width) !== undefined
    if (!isPassed || data.length !== 1) return false
    name = data[0]!
  }
  return false
}

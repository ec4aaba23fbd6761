/** @file The convolution that cuts an image into tokens, at the beginning of a stream. */

import { type StoredTensor, storedTensor } from '../calibration/storedTensor.ts'
import { intAttribute, intsAttribute } from '../onnx/attributes.ts'
import type { NodeProto } from '../onnx/proto.ts'
import type { AxisFacts } from './axisFacts.ts'
import type { Place } from './products.ts'

/** The convolution, and the nodes that bring its channels to the last axis. */
interface PatchEmbedding {
  readonly weights: readonly Place[]
  /** Names between the convolution and the tokens, which nothing else may read. */
  readonly between: readonly string[]
}

/**
 * The convolution behind tokens: Conv → Reshape [batch, channels, −1] → Transpose, or Transpose → Reshape.
 * @param name the tokens, channels last.
 */
export function patchEmbeddingAt(facts: AxisFacts, name: string, width: number): PatchEmbedding | undefined {
  const { graph } = facts
  const between: string[] = []
  let axis: number | 'last' = 'last'
  for (let current = name; between.length < 8; ) {
    const node = graph.scope.producers.get(current)
    if (!node) return undefined
    if (current !== name) between.push(current)
    if (node.opType === 'Conv') {
      const weight =
        axis === 1 && intAttribute(node, 'group', 1) === 1 ? storedTensor(graph, node.input[1]!) : undefined
      if (weight?.dims[0] !== width || weight.axisOf(0) === undefined) return undefined
      const bias = node.input[2] ? storedTensor(graph, node.input[2]) : undefined
      if (node.input[2] && (!bias || bias.axisOf(0) === undefined)) return undefined
      const place = (at: StoredTensor, inputIndex: number) => ({ weight: at, node, inputIndex, axis: at.axisOf(0)! })
      return { weights: [place(weight, 1), ...(bias ? [place(bias, 2)] : [])], between }
    }
    if (node.opType === 'Transpose') {
      const perm: number[] | undefined = intsAttribute(node, 'perm')
      if (!perm) return undefined
      axis = perm[axis === 'last' ? perm.length - 1 : axis]!
    } else if (node.opType === 'Reshape') {
      const keeps = axis === 'last' ? facts.last(current) === width : axis === 1 && joinsPixels(facts, node, width)
      if (!keeps) return undefined
    } else if (!['Identity', 'Cast', 'Dropout'].includes(node.opType)) return undefined
    current = node.input[0]!
  }
  return undefined
}

/** True for a Reshape to [batch, channels, −1] whose batch is the input's own. */
function joinsPixels(facts: AxisFacts, node: NodeProto, width: number): boolean {
  const { graph } = facts
  const known = facts.integers(node.input[1])
  if (known) return known.length === 3 && known[0] === 0 && [0, width].includes(known[1]!) && known[2] === -1
  const shape = graph.scope.producers.get(node.input[1]!)
  if (shape?.opType !== 'Concat') return false
  const end = facts.integers(shape.input.at(-1))
  if (end?.length !== 1 || end[0] !== -1) return false
  const leadOf = (piece: string) => dimensionsOf(facts, node.input[0]!, piece)
  const first = leadOf(shape.input[0]!)
  if (shape.input.length === 2) return first?.join() === '0,1'
  const channels =
    facts.integers(shape.input[1])?.join() ??
    leadOf(shape.input[1]!)
      ?.map((i) => i * width)
      .join()
  return shape.input.length === 3 && first?.join() === '0' && channels === String(width)
}

/** Which dimensions of `value` a piece of a shape holds. */
function dimensionsOf(facts: AxisFacts, value: string, name: string): number[] | undefined {
  let node = facts.graph.scope.producers.get(name)
  while (node && ['Unsqueeze', 'Cast', 'Identity'].includes(node.opType)) {
    node = facts.graph.scope.producers.get(node.input[0]!)
  }
  const shape = facts.graph.scope.producers.get(node?.input[0] ?? '')
  if (!node || shape?.opType !== 'Shape' || shape.attribute.length > 0 || shape.input[0] !== value) return undefined
  if (node.opType === 'Gather') return facts.integers(node.input[1])
  if (node.opType !== 'Slice') return undefined
  const [start, end] = [facts.integers(node.input[1])?.[0], facts.integers(node.input[2])?.[0]]
  if (start === undefined || end === undefined || start < 0 || end < start || end > 8) return undefined
  return Array.from({ length: end - start }, (_, i) => start + i)
}

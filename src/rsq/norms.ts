/** @file All norms over the last axis of a graph: the operators for them, and the patterns that exporters write. */

import { storedTensor } from '../calibration/storedTensor.ts'
import { intAttribute } from '../onnx/attributes.ts'
import type { Constant } from '../onnx/graph.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { isDefaultDomain } from '../onnx/ranks.ts'
import type { AxisFacts } from './axisFacts.ts'
import { dataReaders } from './mainReaders.ts'
import { type NormCore, normCoreAt } from './normPatterns.ts'
import { scalarOf } from './storedNumbers.ts'
import type { Norm, NormVector } from './stream.ts'

/** Inputs and outputs of the contributed operators that add before they norm. */
interface SkipNorm {
  readonly bias: number
  readonly sum: number
}

const SKIP_NORMS: Readonly<Record<string, SkipNorm & { readonly beta?: number }>> = {
  SkipLayerNormalization: { beta: 3, bias: 4, sum: 3 },
  SkipSimplifiedLayerNormalization: { bias: 3, sum: 3 },
}

/** Where a norm that adds first has its bias and its sum; undefined for other nodes. */
export function skipNormOf(node: NodeProto): SkipNorm | undefined {
  return node.domain === 'com.microsoft' ? SKIP_NORMS[node.opType] : undefined
}

/**
 * The norms of a graph, in its order. A normalised tensor that is multiplied by several gains counts as several norms,
 * which share nodes.
 */
export function findNorms(facts: AxisFacts): Norm[] {
  const taken = new Set<NodeProto>()
  return facts.graph.nodes.flatMap((node) => {
    if (taken.has(node)) return []
    const fused = fusedNorm(facts, node)
    if (fused) return [fused]
    const core = lpNorm(facts, node) ?? normCoreAt(facts, node)
    const norms = core ? withVectors(facts, core) : []
    // The product with a gain looks like a division by a root, where the root is behind it.
    for (const norm of norms) for (const part of norm.nodes) taken.add(part)
    return norms
  })
}

const MEAN_NORMS = new Set(['LayerNormalization', 'SkipLayerNormalization'])
const FUSED = new Set(['LayerNormalization', 'SimplifiedLayerNormalization', 'RMSNormalization'])

function fusedNorm(facts: AxisFacts, node: NodeProto): Norm | undefined {
  const { scope } = facts.graph
  const skip = skipNormOf(node)
  if (!skip && !FUSED.has(node.opType)) return undefined
  const isRead = (name: string | undefined) => !!name && (scope.readers.has(name) || scope.outputs.has(name))
  // Means and deviations are there for training.
  if (isRead(node.output[1]) || isRead(node.output[2]) || !node.output[0]) return undefined
  if (!skip && facts.isLast(intAttribute(node, 'axis', -1), facts.rank(node.input[0]!)) !== true) return undefined
  const places = skip ? { gain: 2, bias: SKIP_NORMS[node.opType]!.beta } : { gain: 1, bias: 2 }
  const gain = vectorAt(facts, node, places.gain)
  if (!gain) return undefined
  const hasBias = places.bias !== undefined && !!node.input[places.bias] && node.opType !== 'RMSNormalization'
  const bias = hasBias ? vectorAt(facts, node, places.bias!) : undefined
  if (hasBias && !bias) return undefined
  const input = (skip && node.output[skip.sum]) || node.input[0]!
  const kind = MEAN_NORMS.has(node.opType) ? 'mean' : 'plain'
  return { kind, input, output: node.output[0], gain, bias, nodes: [node] }
}

function lpNorm(facts: AxisFacts, node: NodeProto): NormCore | undefined {
  if (node.opType !== 'LpNormalization' || !isDefaultDomain(node.domain)) return undefined
  const isLast = facts.isLast(intAttribute(node, 'axis', -1), facts.rank(node.input[0]!)) === true
  if (!isLast || intAttribute(node, 'p', 2) !== 2) return undefined
  return { kind: 'plain', input: node.input[0]!, output: node.output[0]!, nodes: [node] }
}

/** A stored vector at an input of a node: all its axes but the last are of size one. */
function vectorAt(facts: AxisFacts, node: NodeProto, inputIndex: number): NormVector | undefined {
  const name = node.input[inputIndex]
  const weight = name ? storedTensor(facts.graph, name) : undefined
  const size = weight?.dims.at(-1) ?? 0
  const isVector = size > 1 && weight!.dims.reduce((a, b) => a * b, 1) === size
  return isVector ? { constant: weight!.constant, node, inputIndex } : undefined
}

/** Channels of a norm by its vectors; undefined where it has none. */
export function normWidth({ gain, bias }: Norm): number | undefined {
  const size = ({ tensor }: Constant) => tensor.dims.map(Number).reduce((a, b) => a * b, 1)
  const vector = gain ?? bias
  return vector && size(vector.constant)
}

/** A core with what multiplies and shifts its channels afterwards. */
function withVectors(facts: AxisFacts, core: NormCore): Norm[] {
  const scaled = passScalars(facts, core.output, [...core.nodes])
  const readers = dataReaders(facts.graph, scaled.name)
  const gains = readers.flatMap(({ node }) => vectorBeside(facts, node, 'Mul', scaled.name) ?? [])
  const made = gains.map((gain) => withBias(facts, core, gain, gain.node.output[0]!, [...scaled.nodes, gain.node]))
  const hasOthers = readers.length > gains.length || facts.graph.scope.outputs.has(scaled.name)
  return hasOthers || made.length === 0 ? [...made, withBias(facts, core, undefined, scaled.name, scaled.nodes)] : made
}

function withBias(
  facts: AxisFacts,
  core: NormCore,
  gain: NormVector | undefined,
  output: string,
  nodes: readonly NodeProto[],
): Norm {
  const [only, ...others] = dataReaders(facts.graph, output)
  const isInside = only && others.length === 0 && !facts.graph.scope.outputs.has(output)
  const bias = isInside ? vectorBeside(facts, only.node, 'Add', output) : undefined
  const { kind, input } = core
  if (!bias) return { kind, input, output, gain, bias, nodes }
  return { kind, input, output: bias.node.output[0]!, gain, bias, nodes: [...nodes, bias.node] }
}

/** The stored vector that a node multiplies a tensor by, or adds to it. */
function vectorBeside(facts: AxisFacts, node: NodeProto, operator: string, name: string): NormVector | undefined {
  if (node.opType !== operator || !isDefaultDomain(node.domain) || node.input.length !== 2) return undefined
  if (node.input[0] === node.input[1]) return undefined
  return vectorAt(facts, node, node.input[0] === name ? 1 : 0)
}

/** Behind the conversions and the products with single numbers that follow a norm, where nothing else reads it. */
function passScalars(facts: AxisFacts, name: string, nodes: NodeProto[]): { name: string; nodes: NodeProto[] } {
  const [only, ...others] = dataReaders(facts.graph, name)
  const node = only?.node
  if (!node || others.length > 0 || facts.graph.scope.outputs.has(name)) return { name, nodes }
  const beside = node.input.find((input) => input !== name) ?? ''
  const isScale =
    (node.opType === 'Mul' || (node.opType === 'Div' && node.input[0] === name)) &&
    scalarOf(facts.graph, beside) !== undefined
  const isConversion = node.opType === 'Cast' || node.opType === 'Identity'
  if (!isScale && !isConversion) return { name, nodes }
  return passScalars(facts, node.output[0]!, [...nodes, node])
}

/** The words for a node that looks like a norm of the stream and is none that can be turned. */
export function oddNorm(facts: AxisFacts, node: NodeProto): string | undefined {
  if (!FUSED.has(node.opType) && !skipNormOf(node)) return undefined
  const axis = facts.isLast(intAttribute(node, 'axis', -1), facts.rank(node.input[0]!))
  if (axis !== true) return 'normalises over other axes than the channels alone'
  const isRead = node.output.slice(1, 3).some((name) => name !== '' && facts.graph.scope.readers.has(name))
  return isRead ? 'gives away its mean or deviation' : 'has a gain or a bias that is computed'
}

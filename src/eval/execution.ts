/**
 * @file What the runtime did with the quantized weights of a model: which ran in a low-bit kernel, which were decoded
 * when the model was loaded, and which are decoded again in every run. Found by comparing the nodes of the model with
 * those that a profile says were executed.
 */
import { definingScope, indexModel, nodesOf, type Reader, type Scope } from '../onnx/graph.ts'
import { plannedWeights } from '../onnx/metadata.ts'
import { isQuantizedOperator } from '../onnx/operators.ts'
import type { ModelProto, NodeProto } from '../onnx/proto.ts'
import { DECODE_PREFIX } from '../onnx/represent/emitter.ts'
import type { NodeExecution } from '../report.ts'
import type { ExecutedNode } from './profile.ts'
import { isLowBit, ProfileIndex } from './profileIndex.ts'

type Status = NodeExecution['status']

/** Operators that move or retype a tensor and vanish when it is constant. */
const MOVES = new Set(['Cast', 'Transpose', 'Reshape', 'Identity', 'Squeeze', 'Unsqueeze', 'Flatten'])

/**
 * Say for every quantized weight of a model what became of it.
 *
 * - Nodes of operators that are quantized themselves (MatMulNBits, QLinearConv, …) with a constant weight: one entry each,
 *   `low-bit kernel` when they ran, fused or not.
 * - DequantizeLinear of a constant of at least two axes (so not of biases), and the decode nodes that qtool writes, which
 *   are named `qtool/<number>/<step>` and shown by the weight's name: one entry per DequantizeLinear or weight. Executed: `dequantized every run`, or
 *   `rows decoded at run time` for embeddings, `qtool/<number>/rows/<step>`, which decode no more than they look up. Not
 *   executed: `low-bit kernel` when a consumer became one, else `folded at load`. Decode nodes that only feed entries
 *   of the first kind have no entry unless they were executed.
 * - `not executed` in a branch, loop body or function that did not run.
 *
 * @param executed from one run; see {@link profileRun}
 * @returns entries in graph order
 */
export function describeExecution(model: ModelProto, executed: readonly ExecutedNode[]): NodeExecution[] {
  const index = indexModel(model)
  const names = plannedWeights(model)
  const profile = new ProfileIndex(executed)
  const entries: NodeExecution[] = []
  const decoders = new Map<string, Decoder>()
  for (const scope of index.scopes) {
    for (const node of nodesOf(scope)) {
      const weight = decodedWeight(node)
      if (weight !== undefined) {
        const decoder = decoders.get(weight.key)
        if (decoder) decoder.nodes.push({ scope, node })
        else {
          // Keeps the weight's place in the order; filled in when all its nodes are known.
          const entry = {
            node: names[Number(weight.name)] ?? weight.name,
            operator: '',
            status: 'not executed' as Status,
          }
          entries.push(entry)
          decoders.set(weight.key, { ...weight, entry, nodes: [{ scope, node }] })
        }
      } else if (isQuantizedOperator(node) && readsWeight(node, scope)) {
        if (node.opType !== 'DequantizeLinear') entries.push(kernelEntry(node, scope, profile))
        else {
          const readers = readersOf(node, scope)
          entries.push({
            node: nodeLabel(node),
            operator: node.opType,
            status: profile.find(node, scope).length > 0 ? 'dequantized every run' : fateOf(readers, scope, profile),
          })
        }
      }
    }
  }
  const silent = new Set<NodeExecution>()
  for (const decoder of decoders.values()) if (!fillEntry(decoder, profile)) silent.add(decoder.entry)
  return entries.filter((entry) => !silent.has(entry))
}

/** Name of a node, or of its output where it has none. */
export function nodeLabel(node: NodeProto): string {
  return node.name || (node.output[0] ?? '')
}

interface Decoder {
  readonly name: string
  readonly isRows: boolean
  readonly entry: { -readonly [K in keyof NodeExecution]: NodeExecution[K] }
  readonly nodes: { readonly scope: Scope; readonly node: NodeProto }[]
}

/** The weight that a decode node of qtool's belongs to. */
function decodedWeight(node: NodeProto): { key: string; name: string; isRows: boolean } | undefined {
  const found = /^(.*?)(\/rows)?\/[^/]*$/s.exec(node.name.slice(DECODE_PREFIX.length))
  if (!node.name.startsWith(DECODE_PREFIX) || !found || node.opType === 'Constant') return undefined
  return { key: `${found[1]}${found[2] ?? ''}`, name: found[1]!, isRows: found[2] !== undefined }
}

/** Complete the entry of a weight. @returns false when the entry says nothing that others do not say. */
function fillEntry({ entry, isRows, nodes }: Decoder, profile: ProfileIndex): boolean {
  const own = new Set(nodes.map(({ node }) => node))
  const readers = nodes.flatMap(({ node, scope }) => readersOf(node, scope)).filter((reader) => !own.has(reader.node))
  entry.operator = [...new Set(readers.map((reader) => reader.node.opType))].join(', ')
  if (nodes.some(({ node, scope }) => profile.find(node, scope).length > 0)) {
    entry.status = isRows ? 'rows decoded at run time' : 'dequantized every run'
    if (isRows) entry.operator = 'Gather'
    return true
  }
  entry.status = isRows ? 'not executed' : fateOf(readers, nodes[0]!.scope, profile)
  const toldElsewhere = (reader: Reader) =>
    decodedWeight(reader.node) !== undefined ||
    (isQuantizedOperator(reader.node) && reader.node.opType !== 'DequantizeLinear')
  return readers.length === 0 || !readers.every(toldElsewhere)
}

function kernelEntry(node: NodeProto, scope: Scope, profile: ProfileIndex): NodeExecution {
  const ran = profile.find(node, scope)
  const lowBit = ran.some((operator) => isLowBit(operator))
  const status = ran.length === 0 ? 'not executed' : lowBit ? 'low-bit kernel' : 'dequantized every run'
  return { node: nodeLabel(node), operator: node.opType, status }
}

/** What became of a constant that was not decoded in the run, by who reads it. */
function fateOf(readers: readonly Reader[], scope: Scope, profile: ProfileIndex): Status {
  let anyRan = false
  const seen = new Set<NodeProto>()
  for (const queue = [...readers]; queue.length > 0; ) {
    const reader = queue.pop()!
    if (seen.has(reader.node)) continue
    seen.add(reader.node)
    const ran = profile.find(reader.node, reader.scope)
    if (ran.some((operator) => isLowBit(operator))) return 'low-bit kernel'
    if (ran.length > 0) anyRan = true
    else if (MOVES.has(reader.node.opType)) queue.push(...readersOf(reader.node, reader.scope))
    if (profile.entered(reader.scope)) anyRan = true
  }
  return anyRan || profile.entered(scope) ? 'folded at load' : 'not executed'
}

function readersOf(node: NodeProto, scope: Scope): readonly Reader[] {
  return node.output.flatMap((name) => (name ? (scope.readers.get(name) ?? []) : []))
}

/**
 * True when an input is a constant with at least two axes, or decoded from one by qtool's nodes or moves. What a local
 * function is called with is not followed.
 */
function readsWeight(node: NodeProto, scope: Scope): boolean {
  const inputs = node.opType === 'DequantizeLinear' ? node.input.slice(0, 1) : node.input
  return inputs.some((name) => name !== '' && isWeight(name, scope))
}

function isWeight(name: string, scope: Scope): boolean {
  const owner = definingScope(scope, name)
  if (!owner) return false
  const constant = owner.constants.get(name)
  if (constant) return constant.tensor.dims.length >= 2
  const producer = owner.producers.get(name)
  if (!producer) return false
  if (decodedWeight(producer)) return true
  return MOVES.has(producer.opType) && producer.input[0] !== undefined && isWeight(producer.input[0], owner)
}

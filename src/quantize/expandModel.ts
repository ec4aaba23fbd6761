/**
 * @file The run-ready form of an output, `--expand`: what onnxruntime would decode at load is computed once, by
 * onnxruntime, and stored in place of what it comes from. A layer at a time, so that memory is that of one layer.
 */
import { canBeFed } from '../calibration/tensors.ts'
import { indexModel, nodesOf, type Scope } from '../onnx/graph.ts'
import { INLINE_LIMIT, type OnnxModel, type Payload } from '../onnx/model.ts'
import { DataType, makeNode, makeTensor, type TensorProto } from '../onnx/proto.ts'
import {
  type ConstantDecoding,
  constantDecoding,
  type DecodedTensor,
  layerInName,
} from '../onnx/represent/constantDecoding.ts'
import { readPayload, tensorByteLength } from '../onnx/tensorData.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { decodeTensors } from './decodeTensors.ts'

/** What onnxruntime decodes of a model when it loads it. */
export function decodedAtLoad(model: OnnxModel): ConstantDecoding {
  return constantDecoding(indexModel(model.proto), () => true)
}

/** Keeps or writes bytes; the caller's array does not change afterwards. */
type Store = (bytes: Uint8Array) => Payload

/**
 * Put decoded tensors in place of the nodes that decode them, and take out the constants that nobody reads then. Edits
 * `model.proto` and `model.payloads` in place. Types that do not come out of the runtime (bfloat16) are still cast at load.
 * @param decode false for a dry run: only the sizes of what is stored are known.
 * @param store  is given everything that is stored besides what lies in the source, in the order of the data file.
 * @returns for the number of each layer, the bytes of its tensors as they are now.
 * @throws QtoolError `verify` when the runtime cannot compute a layer, `output`, `interrupted`.
 */
export async function expandInPlace(
  model: OnnxModel,
  { decode, store, threads }: { readonly decode: boolean; readonly store: Store; readonly threads: number },
  run: RunOptions,
): Promise<ReadonlyMap<string, number>> {
  const index = indexModel(model.proto)
  const decoding = constantDecoding(index, canBeFed)
  if (decoding.unknown.size > 0) {
    throw new RangeError(`operators that cannot be unpacked: ${[...decoding.unknown].join(', ')}`)
  }
  const dropped = unreadConstants(index.scopes, decoding)
  for (const [tensor, payload] of decode ? model.payloads : []) {
    // The rest of the compact form moves along, because its file goes.
    const isNew = payload.kind === 'file' && !model.files.some(({ path }) => path === payload.path)
    if (isNew && !dropped.has(tensor)) model.payloads.set(tensor, store(readPayload(payload)))
  }
  const made = new Map<DecodedTensor, Payload>()
  const groups = groupsOf(decoding.results)
  for (const [i, results] of groups.entries()) {
    await nextTurn()
    checkAborted(run.signal)
    run.onProgress?.({ stage: 'write', done: i, total: groups.length, item: results[0]!.name })
    const values = decode ? await decodeTensors(model, results, threads) : undefined
    for (const tensor of results) made.set(tensor, values ? store(values.get(tensor.name)!) : unknown(tensor.bytes))
  }
  removeInPlace(model, index.scopes, decoding, dropped)
  // In the order of the data file, which is that of the entries of a dry run, too.
  for (const [tensor, payload] of made) addConstantInPlace(model, tensor, payload)
  return layerBytes(model, decoding)
}

/** Tensors of one layer and one scope together, in the order of the first of each. */
function groupsOf(results: readonly DecodedTensor[]): DecodedTensor[][] {
  const groups: DecodedTensor[][] = []
  for (const tensor of results) {
    const own = groups.find(([first]) => first!.layer === tensor.layer && first!.scope === tensor.scope)
    if (own) own.push(tensor)
    else groups.push([tensor])
  }
  return groups
}

function unknown(byteLength: number): Payload {
  if (byteLength > INLINE_LIMIT) return { kind: 'planned', byteLength }
  return { kind: 'memory', byteLength, bytes: new Uint8Array(byteLength) }
}

/** Constants that only decode nodes read. */
function unreadConstants(scopes: readonly Scope[], { nodes }: ConstantDecoding): ReadonlySet<TensorProto> {
  const unread = new Set<TensorProto>()
  for (const scope of scopes) {
    for (const [name, { tensor }] of scope.constants) {
      const readers = scope.readers.get(name) ?? []
      if (readers.length > 0 && !scope.outputs.has(name) && readers.every(({ node }) => nodes.has(node)))
        unread.add(tensor)
    }
  }
  return unread
}

function removeInPlace(
  model: OnnxModel,
  scopes: readonly Scope[],
  { nodes }: ConstantDecoding,
  dropped: ReadonlySet<TensorProto>,
): void {
  for (const tensor of dropped) model.payloads.delete(tensor)
  for (const scope of scopes) {
    const holders = new Set(
      [...scope.constants.values()].flatMap((c) => (c.node && dropped.has(c.tensor) ? [c.node] : [])),
    )
    const list = nodesOf(scope)
    const kept = list.filter((node) => !nodes.has(node) && !holders.has(node))
    list.splice(0, list.length, ...kept)
    if (!scope.graph) continue
    const { initializer, valueInfo } = scope.graph
    const gone = new Set(initializer.filter((tensor) => dropped.has(tensor)).map(({ name }) => name))
    scope.graph.initializer = initializer.filter((tensor) => !dropped.has(tensor))
    scope.graph.valueInfo = valueInfo.filter(({ name }) => !gone.has(name))
  }
}

/** An initializer of a graph; a Constant node of a function. */
function addConstantInPlace(model: OnnxModel, { name, scope, form }: DecodedTensor, payload: Payload): void {
  const inline = payload.kind === 'memory' && payload.byteLength <= INLINE_LIMIT
  const tensor = makeTensor({
    ...(scope.graph ? { name } : {}),
    dataType: form.dataType,
    dims: form.dims.map(BigInt),
    ...(inline ? { rawData: new Uint8Array(payload.bytes) } : {}),
  })
  if (!inline) model.payloads.set(tensor, payload)
  if (scope.graph) scope.graph.initializer.push(tensor)
  else nodesOf(scope).unshift(makeNode('Constant', [], [name], { name, attributes: { value: tensor } }))
}

function layerBytes(model: OnnxModel, { results }: ConstantDecoding): ReadonlyMap<string, number> {
  const layerOf = new Map(results.map(({ name, layer }) => [name, layer]))
  const bytes = new Map<string, number>()
  for (const scope of indexModel(model.proto).scopes) {
    for (const [name, { tensor }] of scope.constants) {
      const layer = layerOf.get(name) ?? layerInName(name)
      if (layer === undefined || tensor.dataType === DataType.STRING) continue
      bytes.set(layer, (bytes.get(layer) ?? 0) + tensorByteLength(tensor))
    }
  }
  return bytes
}

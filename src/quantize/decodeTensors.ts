/** @file Computes tensors that nodes make of constants: the nodes as a small model of their own, run once. */
import { canBeFed, feedOfBytes } from '../calibration/tensors.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { definingScope, enclosingFunction, type Scope } from '../onnx/graph.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { encodeModel, makeModel, makeTensor, makeValueInfo, type NodeProto, type TensorProto } from '../onnx/proto.ts'
import type { DecodedTensor } from '../onnx/represent/constantDecoding.ts'
import { tensorBytes } from '../onnx/tensorData.ts'
import { openSession } from '../runtime/session.ts'

/** A constant of more bytes is fed where it can be, so that it is not copied into the model's bytes. */
const EMBEDDED_BYTES = 1 << 18

/**
 * The bytes of tensors, by name.
 * @param wanted of one scope; what they are made of is constant, and of types that the model can hold or that can be fed.
 * @throws QtoolError `verify` when the runtime cannot compute them, or gives another shape.
 */
export async function decodeTensors(
  model: OnnxModel,
  wanted: readonly DecodedTensor[],
  threads: number,
): Promise<Map<string, Uint8Array>> {
  const { bytes, feeds } = extract(model, wanted)
  const failure = (cause: unknown) =>
    new QtoolError(
      'verify',
      `${model.path}: layer ${wanted[0]!.layer} cannot be unpacked: ${(cause as Error).message}`,
      {
        hint: 'please report this with the model, or leave out --expand',
        cause,
      },
    )
  // Nodes are run as they stand, one after the other, and what one has made goes when the last reader has run.
  const session = await openSession({ bytes, path: model.path }, { threads, optimization: 'disabled' }).catch(
    (cause) => {
      throw failure(cause)
    },
  )
  try {
    const made = await session.run(
      feeds,
      wanted.map(({ name }) => name),
    )
    return new Map(wanted.map((tensor) => [tensor.name, checkedBytes(tensor, made.get(tensor.name)!)]))
  } catch (cause) {
    throw failure(cause)
  } finally {
    await session.dispose()
  }
}

function checkedBytes({ name, form }: DecodedTensor, { dims, data }: FeedTensor): Uint8Array {
  const found = dims.map(Number)
  if (found.join() !== form.dims.join()) throw new RangeError(`${name} has shape [${found}], not [${form.dims}]`)
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
}

function extract(
  model: OnnxModel,
  wanted: readonly DecodedTensor[],
): { readonly bytes: Uint8Array; readonly feeds: ReadonlyMap<string, FeedTensor> } {
  const nodes = new Set<NodeProto>()
  const constants = new Map<string, TensorProto>()
  const take = (at: Scope, name: string): void => {
    if (name === '' || constants.has(name)) return
    const owner = definingScope(at, name)
    const constant = owner?.constants.get(name)
    if (constant) {
      constants.set(name, constant.tensor)
      return
    }
    const producer = owner?.producers.get(name)
    if (!owner || !producer) throw new RangeError(`'${name}' is not made of constants`)
    if (nodes.has(producer)) return
    for (const needed of producer.input) take(owner, needed)
    nodes.add(producer)
  }
  const { scope } = wanted[0]!
  for (const { name } of wanted) take(scope, name)

  const feeds = new Map<string, FeedTensor>()
  const initializer: TensorProto[] = []
  for (const [name, tensor] of constants) {
    const { dataType } = tensor
    const dims = tensor.dims.map(Number)
    const bytes = tensorBytes(model, tensor)
    if (bytes.length > EMBEDDED_BYTES && canBeFed(dataType)) feeds.set(name, feedOfBytes(dataType, dims, bytes))
    else initializer.push(makeTensor({ name, dims: tensor.dims, dataType, rawData: new Uint8Array(bytes) }))
  }
  const fed = [...feeds.keys()].map((name) => {
    const { dataType, dims } = constants.get(name)!
    return makeValueInfo(name, dataType, dims.map(Number))
  })
  const opsetImport = enclosingFunction(scope)?.opsetImport ?? model.proto.opsetImport
  const graph = {
    name: 'decode',
    node: [...nodes],
    initializer,
    input: fed,
    output: wanted.map(({ name, form }) => makeValueInfo(name, form.dataType, form.dims)),
  }
  return { bytes: encodeModel(makeModel({ irVersion: model.proto.irVersion, opsetImport, graph })), feeds }
}

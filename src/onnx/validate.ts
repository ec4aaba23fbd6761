/**
 * @file Checks of a decoded model that need no file: versions, tensors, graphs. Operators are not judged here.
 */
import { QtoolError } from '../errors.ts'
import { checkGraphs } from './graphChecks.ts'
import type { OnnxModel } from './model.ts'
import { quoted, withSubject } from './names.ts'
import { DataLocation, DataType, type ModelProto, type TensorProto } from './proto.ts'
import { isDefaultDomain } from './ranks.ts'
import {
  badTensor,
  elementCount,
  elementTypeName,
  shapeText,
  tensorByteLength,
  typedEntries,
  wantedEntries,
} from './tensorData.ts'
import { forEachTensor } from './tensors.ts'

/** What onnxruntime 1.30 accepts, and qtool with it. */
const SUPPORTED_OPSETS = { first: 7, last: 26 } as const
const SUPPORTED_IR = { first: 3, last: 13 } as const

/**
 * Check a model whose large and external tensors have payloads already.
 * @throws QtoolError `model` for versions outside the supported ranges, tensors whose dimensions, type and data
 *   disagree, and graphs that are not well-formed.
 */
export function validateModel(proto: ModelProto, payloads: OnnxModel['payloads']): void {
  checkVersions(proto)
  forEachTensor(proto, (tensor, place) => {
    const payload = payloads.get(tensor)
    try {
      checkTensor(tensor, payload?.byteLength)
    } catch (cause) {
      // An attribute's tensor rarely has a name of its own.
      if (!(cause instanceof QtoolError) || tensor.name !== '') throw cause
      throw withSubject(place.describe(), cause)
    }
  })
  checkGraphs(proto)
}

function checkVersions(proto: ModelProto): void {
  const { first, last } = SUPPORTED_IR
  if (proto.irVersion < first || proto.irVersion > last) {
    throw new QtoolError(
      'model',
      `the model has IR version ${proto.irVersion}; supported are ${first} to ${last} (what onnxruntime 1.30 reads)`,
      { hint: proto.irVersion > last ? 'export it for an older ONNX version' : 'export it with a current exporter' },
    )
  }
  checkOpset(proto.opsetImport, 'the model')
  for (const fn of proto.functions) {
    if (fn.opsetImport.some((entry) => isDefaultDomain(entry.domain)))
      checkOpset(fn.opsetImport, `function ${quoted(fn.name)}`)
  }
}

function checkOpset(imports: readonly { domain: string; version: bigint }[], owner: string): void {
  const { first, last } = SUPPORTED_OPSETS
  const found = imports.find((entry) => isDefaultDomain(entry.domain))
  if (found && found.version >= first && found.version <= last) return
  const what = found ? `uses opset ${found.version}` : 'declares no opset'
  throw new QtoolError('model', `${owner} ${what} of the ONNX operators; supported are ${first} to ${last}`, {
    hint: 'export the model again with an opset in that range',
  })
}

/**
 * Check that a tensor's type and dimensions are possible and that exactly the data they ask for is there.
 * @param payloadBytes length of the tensor's payload, where it has one.
 */
function checkTensor(tensor: TensorProto, payloadBytes: number | undefined): void {
  if (tensor.segment) throw badTensor(tensor, 'is one segment of a tensor, which no runtime supports')
  if (tensor.dataLocation === DataLocation.EXTERNAL) throw badTensor(tensor, 'has external data that was not resolved')
  if (tensor.dataType === DataType.STRING) {
    const count = elementCount(tensor)
    if (tensor.stringData.length === count && payloadBytes === undefined && tensor.rawData.length === 0) return
    throw badTensor(tensor, `of shape ${shapeText(tensor)} wants ${count} strings, found ${tensor.stringData.length}`)
  }
  const wanted = tensorByteLength(tensor)
  const typed = allTypedEntries(tensor)
  const raw = payloadBytes ?? (tensor.rawData.length > 0 ? tensor.rawData.length : undefined)
  const what = `of shape ${shapeText(tensor)} and type ${elementTypeName(tensor.dataType)}`
  if (raw !== undefined && typed > 0) throw badTensor(tensor, `${what} has its data twice, raw and as numbers`)
  if (typed === 0) {
    if ((raw ?? 0) !== wanted) throw badTensor(tensor, `${what} wants ${wanted} bytes, found ${raw ?? 'none'}`)
    return
  }
  const wantedNumbers = wantedEntries(tensor.dataType, elementCount(tensor))
  const found = typedEntries(tensor)
  if (found !== typed) throw badTensor(tensor, `${what} has numbers in a data field of another type`)
  if (found !== wantedNumbers) throw badTensor(tensor, `${what} wants ${wantedNumbers} numbers, found ${found}`)
}

function allTypedEntries(tensor: TensorProto): number {
  const { floatData, int32Data, int64Data, doubleData, uint64Data, stringData } = tensor
  const fields = [floatData, int32Data, int64Data, doubleData, uint64Data, stringData]
  return fields.reduce((sum, field) => sum + field.length, 0)
}

/**
 * @file Path → OnnxModel. Tensor bytes of files up to 256 MiB are kept in shared memory, those of larger files and of
 * external data stay on disk and are read by range when needed.
 *
 * Reading is synchronous: it is meant for a worker thread.
 */
import fs from 'node:fs'
import { QtoolError } from '../errors.ts'
import { excise, markerIndex, type Range } from './excise.ts'
import { ExternalFiles } from './externalData.ts'
import { HEAD_BYTES, recogniseForeign } from './foreignFiles.ts'
import type { ModelFile, OnnxModel, Payload } from './model.ts'
import { withSubject } from './names.ts'
import { DataLocation, decodeModel, type ModelProto, type TensorProto } from './proto.ts'
import { readAt, reasonOf } from './readAt.ts'
import { badTensor, tensorByteLength } from './tensorData.ts'
import { forEachTensor } from './tensors.ts'
import { validateModel } from './validate.ts'
import { type ByteSource, memorySource, PAYLOAD_MARKER, WireError } from './wire.ts'

/** Larger .onnx files are not read as a whole. */
const WHOLE_FILE_LIMIT = 256 * 2 ** 20

/** Bytes read at once while looking for the tensors of a larger file. */
const WINDOW = 64 * 2 ** 10

/**
 * Read a model.
 * @param path of the .onnx file.
 * @param options `wholeFileLimit` in bytes: files up to it are read into memory at once.
 * @throws QtoolError `model`, naming the file and the tensor or node, when the file cannot be read, is not an ONNX
 *   model, is corrupt, or is of a version that is not supported.
 */
export function loadModel(path: string, options: { wholeFileLimit?: number } = {}): OnnxModel {
  const { fd, size } = openModel(path)
  try {
    const content = size <= (options.wholeFileLimit ?? WHOLE_FILE_LIMIT) ? readWhole(fd, size) : undefined
    const source = content ? memorySource(content) : fileSource(fd, size)
    const { proto, ranges } = parse(source)
    const file: ModelFile = { path, bytes: size }
    const place = ({ offset, length }: Range): Payload =>
      content
        ? { kind: 'memory', byteLength: length, bytes: content.subarray(offset, offset + length) }
        : { kind: 'file', byteLength: length, path, offset }
    const payloads = takeInlinePayloads(proto, ranges, place)
    const external = takeExternalPayloads(proto, payloads, path)
    const { linkedDirectory } = external
    validateModel(proto, payloads)
    return {
      path,
      proto,
      payloads,
      files: [file, ...external.files],
      ...(content ? { content } : {}),
      ...(linkedDirectory ? { dataDirectory: linkedDirectory } : {}),
    }
  } catch (error) {
    throw error instanceof QtoolError ? withSubject(path, error) : error
  } finally {
    fs.closeSync(fd)
  }
}

function openModel(path: string): { fd: number; size: number } {
  try {
    const status = fs.statSync(path)
    if (status.isDirectory()) {
      throw new QtoolError('model', `${path} is a directory, wanted an .onnx file`, { hint: modelsIn(path) })
    }
    if (!status.isFile()) throw new QtoolError('model', `${path} is not a plain file, wanted an .onnx file`)
    if (status.size === 0) {
      throw new QtoolError('model', `${path} is empty, wanted an .onnx file`, { hint: 'download or export it again' })
    }
    return { fd: fs.openSync(path, 'r'), size: status.size }
  } catch (cause) {
    if (cause instanceof QtoolError) throw cause
    throw new QtoolError('model', `cannot read ${path}: ${reasonOf(cause)}`, { hint: 'check the path', cause })
  }
}

function modelsIn(directory: string): string {
  const models = fs.readdirSync(directory).filter((name) => name.endsWith('.onnx'))
  return models.length === 0 ? 'there is no .onnx file in it' : `it contains ${models.slice(0, 5).join(', ')}`
}

function readWhole(fd: number, size: number): Uint8Array {
  const bytes = new Uint8Array(new SharedArrayBuffer(size))
  let count: number
  try {
    count = readAt(fd, bytes, 0)
  } catch (cause) {
    throw new QtoolError('model', `cannot read: ${reasonOf(cause)}`, { cause })
  }
  if (count < size) throw new QtoolError('model', `wanted ${size} bytes, the file ends after ${count}`)
  return bytes
}

function fileSource(fd: number, size: number): ByteSource {
  const window = new Uint8Array(WINDOW)
  const read = (offset: number, into: Uint8Array): Uint8Array => {
    if (readAt(fd, into, offset) < into.length) throw new WireError(`ends before byte ${offset + into.length}`)
    return into
  }
  return {
    size,
    window: (offset) => read(offset, window.subarray(0, Math.min(WINDOW, size - offset))),
    copy: (offset, into) => void read(offset, into),
  }
}

function parse(source: ByteSource): { proto: ModelProto; ranges: Range[] } {
  let proto: ModelProto
  let ranges: Range[]
  try {
    const excised = excise(source)
    proto = decodeModel(excised.skeleton)
    ranges = excised.payloads
  } catch (cause) {
    // The decoder throws plain errors of several kinds; the walk's have been made for the user.
    const reason = (cause as Error).message
    throw notAModel(source, cause instanceof WireError ? reason : `the decoder says: ${reason}`, cause)
  }
  if (!proto.graph) throw notAModel(source, 'it has no graph')
  return { proto, ranges }
}

function notAModel(source: ByteSource, reason: string, cause?: unknown): QtoolError {
  const head = new Uint8Array(Math.min(HEAD_BYTES, source.size))
  source.copy(0, head)
  const foreign = recogniseForeign(head)
  if (foreign)
    return new QtoolError('model', `wanted an ONNX model, found ${foreign.what}`, { hint: foreign.hint, cause })
  return new QtoolError('model', `not a valid ONNX model: ${reason}`, {
    hint: 'the file is corrupt or not an ONNX model; download or export it again',
    cause,
  })
}

/** Exchange the markers that `excise` left for payloads, in place. */
function takeInlinePayloads(
  proto: ModelProto,
  ranges: readonly Range[],
  place: (range: Range) => Payload,
): Map<TensorProto, Payload> {
  const payloads = new Map<TensorProto, Payload>()
  forEachTensor(proto, (tensor) => {
    const markers = (tensor.$unknown ?? []).filter(({ no }) => no === PAYLOAD_MARKER)
    const marker = markers[0]
    if (!marker) return
    const range = ranges[markerIndex(marker.data)]
    if (markers.length > 1 || tensor.rawData.length > 0 || !range) throw badTensor(tensor, 'has raw_data twice')
    const rest = tensor.$unknown!.filter(({ no }) => no !== PAYLOAD_MARKER)
    if (rest.length > 0) tensor.$unknown = rest
    else delete tensor.$unknown
    payloads.set(tensor, place(range))
  })
  return payloads
}

/** Exchange external-data fields for payloads, in place. @returns the data files' names and places. */
function takeExternalPayloads(proto: ModelProto, payloads: OnnxModel['payloads'], path: string): ExternalFiles {
  const external = new ExternalFiles(path)
  forEachTensor(proto, (tensor, place) => {
    if (tensor.dataLocation !== DataLocation.EXTERNAL) return
    if (payloads.has(tensor) || tensor.rawData.length > 0) throw badTensor(tensor, 'has data both inline and external')
    payloads.set(tensor, external.resolve(tensor, tensorByteLength(tensor), place.describe()))
    tensor.externalData = []
    // Back to not set: assigning the default would write the field.
    Reflect.deleteProperty(tensor, 'dataLocation')
  })
  external.checkOverlaps()
  return external
}

/**
 * @file The element types of ONNX and the raw bytes of a tensor, wherever they are: `raw_data`, typed fields, a payload.
 *
 * "Raw" is always what `raw_data` would hold: little-endian, row-major, types below 8 bits packed from the low bits up.
 */
import { QtoolError } from '../errors.ts'
import type { OnnxModel, Payload } from './model.ts'
import { quoted } from './names.ts'
import { DataType, type TensorProto } from './proto.ts'
import { OpenFiles } from './readAt.ts'

type TypedField = 'floatData' | 'int32Data' | 'int64Data' | 'doubleData' | 'uint64Data'

interface ElementType {
  readonly bits: number
  /** The typed field that may hold the values, and how many of its entries make one element (complex: 2). */
  readonly field: TypedField
  readonly entries: number
}

const int32 = (bits: number): ElementType => ({ bits, field: 'int32Data', entries: 1 })

/** Every type with raw bytes: all but UNDEFINED and STRING. */
const ELEMENT_TYPES: Readonly<Record<number, ElementType>> = {
  [DataType.FLOAT]: { bits: 32, field: 'floatData', entries: 1 },
  [DataType.UINT8]: int32(8),
  [DataType.INT8]: int32(8),
  [DataType.UINT16]: int32(16),
  [DataType.INT16]: int32(16),
  [DataType.INT32]: int32(32),
  [DataType.INT64]: { bits: 64, field: 'int64Data', entries: 1 },
  [DataType.BOOL]: int32(8),
  [DataType.FLOAT16]: int32(16),
  [DataType.DOUBLE]: { bits: 64, field: 'doubleData', entries: 1 },
  [DataType.UINT32]: { bits: 32, field: 'uint64Data', entries: 1 },
  [DataType.UINT64]: { bits: 64, field: 'uint64Data', entries: 1 },
  [DataType.COMPLEX64]: { bits: 64, field: 'floatData', entries: 2 },
  [DataType.COMPLEX128]: { bits: 128, field: 'doubleData', entries: 2 },
  [DataType.BFLOAT16]: int32(16),
  [DataType.FLOAT8E4M3FN]: int32(8),
  [DataType.FLOAT8E4M3FNUZ]: int32(8),
  [DataType.FLOAT8E5M2]: int32(8),
  [DataType.FLOAT8E5M2FNUZ]: int32(8),
  [DataType.FLOAT8E8M0]: int32(8),
  [DataType.UINT4]: int32(4),
  [DataType.INT4]: int32(4),
  [DataType.FLOAT4E2M1]: int32(4),
  [DataType.UINT2]: int32(2),
  [DataType.INT2]: int32(2),
}

/** ONNX's name of an element type in lower case (`float`, `int4`, `string`), or `type 99` for one that it does not have. */
export function elementTypeName(dataType: number): string {
  return (DataType[dataType] ?? `type ${dataType}`).toLowerCase()
}

/** Bits of one element: 2, 4, 8, … 128; undefined for strings and unknown types. */
export function elementBits(dataType: number): number | undefined {
  return ELEMENT_TYPES[dataType]?.bits
}

/** Bytes of one element: ¼ for 2-bit, ½ for 4-bit types, else 1 … 16; undefined for strings and unknown types. */
export function elementBytes(dataType: number): number | undefined {
  const bits = elementBits(dataType)
  return bits === undefined ? undefined : bits / 8
}

/**
 * Number of elements, the product of the dimensions (1 for a scalar).
 * @throws QtoolError `model` when a dimension is negative or the product exceeds 2^53 − 1.
 */
export function elementCount(tensor: TensorProto): number {
  const negative = tensor.dims.find((dim) => dim < 0n)
  if (negative !== undefined) throw badTensor(tensor, `has the negative dimension ${negative}`)
  if (tensor.dims.includes(0n)) return 0
  let count = 1n
  for (const dim of tensor.dims) {
    count *= dim
    if (count > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw badTensor(tensor, `has dimensions ${shapeText(tensor)}, whose product is too large`)
    }
  }
  return Number(count)
}

/**
 * Bytes of the tensor's raw form, from its dimensions and type alone.
 * @throws QtoolError `model` when the dimensions are impossible, or the type is a string or unknown.
 */
export function tensorByteLength(tensor: TensorProto): number {
  const bits = elementBits(tensor.dataType)
  if (bits === undefined) {
    if (tensor.dataType === DataType.UNDEFINED) throw badTensor(tensor, 'has no element type')
    throw badTensor(tensor, `has element type ${elementTypeName(tensor.dataType)}, which has no fixed size`)
  }
  const bytes = Math.ceil((elementCount(tensor) * bits) / 8)
  if (!Number.isSafeInteger(bytes)) throw badTensor(tensor, `has dimensions ${shapeText(tensor)}: too large`)
  return bytes
}

/**
 * The bytes of a payload.
 * @param into filled when given, exactly `payload.byteLength` long; otherwise the payload's own memory, not to be
 *   changed, or a new array.
 * @throws QtoolError `model` when its file cannot be read or has become shorter.
 */
export function readPayload(payload: Payload, into?: Uint8Array): Uint8Array {
  if (into && into.length !== payload.byteLength) {
    throw new RangeError(`a payload of ${payload.byteLength} bytes does not fit ${into.length}`)
  }
  if (payload.kind === 'planned') throw new TypeError('a planned payload has no bytes')
  if (payload.kind === 'memory') {
    if (!into) return payload.bytes
    into.set(payload.bytes)
    return into
  }
  const bytes = into ?? new Uint8Array(payload.byteLength)
  const files = new OpenFiles()
  try {
    files.read(payload.path, payload.offset, bytes)
  } finally {
    files.close()
  }
  return bytes
}

/**
 * The raw bytes of a tensor, wherever they are. May be the tensor's own memory: not to be changed. May start at any
 * address: copy before viewing it as a wider typed array.
 * @throws QtoolError `model` for strings and unknown types, and when a data file cannot be read.
 */
export function tensorBytes(model: Pick<OnnxModel, 'payloads'>, tensor: TensorProto): Uint8Array {
  const payload = model.payloads.get(tensor)
  if (payload) return readPayload(payload)
  if (tensor.rawData.length > 0 || typedEntries(tensor) === 0) return tensor.rawData
  return typedFieldBytes(tensor)
}

/** Entries in the typed field that fits the tensor's element type; 0 when there is none. */
export function typedEntries(tensor: TensorProto): number {
  const type = ELEMENT_TYPES[tensor.dataType]
  return type ? tensor[type.field].length : 0
}

/** Entries that the typed field must have for a tensor of this type with `count` elements. */
export function wantedEntries(dataType: number, count: number): number {
  const { bits, entries } = ELEMENT_TYPES[dataType]!
  return bits < 8 ? Math.ceil((count * bits) / 8) : count * entries
}

function typedFieldBytes(tensor: TensorProto): Uint8Array {
  const { field, bits } = ELEMENT_TYPES[tensor.dataType]!
  const values = typedArray(tensor, field, bits)
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
}

/** Onnxruntime's binaries, and with them qtool, are for little-endian machines, whose typed arrays are raw data. */
function typedArray(tensor: TensorProto, field: TypedField, bits: number): ArrayBufferView {
  switch (field) {
    case 'floatData':
      return Float32Array.from(tensor.floatData)
    case 'doubleData':
      return Float64Array.from(tensor.doubleData)
    case 'int64Data':
      return BigInt64Array.from(tensor.int64Data)
    case 'uint64Data':
      return bits === 64 ? BigUint64Array.from(tensor.uint64Data) : Uint32Array.from(tensor.uint64Data, Number)
    case 'int32Data':
      if (bits === 32) return Int32Array.from(tensor.int32Data)
      return bits === 16 ? Uint16Array.from(tensor.int32Data) : Uint8Array.from(tensor.int32Data)
  }
}

/** Dimensions for messages, at most eight of them. */
export function shapeText(tensor: TensorProto): string {
  const shown = tensor.dims.slice(0, 8).join(', ')
  return tensor.dims.length > 8 ? `[${shown}, …]` : `[${shown}]`
}

/** An error about a tensor, which the loader completes with the file's name. */
export function badTensor(tensor: TensorProto, what: string): QtoolError {
  return new QtoolError('model', `tensor ${quoted(tensor.name)} ${what}`, {
    hint: 'the model is corrupt, or was written by a faulty exporter; export it again',
  })
}

/**
 * @file The vectors along one axis of a stored float tensor, as float64. A tensor [.., width, ..] with `width` at the axis
 * is n vectors of `width` numbers; vector o·inner + i takes the places (o, ·, i) of [outer, width, inner].
 */
import { QtoolError } from '../errors.ts'
import { INLINE_LIMIT, type OnnxModel } from '../onnx/model.ts'
import { quoted } from '../onnx/names.ts'
import { DataLocation, DataType, type TensorProto } from '../onnx/proto.ts'
import { elementTypeName, tensorByteLength, tensorBytes } from '../onnx/tensorData.ts'
import { bfloat16ToFloat, floatToBfloat16, floatToHalf, halfToFloat } from '../quant/float16.ts'

/** Numbers that are worked on at a time, so that large tensors do not exist in float64 as a whole. */
const SLAB = 2 ** 18

type Words = Float32Array | Float64Array | Uint16Array

interface Format {
  readonly bytes: number
  readonly words: (buffer: ArrayBufferLike, offset: number, length: number) => Words
  /** The values of all bit patterns, for 16-bit types. */
  readonly table: () => Float32Array | undefined
  readonly encode: ((value: number) => number) | undefined
  /** Magnitudes from here on round to infinity. */
  readonly limit: number
}

const half = memoTable(halfToFloat)
const brain = memoTable(bfloat16ToFloat)
const sixteen = (buffer: ArrayBufferLike, offset: number, length: number) => new Uint16Array(buffer, offset, length)

const FORMATS: Readonly<Record<number, Format>> = {
  [DataType.FLOAT]: {
    bytes: 4,
    words: (buffer, offset, length) => new Float32Array(buffer, offset, length),
    table: () => undefined,
    encode: undefined,
    limit: 2 ** 128 - 2 ** 103,
  },
  [DataType.DOUBLE]: {
    bytes: 8,
    words: (buffer, offset, length) => new Float64Array(buffer, offset, length),
    table: () => undefined,
    encode: undefined,
    limit: Number.POSITIVE_INFINITY,
  },
  [DataType.FLOAT16]: { bytes: 2, words: sixteen, table: half, encode: floatToHalf, limit: 65520 },
  [DataType.BFLOAT16]: { bytes: 2, words: sixteen, table: brain, encode: floatToBfloat16, limit: 2 ** 128 - 2 ** 119 },
}

function memoTable(decode: (bits: number) => number): () => Float32Array {
  let table: Float32Array | undefined
  return () => (table ??= Float32Array.from({ length: 65536 }, (_, bits) => decode(bits)))
}

/**
 * How vectors lie: with stride 1 one after the other from `first` on, else element k of vector j at `first` + j + k·`stride`.
 */
interface Slab {
  /** Number of its first vector, and how many it has. */
  readonly from: number
  readonly count: number
  readonly first: number
  readonly stride: number
}

interface Layout {
  readonly width: number
  readonly count: number
  readonly slabs: readonly Slab[]
}

/** @throws RangeError for an axis that the tensor does not have. */
function layOut(tensor: TensorProto, axis: number): Layout {
  const dims = tensor.dims.map(Number)
  const width = dims[axis]
  if (width === undefined) throw new RangeError(`tensor ${tensor.name} of rank ${dims.length} has no axis ${axis}`)
  const product = (part: readonly number[]) => part.reduce((a, b) => a * b, 1)
  const inner = product(dims.slice(axis + 1))
  const outer = product(dims.slice(0, axis))
  const most = Math.max(1, Math.floor(SLAB / Math.max(1, width)))
  const slabs: Slab[] = []
  // Vectors that lie one after the other are a single run.
  const [runs, length] = inner === 1 ? [1, outer] : [outer, inner]
  for (let run = 0; run < runs; run++) {
    for (let at = 0; at < length; at += most) {
      const first = inner === 1 ? at * width : run * width * inner + at
      slabs.push({ from: run * length + at, count: Math.min(most, length - at), first, stride: inner })
    }
  }
  return { width, count: outer * inner, slabs }
}

function formatOf(tensor: TensorProto): Format {
  const format = FORMATS[tensor.dataType]
  if (!format) throw new RangeError(`tensor ${tensor.name} holds ${elementTypeName(tensor.dataType)}, no float type`)
  return format
}

function wordsOf(model: Pick<OnnxModel, 'payloads'>, tensor: TensorProto, format: Format): Words {
  const bytes = tensorBytes(model, tensor)
  const length = tensorByteLength(tensor) / format.bytes
  const aligned = bytes.byteOffset % format.bytes === 0 ? bytes : bytes.slice()
  return format.words(aligned.buffer, aligned.byteOffset, length)
}

function readSlab(words: Words, table: Float32Array | undefined, slab: Slab, width: number, out: Float64Array): void {
  const { count, first, stride } = slab
  // The inner loop goes along the memory of the tensor.
  if (stride === 1) {
    for (let i = 0; i < count * width; i++) out[i] = table ? table[words[first + i]!]! : words[first + i]!
    return
  }
  for (let k = 0; k < width; k++) {
    const at = first + k * stride
    for (let j = 0; j < count; j++) {
      const word = words[at + j]!
      out[j * width + k] = table ? table[word]! : word
    }
  }
}

function writeSlab(vectors: Float64Array, encode: Format['encode'], slab: Slab, width: number, words: Words): void {
  const { count, first, stride } = slab
  if (stride === 1) {
    for (let i = 0; i < count * width; i++) words[first + i] = encode ? encode(vectors[i]!) : vectors[i]!
    return
  }
  for (let k = 0; k < width; k++) {
    const at = first + k * stride
    for (let j = 0; j < count; j++) {
      const value = vectors[j * width + k]!
      words[at + j] = encode ? encode(value) : value
    }
  }
}

function checkFit(vectors: Float64Array, length: number, tensor: TensorProto, limit: number): void {
  for (let i = 0; i < length; i++) {
    if (Math.abs(vectors[i]!) < limit) continue
    throw new QtoolError(
      'numeric',
      `tensor ${quoted(tensor.name)}: wanted numbers that ${elementTypeName(tensor.dataType)} can hold, computed ${vectors[i]}`,
      { hint: 'its weights are not finite, or too large to be rotated' },
    )
  }
}

/**
 * Look at all vectors of a tensor, a slab after the other.
 * @param visit vectors [count, width] in memory that is used again, and the number of the first.
 * @returns the number of vectors.
 */
function forEachSlab(
  model: Pick<OnnxModel, 'payloads'>,
  tensor: TensorProto,
  axis: number,
  visit: (vectors: Float64Array, from: number) => void,
): number {
  const format = formatOf(tensor)
  const { width, count, slabs } = layOut(tensor, axis)
  const words = wordsOf(model, tensor, format)
  const room = new Float64Array(Math.max(0, ...slabs.map((slab) => slab.count)) * width)
  for (const slab of slabs) {
    const vectors = room.subarray(0, slab.count * width)
    readSlab(words, format.table(), slab, width, vectors)
    visit(vectors, slab.from)
  }
  return count
}

/**
 * The vectors along an axis of a stored float tensor.
 * @returns [n, width], in the order of the stored tensor without that axis.
 * @throws RangeError for tensors of other types, or without that axis.
 */
export function readVectors(model: Pick<OnnxModel, 'payloads'>, tensor: TensorProto, axis: number): Float64Array {
  const out = new Float64Array(tensor.dims.reduce((a, b) => a * Number(b), 1))
  const width = Number(tensor.dims[axis] ?? 0)
  forEachSlab(model, tensor, axis, (vectors, from) => out.set(vectors, from * width))
  return out
}

/** Inner products of the vectors along an axis with one vector [width]; [n]. */
export function dotVectors(
  model: Pick<OnnxModel, 'payloads'>,
  tensor: TensorProto,
  axis: number,
  vector: Float64Array,
): Float64Array {
  const width = vector.length
  if (Number(tensor.dims[axis]) !== width)
    throw new RangeError(`tensor ${tensor.name}: axis ${axis} is not ${width} wide`)
  const products: number[] = []
  forEachSlab(model, tensor, axis, (vectors) => {
    for (let at = 0; at < vectors.length; at += width) {
      let sum = 0
      for (let k = 0; k < width; k++) sum += vectors[at + k]! * vector[k]!
      products.push(sum)
    }
  })
  return Float64Array.from(products)
}

/**
 * Store vectors along an axis of a tensor, in place of what it held: each number is rounded once to the tensor's type.
 * @param vectors [n, width] as {@link readVectors} returns them.
 * @throws QtoolError `numeric` when a number is not finite or too large for the type.
 */
export function writeVectors(model: OnnxModel, tensor: TensorProto, axis: number, vectors: Float64Array): void {
  const format = formatOf(tensor)
  const { width, count, slabs } = layOut(tensor, axis)
  if (vectors.length !== count * width)
    throw new RangeError(`tensor ${tensor.name}: ${vectors.length} numbers do not fit`)
  checkFit(vectors, vectors.length, tensor, format.limit)
  const words = format.words(new ArrayBuffer(vectors.length * format.bytes), 0, vectors.length)
  for (const slab of slabs) {
    writeSlab(vectors.subarray(slab.from * width, (slab.from + slab.count) * width), format.encode, slab, width, words)
  }
  storeBytes(model, tensor, new Uint8Array(words.buffer as ArrayBuffer))
}

/**
 * Change the vectors along an axis, slab by slab, and give the result to another tensor of the same shape (or to the same
 * tensor). Each number is rounded once to the target's type.
 * @param edit changes vectors [count, width] in place; they are any part of the tensor's.
 * @throws QtoolError `numeric` when a number is not finite or too large for the type.
 */
export function editVectors(
  model: OnnxModel,
  source: TensorProto,
  target: TensorProto,
  axis: number,
  edit: (vectors: Float64Array) => void,
): void {
  const { bytes, words: view, encode, limit } = formatOf(target)
  const { width, count, slabs } = layOut(source, axis)
  const words = view(new ArrayBuffer(count * width * bytes), 0, count * width)
  let i = 0
  forEachSlab(model, source, axis, (vectors) => {
    edit(vectors)
    checkFit(vectors, vectors.length, target, limit)
    writeSlab(vectors, encode, slabs[i++]!, width, words)
  })
  storeBytes(model, target, new Uint8Array(words.buffer as ArrayBuffer))
}

/** Give a tensor its raw bytes, in memory; whatever it held before is forgotten. */
function storeBytes(model: OnnxModel, tensor: TensorProto, bytes: Uint8Array<ArrayBuffer>): void {
  tensor.dataLocation = DataLocation.DEFAULT
  tensor.externalData = []
  tensor.floatData = []
  tensor.doubleData = []
  tensor.int32Data = []
  tensor.rawData = bytes.length > INLINE_LIMIT ? new Uint8Array(0) : bytes
  if (bytes.length > INLINE_LIMIT) model.payloads.set(tensor, { kind: 'memory', byteLength: bytes.length, bytes })
  else model.payloads.delete(tensor)
}

/** @file A dense array of numbers as data files hold it, and the table of its element types. */

/** numpy's names. bool lies in bytes 0 and 1; float16 as its bits in a Uint16Array. */
export type Dtype =
  | 'bool'
  | 'int8'
  | 'uint8'
  | 'int16'
  | 'uint16'
  | 'int32'
  | 'uint32'
  | 'int64'
  | 'uint64'
  | 'float16'
  | 'float32'
  | 'float64'

export type NdData =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | Float32Array
  | Float64Array

/** Row-major (C order): the last axis varies fastest. `data.length` is the product of `shape`; a scalar has shape []. */
export interface NdArray {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly data: NdData
  /** The numbers come from text, so `dtype` only says how they are held here. */
  readonly fromText?: boolean
}

/** Arrays that belong together: one file, or one line of JSON. Each is decoded when it is asked for. */
export interface NamedArrays {
  /** Where they come from, for messages. */
  readonly place: string
  /** A value that has no name (a single .npy, a bare list) is under ''. */
  readonly arrays: ReadonlyMap<string, () => NdArray>
}

interface NdDataConstructor {
  readonly BYTES_PER_ELEMENT: number
  new (length: number): NdData
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): NdData
}

const STORAGE: Readonly<Record<Dtype, NdDataConstructor>> = {
  bool: Uint8Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  float16: Uint16Array,
  float32: Float32Array,
  float64: Float64Array,
}

/** Bytes of one element. */
export function bytesPerElement(dtype: Dtype): number {
  return STORAGE[dtype].BYTES_PER_ELEMENT
}

/** `length` zeros. */
export function makeData(dtype: Dtype, length: number): NdData {
  return new STORAGE[dtype](length)
}

/** Little-endian bytes as elements: a view where they are aligned, else a copy. */
export function viewData(dtype: Dtype, bytes: Uint8Array): NdData {
  const Storage = STORAGE[dtype]
  const length = bytes.byteLength / Storage.BYTES_PER_ELEMENT
  if (bytes.byteOffset % Storage.BYTES_PER_ELEMENT === 0) return new Storage(bytes.buffer, bytes.byteOffset, length)
  return new Storage(new Uint8Array(bytes).buffer, 0, length)
}

export function isDtype(name: string): name is Dtype {
  return Object.hasOwn(STORAGE, name)
}

/** Product of the dims; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1)
}

/** For messages: [2, 3]. */
export function formatShape(shape: readonly (number | string | undefined)[]): string {
  return `[${shape.map((dim) => (dim === undefined || dim === '' ? '?' : dim)).join(', ')}]`
}

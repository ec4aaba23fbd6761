/** @file Tensors between the model's bytes, the runtime's feeds and float32 numbers. */
import type { FeedTensor, FeedType } from '../data/modelInput.ts'
import { DataType } from '../onnx/proto.ts'
import { floatToHalf, halfToFloat } from '../quant/float16.ts'

type View = readonly [FeedType, new (buffer: ArrayBuffer) => FeedTensor['data']]

const VIEWS: Readonly<Record<number, View>> = {
  [DataType.FLOAT]: ['float', Float32Array],
  [DataType.DOUBLE]: ['double', Float64Array],
  [DataType.FLOAT16]: ['float16', Uint16Array],
  [DataType.INT8]: ['int8', Int8Array],
  [DataType.UINT8]: ['uint8', Uint8Array],
  [DataType.INT16]: ['int16', Int16Array],
  [DataType.UINT16]: ['uint16', Uint16Array],
  [DataType.INT32]: ['int32', Int32Array],
  [DataType.UINT32]: ['uint32', Uint32Array],
  [DataType.INT64]: ['int64', BigInt64Array],
  [DataType.UINT64]: ['uint64', BigUint64Array],
  [DataType.BOOL]: ['bool', Uint8Array],
}

/** True for types that JavaScript can feed; not for bfloat16, those of 4 bits, strings. */
export function canBeFed(dataType: number): boolean {
  return VIEWS[dataType] !== undefined
}

/** Raw little-endian bytes of a tensor as a feed; the bytes are copied. @throws RangeError for types that cannot be fed. */
export function feedOfBytes(dataType: number, dims: readonly number[], bytes: Uint8Array): FeedTensor {
  const view = VIEWS[dataType]
  if (!view) throw new RangeError(`tensors of type ${DataType[dataType] ?? dataType} cannot be fed`)
  return { type: view[0], dims, data: new view[1](bytes.slice().buffer) }
}

/** A float tensor as float32 numbers; float32 ones are not copied. */
export function floatsOf({ type, data }: FeedTensor): Float32Array {
  if (data instanceof Float32Array) return data
  if (type === 'float16') return Float32Array.from(data as Uint16Array, halfToFloat)
  return Float32Array.from(data as Float64Array)
}

/** float32 numbers as a feed of a float type. */
export function feedOfFloats(dataType: number, dims: readonly number[], values: Float32Array): FeedTensor {
  if (dataType === DataType.FLOAT) return { type: 'float', dims, data: values }
  if (dataType === DataType.FLOAT16) return { type: 'float16', dims, data: Uint16Array.from(values, floatToHalf) }
  if (dataType === DataType.DOUBLE) return { type: 'double', dims, data: Float64Array.from(values) }
  throw new RangeError(`weights of type ${DataType[dataType] ?? dataType} cannot be fed`)
}

/** True for tensors whose numbers can be compared. */
export function isFloatTensor({ type }: FeedTensor): boolean {
  return type === 'float' || type === 'float16' || type === 'double'
}

/** Entries [from, to) along axis 0; the numbers are shared. */
export function sliceFirstAxis(tensor: FeedTensor, from: number, to: number): FeedTensor {
  const [first, ...rest] = tensor.dims
  const stride = tensor.data.length / first!
  return { ...tensor, dims: [to - from, ...rest], data: tensor.data.subarray(from * stride, to * stride) }
}

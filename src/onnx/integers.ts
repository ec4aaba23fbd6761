/** @file Small integer tensors (shapes, axes) as JavaScript numbers. */
import { DataType, type TensorProto } from './proto.ts'

/** Values of an INT64 or INT32 tensor whose data is inline, or undefined for any other tensor. */
export function integerValues(tensor: TensorProto): number[] | undefined {
  const values = inlineValues(tensor)
  // Data that lies in a file has left nothing here, which is not the same as an empty list.
  return values?.length === tensor.dims.reduce((count, dim) => count * Number(dim), 1) ? values : undefined
}

function inlineValues(tensor: TensorProto): number[] | undefined {
  const { rawData } = tensor
  const view = new DataView(rawData.buffer, rawData.byteOffset, rawData.byteLength)
  if (tensor.dataType === DataType.INT64) {
    if (rawData.length === 0) return tensor.int64Data.map(Number)
    return Array.from({ length: rawData.length / 8 }, (_, i) => Number(view.getBigInt64(i * 8, true)))
  }
  if (tensor.dataType === DataType.INT32) {
    if (rawData.length === 0) return [...tensor.int32Data]
    return Array.from({ length: rawData.length / 4 }, (_, i) => view.getInt32(i * 4, true))
  }
  return undefined
}

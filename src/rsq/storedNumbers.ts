/** @file Numbers that the model holds: what scales a tensor, axes, shapes. Tensors whose data lie in files are not read. */
import type { MainGraph } from '../calibration/mainGraph.ts'
import { intsAttribute } from '../onnx/attributes.ts'
import { integerValues } from '../onnx/integers.ts'
import { DataType, type TensorProto } from '../onnx/proto.ts'
import { elementCount, tensorBytes } from '../onnx/tensorData.ts'
import { halfToFloat } from '../quant/float16.ts'

/** Numbers of a tensor that lies in the model itself; undefined for empty ones, and for types other than these here. */
export function storedNumbers(tensor: TensorProto): number[] | undefined {
  switch (tensor.dataType) {
    case DataType.FLOAT:
      return read(tensor, 4, (view, offset) => view.getFloat32(offset, true))
    case DataType.DOUBLE:
      return read(tensor, 8, (view, offset) => view.getFloat64(offset, true))
    case DataType.FLOAT16:
      return read(tensor, 2, (view, offset) => halfToFloat(view.getUint16(offset, true)))
    case DataType.INT64:
    case DataType.INT32:
      return integerValues(tensor)
  }
  return undefined
}

function read(tensor: TensorProto, size: number, at: (view: DataView, offset: number) => number) {
  const bytes = tensorBytes({ payloads: new Map() }, tensor)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const count = elementCount(tensor)
  if (bytes.length !== count * size || count === 0) return undefined
  return Array.from({ length: count }, (_, i) => at(view, i * size))
}

/** The one number that a stored tensor holds. */
export function scalarOf({ scope }: MainGraph, name: string): number | undefined {
  const tensor = scope.constants.get(name)?.tensor
  return tensor && elementCount(tensor) === 1 ? storedNumbers(tensor)?.[0] : undefined
}

/** True for a stored tensor with one element, whether its data are at hand or not. */
export function isOneNumber({ scope }: MainGraph, name: string | undefined): boolean {
  return scope.constants.get(name ?? '')?.tensor.dims.every((dim) => dim === 1n) ?? false
}

/** Integers of a stored tensor, and of Constant nodes that write them as attributes. */
export function integersOf({ scope }: MainGraph, name: string | undefined): number[] | undefined {
  const constant = scope.constants.get(name ?? '')
  if (constant) return integerValues(constant.tensor)
  const made = scope.producers.get(name ?? '')
  if (made?.opType !== 'Constant') return undefined
  const [single] = made.attribute.filter((attribute) => attribute.name === 'value_int')
  return intsAttribute(made, 'value_ints') ?? (single && [Number(single.i)])
}

/**
 * @file Tensors at the border of the runtime: {@link FeedTensor} on our side, `ort.Tensor` on the other, and the
 * conversion between them, which shares the numbers and never copies them.
 */
import * as ort from 'onnxruntime-node'
import type { FeedTensor, FeedType } from '../data/modelInput.ts'

/** Names that differ; every other element type is called the same by ONNX and by the runtime's JavaScript layer. */
const TO_RUNTIME: Readonly<Record<string, string>> = { float: 'float32', double: 'float64' }
const TO_ONNX: Readonly<Record<string, string>> = { float32: 'float', float64: 'double' }

/** ONNX's name of an element type that the runtime's JavaScript layer reports. */
export function onnxTypeName(runtimeType: string): string {
  return TO_ONNX[runtimeType] ?? runtimeType
}

/**
 * View a tensor as the runtime's tensor; the numbers are shared.
 * @throws TypeError | Error from the runtime when type, data and dims do not belong together.
 */
export function toRuntimeTensor(tensor: FeedTensor): ort.Tensor {
  const type = (TO_RUNTIME[tensor.type] ?? tensor.type) as ort.Tensor.Type
  return new ort.Tensor(type, tensor.data as ort.Tensor.DataType, [...tensor.dims])
}

/** View the runtime's tensor as ours; the numbers are shared. Numeric tensors only. */
export function fromRuntimeTensor(tensor: ort.Tensor): FeedTensor {
  const data = tensor.data as FeedTensor['data']
  // Where the JavaScript engine has Float16Array the runtime uses it; on our side halves are always bits.
  const isBoxed = tensor.type === 'float16' && !(data instanceof Uint16Array)
  const bits = isBoxed
    ? new Uint16Array((data as ArrayBufferView).buffer, (data as ArrayBufferView).byteOffset, tensor.size)
    : data
  return { type: onnxTypeName(tensor.type) as FeedType, dims: tensor.dims, data: bits }
}

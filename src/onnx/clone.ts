/** @file A copy of a loaded model that may be edited; payloads are shared. */
import type { OnnxModel, Payload } from './model.ts'
import { decodeModel, encodeModel, type TensorProto } from './proto.ts'
import { forEachTensor } from './tensors.ts'

/** Copy the decoded graph of a model, node for node and tensor for tensor in the same order. */
export function cloneModel(model: OnnxModel): OnnxModel {
  const proto = decodeModel(encodeModel(model.proto))
  const originals: TensorProto[] = []
  forEachTensor(model.proto, (tensor) => originals.push(tensor))
  const payloads = new Map<TensorProto, Payload>()
  let i = 0
  forEachTensor(proto, (tensor) => {
    const payload = model.payloads.get(originals[i++]!)
    if (payload) payloads.set(tensor, payload)
  })
  return { ...model, proto, payloads }
}

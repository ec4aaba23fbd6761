/**
 * @file Output shapes of weighted layers, as onnxruntime infers them. The model is loaded without its weights, which
 * become inputs that only have a shape, so that the size of the model does not matter.
 */
import { cloneModel } from '../onnx/clone.ts'
import type { Layers } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { encodeModel, makeValueInfo } from '../onnx/proto.ts'
import { openSession } from '../runtime/session.ts'

/** Numbers where a dimension is known, names or undefined where it is not. */
export type InferredShape = readonly (number | string | undefined)[]

/**
 * Shapes by value name, for the outputs of the main graph's layers.
 * @throws QtoolError `model` when onnxruntime does not load the model.
 */
export async function inferShapes(model: OnnxModel, found: Layers): Promise<Map<string, InferredShape>> {
  const main = found.index.scopes[0]!
  const wanted = new Set<string>()
  for (const { uses } of found.layers) {
    for (const { scope, node } of uses) if (scope === main && node.output[0]) wanted.add(node.output[0])
  }
  const { proto, payloads } = cloneModel(model)
  const graph = proto.graph!
  const declared = new Set(graph.input.map((input) => input.name))
  const takeOut = (name: string, dataType: number, dims: readonly bigint[]) => {
    if (!declared.has(name)) graph.input.push(makeValueInfo(name, dataType, dims.map(Number)))
  }
  graph.initializer = graph.initializer.filter((tensor) => {
    if (!payloads.has(tensor)) return true
    takeOut(tensor.name, tensor.dataType, tensor.dims)
    return false
  })
  graph.node = graph.node.filter((node) => {
    const value = node.opType === 'Constant' ? node.attribute.find((a) => a.name === 'value')?.t : undefined
    if (!value || !payloads.has(value)) return true
    takeOut(node.output[0]!, value.dataType, value.dims)
    return false
  })
  const outputs = new Set(graph.output.map((output) => output.name))
  for (const name of wanted) if (!outputs.has(name)) graph.output.push(makeValueInfo(name))
  const session = await openSession(
    { bytes: encodeModel(proto), path: model.path },
    { optimization: 'disabled', threads: 1 },
  )
  try {
    return new Map(session.outputs.filter(({ name }) => wanted.has(name)).map(({ name, dims }) => [name, dims]))
  } finally {
    await session.dispose()
  }
}

/** @file Corrected biases: where a layer has one, its numbers, and their place in the output. */
import { type BiasSite, findBiasSite } from '../calibration/biasSites.ts'
import type { MainGraph } from '../calibration/mainGraph.ts'
import { feedOfFloats, floatsOf } from '../calibration/tensors.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { indexModel } from '../onnx/graph.ts'
import type { WeightedLayer } from '../onnx/layers.ts'
import { INLINE_LIMIT, type OnnxModel } from '../onnx/model.ts'
import { makeTensor } from '../onnx/proto.ts'

/** A bias that the output has in place of the source's. */
export interface BiasEdit {
  readonly site: BiasSite
  readonly value: FeedTensor
}

/** The layers whose mean error a bias can take back. */
export function biasSites(graph: MainGraph, layers: readonly WeightedLayer[]): Map<WeightedLayer, BiasSite> {
  const sites = layers.flatMap((layer): [WeightedLayer, BiasSite][] => {
    const site = layer.constant.scope === graph.scope ? findBiasSite(graph, layer, layer.uses[0]!) : undefined
    return site ? [[layer, site]] : []
  })
  return new Map(sites)
}

/** Every bias that may be corrected, with numbers that do not matter. */
export function plannedBiases(graph: MainGraph, layers: readonly WeightedLayer[]): BiasEdit[] {
  const edits = [...biasSites(graph, layers).values()].map((site) => ({ site, value: zeroBias(site) }))
  // The two weights of a recurrent layer share one.
  return [...new Map(edits.map((edit) => [edit.site.added, edit])).values()]
}

/** A bias with a layer's mean error added. @param correction [N], by row of the layer. */
export function biasValue(site: BiasSite, before: FeedTensor, correction: Float64Array): FeedTensor {
  const values = Float32Array.from(floatsOf(before))
  correction.forEach((error, row) => {
    const at = site.elementOf(row)
    values[at] = values[at]! + error
  })
  return feedOfFloats(site.dataType, before.dims, values)
}

/** Zeros where the network has no bias yet. */
export function zeroBias(site: BiasSite): FeedTensor {
  const length = site.dims.reduce((a, b) => a * b, 1)
  return feedOfFloats(site.dataType, site.dims, new Float32Array(length))
}

/** Give a node its new bias; the old one goes if nothing else reads it. */
export function setBiasInPlace(model: OnnxModel, { site, value }: BiasEdit): void {
  const graph = model.proto.graph!
  const node = graph.node.find(({ output }) => output[0] === site.node.output[0])!
  while (node.input.length <= site.inputIndex) node.input.push('')
  const name = `${site.original ?? node.output[0]}/corrected/${node.output[0]}`
  node.input[site.inputIndex] = name
  const { buffer, byteOffset, byteLength } = value.data
  const rawData = new Uint8Array(buffer, byteOffset, byteLength).slice() as Uint8Array<ArrayBuffer>
  const { dataType } = site
  const tensor = makeTensor({ name, dataType, dims: value.dims.map(BigInt) })
  if (rawData.length > INLINE_LIMIT) {
    model.payloads.set(tensor, { kind: 'memory', byteLength: rawData.length, bytes: rawData })
  } else tensor.rawData = rawData
  graph.initializer.push(tensor)
  if (site.original !== undefined) dropUnreadInPlace(model, site.original)
}

function dropUnreadInPlace(model: OnnxModel, name: string): void {
  const { scopes } = indexModel(model.proto)
  const [main] = scopes
  if ((main!.readers.get(name)?.length ?? 0) > 0 || main!.outputs.has(name)) return
  const graph = model.proto.graph!
  const { tensor, node } = main!.constants.get(name)!
  model.payloads.delete(tensor)
  if (node) graph.node.splice(graph.node.indexOf(node), 1)
  else graph.initializer.splice(graph.initializer.indexOf(tensor), 1)
  const input = graph.input.findIndex((value) => value.name === name)
  if (input >= 0) graph.input.splice(input, 1)
}

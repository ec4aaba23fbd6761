/**
 * @file The streams of the models in streamModels.ts, put together from the names of their weights: what a search has to find, made
 * without one.
 */
import { indexModel, type Scope } from '../../src/onnx/graph.ts'
import type { OnnxModel } from '../../src/onnx/model.ts'
import { decodeModel, encodeModel, type ModelProto, type NodeProto } from '../../src/onnx/proto.ts'
import { tensorBytes } from '../../src/onnx/tensorData.ts'
import { forEachTensor } from '../../src/onnx/tensors.ts'
import type { FoundStreams, Norm, NormVector, Reader, ResidualStream, Writer } from '../../src/rsq/stream.ts'

/** A model as the loader would return it, without payloads. */
export function opened(proto: ModelProto): OnnxModel {
  return { path: 'model.onnx', proto, payloads: new Map(), files: [] }
}

/** The message of a model with all bytes in it. */
export function inlined({ proto, payloads }: OnnxModel): ModelProto {
  const copy = decodeModel(encodeModel(proto))
  const bytes: (Uint8Array<ArrayBuffer> | undefined)[] = []
  forEachTensor(proto, (tensor) =>
    bytes.push(payloads.has(tensor) ? new Uint8Array(tensorBytes({ payloads }, tensor)) : undefined),
  )
  let i = 0
  forEachTensor(copy, (tensor) => {
    const own = bytes[i++]
    if (own) tensor.rawData = own
  })
  return copy
}

const READERS: readonly (readonly [RegExp, string])[] = [
  [/^(.*)\/(q|k|v|qkv)\.weight$/, '$1/attnNorm'],
  [/^(.*)\/(gate|up)\.weight$/, '$1/mlpNorm'],
  [/^(logits)\.weight$/, 'finalNorm'],
]
const WRITERS = /(\/o|\/down|^patch)\.(weight|bias)$|^positions$|^cls$/

function vectorOf(scope: Scope, node: NodeProto, ending: string): NormVector | undefined {
  const inputIndex = node.input.findIndex((name) => name.endsWith(ending))
  const constant = scope.constants.get(node.input[inputIndex] ?? '')
  return constant && { constant, node, inputIndex }
}

function normsOf(scope: Scope): Map<string, Norm> {
  const norms = new Map<string, Norm>()
  for (const node of scope.graph!.node) {
    const gain = vectorOf(scope, node, '.gain')
    if (!gain || node.opType === 'Neg') continue
    const output = node.name.replace(/\/scaled$/, '')
    const last = scope.producers.get(output)!
    const bias = vectorOf(scope, last, '.beta')
    const nodes = node.opType.endsWith('Normalization') ? [node] : [node, last]
    norms.set(output, { kind: bias ? 'mean' : 'plain', input: '', output, gain, bias, nodes })
  }
  return norms
}

/** The one stream of a model. */
export function namedStream({ proto }: OnnxModel): ResidualStream {
  const scope = indexModel(proto).scopes[0]!
  const norms = normsOf(scope)
  const writers: Writer[] = []
  const readers: Reader[] = []
  for (const constant of scope.constants.values()) {
    const { name, tensor } = constant
    const last = tensor.dims.length - 1
    for (const { node, inputIndex } of scope.readers.get(name) ?? []) {
      const isGemm = node.opType === 'Gemm'
      const place = { constant, node, inputIndex }
      if (name === 'embed') {
        if (node.opType === 'Gather') writers.push({ ...place, axis: 1 })
        else if (isGemm) readers.push({ ...place, axis: 1, norm: norms.get('finalNorm') })
        else {
          const use = scope.readers.get(node.output[0]!)![0]!
          readers.push({ constant, node: use.node, inputIndex: use.inputIndex, axis: 1, norm: norms.get('finalNorm') })
        }
        continue
      }
      // By the layer, not by the constant, which may be another layer's as well.
      const part = ['MatMul', 'Gemm', 'Add'].includes(node.opType) ? /\.(weight|bias)$/.exec(name)?.[0] : undefined
      const layer = part ? node.name.replace(/\/(product|gemm)$/, '') + part : name
      const rule = READERS.find(([pattern]) => pattern.test(layer))
      const norm = rule && norms.get(layer.replace(rule[0], rule[1]))
      if (norm) readers.push({ ...place, axis: isGemm ? 1 : 0, norm })
      else if (WRITERS.test(layer)) {
        const isOutFirst = (isGemm && last === 1) || name === 'patch.weight'
        writers.push({ ...place, axis: isOutFirst ? 0 : last })
      }
    }
  }
  const width = Number(scope.constants.get('finalNorm.gain')!.tensor.dims[0])
  return { width, tensors: new Set(), writers, readers, norms: [...norms.values()] }
}

export function found(stream: ResidualStream): FoundStreams {
  return { streams: [stream], refused: [] }
}

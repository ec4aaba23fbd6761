/** @file A layer's stored weight as the quantizer takes it, read once and in the order of the files. */

import { QtoolError } from '../errors.ts'
import type { WeightedLayer } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { quoted } from '../onnx/names.ts'
import { DataType } from '../onnx/proto.ts'
import type { SourceReader } from '../onnx/sourceReader.ts'
import { tensorByteLength, tensorBytes } from '../onnx/tensorData.ts'
import { NonFiniteWeightError, type StoredElement, type StoredWeight } from '../quant/storedWeight.ts'
import type { Workspace } from '../quant/workspace.ts'
import type { KernelPool } from '../threads/pool.ts'

/** Where weights come from and who computes on them. */
export interface LayerSource {
  readonly model: OnnxModel
  readonly reader: SourceReader
  readonly pool: KernelPool
  readonly workspace: Workspace
}

const ELEMENTS: Readonly<Record<number, StoredElement>> = {
  [DataType.FLOAT]: 'float32',
  [DataType.FLOAT16]: 'float16',
  [DataType.BFLOAT16]: 'bfloat16',
  [DataType.DOUBLE]: 'float64',
}

/** The weight in shared memory, where the pool's threads can read it, until the next one is read. */
export function readStored({ model, reader, workspace }: LayerSource, layer: WeightedLayer): StoredWeight {
  const { tensor } = layer.constant
  const length = tensorByteLength(tensor)
  const bytes = workspace.take('weight', length)
  const into = new Uint8Array(bytes, 0, length)
  const payload = model.payloads.get(tensor)
  if (payload) reader.read(payload, into)
  else into.set(tensorBytes(model, tensor))
  const { outer, reduction, inner } = layer.view
  return { bytes, elementType: ELEMENTS[tensor.dataType]!, shape: [outer, reduction, inner] }
}

/** Positions of `layers` in the order in which their weights lie in the model's files. */
export function fileOrder(model: OnnxModel, layers: readonly WeightedLayer[]): number[] {
  const places = layers.map((layer): [string, number] => {
    const payload = model.payloads.get(layer.constant.tensor)
    return payload?.kind === 'file' ? [payload.path, payload.offset] : ['', 0]
  })
  return layers
    .map((_, i) => i)
    .sort((i, j) => {
      const [a, b] = [places[i]!, places[j]!]
      return a[0] === b[0] ? a[1] - b[1] : a[0] < b[0] ? -1 : 1
    })
}

/** Run a computation on a layer's weight; a weight that is no number becomes an error that names the tensor. */
export async function weightErrors<T>(path: string, layer: WeightedLayer, compute: () => Promise<T>): Promise<T> {
  try {
    return await compute()
  } catch (cause) {
    if (!(cause instanceof NonFiniteWeightError)) throw cause
    const message = `${path}: tensor ${quoted(layer.constant.name)}: wanted numbers, element ${cause.index} is ${cause.value}`
    throw new QtoolError('model', message, {
      hint: `export the model again, or leave it out: --layer '${layer.name}=skip'`,
      cause,
    })
  }
}

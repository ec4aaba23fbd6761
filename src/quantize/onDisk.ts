/** @file Puts a model that was edited in memory into a scratch file, and goes on with what is read from there. */
import { type Layers, modelLayers } from '../onnx/layers.ts'
import { loadModel } from '../onnx/load.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { stageModel } from '../onnx/save.ts'
import type { Temporaries } from '../onnx/temporaries.ts'

/**
 * Weights lie in a file from then on, as those of the original do; the path and the files of the model stay those of the
 * original.
 * @param file in scratch, which `temporaries` removes.
 */
export function onDisk(
  model: OnnxModel,
  file: string,
  temporaries: Temporaries,
): { readonly model: OnnxModel; readonly found: Layers } {
  const options = { externalData: 'auto', force: false, sources: [], temporaries } as const
  const staged = stageModel(model.proto, model.payloads, file, options)
  const { proto, payloads } = loadModel(staged.path)
  const { content: _, ...rest } = model
  return { model: { ...rest, proto, payloads }, found: modelLayers(proto) }
}

/** @file Where the tensors of the output go, and how many bytes its files will have. */
import type { QuantizeConfig } from '../config.ts'
import { planOutput } from '../onnx/layout.ts'
import type { OnnxModel } from '../onnx/model.ts'

/**
 * 'auto' keeps the layout of the source: a model that came with a data file is written with one, whatever its size.
 * A single file stays single until it gets large (the writer decides).
 */
export function placement(source: OnnxModel, asked: QuantizeConfig['externalData']): QuantizeConfig['externalData'] {
  return asked === 'auto' && source.files.length > 1 ? 'always' : asked
}

/** Exact sizes of the files that saving `model` would write; the path only names them. */
export function outputSize(
  model: OnnxModel,
  source: OnnxModel,
  asked: QuantizeConfig['externalData'],
  outPath = source.path,
): { totalBytes: number; files: readonly { path: string; bytes: number }[] } {
  const { files } = planOutput(model.proto, model.payloads, outPath, placement(source, asked))
  return { totalBytes: files.reduce((sum, file) => sum + file.bytes, 0), files }
}

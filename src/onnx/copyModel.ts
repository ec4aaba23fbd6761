/** @file Saves a model in which nothing changed: its files, byte for byte. */
import path from 'node:path'
import type { ModelFile, OnnxModel } from './model.ts'
import { OutputFile } from './outputFiles.ts'
import { PayloadStream } from './payloadStream.ts'
import type { SaveOptions } from './save.ts'
import { Stage, type StagedModel } from './stage.ts'
import { Temporaries } from './temporaries.ts'

type CopyOptions = Pick<SaveOptions, 'force' | 'temporaries' | 'signal' | 'onProgress'>

/**
 * Copy a model's files into a temporary directory beside the output. Data files keep their names relative to the
 * .onnx file, which refers to them by these names; directories in those names are created.
 *
 * @throws QtoolError `output` when an output is one of the model's files, exists without `force`, or cannot be written;
 *   `model` when a file cannot be read any more; `interrupted`. Nothing is left behind then.
 */
export function stageCopy(model: OnnxModel, outPath: string, options: CopyOptions): StagedModel {
  const temporaries = options.temporaries ?? new Temporaries()
  const dataDirectory = model.dataDirectory ?? path.dirname(model.path)
  const files = model.files.map((file, i): ModelFile => {
    const name = i === 0 ? path.basename(outPath) : path.relative(dataDirectory, file.path)
    return { path: path.join(path.dirname(outPath), name), bytes: file.bytes }
  })
  try {
    const sources = model.files.map((file) => file.path)
    const stage = new Stage(files, { force: options.force, sources }, temporaries)
    const stream = new PayloadStream(
      files.reduce((sum, file) => sum + file.bytes, 0),
      options,
    )
    try {
      files.forEach((file, i) => {
        const source = { kind: 'file', path: sources[i]!, offset: 0, byteLength: file.bytes } as const
        OutputFile.write(stage.pathOf(file.path), file.path, (out) => {
          for (const chunk of stream.chunksOf(source)) out.append(chunk)
        })
      })
    } finally {
      stream.close()
    }
    return stage
  } catch (error) {
    temporaries.removeAll()
    throw error
  }
}

/** {@link stageCopy} and commit. @returns the files, the .onnx file first. */
export function copyModel(model: OnnxModel, outPath: string, options: CopyOptions): readonly ModelFile[] {
  const staged = stageCopy(model, outPath, options)
  staged.commit()
  return staged.files
}

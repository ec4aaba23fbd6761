/** @file How large a model is on disk. */
import type { FileSizes } from '../report.ts'
import type { OnnxModel } from './model.ts'

/** Sizes of the files that a model was read from. */
export function fileSizes({ path, files }: Pick<OnnxModel, 'path' | 'files'>): FileSizes {
  return {
    path,
    totalBytes: files.reduce((sum, file) => sum + file.bytes, 0),
    files: files.map((file) => ({ path: file.path, bytes: file.bytes })),
  }
}

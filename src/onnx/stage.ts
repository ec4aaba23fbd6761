/** @file Complete output that does not have its final name yet: it can be loaded and checked, then it appears or goes. */
import fs from 'node:fs'
import path from 'node:path'
import type { ModelFile } from './model.ts'
import { checkOutput, outputError, syncDirectory } from './outputFiles.ts'
import type { Temporaries } from './temporaries.ts'

/** A complete model that does not have its final name yet. */
export interface StagedModel {
  /** The .onnx file as it is now, with its data files beside it: a model that loads. */
  readonly path: string
  /** Final paths and sizes, the .onnx file first. */
  readonly files: readonly ModelFile[]
  /**
   * Give the files their final names, data files first. After this or {@link discard} the object is used up.
   * @throws QtoolError `output`; nothing new is left behind then.
   */
  commit(): void
  /** Delete the staged files. */
  discard(): void
}

interface Permission {
  readonly force: boolean
  readonly sources: readonly string[]
}

/** A temporary directory whose files go, under the same names, to the directory of the first of them. */
export class Stage implements StagedModel {
  readonly path: string
  readonly files: readonly ModelFile[]
  readonly #directory: string
  readonly #target: string
  readonly #permission: Permission
  readonly #temporaries: Temporaries

  /**
   * @param files final paths and sizes: the .onnx file, then data files in its directory or below.
   * @throws QtoolError `output` when the files may not be written, see {@link checkOutput}, or the directory cannot be
   *   made.
   */
  constructor(files: readonly ModelFile[], permission: Permission, temporaries: Temporaries) {
    const onnx = files[0]!.path
    this.files = files
    this.#permission = permission
    this.#temporaries = temporaries
    this.#target = path.dirname(onnx)
    this.#check()
    this.#directory = temporaries.reserve(onnx)
    this.path = this.pathOf(onnx)
    try {
      fs.mkdirSync(this.#directory)
      for (const file of files) fs.mkdirSync(path.dirname(this.pathOf(file.path)), { recursive: true })
    } catch (cause) {
      throw outputError(onnx, cause)
    }
  }

  /** Where the file with this final path is now. */
  pathOf(finalPath: string): string {
    return path.join(this.#directory, path.relative(this.#target, finalPath))
  }

  commit(): void {
    const placed: string[] = []
    try {
      // What appeared since the first check is as much the user's as what was there before.
      this.#check()
      for (const { path: finalPath } of [...this.files].reverse()) {
        const isNew = !fs.existsSync(finalPath)
        try {
          fs.mkdirSync(path.dirname(finalPath), { recursive: true })
          fs.renameSync(this.pathOf(finalPath), finalPath)
        } catch (cause) {
          throw outputError(finalPath, cause)
        }
        if (isNew) placed.push(finalPath)
      }
    } catch (error) {
      for (const finalPath of placed) fs.rmSync(finalPath, { force: true })
      throw error
    } finally {
      this.discard()
    }
    for (const directory of new Set(this.files.map((file) => path.dirname(file.path)))) syncDirectory(directory)
  }

  discard(): void {
    fs.rmSync(this.#directory, { recursive: true, force: true })
    this.#temporaries.forget(this.#directory)
  }

  #check(): void {
    const paths = this.files.map((file) => file.path)
    checkOutput(paths.slice(0, 1), this.#permission)
    // Directories below the output's are made on commit; what is in one that exists must be replaceable.
    const below = paths.slice(1).filter((file) => fs.existsSync(path.dirname(file)))
    checkOutput(below, this.#permission)
  }
}

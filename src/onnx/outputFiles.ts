/** @file Checks and errors of output paths, and the writing of files that appear only when they are complete. */
import fs from 'node:fs'
import path from 'node:path'
import { QtoolError } from '../errors.ts'
import { reasonOf } from './readAt.ts'

/**
 * May these files be written?
 * @param outputs final paths; their directory must exist.
 * @param options `sources`: every file of the model that is read; `force`: existing outputs may be replaced.
 * @throws QtoolError `output` when a directory is missing or not writable, an output is one of the sources (also by way
 *   of links), is a directory or a device, or exists and force is not given. A link is replaced, not what it points to.
 */
export function checkOutput(
  outputs: readonly string[],
  options: { readonly force: boolean; readonly sources: readonly string[] },
): void {
  const sources = options.sources.flatMap((source) => {
    const status = fs.statSync(source, { bigint: true, throwIfNoEntry: false })
    return status ? [{ source, status }] : []
  })
  for (const output of outputs) {
    checkDirectory(output)
    const status = statOutput(output)
    if (!status) continue
    const same = sources.find((source) => source.status.ino === status.ino && source.status.dev === status.dev)
    if (same) {
      throw new QtoolError('output', `${output} is the file being read (${same.source}); it would be destroyed`, {
        hint: 'write to another name or directory',
      })
    }
    if (status.isDirectory()) {
      throw new QtoolError('output', `${output} is a directory, wanted a file name`, {
        hint: 'add the name of the file, for example model.onnx',
      })
    }
    if (!status.isFile()) {
      throw new QtoolError('output', `${output} is a device, pipe or socket, wanted a file name`, {
        hint: 'qtool writes a file beside it and renames that; name an ordinary file',
      })
    }
    if (!options.force) {
      throw new QtoolError('output', `${output} exists`, { hint: 'use --force (force: true) to replace it' })
    }
  }
}

function statOutput(output: string): fs.BigIntStats | undefined {
  try {
    return fs.statSync(output, { bigint: true, throwIfNoEntry: false })
  } catch (cause) {
    throw outputError(output, cause)
  }
}

function checkDirectory(output: string): void {
  const directory = path.dirname(output)
  try {
    if (!fs.statSync(directory).isDirectory()) {
      throw new QtoolError('output', `cannot write ${output}: ${directory} is not a directory`)
    }
    fs.accessSync(directory, fs.constants.W_OK)
  } catch (cause) {
    if (cause instanceof QtoolError) throw cause
    const hint = (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'create the directory first' : undefined
    throw new QtoolError('output', `cannot write to the directory ${directory}: ${reasonOf(cause)}`, {
      cause,
      ...(hint ? { hint } : {}),
    })
  }
}

/** The user's error for a failed operation on an output file. */
export function outputError(output: string, cause: unknown): QtoolError {
  if (cause instanceof QtoolError) return cause
  const code = (cause as NodeJS.ErrnoException)?.code
  const isFull = code === 'ENOSPC' || code === 'EDQUOT'
  return new QtoolError('output', `cannot write ${output}: ${reasonOf(cause)}`, {
    hint: isFull
      ? 'free some space or write to another disk; nothing was left behind'
      : 'check the path and its rights',
    cause,
  })
}

/** A file that is written front to back. Errors name the path that the user knows. */
export class OutputFile {
  readonly #fd: number
  readonly #shownAs: string
  #length = 0

  /**
   * Create a file, which must not exist.
   * @param temporary where it is now.
   * @param shownAs its final path.
   */
  constructor(temporary: string, shownAs: string) {
    this.#shownAs = shownAs
    try {
      this.#fd = fs.openSync(temporary, 'wx')
    } catch (cause) {
      throw outputError(shownAs, cause)
    }
  }

  /**
   * Create a file, fill it, bring it to the disk and close it.
   * @throws QtoolError `output` when that fails, and whatever `fill` throws. The unfinished file stays.
   */
  static write(temporary: string, shownAs: string, fill: (file: OutputFile) => void): void {
    const file = new OutputFile(temporary, shownAs)
    try {
      fill(file)
    } catch (error) {
      file.close()
      throw error
    }
    file.finish()
  }

  /** Bytes written so far, gaps included. */
  get length(): number {
    return this.#length
  }

  /** Write at the end. */
  append(bytes: Uint8Array): void {
    try {
      for (let done = 0; done < bytes.length; ) {
        done += fs.writeSync(this.#fd, bytes, done, bytes.length - done, this.#length + done)
      }
    } catch (cause) {
      throw outputError(this.#shownAs, cause)
    }
    this.#length += bytes.length
  }

  /** Leave zeros up to `offset`, where the next write goes. */
  skipTo(offset: number): void {
    this.#length = offset
  }

  /** Write everything to the disk and close. */
  finish(): void {
    try {
      fs.fsyncSync(this.#fd)
    } catch (cause) {
      throw outputError(this.#shownAs, cause)
    } finally {
      this.close()
    }
  }

  close(): void {
    fs.closeSync(this.#fd)
  }
}

/** Make renames in a directory permanent, where the system can. */
export function syncDirectory(directory: string): void {
  let fd: number | undefined
  try {
    fd = fs.openSync(directory, 'r')
    fs.fsyncSync(fd)
  } catch {
    // Windows cannot open directories and some file systems cannot sync them; the renames are done all the same.
  } finally {
    if (fd !== undefined) fs.closeSync(fd)
  }
}

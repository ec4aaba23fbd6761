/**
 * @file Where external tensor data lies: `external_data` entries → a byte range of a file that may be read.
 *
 * A location is a path relative to the model's directory and must stay in it, also after symbolic links: a model from
 * elsewhere must not be able to name any file of this machine. Source: onnx/onnx.proto, docs/ExternalData.md.
 */
import fs from 'node:fs'
import path from 'node:path'
import { QtoolError } from '../errors.ts'
import type { ModelFile, Payload } from './model.ts'
import { quoted } from './names.ts'
import type { TensorProto } from './proto.ts'
import { reasonOf } from './readAt.ts'
import { elementTypeName, shapeText } from './tensorData.ts'

interface Use {
  readonly offset: number
  readonly end: number
  readonly tensor: string
}

/** The data files of one model, gathered tensor by tensor. */
export class ExternalFiles {
  /** As the user's path has it, and after links. */
  readonly #directory: string
  readonly #realDirectory: string
  /** Which of the two the locations are relative to; known once a file was found. */
  #base: string | undefined
  readonly #byLocation = new Map<string, ModelFile>()
  readonly #uses = new Map<string, Use[]>()

  constructor(modelPath: string) {
    this.#directory = path.dirname(modelPath)
    this.#realDirectory = path.dirname(fs.realpathSync(modelPath))
  }

  /** The directory of the model's link's target, when the data was found there and not beside the link. */
  get linkedDirectory(): string | undefined {
    return this.#base === this.#directory ? undefined : this.#base
  }

  /** In order of first reference, without repeats. */
  get files(): ModelFile[] {
    return [...new Map([...this.#byLocation.values()].map((file) => [file.path, file])).values()]
  }

  /**
   * The byte range of an external tensor.
   * @param byteLength what its dimensions and type ask for.
   * @param described the tensor, for messages.
   * @throws QtoolError `model` when the entries are malformed, the file is missing, not a plain file, unreadable or
   *   outside the model's directory, or the range is not in the file.
   */
  resolve(tensor: TensorProto, byteLength: number, described: string): Payload {
    const entries = new Map(tensor.externalData.map(({ key, value }) => [key, value]))
    const offset = nonNegative(entries.get('offset') ?? '0', 'offset', described)
    const length = entries.get('length')
    if (length !== undefined && nonNegative(length, 'length', described) !== byteLength) {
      throw new QtoolError(
        'model',
        `${described}: ${shapeText(tensor)} of ${elementTypeName(tensor.dataType)} takes ${byteLength} bytes, but its external data has length ${length}`,
        { hint: 'the model and its data file do not belong together, or the model is corrupt' },
      )
    }
    const file = this.#file(entries.get('location') ?? '', described)
    if (offset + byteLength > file.bytes) {
      throw new QtoolError(
        'model',
        `${described}: wanted bytes ${offset} to ${offset + byteLength} of ${file.path}, which has ${file.bytes}`,
        { hint: 'the data file is cut short or belongs to another model; download or export it again' },
      )
    }
    const uses = this.#uses.get(file.path) ?? []
    this.#uses.set(file.path, uses)
    if (byteLength > 0) uses.push({ offset, end: offset + byteLength, tensor: described })
    return { kind: 'file', byteLength, path: file.path, offset }
  }

  /**
   * Two tensors may share a range (tied weights); ranges that overlap in part mean that at least one is wrong.
   * @throws QtoolError `model`.
   */
  checkOverlaps(): void {
    for (const [file, uses] of this.#uses) {
      uses.sort((a, b) => a.offset - b.offset || a.end - b.end)
      uses.forEach((use, i) => {
        const before = uses[i - 1]
        if (!before || use.offset >= before.end || (use.offset === before.offset && use.end === before.end)) return
        throw new QtoolError(
          'model',
          `${before.tensor} and ${use.tensor} overlap in ${file}: bytes ${before.offset} to ${before.end} and ${use.offset} to ${use.end}`,
          { hint: 'the offsets are wrong; export the model again' },
        )
      })
    }
  }

  #file(location: string, described: string): ModelFile {
    const known = this.#byLocation.get(location)
    if (known) return known
    checkLocation(location, described)
    const file = this.#find(location, described)
    this.#byLocation.set(location, file)
    return file
  }

  #find(location: string, described: string): ModelFile {
    // A link to a model brings its data along when the data lies only beside the link's target.
    const isIn = (directory: string): boolean => fs.existsSync(path.join(directory, location))
    this.#base ??= !isIn(this.#directory) && isIn(this.#realDirectory) ? this.#realDirectory : this.#directory
    const found = path.join(this.#base, location)
    let bytes: number
    let real: string
    try {
      const status = fs.statSync(found)
      if (!status.isFile()) throw new Error(status.isDirectory() ? 'it is a directory' : 'it is not a plain file')
      fs.accessSync(found, fs.constants.R_OK)
      real = fs.realpathSync(found)
      bytes = status.size
    } catch (cause) {
      throw new QtoolError('model', `${described}: cannot read its data file ${found}: ${reasonOf(cause)}`, {
        hint: 'a model with external data needs its data files beside it, under their original names',
        cause,
      })
    }
    if (![fs.realpathSync(this.#directory), this.#realDirectory].some((allowed) => contains(allowed, real))) {
      throw new QtoolError(
        'model',
        `${described}: its data file ${found} is a link to ${real}, outside of the model's directory`,
        { hint: 'copy the data file to the model if you trust it' },
      )
    }
    return { path: found, bytes }
  }
}

/** @throws QtoolError `model` unless the location is relative and stays below its start at every step. */
function checkLocation(location: string, described: string): void {
  const refuse = (what: string): never => {
    throw new QtoolError('model', `${described}: its data location ${quoted(location)} ${what}`, {
      hint: "external data must lie in the model's directory; do not trust this model",
    })
  }
  if (location === '') refuse('is empty')
  if (location.includes('\0')) refuse('has a NUL character')
  if (path.posix.isAbsolute(location) || path.win32.isAbsolute(location) || /^[A-Za-z]:/.test(location)) {
    refuse('is absolute, wanted a path relative to the model')
  }
  let depth = 0
  for (const part of location.split(/[\\/]/)) {
    if (part === '..') depth--
    else if (part !== '' && part !== '.') depth++
    if (depth < 0) refuse("points outside of the model's directory")
  }
}

function nonNegative(text: string, key: string, described: string): number {
  const value = Number(text)
  if (/^\d+$/.test(text) && Number.isSafeInteger(value)) return value
  throw new QtoolError(
    'model',
    `${described}: the ${key} of its external data is ${quoted(text)}, wanted a number ≥ 0`,
    {
      hint: 'the model is corrupt; export it again',
    },
  )
}

function contains(directory: string, file: string): boolean {
  const relative = path.relative(directory, file)
  return relative !== '' && relative.split(path.sep)[0] !== '..' && !path.isAbsolute(relative)
}

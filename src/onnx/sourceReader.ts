/** @file Reads a model's payloads and hashes its files in one pass over the disk. */
import { createHash, type Hash } from 'node:crypto'
import type { OnnxModel, Payload } from './model.ts'
import { OpenFiles } from './readAt.ts'
import { readPayload } from './tensorData.ts'

/** Bytes hashed at once where no payload is read. */
const CHUNK = 2 ** 20

interface Progress {
  readonly bytes: number
  readonly hash: Hash
  /** All bytes before this one are hashed. */
  cursor: number
}

/**
 * Reads payloads, and on the way every other byte of the model's files, into SHA-256 digests.
 *
 * As long as payloads are asked for in the order in which they lie in their file, no byte is read twice; one that lies
 * before what was read already is read again, for itself alone.
 */
export class SourceReader {
  readonly #content: { readonly path: string; readonly bytes: Uint8Array } | undefined
  readonly #progress = new Map<string, Progress>()
  readonly #open = new OpenFiles()
  #chunk: Uint8Array | undefined

  constructor(model: Pick<OnnxModel, 'files' | 'content'>) {
    const { files, content } = model
    for (const { path, bytes } of files) {
      this.#progress.set(path, { bytes, hash: createHash('sha256'), cursor: 0 })
    }
    if (content) this.#content = { path: files[0]!.path, bytes: content }
  }

  /**
   * Fill `into` (exactly payload.byteLength long) with a payload.
   * @throws QtoolError `model` when its file cannot be read or has become shorter.
   */
  read(payload: Payload, into: Uint8Array): void {
    const progress = payload.kind === 'file' ? this.#progress.get(payload.path) : undefined
    if (payload.kind !== 'file' || !progress) {
      readPayload(payload, into)
      return
    }
    if (payload.byteLength !== into.length) {
      throw new RangeError(`a payload of ${payload.byteLength} bytes does not fit ${into.length}`)
    }
    this.#hashUpTo(payload.path, progress, payload.offset)
    this.#open.read(payload.path, payload.offset, into)
    const hashed = progress.cursor - payload.offset
    if (hashed >= into.length) return
    progress.hash.update(into.subarray(hashed))
    progress.cursor = payload.offset + into.length
  }

  /**
   * Read what has not been read yet and finish. Call it once, as the last thing.
   * @returns a digest for each file, in the model's order, in lower-case hexadecimal.
   * @throws QtoolError `model` when a file cannot be read or has become shorter.
   */
  sha256(): { path: string; sha256: string }[] {
    try {
      return [...this.#progress].map(([path, progress]) => {
        if (this.#content?.path === path) progress.hash.update(this.#content.bytes)
        else this.#hashUpTo(path, progress, progress.bytes)
        return { path, sha256: progress.hash.digest('hex') }
      })
    } finally {
      this.close()
    }
  }

  /** Close the files, where {@link sha256} is not called. */
  close(): void {
    this.#open.close()
  }

  #hashUpTo(path: string, progress: Progress, end: number): void {
    this.#chunk ??= new Uint8Array(CHUNK)
    while (progress.cursor < end) {
      const part = this.#chunk.subarray(0, Math.min(CHUNK, end - progress.cursor))
      this.#open.read(path, progress.cursor, part)
      progress.hash.update(part)
      progress.cursor += part.length
    }
  }
}

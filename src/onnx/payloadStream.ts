/** @file Payload bytes in chunks of a few MiB, counted for progress; between chunks the caller may stop. */
import { checkAborted, type RunOptions } from '../progress.ts'
import type { Payload } from './model.ts'
import { OpenFiles } from './readAt.ts'

/** Bytes copied at once. */
const CHUNK = 4 * 2 ** 20

export class PayloadStream {
  readonly #open = new OpenFiles()
  readonly #buffer = new Uint8Array(CHUNK)
  readonly #total: number
  readonly #options: RunOptions
  #done = 0

  /** @param total bytes that will go through, for progress. */
  constructor(total: number, options: RunOptions) {
    this.#total = Math.max(1, total)
    this.#options = options
  }

  /** Count bytes that were written. @throws QtoolError `interrupted`. */
  advance(bytes: number): void {
    checkAborted(this.#options.signal)
    this.#done += bytes
    this.#options.onProgress?.({ stage: 'write', done: this.#done, total: this.#total })
  }

  /**
   * The payload in chunks, each valid until the next one is asked for.
   * @throws QtoolError `model` when its file cannot be read or has become shorter, `interrupted`.
   */
  *chunksOf(payload: Payload): Generator<Uint8Array> {
    if (payload.kind === 'planned') throw new TypeError('a planned payload cannot be saved')
    for (let done = 0; done < payload.byteLength; done += CHUNK) {
      const length = Math.min(CHUNK, payload.byteLength - done)
      if (payload.kind === 'memory') yield payload.bytes.subarray(done, done + length)
      else {
        const chunk = this.#buffer.subarray(0, length)
        this.#open.read(payload.path, payload.offset + done, chunk)
        yield chunk
      }
      this.advance(length)
    }
  }

  close(): void {
    this.#open.close()
  }
}

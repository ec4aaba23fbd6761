/** @file A growing file for tensors that are made one after another, which can become the saved model's data file. */
import fs from 'node:fs'
import { align } from './layout.ts'
import { INLINE_LIMIT, type Payload } from './model.ts'
import { OutputFile, outputError } from './outputFiles.ts'
import type { Temporaries } from './temporaries.ts'

/**
 * Takes new payloads off the heap as they are produced. It lies beside the output and holds each payload at a multiple
 * of 4096, so that saving with external data renames it instead of copying it.
 */
export class Spool {
  readonly path: string
  readonly #temporaries: Temporaries
  readonly #file: OutputFile
  /** What it will become, for messages. */
  readonly #shownAs: string
  #isOpen = true

  /** @throws QtoolError `output` when the file cannot be created beside `outPath`. */
  constructor(outPath: string, temporaries: Temporaries) {
    this.#temporaries = temporaries
    this.#shownAs = `${outPath}_data`
    this.path = temporaries.reserve(this.#shownAs)
    this.#file = new OutputFile(this.path, this.#shownAs)
  }

  /** Bytes so far. */
  get length(): number {
    return this.#file.length
  }

  /**
   * Store bytes. Those that never leave the .onnx file (up to INLINE_LIMIT) stay in memory and must not be changed.
   * @returns the payload, valid until {@link remove} or until it was saved.
   * @throws QtoolError `output` when the disk is full or fails.
   */
  append(bytes: Uint8Array): Payload {
    if (bytes.length <= INLINE_LIMIT) return { kind: 'memory', byteLength: bytes.length, bytes }
    const offset = align(this.#file.length)
    this.#file.skipTo(offset)
    this.#file.append(bytes)
    return { kind: 'file', byteLength: bytes.length, path: this.path, offset }
  }

  /** Append the rest of what becomes the data file, from `chunks`, at `offset`. */
  appendAt(offset: number, chunks: Iterable<Uint8Array>): void {
    this.#file.skipTo(offset)
    for (const chunk of chunks) this.#file.append(chunk)
  }

  /**
   * Bring it to the disk, close it, and give it another path.
   * @throws QtoolError `output`.
   */
  moveTo(target: string): void {
    this.#isOpen = false
    this.#file.finish()
    try {
      fs.renameSync(this.path, target)
    } catch (cause) {
      throw outputError(this.#shownAs, cause)
    }
    this.#temporaries.forget(this.path)
  }

  /** Close and delete it; its payloads are gone. Does nothing the second time. */
  remove(): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    this.#file.close()
    fs.rmSync(this.path, { force: true })
    this.#temporaries.forget(this.path)
  }
}

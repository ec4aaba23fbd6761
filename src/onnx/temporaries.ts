/** @file Names of unfinished output, and its removal when a run fails. */
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'

/** Bytes of the output's name kept in a temporary name: file systems allow 255 for all of it. */
const KEPT_BYTES = 200

/**
 * The temporary files and directories of one run. They lie in the output's directory, so that finished ones can be
 * renamed, and are called `.<name>.<pid>.<random>.tmp`.
 */
export class Temporaries {
  readonly #paths = new Set<string>()

  /** A new name beside `outPath`. Nothing is created, but {@link removeAll} will look for it. */
  reserve(outPath: string): string {
    const kept = Buffer.from(path.basename(outPath)).subarray(0, KEPT_BYTES)
    // A character that was cut in half decodes to U+FFFD.
    const name = kept.toString().replace(/\ufffd$/, '')
    const random = randomBytes(6).toString('hex')
    const temporary = path.join(path.dirname(outPath), `.${name}.${process.pid}.${random}.tmp`)
    this.#paths.add(temporary)
    return temporary
  }

  /** The name is no longer in use: renamed to its final one, or removed. */
  forget(temporary: string): void {
    this.#paths.delete(temporary)
  }

  /** Remove everything that was reserved and not forgotten. Synchronous, for signal handlers; never throws. */
  removeAll(): void {
    for (const temporary of this.#paths) {
      try {
        fs.rmSync(temporary, { recursive: true, force: true })
      } catch {
        // The run has failed already, for a reason that says more than this one would.
      }
    }
    this.#paths.clear()
  }
}

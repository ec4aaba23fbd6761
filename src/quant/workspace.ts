/** @file Shared memory that is used again for one weight after the other. */

/**
 * Buffers by purpose, each as large as the largest request so far. Shared memory does not count towards garbage
 * collection, so buffers made for every weight would pile up; one set of them bounds the memory by the largest weight.
 */
export class Workspace {
  readonly #buffers = new Map<string, SharedArrayBuffer>()

  /** At least `bytes` of memory with undefined contents, valid until the next request for the same purpose. */
  take(purpose: string, bytes: number): SharedArrayBuffer {
    const known = this.#buffers.get(purpose)
    if (known && known.byteLength >= bytes) return known
    const made = new SharedArrayBuffer(bytes)
    this.#buffers.set(purpose, made)
    return made
  }
}

/** @file Reading byte ranges of files, and saying in words why a file could not be read or written. */
import fs from 'node:fs'
import { QtoolError } from '../errors.ts'

/** The kernel reads at most 2 GiB − 4 KiB at once. */
const LARGEST_READ = 2 ** 30

/**
 * Fill `into` from `offset` on.
 * @returns the number of bytes read: less than asked only at the end of the file.
 */
export function readAt(fd: number, into: Uint8Array, offset: number): number {
  let done = 0
  while (done < into.length) {
    const count = fs.readSync(fd, into, done, Math.min(LARGEST_READ, into.length - done), offset + done)
    if (count === 0) break
    done += count
  }
  return done
}

/** Files that are opened at their first read and stay open until {@link close}. */
export class OpenFiles {
  readonly #descriptors = new Map<string, number>()

  /**
   * Fill `into` from `offset` of the file on.
   * @throws QtoolError `model` when the file cannot be read or is shorter.
   */
  read(path: string, offset: number, into: Uint8Array): void {
    let count: number
    try {
      let fd = this.#descriptors.get(path)
      if (fd === undefined) {
        fd = fs.openSync(path, 'r')
        this.#descriptors.set(path, fd)
      }
      count = readAt(fd, into, offset)
    } catch (cause) {
      throw new QtoolError('model', `cannot read ${path}: ${reasonOf(cause)}`, { cause })
    }
    if (count < into.length) {
      throw new QtoolError(
        'model',
        `${path}: wanted ${into.length} bytes from byte ${offset} on, the file ends after ${count} of them`,
        { hint: 'the file was changed while it was read; let nothing else write it' },
      )
    }
  }

  close(): void {
    for (const fd of this.#descriptors.values()) fs.closeSync(fd)
    this.#descriptors.clear()
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file or directory',
  EACCES: 'permission denied',
  EPERM: 'the system does not permit it',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of the path is not a directory',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'the file system cannot hold so large a file',
  EROFS: 'the file system is read-only',
  ENAMETOOLONG: 'the name is too long for the file system',
  ELOOP: 'its symbolic links go round in a circle',
  EMFILE: 'too many files are open',
  EIO: 'the device reports an input/output error',
  EBUSY: 'it is in use',
}

/** What a file system error says, in words. */
export function reasonOf(error: unknown): string {
  const code = (error as NodeJS.ErrnoException)?.code
  return (code && REASONS[code]) || (error instanceof Error ? error.message : String(error))
}

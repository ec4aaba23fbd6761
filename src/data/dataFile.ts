/** @file Bytes of a data file, with the user's mistakes (missing, a directory, unreadable, too large) as clear errors. */
import { constants } from 'node:buffer'
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { QtoolError } from '../errors.ts'

/** One read call takes less than 2 GiB. */
const CHUNK = 2 ** 30

/** What the system's error codes mean to the user. */
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  ENOTDIR: 'there is no such file',
  EACCES: 'permission to read it is denied',
  EPERM: 'permission to read it is denied',
  EISDIR: 'it is a directory',
}

/** A failed file-system call as a QtoolError `data` that names the file. */
export function fileError(path: string, cause: unknown): QtoolError {
  const code = (cause as NodeJS.ErrnoException).code ?? ''
  return new QtoolError('data', `data file ${path}: ${REASONS[code] ?? (cause as Error).message}`, { cause })
}

/**
 * All bytes of a file, in a buffer of their own (aligned for any element type).
 * @throws QtoolError `data`
 */
export function readDataFile(path: string): Uint8Array {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (cause) {
    throw fileError(path, cause)
  }
  try {
    const stat = fstatSync(file)
    if (!stat.isFile()) throw new QtoolError('data', `data file ${path}: it is not a regular file`)
    if (stat.size > constants.MAX_LENGTH) {
      throw new QtoolError(
        'data',
        `data file ${path}: ${stat.size} bytes, at most ${constants.MAX_LENGTH} can be read`,
        {
          hint: 'split it into several files in a directory and give the directory',
        },
      )
    }
    const bytes = new Uint8Array(stat.size)
    let done = 0
    while (done < bytes.length) {
      const count = readSync(file, bytes, done, Math.min(CHUNK, bytes.length - done), done)
      if (count === 0) throw new QtoolError('data', `data file ${path}: it became shorter while it was read`)
      done += count
    }
    return bytes
  } catch (cause) {
    throw cause instanceof QtoolError ? cause : fileError(path, cause)
  } finally {
    closeSync(file)
  }
}

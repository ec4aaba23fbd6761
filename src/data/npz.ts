/**
 * @file numpy's .npz: a zip archive with one .npy per array.
 *
 * The central directory is read here, because sizes and checksums must be known before anything is unpacked; fflate
 * inflates. Source: PKWARE APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (central directory) and 4.3.16 (its end).
 */
import { crc32 } from 'node:zlib'
import { inflateSync } from 'fflate'
import { QtoolError } from '../errors.ts'
import type { NdArray } from './ndArray.ts'
import { decodeNpy } from './npy.ts'

const END_SIGNATURE = 0x06054b50
const END_SIZE = 22
const ENTRY_SIGNATURE = 0x02014b50
const ENTRY_SIZE = 46
const LOCAL_SIGNATURE = 0x04034b50
const LOCAL_SIZE = 30
const LONGEST_COMMENT = 0xffff
/** Deflate turns one bit into at most 258 bytes, a length code and a distance code of one bit each: 1032 to 1. */
const LARGEST_RATIO = 1032
/** fflate counts input bytes in 31 bits. */
const LARGEST_COMPRESSED = 2 ** 31 - 1

interface Entry {
  readonly method: number
  readonly encrypted: boolean
  readonly crc: number
  readonly compressedSize: number
  readonly size: number
  readonly localOffset: number
}

/** An opened archive; `read` unpacks one array. */
export interface NpzFile {
  /** Array names (without .npy) in archive order. */
  readonly names: readonly string[]
  /** @throws QtoolError `data` for a damaged entry, or a name that is not in the archive. */
  read(name: string): NdArray
}

/**
 * List the arrays of a .npz.
 *
 * @param bytes   the whole file; kept, and read again by `read`.
 * @param source  the file's name for messages.
 * @throws QtoolError `data`: not a zip archive, truncated, larger than 4 GiB (zip64), or without arrays.
 */
export function openNpz(bytes: Uint8Array, source: string): NpzFile {
  const entries = readDirectory(bytes, source)
  if (entries.size === 0) throw new QtoolError('data', `${source}: there is no array (.npy) in this archive`)
  return {
    names: [...entries.keys()],
    read(name) {
      const entry = entries.get(name)
      if (!entry) {
        throw new QtoolError('data', `${source}: no array ${name}; the file has ${[...entries.keys()].join(', ')}`)
      }
      return decodeNpy(unpack(bytes, entry, `${source}, array ${name}`), `${source}, array ${name}`)
    },
  }
}

function damaged(source: string, what: string, cause?: unknown): QtoolError {
  return new QtoolError('data', `${source}: ${what}`, {
    hint: 'the file is truncated or damaged; save it again',
    cause,
  })
}

function tooLarge(source: string): QtoolError {
  return new QtoolError('data', `${source}: arrays of 4 GiB or more (zip64) cannot be read from a .npz`, {
    hint: 'split the data into several files in a directory and give the directory',
  })
}

function readDirectory(bytes: Uint8Array, source: string): Map<string, Entry> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let end = bytes.length - END_SIZE
  while (end >= 0 && view.getUint32(end, true) !== END_SIGNATURE) {
    end--
    if (end < bytes.length - END_SIZE - LONGEST_COMMENT) end = -1
  }
  if (end < 0)
    throw damaged(source, `no zip directory at its end (${bytes.length} bytes), so it is not a whole .npz file`)
  const count = view.getUint16(end + 10, true)
  let at = view.getUint32(end + 16, true)
  if (count === 0xffff || at === 0xffffffff) throw tooLarge(source)

  const entries = new Map<string, Entry>()
  for (let i = 0; i < count; i++) {
    if (at + ENTRY_SIZE > end || view.getUint32(at, true) !== ENTRY_SIGNATURE) {
      throw damaged(source, `entry ${i + 1} of ${count} is not where the zip directory should hold it`)
    }
    const nameLength = view.getUint16(at + 28, true)
    const next = at + ENTRY_SIZE + nameLength + view.getUint16(at + 30, true) + view.getUint16(at + 32, true)
    if (next > end) throw damaged(source, `entry ${i + 1} of ${count} runs past the zip directory`)
    const file = Buffer.from(bytes.buffer, bytes.byteOffset + at + ENTRY_SIZE, nameLength).toString('utf8')
    if (file.endsWith('.npy')) {
      const name = file.slice(0, -'.npy'.length)
      if (entries.has(name)) throw damaged(source, `two arrays named ${name}`)
      entries.set(name, {
        encrypted: (view.getUint16(at + 8, true) & 1) !== 0,
        method: view.getUint16(at + 10, true),
        crc: view.getUint32(at + 16, true),
        compressedSize: view.getUint32(at + 20, true),
        size: view.getUint32(at + 24, true),
        localOffset: view.getUint32(at + 42, true),
      })
    }
    at = next
  }
  return entries
}

/** The entry's bytes, checked against size and checksum. */
function unpack(bytes: Uint8Array, entry: Entry, source: string): Uint8Array {
  const { method, compressedSize, size, localOffset } = entry
  if ([compressedSize, size, localOffset].includes(0xffffffff) || compressedSize > LARGEST_COMPRESSED) {
    throw tooLarge(source)
  }
  if (entry.encrypted) throw new QtoolError('data', `${source}: the entry is encrypted`)
  if (method !== 0 && method !== 8) {
    throw new QtoolError('data', `${source}: zip method ${method} is not known; wanted 0 (stored) or 8 (deflated)`, {
      hint: 'save it with numpy.savez or numpy.savez_compressed',
    })
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (localOffset + LOCAL_SIZE > bytes.length || view.getUint32(localOffset, true) !== LOCAL_SIGNATURE) {
    throw damaged(source, 'its bytes are not where the zip directory says')
  }
  const start =
    localOffset + LOCAL_SIZE + view.getUint16(localOffset + 26, true) + view.getUint16(localOffset + 28, true)
  if (start + compressedSize > bytes.length) throw damaged(source, 'its bytes run past the end of the file')
  const packed = bytes.subarray(start, start + compressedSize)
  if (method === 0 ? size !== compressedSize : size > compressedSize * LARGEST_RATIO) {
    throw damaged(source, `the zip directory says ${size} bytes, which ${compressedSize} cannot hold`)
  }
  const unpacked = method === 0 ? packed : inflate(packed, size, source)
  if (unpacked.length !== size || crc32(unpacked) !== entry.crc) {
    throw damaged(source, 'its bytes do not match their checksum')
  }
  return unpacked
}

function inflate(packed: Uint8Array, size: number, source: string): Uint8Array {
  try {
    return inflateSync(packed, { out: new Uint8Array(size) })
  } catch (cause) {
    throw damaged(source, 'its compressed bytes cannot be unpacked', cause)
  }
}

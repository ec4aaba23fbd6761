/**
 * @file The container of qtool's own binary files: a prologue, then records, each with checksums.
 *
 * | part     | bytes                                                                                                   |
 * |----------|---------------------------------------------------------------------------------------------------------|
 * | prologue | magic (12 ASCII bytes), version (u32)                                                                   |
 * | record   | length of the head (u32), length of the body (u64), head (JSON), CRC-32 of all that, body, CRC-32 of it |
 *
 * Numbers are little-endian. The head has a checksum of its own, so that a damaged length is never believed. A CRC-32
 * finds every change of up to 32 consecutive bits, and misses any other with probability 2^-32.
 */
import fs from 'node:fs'
import { crc32 } from 'node:zlib'
import { type ErrorCode, QtoolError } from '../errors.ts'
import { readAt, reasonOf } from '../onnx/readAt.ts'
import { fromJson, toJson } from './canonicalJson.ts'

/** One kind of file. */
export interface RecordFormat {
  /** 12 ASCII characters. */
  readonly magic: string
  readonly version: number
  /** What it holds, for messages: `${path}: ${holds} …`. */
  readonly holds: string
  /** Of the errors about a file that cannot be used. */
  readonly code: ErrorCode
  /** What to do about such a file. */
  readonly hint: string
}

/** An intact head of a record, and where its body lies in the file. */
export interface RecordPlace {
  readonly head: unknown
  readonly bodyAt: number
  readonly bodyBytes: number
  /** The byte after the record. */
  readonly end: number
}

const MAGIC_BYTES = 12
/** Bytes before the first record. */
export const PROLOGUE_BYTES = MAGIC_BYTES + 4
/** The two lengths. */
const LENGTHS_BYTES = 12
const CRC_BYTES = 4
/** A head is held in memory; what is larger belongs into the body. */
const LARGEST_HEAD = 2 ** 26
/** Bytes read at once to check a body. */
const CHUNK = 2 ** 20

/** A typed array's bytes, not copied. */
export function bytesOf(array: Float32Array | Float64Array | Int8Array | Uint8Array | Uint16Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
}

/** The file's first {@link PROLOGUE_BYTES} bytes. */
export function prologueOf(format: RecordFormat): Uint8Array {
  const bytes = new Uint8Array(PROLOGUE_BYTES)
  bytes.set(Buffer.from(format.magic, 'latin1'))
  new DataView(bytes.buffer).setUint32(MAGIC_BYTES, format.version, true)
  return bytes
}

/**
 * Hand a record to `write`, piece by piece.
 * @param head anything that is JSON, or a number that is not finite.
 * @param bodyBytes length of all parts together.
 * @param parts of the body; each may be overwritten when the next is asked for.
 * @throws RangeError when the head is too large or the parts have another length.
 */
export function writeRecord(
  write: (bytes: Uint8Array) => void,
  head: unknown,
  bodyBytes: number,
  parts: Iterable<Uint8Array>,
): void {
  const json = Buffer.from(toJson(head))
  if (json.length > LARGEST_HEAD) throw new RangeError(`head of a record: want at most ${LARGEST_HEAD} bytes`)
  const front = Buffer.alloc(LENGTHS_BYTES + json.length)
  front.writeUInt32LE(json.length, 0)
  front.writeBigUInt64LE(BigInt(bodyBytes), 4)
  json.copy(front, LENGTHS_BYTES)
  write(front)
  write(crcBytes(crc32(front)))
  let length = 0
  let crc = 0
  for (const part of parts) {
    length += part.length
    crc = extend(crc, part)
    write(part)
  }
  if (length !== bodyBytes) throw new RangeError(`body of a record: want ${bodyBytes} bytes, got ${length}`)
  write(crcBytes(crc))
}

/** CRC-32 of what `crc` is of, and then `bytes`. Node's function forgets `crc` where there are none. */
function extend(crc: number, bytes: Uint8Array): number {
  return bytes.length === 0 ? crc : crc32(bytes, crc)
}

function crcBytes(crc: number): Uint8Array {
  const bytes = Buffer.alloc(CRC_BYTES)
  bytes.writeUInt32LE(crc)
  return bytes
}

/** @throws QtoolError with the format's code unless the file begins as it should. */
export function checkPrologue(fd: number, path: string, format: RecordFormat): void {
  const bytes = Buffer.alloc(PROLOGUE_BYTES)
  const count = readAt(fd, bytes, 0)
  if (count < PROLOGUE_BYTES || bytes.toString('latin1', 0, MAGIC_BYTES) !== format.magic) {
    throw new QtoolError(format.code, `${path} is another kind of file, wanted ${format.holds} written by qtool`, {
      hint: 'check the path, or name a file that does not exist yet',
    })
  }
  const version = bytes.readUInt32LE(MAGIC_BYTES)
  if (version === format.version) return
  throw new QtoolError(
    format.code,
    `${path}: ${format.holds} in version ${version} of its format, wanted version ${format.version}`,
    { hint: format.hint },
  )
}

/**
 * Read the head of the record that begins at byte `at`.
 * @param size of the file.
 * @returns undefined unless the head is intact and the whole record lies in the file. A body that is not empty is not
 *   checked.
 */
export function readHead(fd: number, size: number, at: number): RecordPlace | undefined {
  const lengths = Buffer.alloc(LENGTHS_BYTES)
  if (readAt(fd, lengths, at) < LENGTHS_BYTES) return undefined
  const headBytes = lengths.readUInt32LE(0)
  const bodyBytes = Number(lengths.readBigUInt64LE(4))
  const bodyAt = at + LENGTHS_BYTES + headBytes + CRC_BYTES
  const end = bodyAt + bodyBytes + CRC_BYTES
  if (headBytes > LARGEST_HEAD || end > size) return undefined
  const rest = Buffer.alloc(headBytes + CRC_BYTES)
  if (readAt(fd, rest, at + LENGTHS_BYTES) < rest.length) return undefined
  const json = rest.subarray(0, headBytes)
  if (crc32(json, crc32(lengths)) !== rest.readUInt32LE(headBytes)) return undefined
  const place = { head: fromJson(json.toString()), bodyAt, bodyBytes, end }
  return bodyBytes > 0 || new BodyReader(fd, place).isIntact() ? place : undefined
}

/** Reads a body front to back, with its checksum. */
export class BodyReader {
  readonly #fd: number
  readonly #place: RecordPlace
  #done = 0
  #crc = 0

  constructor(fd: number, place: RecordPlace) {
    this.#fd = fd
    this.#place = place
  }

  /** Bytes not read yet. */
  get left(): number {
    return this.#place.bodyBytes - this.#done
  }

  /** Fill `into` with what comes next. @throws RangeError beyond the body's end. */
  read(into: Uint8Array): void {
    if (into.length > this.left) throw new RangeError(`body of a record: want ${into.length} bytes, has ${this.left}`)
    readAt(this.#fd, into, this.#place.bodyAt + this.#done)
    this.#done += into.length
    this.#crc = extend(this.#crc, into)
  }

  /** Read what is left. @returns whether the body is as it was written. */
  isIntact(): boolean {
    const chunk = this.left > 0 ? new Uint8Array(Math.min(CHUNK, this.left)) : undefined
    while (chunk && this.left > 0) this.read(chunk.subarray(0, Math.min(chunk.length, this.left)))
    const wanted = Buffer.alloc(CRC_BYTES)
    const count = readAt(this.#fd, wanted, this.#place.bodyAt + this.#place.bodyBytes)
    return count === CRC_BYTES && wanted.readUInt32LE() === this.#crc
  }
}

/** The error for a file that ends too early or was changed. */
export function damaged(path: string, format: RecordFormat, at: number): QtoolError {
  return new QtoolError(format.code, `${path}: ${format.holds} is truncated or damaged at byte ${at}`, {
    hint: format.hint,
  })
}

/** Do something with a file. @throws QtoolError with the format's code when the system does not let it. */
export function onFile<T>(path: string, format: RecordFormat, action: () => T): T {
  try {
    return action()
  } catch (cause) {
    if (cause instanceof QtoolError || cause instanceof RangeError) throw cause
    throw new QtoolError(format.code, `cannot read ${path}: ${reasonOf(cause)}`, { hint: 'check the path', cause })
  }
}

/** Open a file to read it. @returns its descriptor and its size in bytes. */
export function openToRead(path: string, format: RecordFormat): { readonly fd: number; readonly size: number } {
  return onFile(path, format, () => {
    const status = fs.statSync(path)
    if (!status.isFile()) throw new QtoolError(format.code, `${path} is not a plain file, wanted ${format.holds}`)
    const fd = fs.openSync(path, 'r')
    try {
      checkPrologue(fd, path, format)
    } catch (error) {
      fs.closeSync(fd)
      throw error
    }
    return { fd, size: status.size }
  })
}

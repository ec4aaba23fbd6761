/**
 * @file Cutting tensor bytes out of a serialized model, and putting them back.
 *
 * `excise` turns a file into a small skeleton — the same message with a numbered marker in place of each large
 * `raw_data` — and the places of the bytes. `splice` is its inverse: it says which bytes of a skeleton and which
 * payloads follow one another in the file, without touching a payload. splice(excise(file)) is the file, byte for byte,
 * for every file whose raw_data tags and lengths are shortest varints.
 */
import { INLINE_LIMIT } from './model.ts'
import { type ByteSource, memorySource, PAYLOAD_MARKER, putVarint, varintSize, WireError, walkModel } from './wire.ts'

const RAW_DATA_TAG = (9 << 3) | 2
const MARKER_TAG = PAYLOAD_MARKER * 8

/** A byte range of the source. */
export interface Range {
  readonly offset: number
  readonly length: number
}

/**
 * Cut every `raw_data` longer than {@link INLINE_LIMIT} out of a serialized ModelProto.
 * @returns the skeleton, a well-formed ModelProto, and the place of payload i, which the marker with value i stands for.
 * @throws WireError when the source is not well-formed or uses the marker's field number itself.
 */
export function excise(source: ByteSource): { skeleton: Uint8Array<ArrayBuffer>; payloads: Range[] } {
  const out = new GrowingBytes()
  const payloads: Range[] = []
  const open: { lengthAt: number; contentAt: number; end: number; removed: number }[] = []
  /** Source bytes before this one are in the skeleton or cut out. */
  let taken = 0
  /** Bytes by which the skeleton is shorter than the source up to here. */
  let removed = 0
  const takeUpTo = (end: number): void => {
    source.copy(taken, out.reserve(end - taken))
    taken = end
  }
  walkModel(source, {
    enter: (lengthAt, contentAt, end) => open.push({ lengthAt, contentAt, end, removed }),
    leave: () => {
      const message = open.pop()!
      const shorter = removed - message.removed
      if (shorter === 0) return
      // The length keeps its width, so nothing moves, and a writer's padded lengths survive.
      takeUpTo(message.end)
      const { lengthAt, contentAt, end } = message
      putVarint(out.bytes, lengthAt - message.removed, end - contentAt - shorter, contentAt - lengthAt)
    },
    rawData: (tagAt, contentAt, end) => {
      if (end - contentAt <= INLINE_LIMIT) return
      takeUpTo(tagAt)
      const marker = markerField(payloads.length)
      out.reserve(marker.length).set(marker)
      payloads.push({ offset: contentAt, length: end - contentAt })
      taken = end
      removed += end - tagAt - marker.length
    },
    marker: (tagAt) => {
      throw new WireError(`uses field ${PAYLOAD_MARKER} of TensorProto, which is reserved, at byte ${tagAt}`)
    },
  })
  takeUpTo(source.size)
  return { skeleton: out.view(), payloads }
}

/** What follows next in a file: bytes, or a whole payload. */
export type Piece = { readonly bytes: Uint8Array } | { readonly payload: number }

/**
 * The file that a skeleton stands for.
 * @param lengths byte length of payload i.
 * @returns the pieces in order and their total length. A payload may occur several times, or never.
 */
export function splice(skeleton: Uint8Array, lengths: readonly number[]): { pieces: Piece[]; totalBytes: number } {
  // Edits in the order of the skeleton: [at, end) is replaced by `header` and then the payload, if there is one.
  const edits: { at: number; end: number; header: Uint8Array; payload: number }[] = []
  const open: { edit: (typeof edits)[number]; oldLength: number; longerBefore: number }[] = []
  let longer = 0
  walkModel(memorySource(skeleton), {
    enter: (lengthAt, contentAt, end) => {
      const edit = { at: lengthAt, end: contentAt, header: skeleton.subarray(lengthAt, contentAt), payload: -1 }
      edits.push(edit)
      open.push({ edit, oldLength: end - contentAt, longerBefore: longer })
    },
    leave: () => {
      const { edit, oldLength, longerBefore } = open.pop()!
      if (longer === longerBefore) return
      const newLength = oldLength + longer - longerBefore
      const width = edit.end - edit.at
      edit.header = new Uint8Array(Math.max(width, varintSize(newLength)))
      putVarint(edit.header, 0, newLength, edit.header.length)
      longer += edit.header.length - width
    },
    rawData: () => {},
    marker: (tagAt, end, index) => {
      const length = lengths[index]
      if (length === undefined) throw new RangeError(`marker ${index} has no payload; there are ${lengths.length}`)
      const header = new Uint8Array(1 + varintSize(length))
      header[0] = RAW_DATA_TAG
      putVarint(header, 1, length, header.length - 1)
      edits.push({ at: tagAt, end, header, payload: index })
      longer += header.length + length - (end - tagAt)
    },
  })

  const pieces: Piece[] = []
  const literal = new GrowingBytes()
  const flush = (): void => {
    if (literal.length > 0) pieces.push({ bytes: literal.view().slice() })
    literal.length = 0
  }
  let taken = 0
  for (const { at, end, header, payload } of edits) {
    literal.append(skeleton.subarray(taken, at))
    literal.append(header)
    taken = end
    if (payload < 0) continue
    flush()
    pieces.push({ payload })
  }
  literal.append(skeleton.subarray(taken))
  flush()
  return { pieces, totalBytes: skeleton.length + longer }
}

/** The wire bytes of the marker of payload `index`, tag included. */
function markerField(index: number): Uint8Array {
  const value = markerValue(index)
  const tagSize = varintSize(MARKER_TAG)
  const field = new Uint8Array(tagSize + value.length)
  putVarint(field, 0, MARKER_TAG, tagSize)
  field.set(value, tagSize)
  return field
}

/** The wire bytes of a marker's value, without its tag. */
export function markerValue(index: number): Uint8Array {
  const bytes = new Uint8Array(varintSize(index))
  putVarint(bytes, 0, index, bytes.length)
  return bytes
}

/** Inverse of {@link markerValue}. */
export function markerIndex(value: Uint8Array): number {
  return value.reduceRight((index, byte) => index * 128 + (byte & 0x7f), 0)
}

class GrowingBytes {
  bytes = new Uint8Array(1 << 16)
  length = 0

  /** Make room for `count` more bytes and return the room, to be filled before the next call. */
  reserve(count: number): Uint8Array {
    if (this.length + count > this.bytes.length) {
      const grown = new Uint8Array(Math.max(2 * this.bytes.length, this.length + count))
      grown.set(this.bytes.subarray(0, this.length))
      this.bytes = grown
    }
    this.length += count
    return this.bytes.subarray(this.length - count, this.length)
  }

  append(bytes: Uint8Array): void {
    this.reserve(bytes.length).set(bytes)
  }

  view(): Uint8Array<ArrayBuffer> {
    return this.bytes.subarray(0, this.length)
  }
}

/**
 * @file A walk over the protobuf wire format of an ONNX file that finds tensors without decoding anything else.
 *
 * It knows only which messages lead from ModelProto to TensorProto.raw_data; every other field is stepped over by its
 * wire type. Lengths are checked against the enclosing message before they are believed, so that a false length costs
 * nothing. Source: protobuf.dev/programming-guides/encoding, onnx/onnx.proto (ONNX 1.20).
 */

/** What is wrong with a file's wire format. The reader of the file adds the file's name. */
export class WireError extends Error {}

/**
 * TensorProto field (varint) that stands in for a `raw_data` that was cut out; its value numbers the payload. Not a
 * field of ONNX: it lives only between {@link excise} and {@link splice}.
 */
export const PAYLOAD_MARKER = 117_901_057

/** Messages may nest this deep, as in every protobuf implementation. */
const MAX_DEPTH = 100

/** Messages on the way to tensor data: field number → [message, field name]. */
const NESTING = {
  ModelProto: {
    7: ['GraphProto', 'graph'],
    20: ['TrainingInfoProto', 'training_info'],
    25: ['FunctionProto', 'functions'],
  },
  TrainingInfoProto: { 1: ['GraphProto', 'initialization'], 2: ['GraphProto', 'algorithm'] },
  FunctionProto: { 7: ['NodeProto', 'node'], 11: ['AttributeProto', 'attribute_proto'] },
  GraphProto: {
    1: ['NodeProto', 'node'],
    5: ['TensorProto', 'initializer'],
    15: ['SparseTensorProto', 'sparse_initializer'],
  },
  NodeProto: { 5: ['AttributeProto', 'attribute'] },
  AttributeProto: {
    5: ['TensorProto', 't'],
    6: ['GraphProto', 'g'],
    10: ['TensorProto', 'tensors'],
    11: ['GraphProto', 'graphs'],
    22: ['SparseTensorProto', 'sparse_tensor'],
    23: ['SparseTensorProto', 'sparse_tensors'],
  },
  SparseTensorProto: { 1: ['TensorProto', 'values'], 2: ['TensorProto', 'indices'] },
  TensorProto: {},
} as const satisfies Record<string, Record<number, readonly [string, string]>>

type MessageName = keyof typeof NESTING

const RAW_DATA = 9

/**
 * Bytes that one typed data field of a tensor may have. Decoding turns each element into a JavaScript value of 8
 * (numbers) or about 32 bytes (64-bit integers), and an element may take a single byte of the file.
 */
const TYPED_LIMITS: Readonly<Record<number, readonly [string, number]>> = {
  4: ['float_data', 2 ** 28],
  5: ['int32_data', 2 ** 26],
  7: ['int64_data', 2 ** 26],
  10: ['double_data', 2 ** 28],
  11: ['uint64_data', 2 ** 26],
}

/** Bytes that can be read at any offset, in memory or in a file. */
export interface ByteSource {
  readonly size: number
  /** As many bytes from `offset` on as are at hand, at least min(16, size − offset). Valid until the next call. */
  window(offset: number): Uint8Array
  /** Fill `into` with the bytes from `offset` on. */
  copy(offset: number, into: Uint8Array): void
}

export function memorySource(bytes: Uint8Array): ByteSource {
  return {
    size: bytes.length,
    window: (offset) => bytes.subarray(offset),
    copy: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
  }
}

/** What a walk reports. All positions are offsets into the source; calls come in the order of the file. */
export interface WireVisitor {
  /** A message begins: its length is the varint at [lengthAt, contentAt), its content [contentAt, end). */
  enter(lengthAt: number, contentAt: number, end: number): void
  /** The message entered last ends. */
  leave(): void
  /** A `raw_data` field: tag and length at [tagAt, contentAt), bytes at [contentAt, end). */
  rawData(tagAt: number, contentAt: number, end: number): void
  /** A {@link PAYLOAD_MARKER} field at [tagAt, end). */
  marker(tagAt: number, end: number, index: number): void
}

/**
 * Walk a serialized ModelProto.
 * @throws WireError when the bytes are not well-formed: cut short, false lengths, wire types that do not fit the
 *   schema, nesting deeper than 100, typed data fields beyond what can be decoded.
 */
export function walkModel(source: ByteSource, visitor: WireVisitor): void {
  new Walk(source, visitor).message('ModelProto', 0, source.size, 1)
}

class Walk {
  readonly #source: ByteSource
  readonly #visitor: WireVisitor
  /** Field names from the model down to here, for messages to the user. */
  readonly #path: string[] = []
  #window: Uint8Array = new Uint8Array(0)
  #windowAt = 0
  /** Where the varint read last ends. */
  #next = 0

  constructor(source: ByteSource, visitor: WireVisitor) {
    this.#source = source
    this.#visitor = visitor
  }

  message(name: MessageName, start: number, end: number, depth: number): void {
    if (depth > MAX_DEPTH) this.#fail(start, `nests deeper than ${MAX_DEPTH} messages`)
    const nesting: Readonly<Record<number, readonly [MessageName, string]>> = NESTING[name]
    const typedBytes: Record<number, number> = {}
    let at = start
    while (at < end) {
      const tagAt = at
      const tag = this.#varint(at, end)
      const field = Math.floor(tag / 8)
      const wireType = tag % 8
      const nested = nesting[field]
      if (nested) {
        const contentAt = this.#content(tagAt, wireType, nested[1], end)
        at = this.#next
        this.#path.push(nested[1])
        this.#visitor.enter(this.#lengthAt, contentAt, at)
        this.message(nested[0], contentAt, at, depth + 1)
        this.#visitor.leave()
        this.#path.pop()
        continue
      }
      if (name === 'TensorProto' && field === RAW_DATA) {
        const contentAt = this.#content(tagAt, wireType, 'raw_data', end)
        at = this.#next
        this.#visitor.rawData(tagAt, contentAt, at)
        continue
      }
      if (name === 'TensorProto' && field === PAYLOAD_MARKER && wireType === 0) {
        const index = this.#varint(this.#next, end)
        at = this.#next
        this.#visitor.marker(tagAt, at, index)
        continue
      }
      at = this.#skip(tagAt, tag, this.#next, end, depth)
      const limit = name === 'TensorProto' ? TYPED_LIMITS[field] : undefined
      if (limit) {
        typedBytes[field] = (typedBytes[field] ?? 0) + at - tagAt
        if (typedBytes[field]! > limit[1]) {
          this.#fail(tagAt, `has more than ${limit[1] / 2 ** 20} MiB in ${limit[0]}, which is read only up to there`)
        }
      }
    }
  }

  /** Start of the length varint that #content read last. */
  #lengthAt = 0

  /** Read the length of a field whose tag was just read. Returns where its content starts, leaves its end in #next. */
  #content(tagAt: number, wireType: number, field: string, end: number): number {
    if (wireType !== 2) this.#fail(tagAt, `has ${field} with wire type ${wireType}, wanted 2 (length-delimited)`)
    this.#lengthAt = this.#next
    const length = this.#varint(this.#next, end)
    const contentAt = this.#next
    if (length > end - contentAt) {
      this.#fail(tagAt, `has ${field} of ${length} bytes, but only ${end - contentAt} follow (cut short, or corrupt)`)
    }
    this.#next = contentAt + length
    return contentAt
  }

  /** @returns where the field ends whose tag (already read, value `tag`) is at `tagAt` and whose value is at `at`. */
  #skip(tagAt: number, tag: number, at: number, end: number, depth: number): number {
    const field = Math.floor(tag / 8)
    if (field === 0 || tag > 0xffff_ffff) this.#fail(tagAt, `has a field with the impossible tag ${tag}`)
    switch (tag % 8) {
      case 0:
        this.#varint(at, end)
        return this.#next
      case 1:
        return this.#within(tagAt, at + 8, end)
      case 2:
        this.#content(tagAt, 2, `field ${field}`, end)
        return this.#next
      case 3:
        return this.#skipGroup(tagAt, field, at, end, depth + 1)
      case 5:
        return this.#within(tagAt, at + 4, end)
      default:
        return this.#fail(tagAt, `has field ${field} with the impossible wire type ${tag % 8}`)
    }
  }

  #skipGroup(tagAt: number, field: number, start: number, end: number, depth: number): number {
    if (depth > MAX_DEPTH) this.#fail(start, `nests deeper than ${MAX_DEPTH} messages`)
    let at = start
    while (at < end) {
      const innerAt = at
      const tag = this.#varint(at, end)
      if (tag % 8 === 4) {
        if (Math.floor(tag / 8) !== field) this.#fail(innerAt, `ends group ${field} with the tag of another`)
        return this.#next
      }
      at = this.#skip(innerAt, tag, this.#next, end, depth)
    }
    return this.#fail(tagAt, `has group ${field} without an end`)
  }

  #within(tagAt: number, at: number, end: number): number {
    if (at > end) this.#fail(tagAt, 'ends in the middle of a number (cut short, or corrupt)')
    return at
  }

  /** Read the varint at `at`, at most 10 bytes; beyond 2^53 the value is approximate. Leaves its end in #next. */
  #varint(at: number, end: number): number {
    let index = at - this.#windowAt
    if (index < 0 || index + 10 > this.#window.length) {
      this.#window = this.#source.window(at)
      this.#windowAt = at
      index = 0
    }
    let value = 0
    let unit = 1
    for (let i = 0; i < 10; i++) {
      if (at + i >= end) this.#fail(at, 'ends in the middle of a number (cut short, or corrupt)')
      const byte = this.#window[index + i]!
      value += (byte & 0x7f) * unit
      if (byte < 0x80) {
        this.#next = at + i + 1
        return value
      }
      unit *= 128
    }
    return this.#fail(at, 'has a number of more than 10 bytes')
  }

  #fail(at: number, what: string): never {
    throw new WireError(`${['model', ...this.#path].join('.')} ${what}, at byte ${at}`)
  }
}

/** Bytes of the shortest varint of `value`, 0 … 2^53 − 1. */
export function varintSize(value: number): number {
  let size = 1
  for (let rest = value; rest >= 128; rest = Math.floor(rest / 128)) size++
  return size
}

/** Write `value` as a varint of exactly `size` bytes (padded with leading zero groups) at `at`. */
export function putVarint(into: Uint8Array, at: number, value: number, size: number): void {
  let rest = value
  for (let i = 0; i < size - 1; i++) {
    into[at + i] = (rest % 128) | 0x80
    rest = Math.floor(rest / 128)
  }
  into[at + size - 1] = rest
}

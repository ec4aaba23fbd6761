/**
 * @file numpy's .npy format, read and written.
 *
 * Magic, version, header length, a Python dict literal with `descr`, `fortran_order` and `shape`, then the elements.
 * Source: numpy.lib.format, versions 1.0 (16-bit header length), 2.0 (32-bit) and 3.0 (UTF-8 header).
 */
import { QtoolError } from '../errors.ts'
import { bytesPerElement, type Dtype, elementCount, formatShape, makeData, type NdArray, viewData } from './ndArray.ts'

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59] // \x93NUMPY
const ALIGNMENT = 64
/** numpy's own limit. */
const LARGEST_RANK = 64

/** Kind and size of numpy's type codes ↔ our names. */
const DTYPES: Readonly<Record<string, Dtype>> = {
  b1: 'bool',
  i1: 'int8',
  u1: 'uint8',
  i2: 'int16',
  u2: 'uint16',
  i4: 'int32',
  u4: 'uint32',
  i8: 'int64',
  u8: 'uint64',
  f2: 'float16',
  f4: 'float32',
  f8: 'float64',
}

/** Type codes that exist in numpy but hold no numbers that a model could take. */
const UNUSABLE: Readonly<Record<string, string>> = {
  O: 'Python objects',
  U: 'text',
  S: 'byte strings',
  V: 'raw records',
  c: 'complex numbers',
  M: 'dates',
  m: 'time spans',
}

interface Header {
  readonly dtype: Dtype
  readonly bigEndian: boolean
  readonly fortranOrder: boolean
  readonly shape: readonly number[]
  /** Where the elements begin. */
  readonly offset: number
}

/**
 * Decode a .npy file. Nothing is allocated before the header was checked against the number of bytes there are.
 *
 * @param bytes   the whole file. The result is a view of it where order and alignment allow.
 * @param source  the file's name for messages.
 * @returns elements in C order, little-endian; bool as 0 and 1.
 * @throws QtoolError `data`: not .npy, truncated or overlong, or element types that are not plain numbers.
 */
export function decodeNpy(bytes: Uint8Array, source: string): NdArray {
  const { dtype, bigEndian, fortranOrder, shape, offset } = readHeader(bytes, source)
  const found = bytes.length - offset
  const size = bytesPerElement(dtype)
  // Beyond 2^53 the product is inexact, but then it is also beyond any file.
  if (elementCount(shape) * size !== found) {
    throw new QtoolError(
      'data',
      `${source}: the header says ${formatShape(shape)} of ${dtype}, ${elementCount(shape) * size} bytes, but ${found} bytes follow`,
      { hint: 'the file is truncated or damaged; save it again' },
    )
  }
  let body = bytes.subarray(offset)
  if (bigEndian) body = swapBytes(body, size)
  if (dtype === 'bool' && body.some((byte) => byte > 1)) body = body.map((byte) => (byte ? 1 : 0))
  const array = { dtype, shape, data: viewData(dtype, body) }
  return fortranOrder && shape.length > 1 ? fromFortranOrder(array) : array
}

/** A .npy file, version 1.0, C order, little-endian. */
export function encodeNpy(array: NdArray): Uint8Array {
  const { dtype, shape, data } = array
  const code = Object.keys(DTYPES).find((key) => DTYPES[key] === dtype)!
  const order = bytesPerElement(dtype) === 1 ? '|' : '<'
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`
  const dict = `{'descr': '${order}${code}', 'fortran_order': False, 'shape': ${tuple}, }`
  const offset = Math.ceil((MAGIC.length + 4 + dict.length + 1) / ALIGNMENT) * ALIGNMENT
  const bytes = new Uint8Array(offset + data.byteLength).fill(0x20, 0, offset)
  bytes.set([...MAGIC, 1, 0])
  new DataView(bytes.buffer).setUint16(MAGIC.length + 2, offset - MAGIC.length - 4, true)
  bytes.set(new TextEncoder().encode(dict), MAGIC.length + 4)
  bytes[offset - 1] = 0x0a
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), offset)
  return bytes
}

function readHeader(bytes: Uint8Array, source: string): Header {
  if (bytes.length < MAGIC.length + 4 || MAGIC.some((byte, i) => bytes[i] !== byte)) {
    throw new QtoolError('data', `${source}: not a .npy file (${bytes.length} bytes, no NUMPY signature)`)
  }
  const version = bytes[6]!
  if (version < 1 || version > 3) {
    throw new QtoolError('data', `${source}: .npy version ${version}.${bytes[7]} is not known; wanted 1.0, 2.0 or 3.0`)
  }
  const start = version === 1 ? 10 : 12
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const length = bytes.length < start ? 0 : version === 1 ? view.getUint16(8, true) : view.getUint32(8, true)
  const offset = start + length
  if (length === 0 || offset > bytes.length) {
    throw new QtoolError('data', `${source}: truncated within the .npy header (${bytes.length} bytes)`)
  }
  const text = Buffer.from(bytes.buffer, bytes.byteOffset + start, length).toString(version === 3 ? 'utf8' : 'latin1')
  return { ...parseDict(text, source), offset }
}

/** The three entries of the dict, in any order. */
function parseDict(text: string, source: string): Omit<Header, 'offset'> {
  const bad = (what: string) => new QtoolError('data', `${source}: ${what} in the .npy header: ${excerpt(text)}`)
  if (!/^\s*\{.*\}\s*$/s.test(text)) throw bad('no dict')
  if (/['"]descr['"]\s*:\s*\[/.test(text)) {
    throw new QtoolError('data', `${source}: structured arrays (with named fields) cannot be fed to a model`, {
      hint: 'save each field as its own array',
    })
  }
  const code = /['"]descr['"]\s*:\s*['"]([<>|=]?)([A-Za-z])(\d*)[^'"]*['"]/.exec(text)
  if (!code) throw bad('no element type')
  const [, order, kind, size] = code
  const dtype = DTYPES[`${kind}${size}`]
  if (!dtype) {
    const holds = UNUSABLE[kind!] ?? `elements of type ${kind}${size}`
    throw new QtoolError('data', `${source}: the array holds ${holds}, which cannot be fed to a model`, {
      hint: 'save bool, integers of 8 to 64 bits, or float16, float32 or float64',
    })
  }
  const fortran = /['"]fortran_order['"]\s*:\s*(True|False)/.exec(text)
  if (!fortran) throw bad('no fortran_order')
  const tuple = /['"]shape['"]\s*:\s*\(([\d\s,L]*)\)/.exec(text)
  if (!tuple) throw bad('no shape')
  const shape = tuple[1]!
    .split(',')
    .map((dim) => dim.trim().replace(/L$/, ''))
    .filter((dim) => dim !== '')
    .map(Number)
  if (shape.length > LARGEST_RANK || !shape.every(Number.isSafeInteger)) throw bad('an impossible shape')
  return { dtype, bigEndian: order === '>', fortranOrder: fortran[1] === 'True', shape }
}

function excerpt(text: string): string {
  const line = JSON.stringify(text.trim())
  return line.length > 120 ? `${line.slice(0, 120)}…` : line
}

/** A copy with the bytes of each element reversed. */
function swapBytes(bytes: Uint8Array, size: number): Uint8Array {
  const copy = new Uint8Array(bytes)
  const buffer = Buffer.from(copy.buffer)
  if (size === 2) buffer.swap16()
  if (size === 4) buffer.swap32()
  if (size === 8) buffer.swap64()
  return copy
}

/** A copy in C order of an array whose first axis varies fastest. */
function fromFortranOrder(array: NdArray): NdArray {
  const { dtype, shape } = array
  const data = makeData(dtype, array.data.length)
  // Elements are only moved; the cast spares a loop per element type.
  const source = array.data as Float64Array
  const target = data as Float64Array
  const strides = shape.map((_, axis) => elementCount(shape.slice(0, axis)))
  const index = shape.map(() => 0)
  let from = 0
  for (let to = 0; to < target.length; to++) {
    target[to] = source[from]!
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis]!
      index[axis]!++
      if (index[axis]! < shape[axis]!) break
      from -= strides[axis]! * shape[axis]!
      index[axis] = 0
    }
  }
  return { dtype, shape, data }
}

/**
 * @file Codes to bytes. Pure functions; every value must fit its width. Two orders are known: consecutive values side by
 * side in a byte, first value in the low bits (what the operators of onnxruntime read), and strided planes, where a
 * byte holds values that are far apart, so that a shift of the whole plane yields consecutive values (what short
 * constant subgraphs unpack).
 */
import { floatToHalf } from './float16.ts'
import type { GridWeight } from './quantizedWeight.ts'
import { groupsPerRow, symmetricZeroPoint } from './quantizedWeight.ts'

/** Width of a packed field in bits. */
export type FieldWidth = 1 | 2 | 4 | 8

/** Pack values[from … to) into bytes[at …], first value in the low bits; the last byte is filled up with zero bits. */
function packRange(
  values: Uint8Array,
  from: number,
  to: number,
  width: FieldWidth,
  bytes: Uint8Array,
  at: number,
): void {
  if (width === 8) {
    bytes.set(values.subarray(from, to), at)
    return
  }
  const fields = 8 / width
  const whole = to - ((to - from) % fields)
  let out = at
  if (width === 4) {
    for (let i = from; i < whole; i += 2) bytes[out++] = values[i]! | (values[i + 1]! << 4)
  } else {
    for (let i = from; i < whole; i += fields) {
      let byte = 0
      for (let field = 0; field < fields; field++) byte |= values[i + field]! << (field * width)
      bytes[out++] = byte
    }
  }
  if (whole === to) return
  let byte = 0
  for (let i = whole; i < to; i++) byte |= values[i]! << ((i - whole) * width)
  bytes[out] = byte
}

/** Pack a flat array, first value in the low bits; ⌈values · width / 8⌉ bytes. */
export function packFields(values: Uint8Array, width: FieldWidth): Uint8Array {
  return packRows(values, 1, values.length, width)
}

/** Pack a [rows, cols] matrix with every row padded to whole bytes: [rows, ⌈cols · width / 8⌉]. */
export function packRows(values: Uint8Array, rows: number, cols: number, width: FieldWidth): Uint8Array {
  const rowBytes = Math.ceil((cols * width) / 8)
  const bytes = new Uint8Array(rows * rowBytes)
  if (rowBytes * 8 === cols * width) packRange(values, 0, rows * cols, width, bytes, 0)
  else for (let r = 0; r < rows; r++) packRange(values, r * cols, (r + 1) * cols, width, bytes, r * rowBytes)
  return bytes
}

function kernelWidth(bits: number): FieldWidth {
  if (bits !== 2 && bits !== 4 && bits !== 8) throw new RangeError(`bits: want 2, 4 or 8, got ${bits}`)
  return bits
}

/**
 * MatMulNBits' B: uint8 [rows, groups, groupSize · bits / 8]. The tail block is filled up with the zero point, which
 * stands for 0.
 * @throws RangeError when bits is not 2, 4 or 8, or a block is not a whole number of bytes.
 */
export function packBlocks(weight: GridWeight): Uint8Array {
  const { rows, cols, groupSize, codes, zeroPoints } = weight
  const width = kernelWidth(weight.bits)
  if ((groupSize * width) % 8) throw new RangeError(`groupSize: want whole bytes at ${width} bits, got ${groupSize}`)
  if (cols % groupSize === 0) return packRows(codes, 1, rows * cols, width)
  const groups = groupsPerRow(cols, groupSize)
  const padded = new Uint8Array(groups * groupSize)
  const rowBytes = (padded.length * width) / 8
  const bytes = new Uint8Array(rows * rowBytes)
  for (let r = 0; r < rows; r++) {
    padded.set(codes.subarray(r * cols, (r + 1) * cols))
    padded.fill(zeroPoints ? zeroPoints[(r + 1) * groups - 1]! : symmetricZeroPoint(width), cols)
    packRange(padded, 0, padded.length, width, bytes, r * rowBytes)
  }
  return bytes
}

/**
 * MatMulNBits' zero points: uint8 [rows, ⌈groups · bits / 8⌉].
 * @throws RangeError when bits is not 2, 4 or 8, or the weight has no zero points.
 */
export function packZeroPoints(weight: GridWeight): Uint8Array {
  const { rows, cols, groupSize, zeroPoints } = weight
  if (!zeroPoints) throw new RangeError('zeroPoints: want one per group, got none (symmetric grid)')
  return packRows(zeroPoints, rows, groupsPerRow(cols, groupSize), kernelWidth(weight.bits))
}

/**
 * One strided plane: L values, padded with 0 to a multiple of F = 8 / width, become L / F bytes; field s of byte p
 * (bits s·width …) holds value s·(L / F) + p.
 */
export function packPlane(values: Uint8Array, width: FieldWidth): Uint8Array {
  return packPlaneRows(values, 1, values.length, width)
}

/** A strided plane for every row of [rows, cols]: [rows, ⌈cols · width / 8⌉], each row padded like {@link packPlane}. */
export function packPlaneRows(values: Uint8Array, rows: number, cols: number, width: FieldWidth): Uint8Array {
  const fields = 8 / width
  const rowBytes = Math.ceil(cols / fields)
  const bytes = new Uint8Array(rows * rowBytes)
  for (let r = 0; r < rows; r++) {
    for (let field = 0; field < fields; field++) {
      const from = r * cols + field * rowBytes
      const count = Math.min(rowBytes, cols - field * rowBytes)
      const shift = field * width
      const at = r * rowBytes
      for (let p = 0; p < count; p++) bytes[at + p]! |= values[from + p]! << shift
    }
  }
  return bytes
}

/**
 * 3-bit codes, stored so that a few shifts give the nibbles that a 4-bit kernel reads. Let P be a row packed at 4 bits
 * (even column in the low nibble) and byte (a, b, p) be P[(2a + b)·cols / 8 + p] for a, b in {0, 1}, p < cols / 8. Then
 * P[a, b, p] = ((low[a, p] >> 2b) & 0x33) | (((high[p] >> (2a + b)) & 0x11) << 2).
 *
 * @param codes 0 … 7, [rows, cols]; cols a multiple of 8.
 * @returns low [rows, 2, cols / 8] and high [rows, cols / 8]: 3 bits a code.
 * @throws RangeError when cols is not a multiple of 8.
 */
export function packNibbleDirect3(
  codes: Uint8Array,
  rows: number,
  cols: number,
): { low: Uint8Array; high: Uint8Array } {
  if (cols % 8) throw new RangeError(`cols: want a multiple of 8, got ${cols}`)
  const eighth = cols / 8
  const low = new Uint8Array(rows * 2 * eighth)
  const high = new Uint8Array(rows * eighth)
  for (let r = 0; r < rows; r++) {
    for (let part = 0; part < 4; part++) {
      const lowAt = (r * 2 + (part >> 1)) * eighth
      const lowShift = 2 * (part & 1)
      let k = r * cols + part * 2 * eighth
      for (let p = 0; p < eighth; p++, k += 2) {
        const nibbles = codes[k]! | (codes[k + 1]! << 4)
        low[lowAt + p]! |= (nibbles & 0x33) << lowShift
        high[r * eighth + p]! |= ((nibbles >> 2) & 0x11) << part
      }
    }
  }
  return { low, high }
}

/** Scales as little-endian float16; exact where they are float16 values already. */
export function floatsToHalfBytes(scales: Float32Array): Uint8Array {
  const halves = new Uint16Array(scales.length)
  for (let i = 0; i < scales.length; i++) halves[i] = floatToHalf(scales[i]!)
  return new Uint8Array(halves.buffer)
}

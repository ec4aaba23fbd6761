/**
 * @file float16 (IEEE 754 binary16) and bfloat16 to and from JavaScript numbers, exactly.
 *
 * Rounding is to nearest, ties to even, straight from the double: there is no second rounding through float32.
 */

const scratch = new Float64Array(1)
const scratchWords = new Uint32Array(scratch.buffer)
/** Index of the word with sign and exponent. */
const HIGH = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1 ? 1 : 0

/** Adding and subtracting it rounds a non-negative double below 2^51 to the nearest integer, ties to even. */
const ROUND = 2 ** 52

/** A 16-bit floating-point format: one sign bit, then exponent, then fraction. */
interface Format {
  readonly fractionBits: number
  /** Exponent of the smallest normal number. */
  readonly minExponent: number
  /** Magnitudes from here on round to infinity. */
  readonly overflow: number
  /** Bits of infinity, and of a quiet NaN. */
  readonly infinity: number
  readonly nan: number
  /** 2^(fractionBits − e) for e = minExponent, minExponent + 1, … */
  readonly scales: Float64Array
}

function makeFormat(fractionBits: number, maxExponent: number, infinity: number): Format {
  const minExponent = 1 - maxExponent
  return {
    fractionBits,
    minExponent,
    overflow: (2 - 2 ** (-fractionBits - 1)) * 2 ** maxExponent,
    infinity,
    nan: infinity | (1 << (fractionBits - 1)),
    scales: Float64Array.from({ length: 2 * maxExponent }, (_, i) => 2 ** (fractionBits - minExponent - i)),
  }
}

const HALF = makeFormat(10, 15, 0x7c00)
const BFLOAT = makeFormat(7, 127, 0x7f80)

function encode(x: number, format: Format): number {
  scratch[0] = x
  const high = scratchWords[HIGH]!
  const sign = (high >>> 16) & 0x8000
  const magnitude = Math.abs(x)
  if (!(magnitude < format.overflow)) return sign | (Number.isNaN(x) ? format.nan : format.infinity)
  // Steps above the smallest normal exponent; subnormals share the first step's spacing.
  const step = Math.max(0, ((high >>> 20) & 0x7ff) - 1023 - format.minExponent)
  const significand = magnitude * format.scales[step]! + ROUND - ROUND
  // A normal significand's leading one adds the missing 1 to the exponent, and so does a carry out of rounding.
  return sign | ((step << format.fractionBits) + significand)
}

function decodeHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >>> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0x1f) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25)
}

/** All 65,536 float16 values. */
const HALVES = Float32Array.from({ length: 0x10000 }, (_, bits) => decodeHalf(bits))

const single = new Float32Array(1)
const singleBits = new Uint32Array(single.buffer)

/** @param bits 0 … 65535. */
export function halfToFloat(bits: number): number {
  return HALVES[bits]!
}

/** Bits of the float16 nearest to x. Magnitudes from 65520 on become infinity; NaN becomes the quiet NaN. */
export function floatToHalf(x: number): number {
  return encode(x, HALF)
}

/** The float16 nearest to x, as a number. */
export function roundToHalf(x: number): number {
  return HALVES[encode(x, HALF)]!
}

/** @param bits 0 … 65535. */
export function bfloat16ToFloat(bits: number): number {
  singleBits[0] = bits << 16
  return single[0]!
}

/** Bits of the bfloat16 nearest to x. Beyond its range: infinity; NaN becomes the quiet NaN. */
export function floatToBfloat16(x: number): number {
  return encode(x, BFLOAT)
}

/** The bfloat16 nearest to x, as a number. */
export function roundToBfloat16(x: number): number {
  return bfloat16ToFloat(encode(x, BFLOAT))
}

/** @param into as long as `bits`; made when not given. */
export function halvesToFloats(bits: Uint16Array, into = new Float32Array(bits.length)): Float32Array {
  for (let i = 0; i < bits.length; i++) into[i] = HALVES[bits[i]!]!
  return into
}

export function floatsToHalves(values: ArrayLike<number>): Uint16Array {
  const bits = new Uint16Array(values.length)
  for (let i = 0; i < bits.length; i++) bits[i] = encode(values[i]!, HALF)
  return bits
}

/** @param into as long as `bits`; made when not given. */
export function bfloat16sToFloats(bits: Uint16Array, into = new Float32Array(bits.length)): Float32Array {
  const words = new Uint32Array(into.buffer, into.byteOffset, into.length)
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16
  return into
}

export function floatsToBfloat16s(values: ArrayLike<number>): Uint16Array {
  const bits = new Uint16Array(values.length)
  for (let i = 0; i < bits.length; i++) bits[i] = encode(values[i]!, BFLOAT)
  return bits
}

/**
 * @file Scalar conversions between numbers and the 16-bit float formats, IEEE binary16 and bfloat16. Both encoders round
 * the float64 argument once, to nearest, ties to even, so nothing is rounded twice on the way through float32.
 */

const view = new Float64Array(1)
const words = new Uint32Array(view.buffer)
/** Adding and subtracting 1.5·2^52 rounds |x| < 2^51 to an integer, ties to even. */
const ROUNDER = 6755399441055744

/** ⌊log2 |x|⌋ of a finite number that is normal in float64. */
function exponentOf(x: number): number {
  view[0] = x
  return ((words[1]! >>> 20) & 0x7ff) - 1023
}

/** 2^exponent for −1022 ≤ exponent ≤ 1023; the ** operator takes ten times as long. */
function powerOfTwo(exponent: number): number {
  words[0] = 0
  words[1] = (exponent + 1023) << 20
  return view[0]!
}

/** The bits, without the sign, of `magnitude` ≥ 0 in a format with `digits` stored mantissa bits and least exponent `least`. */
function encodeMagnitude(magnitude: number, digits: number, least: number): number {
  const exponent = Math.max(exponentOf(magnitude), least)
  const mantissa = magnitude * powerOfTwo(digits - exponent) + ROUNDER - ROUNDER
  // A mantissa that rounds up to the next power of two carries into the exponent field, as it should.
  return ((exponent - least) << digits) + mantissa
}

function signBit(x: number): number {
  return x < 0 || Object.is(x, -0) ? 0x8000 : 0
}

/** The binary16 bits nearest to x. From 65520 upwards it is infinity; every NaN becomes 0x7e00. */
export function floatToHalf(x: number): number {
  if (Number.isNaN(x)) return 0x7e00
  const magnitude = Math.abs(x)
  return signBit(x) | (magnitude < 65520 ? encodeMagnitude(magnitude, 10, -14) : 0x7c00)
}

/** The value of binary16 bits (0 … 65535); exact. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >>> 10) & 31
  const mantissa = bits & 0x3ff
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (exponent ? (1024 + mantissa) * powerOfTwo(exponent - 25) : mantissa * 2 ** -24)
}

/**
 * rounders[e + 14] = 1.5·2^(e + 42), whose last bit is 2^(e − 10), the last bit of a half in [2^e, 2^(e + 1)). Adding and
 * subtracting it rounds to that bit.
 */
const rounders = Float64Array.from({ length: 30 }, (_, i) => 1.5 * 2 ** (i + 28))

/** The binary16 value nearest to x: halfToFloat(floatToHalf(x)) without the detour through bits. */
export function roundToHalf(x: number): number {
  const magnitude = Math.abs(x)
  if (!(magnitude < 65520)) return x * Number.POSITIVE_INFINITY
  const rounder = rounders[Math.max(exponentOf(magnitude), -14) + 14]!
  const rounded = magnitude + rounder - rounder
  return x < 0 || Object.is(x, -0) ? -rounded : rounded
}

/** The bfloat16 bits nearest to x. Beyond the largest finite bfloat16 it is infinity; every NaN becomes 0x7fc0. */
export function floatToBfloat16(x: number): number {
  if (Number.isNaN(x)) return 0x7fc0
  const magnitude = Math.abs(x)
  // 2^128 − 2^119 lies half-way between the largest finite value and 2^128.
  return signBit(x) | (magnitude < 2 ** 128 - 2 ** 119 ? encodeMagnitude(magnitude, 7, -126) : 0x7f80)
}

const singleView = new Float32Array(1)
const singleWords = new Uint32Array(singleView.buffer)

/** The value of bfloat16 bits (0 … 65535); exact. */
export function bfloat16ToFloat(bits: number): number {
  singleWords[0] = bits << 16
  return singleView[0]!
}

import { expect, test } from 'vitest'
import { bfloat16ToFloat, floatToBfloat16, floatToHalf, halfToFloat, roundToHalf } from '../../src/quant/float16.ts'

/** The value of a small float format, from its definition. */
function decode(bits: number, mantissaBits: number, exponentBits: number): number {
  const sign = bits >> 15 ? -1 : 1
  const mantissa = bits % 2 ** mantissaBits
  const exponent = Math.floor(bits / 2 ** mantissaBits) % 2 ** exponentBits
  const bias = 2 ** (exponentBits - 1) - 1
  if (exponent === 2 ** exponentBits - 1) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias - mantissaBits)
  return sign * (1 + mantissa / 2 ** mantissaBits) * 2 ** (exponent - bias)
}

const FORMATS = [
  { name: 'float16', encode: floatToHalf, toFloat: halfToFloat, mantissa: 10, exponent: 5, infinity: 0x7c00 },
  { name: 'bfloat16', encode: floatToBfloat16, toFloat: bfloat16ToFloat, mantissa: 7, exponent: 8, infinity: 0x7f80 },
]

for (const { name, encode, toFloat, mantissa, exponent, infinity } of FORMATS) {
  test(`${name}: all 65536 patterns decode by definition and encode back`, () => {
    const wrong: number[] = []
    for (let bits = 0; bits < 65536; bits++) {
      const value = toFloat(bits)
      if (!Object.is(value, decode(bits, mantissa, exponent))) wrong.push(bits)
      if (!Number.isNaN(value) && encode(value) !== bits) wrong.push(bits)
    }
    expect(wrong).toEqual([])
    expect(Number.isNaN(toFloat(encode(Number.NaN)))).toBe(true)
  })

  test(`${name}: between neighbours the nearer wins, half-way the even one, with no second rounding`, () => {
    const wrong: number[] = []
    for (let bits = 0; bits < infinity; bits++) {
      const below = decode(bits, mantissa, exponent)
      // Above the largest finite value, the next step would be the value that infinity stands for.
      const above =
        bits + 1 < infinity
          ? decode(bits + 1, mantissa, exponent)
          : below + (below - decode(bits - 1, mantissa, exponent))
      const middle = below / 2 + above / 2
      const nudge = (above - below) * 2 ** -35
      const even = bits % 2 === 0 ? bits : bits + 1
      if (encode(middle) !== even || encode(-middle) !== even + 0x8000) wrong.push(bits)
      if (encode(middle - nudge) !== bits || encode(middle + nudge) !== bits + 1) wrong.push(bits)
    }
    expect(wrong).toEqual([])
    expect(encode(Number.MAX_VALUE)).toBe(infinity)
    expect(encode(Number.NEGATIVE_INFINITY)).toBe(infinity + 0x8000)
    expect(encode(Number.MIN_VALUE)).toBe(0)
    expect(encode(-0)).toBe(0x8000)
  })
}

test('roundToHalf is encode then decode', () => {
  const wrong: number[] = []
  for (let bits = 0; bits < 0x7c00; bits++) {
    for (const share of [0, 0.25, 0.5, 0.75]) {
      const x = halfToFloat(bits) + share * (halfToFloat(Math.min(bits + 1, 0x7bff)) - halfToFloat(bits))
      for (const signed of [x, -x])
        if (!Object.is(roundToHalf(signed), halfToFloat(floatToHalf(signed)))) wrong.push(signed)
    }
  }
  expect(wrong).toEqual([])
  expect(roundToHalf(65519.99)).toBe(65504)
  expect(roundToHalf(-65520)).toBe(Number.NEGATIVE_INFINITY)
  expect(roundToHalf(Number.NaN)).toBeNaN()
})

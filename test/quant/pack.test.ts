import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { halfToFloat } from '../../src/quant/float16.ts'
import {
  type FieldWidth,
  floatsToHalfBytes,
  packBlocks,
  packFields,
  packNibbleDirect3,
  packPlane,
  packPlaneRows,
  packRows,
  packZeroPoints,
} from '../../src/quant/pack.ts'
import type { GridWeight } from '../../src/quant/quantizedWeight.ts'

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
const u8 = (...values: number[]) => Uint8Array.from(values)

function weightOf(fields: Partial<GridWeight> & Pick<GridWeight, 'codes' | 'bits'>): GridWeight {
  return {
    rows: 1,
    cols: fields.codes.length,
    groupSize: 4,
    scales: new Float32Array(0),
    zeroPoints: undefined,
    scaleType: 'float16',
    ...fields,
  }
}

describe('bytes, literally', () => {
  test('fields: the first value is in the low bits, the last byte is filled with zeros', () => {
    expect(hex(packFields(u8(1, 0, 1, 1, 0, 0, 0, 1, 1), 1))).toBe('8d01')
    expect(hex(packFields(u8(1, 2, 3, 0, 2), 2))).toBe('3902')
    expect(hex(packFields(u8(0xa, 0xb, 0xc), 4))).toBe('ba0c')
    expect(hex(packFields(u8(0xab, 0xcd), 8))).toBe('abcd')
    expect(hex(packFields(u8(), 4))).toBe('')
  })

  test('rows: each begins a byte', () => {
    expect(hex(packRows(u8(1, 2, 3, 4, 5, 6), 2, 3, 4))).toBe('21035406')
    expect(hex(packRows(u8(3, 2, 1, 1, 2, 3), 2, 3, 2))).toBe('1b39')
    expect(hex(packRows(u8(1, 2, 3, 4), 2, 2, 4))).toBe('2143')
  })

  test('blocks: whole ones', () => {
    expect(hex(packBlocks(weightOf({ codes: u8(1, 2, 3, 4, 5, 6, 7, 8), bits: 4 })))).toBe('21436587')
    expect(hex(packBlocks(weightOf({ codes: u8(0, 1, 2, 3), bits: 2 })))).toBe('e4')
    expect(hex(packBlocks(weightOf({ codes: u8(9, 8, 7, 6), bits: 8 })))).toBe('09080706')
  })

  test('blocks: the tail is filled with the zero point, of the grid or of the last group', () => {
    const codes = u8(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    expect(hex(packBlocks(weightOf({ codes, rows: 2, cols: 5, bits: 4 })))).toBe('2143858876988a88')
    const zeroPoints = u8(0, 15, 1, 14)
    expect(hex(packBlocks(weightOf({ codes, rows: 2, cols: 5, bits: 4, zeroPoints })))).toBe('2143f5ff7698eaee')
    expect(hex(packBlocks(weightOf({ codes: u8(1, 2, 3), bits: 2, groupSize: 8 })))).toBe('b9aa')
    expect(hex(packBlocks(weightOf({ codes: u8(1), bits: 8, groupSize: 2 })))).toBe('0180')
  })

  test('zero points: rows of whole bytes', () => {
    const codes = new Uint8Array(2 * 12)
    const zeroPoints = u8(1, 2, 3, 4, 5, 6)
    expect(hex(packZeroPoints(weightOf({ codes, rows: 2, cols: 12, bits: 4, zeroPoints })))).toBe('21035406')
    expect(hex(packZeroPoints(weightOf({ codes, rows: 2, cols: 12, bits: 8, zeroPoints })))).toBe('010203040506')
    expect(() => packZeroPoints(weightOf({ codes, rows: 2, cols: 12, bits: 4 }))).toThrow(RangeError)
  })

  test('planes: field s of byte p holds value s·(L / F) + p', () => {
    expect(hex(packPlane(u8(1, 2, 3, 0, 0, 1, 2, 3), 2))).toBe('8dd2')
    // Five values are padded to eight.
    expect(hex(packPlane(u8(1, 2, 3, 0, 2), 2))).toBe('2d02')
    expect(hex(packPlane(u8(1, 2, 3), 4))).toBe('3102')
    expect(hex(packPlane(u8(1, 1, 0, 0, 0, 0, 0, 1, 1), 1))).toBe('1109')
    expect(hex(packPlaneRows(u8(1, 2, 3, 4, 5, 6), 2, 3, 4))).toBe('31026405')
  })

  test('nibble-direct 3 bits', () => {
    // Nibble-packed row: 10 32 54 76, bytes (a, b) = (0,0) (0,1) (1,0) (1,1).
    const { low, high } = packNibbleDirect3(u8(0, 1, 2, 3, 4, 5, 6, 7), 1, 8)
    expect(hex(low)).toBe(hex(u8(0x10 | (0x32 << 2), 0x10 | (0x32 << 2))))
    // Bit 2 is set in both nibbles of the last two bytes.
    expect(hex(high)).toBe(hex(u8((0x11 << 2) | (0x11 << 3))))
    expect(() => packNibbleDirect3(new Uint8Array(12), 1, 12)).toThrow(RangeError)
  })

  test('scales as float16', () => {
    expect(hex(floatsToHalfBytes(Float32Array.of(1, -2, 2 ** -14, 65504)))).toBe('003c00c00004ff7b')
  })

  test('what cannot be packed', () => {
    expect(() => packBlocks(weightOf({ codes: u8(1), bits: 3 }))).toThrow(RangeError)
    expect(() => packBlocks(weightOf({ codes: u8(1), bits: 4, groupSize: 3 }))).toThrow(RangeError)
  })
})

/** Field `index` of consecutive fields. */
const field = (bytes: Uint8Array, index: number, width: number) => {
  const bit = index * width
  return (bytes[bit >> 3]! >> (bit & 7)) & (2 ** width - 1)
}

const matrix = (width: number) =>
  fc
    .tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 41 }))
    .chain(([rows, cols]) =>
      fc
        .uint8Array({ minLength: rows * cols, maxLength: rows * cols, max: 2 ** width - 1 })
        .map((values) => ({ rows, cols, values })),
    )

describe('unpacking gives the values back', () => {
  for (const width of [1, 2, 4, 8] as FieldWidth[]) {
    test(`rows of ${width}-bit fields`, () => {
      fc.assert(
        fc.property(matrix(width), ({ rows, cols, values }) => {
          const bytes = packRows(values, rows, cols, width)
          const stride = Math.ceil((cols * width) / 8)
          expect(bytes.length).toBe(rows * stride)
          const back = values.map((_, i) => field(bytes.subarray(Math.floor(i / cols) * stride), i % cols, width))
          expect(back).toEqual(values)
        }),
      )
    })

    test(`${width}-bit planes`, () => {
      fc.assert(
        fc.property(matrix(width), ({ rows, cols, values }) => {
          const bytes = packPlaneRows(values, rows, cols, width)
          const stride = Math.ceil((cols * width) / 8)
          expect(bytes.length).toBe(rows * stride)
          // As the graph does it: shift the whole plane by each field, one result behind the other.
          const back = values.map((_, i) => {
            const [row, k] = [Math.floor(i / cols), i % cols]
            return (bytes[row * stride + (k % stride)]! >> (Math.floor(k / stride) * width)) & (2 ** width - 1)
          })
          expect(back).toEqual(values)
        }),
      )
    })
  }

  test('nibble-direct 3 bits unpack to the row packed at 4 bits', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 6 }), fc.nat(), (rows, eighth, seed) => {
        const cols = 8 * eighth
        const codes = Uint8Array.from({ length: rows * cols }, (_, i) => ((i + seed) * 2654435761) >>> 29)
        const { low, high } = packNibbleDirect3(codes, rows, cols)
        const unpacked = new Uint8Array((rows * cols) / 2)
        for (let r = 0; r < rows; r++)
          for (let a = 0; a < 2; a++)
            for (let b = 0; b < 2; b++)
              for (let p = 0; p < eighth; p++)
                unpacked[((r * 2 + a) * 2 + b) * eighth + p] =
                  ((low[(r * 2 + a) * eighth + p]! >> (2 * b)) & 0x33) |
                  (((high[r * eighth + p]! >> (2 * a + b)) & 0x11) << 2)
        expect(unpacked).toEqual(packFields(codes, 4))
      }),
    )
  })

  test('float16 scales', () => {
    const scales = Float32Array.from({ length: 500 }, (_, i) => halfToFloat(0x400 + 60 * i))
    const bytes = floatsToHalfBytes(scales)
    const halves = new Uint16Array(bytes.buffer)
    expect(Float32Array.from(halves, halfToFloat)).toEqual(scales)
  })
})

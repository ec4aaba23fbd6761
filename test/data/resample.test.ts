import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { resample } from '../../src/data/resample.ts'
import { CUBIC, resizeOracle, TRIANGLE } from '../oracles/resize.ts'

/** 7 rows of 5. */
const PIXELS = Uint8Array.from({ length: 35 }, (_, i) => (i * i * 31 + i * 17) % 256)

describe('resample', () => {
  // Image.frombytes('L', (5, 7), …).resize((3, 4), filter) of Pillow 11.3.
  it.each([
    ['nearest', [0, 158, 52, 198, 60, 170, 196, 18, 88, 250, 32, 62]],
    ['lanczos', [82, 126, 65, 126, 57, 145, 126, 73, 167, 169, 62, 107]],
    ['linear', [77, 113, 77, 120, 75, 140, 138, 77, 153, 158, 66, 113]],
    ['cubic', [77, 121, 70, 121, 65, 145, 134, 73, 159, 163, 62, 110]],
    ['box', [84, 130, 76, 94, 46, 154, 200, 18, 119, 150, 25, 120]],
    ['hamming', [65, 122, 74, 130, 67, 147, 154, 59, 140, 161, 51, 109]],
  ] as const)('is Pillow to the bit: %s', (kernel, expected) => {
    const image = { data: PIXELS, height: 7, width: 5 }
    expect([...resample(image, 1, [4, 3], kernel).data]).toEqual(expected)
    const three = {
      ...image,
      data: Uint8Array.from({ length: 105 }, (_, i) => (i % 3 === 1 ? PIXELS[Math.floor(i / 3)]! : 9)),
    }
    const colours = resample(three, 3, [4, 3], kernel).data
    expect([...colours.filter((_, i) => i % 3 === 1)]).toEqual(expected)
    expect([...colours.filter((_, i) => i % 3 !== 1)]).toEqual(Array(24).fill(9))
  })

  it('is the weighted mean, rounded to bytes once across and once down', () => {
    const size = fc.integer({ min: 1, max: 12 })
    const kernels = fc.constantFrom(['linear', TRIANGLE, 1] as const, ['cubic', CUBIC, 1.3] as const)
    fc.assert(
      fc.property(
        size,
        size,
        size,
        size,
        kernels,
        fc.infiniteStream(fc.nat(255)),
        (h, w, newH, newW, kernel, stream) => {
          // Far from 0 and 255, so that no overshoot is cut off.
          const data = Uint8Array.from({ length: h * w }, () => 90 + (stream.next().value as number) / 5)
          const result = resample({ data, height: h, width: w }, 1, [newH, newW], kernel[0])
          expect(result).toMatchObject({ height: newH, width: newW })
          for (const [i, value] of resizeOracle(data, [h, w], [newH, newW], kernel[1]).entries()) {
            expect(Math.abs(result.data[i]! - value)).toBeLessThan(kernel[2] + 1e-4)
          }
        },
      ),
    )
  })

  it('changes nothing when the size is the same', () => {
    const image = { data: PIXELS, height: 7, width: 5 }
    expect(resample(image, 1, [7, 5], 'cubic').data).toBe(PIXELS)
  })
})

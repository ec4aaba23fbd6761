/**
 * @file Made-up inputs for models that come without data: lines of printed digits for the text models, voiced sounds for
 * the voice detectors. Pure noise would leave their outputs at zero, where no comparison means anything.
 */
import type { NdArray } from '../src/data/ndArray.ts'
import { makeRandom, type Random } from '../src/random.ts'

/** Digits on 5 × 7 points, row by row, one number of five bits a row. */
const GLYPHS: readonly (readonly number[])[] = [
  [14, 17, 19, 21, 25, 17, 14],
  [4, 12, 4, 4, 4, 4, 14],
  [14, 17, 1, 2, 4, 8, 31],
  [31, 2, 4, 2, 1, 17, 14],
  [2, 6, 10, 18, 31, 2, 2],
  [31, 16, 30, 1, 1, 17, 14],
  [6, 8, 16, 30, 17, 17, 14],
  [31, 1, 2, 4, 8, 8, 8],
  [14, 17, 17, 14, 17, 17, 14],
  [14, 17, 17, 15, 1, 2, 12],
]

interface Plane {
  readonly values: Float32Array
  readonly height: number
  readonly width: number
}

/** Set the points of a digit, each a square of `size` pixels, with its upper left corner at (top, left). */
function drawDigit(
  { values, height, width }: Plane,
  digit: number,
  top: number,
  left: number,
  size: number,
  ink: number,
) {
  for (let y = 0; y < 7 * size; y++) {
    for (let x = 0; x < 5 * size; x++) {
      const isInk = (GLYPHS[digit]![Math.floor(y / size)]! >> (4 - Math.floor(x / size))) & 1
      const [row, column] = [top + y, left + x]
      if (isInk && row < height && column < width) values[row * width + column] = ink
    }
  }
}

function drawLine(plane: Plane, random: Random, top: number, size: number, ink: number): void {
  const step = 6 * size
  const count = Math.floor(plane.width / step) - 2 - random.below(3)
  for (let i = 0; i < count; i++) {
    // One space in six divides words.
    if (random.below(6) > 0) drawDigit(plane, random.below(10), top, (i + 1) * step, size, ink)
  }
}

/**
 * Images of printed numbers, dark on light with a little noise, grey in all channels, values in [−1, 1].
 * @param size pixels of a point of the font; a digit is 5 × 7 points.
 */
export function printedNumbers(shape: readonly [number, number, number, number], seed: number, size: number): NdArray {
  const [count, channels, height, width] = shape
  const random = makeRandom(seed)
  const area = height * width
  const data = new Float32Array(count * channels * area)
  for (let image = 0; image < count; image++) {
    const plane = { values: new Float32Array(area).fill(0.6 + random.uniform() * 0.3), height, width }
    const margin = Math.floor((Math.min(height, 12 * size) - 7 * size) / 2)
    for (let top = margin; top + 7 * size <= height; top += 12 * size) {
      drawLine(plane, random, top, size, -0.9 + random.uniform() * 0.3)
    }
    for (let i = 0; i < area; i++) plane.values[i]! += (random.uniform() - 0.5) * 0.1
    for (let c = 0; c < channels; c++) data.set(plane.values, (image * channels + c) * area)
  }
  return { dtype: 'float32', shape, data }
}

const SAMPLE_RATE = 16_000
const PITCH_HERTZ = [90, 240] as const
const FORMANTS_HERTZ = [700, 1200, 2600] as const
const BANDWIDTH_HERTZ = 150

/** Vowel-like sounds, one a row: harmonics of a pitch, loudest near three formants, with a little noise. */
export function voicedSounds(shape: readonly [number, number], seed: number): NdArray {
  const [count, length] = shape
  const random = makeRandom(seed)
  const data = new Float32Array(count * length)
  for (let row = 0; row < count; row++) {
    const pitch = PITCH_HERTZ[0] + random.uniform() * (PITCH_HERTZ[1] - PITCH_HERTZ[0])
    const formants = FORMANTS_HERTZ.map((hertz) => hertz * (0.7 + random.uniform() * 0.6))
    for (let harmonic = 1; harmonic * pitch < 4000; harmonic++) {
      const hertz = harmonic * pitch
      const nearest = Math.min(...formants.map((f) => Math.abs(f - hertz)))
      const amplitude = (0.15 / Math.sqrt(harmonic)) * (0.1 + Math.exp(-((nearest / BANDWIDTH_HERTZ) ** 2)))
      const phase = random.uniform() * 2 * Math.PI
      for (let t = 0; t < length; t++) {
        data[row * length + t]! += amplitude * Math.sin((2 * Math.PI * hertz * t) / SAMPLE_RATE + phase)
      }
    }
    for (let t = 0; t < length; t++) data[row * length + t]! += random.normal() * 0.003
  }
  return { dtype: 'float32', shape, data }
}

/**
 * @file Resizing of 8-bit images with antialiasing, to the bit as PIL does it (measured with Pillow 11.3; 13 goes down first
 * and differs by rounding), which is what image processors were written
 * for (Pillow, src/libImaging/Resample.c): across, then down, with weights of 22 bits after the point, rounded to bytes
 * between the two.
 */

export type Kernel = 'nearest' | 'lanczos' | 'linear' | 'cubic' | 'box' | 'hamming'

/** Pixels row by row, `channels` bytes each. */
export interface Pixels {
  readonly data: Uint8Array
  readonly height: number
  readonly width: number
}

const FRACTION = 2 ** 22

interface Filter {
  /** Pixels to each side that it reaches, of the smaller image. */
  readonly reach: number
  readonly weight: (x: number) => number
}

const FILTERS: Readonly<Record<Exclude<Kernel, 'nearest'>, Filter>> = {
  box: { reach: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  linear: { reach: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  hamming: { reach: 1, weight: (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0) },
  cubic: { reach: 2, weight: (x) => cubic(Math.abs(x)) },
  lanczos: { reach: 3, weight: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x)
}

/** Keys' cubic convolution with a = −0.5. */
function cubic(x: number): number {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0
}

/** @returns the image itself when it has that size already. */
export function resample(
  pixels: Pixels,
  channels: number,
  [height, width]: readonly [number, number],
  kernel: Kernel,
): Pixels {
  let { data } = pixels
  if (width !== pixels.width) {
    // Pixels of a row are neighbours; rows are independent.
    data = resampleAxis(data, { outer: pixels.height, size: pixels.width, inner: channels }, width, kernel)
  }
  if (height !== pixels.height) {
    data = resampleAxis(data, { outer: 1, size: pixels.height, inner: width * channels }, height, kernel)
  }
  return { data, height, width }
}

/** Resize the middle one of three axes. */
function resampleAxis(
  data: Uint8Array,
  { outer, size, inner }: { outer: number; size: number; inner: number },
  newSize: number,
  kernel: Kernel,
): Uint8Array {
  // Clamped to bytes by the type; sums are whole numbers below 2^53.
  const result = new Uint8ClampedArray(outer * newSize * inner)
  for (let at = 0; at < newSize; at++) {
    const { first, weights } = tapsOf(at, size, newSize, kernel)
    for (let o = 0; o < outer; o++) {
      for (let i = 0; i < inner; i++) {
        let sum = FRACTION / 2
        for (let t = 0; t < weights.length; t++) sum += weights[t]! * data[(o * size + first + t) * inner + i]!
        result[(o * newSize + at) * inner + i] = Math.floor(sum / FRACTION)
      }
    }
  }
  return new Uint8Array(result.buffer)
}

/** The first pixel that a new one is made of, and the weights from there on, in units of 1 / {@link FRACTION}. */
function tapsOf(at: number, size: number, newSize: number, kernel: Kernel): { first: number; weights: number[] } {
  const scale = size / newSize
  const centre = (at + 0.5) * scale
  if (kernel === 'nearest') return { first: Math.min(size - 1, Math.floor(centre)), weights: [FRACTION] }
  const { reach, weight } = FILTERS[kernel]
  const stretch = Math.max(scale, 1)
  const first = Math.max(0, Math.trunc(centre - reach * stretch + 0.5))
  const end = Math.min(size, Math.trunc(centre + reach * stretch + 0.5))
  const raw = Array.from({ length: end - first }, (_, i) => weight((first + i - centre + 0.5) / stretch))
  const total = raw.reduce((sum, value) => sum + value, 0)
  return { first, weights: raw.map((value) => roundAway((value / total) * FRACTION)) }
}

/** Halves away from zero, as C's cast of x ± 0.5. */
function roundAway(value: number): number {
  return value < 0 ? Math.trunc(value - 0.5) : Math.trunc(value + 0.5)
}

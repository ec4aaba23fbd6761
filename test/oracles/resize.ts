/** @file Resize with antialiasing, one value at a time, from its definition as a weighted mean. */

export const TRIANGLE = (x: number) => Math.max(0, 1 - Math.abs(x))

/** Keys' cubic convolution, a = −1/2, written out by powers. */
export const CUBIC = (x: number) => {
  const t = Math.abs(x)
  if (t >= 2) return 0
  return t < 1 ? 1.5 * t ** 3 - 2.5 * t ** 2 + 1 : -0.5 * t ** 3 + 2.5 * t ** 2 - 4 * t + 2
}

/** One channel. A pixel's weight is the kernel at its distance in pixels of the smaller image; weights sum to 1 inside the image. */
export function resizeOracle(
  pixels: ArrayLike<number>,
  [height, width]: readonly [number, number],
  [newHeight, newWidth]: readonly [number, number],
  kernel: (x: number) => number = TRIANGLE,
): number[] {
  const result: number[] = []
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      let sum = 0
      for (const [row, vertical] of weights(y, height, newHeight, kernel)) {
        for (const [column, horizontal] of weights(x, width, newWidth, kernel)) {
          sum += vertical * horizontal * pixels[row * width + column]!
        }
      }
      result.push(sum)
    }
  }
  return result
}

function weights(at: number, size: number, newSize: number, kernel: (x: number) => number): [number, number][] {
  const ratio = size / newSize
  const reach = Math.max(1, ratio)
  const centre = (at + 0.5) * ratio
  const all = Array.from({ length: size }, (_, i): [number, number] => [i, kernel((i + 0.5 - centre) / reach)])
  const total = all.reduce((sum, [, weight]) => sum + weight, 0)
  return all.map(([i, weight]) => [i, weight / total])
}

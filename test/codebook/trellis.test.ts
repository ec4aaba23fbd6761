import { describe, expect, it } from 'vitest'
import { bestPath, makeTrellis } from '../../src/codebook/trellis.ts'
import { makeRandom } from '../../src/random.ts'

/** Squared error of a path, and its levels, by the definition: the index is the last `window` bits of all codes so far. */
function costOf(
  codes: ArrayLike<number>,
  bits: number,
  window: number,
  levels: Float32Array,
  targets: Float64Array,
  scales: Float64Array,
) {
  let stream = 0n
  let cost = 0
  for (let i = 0; i < codes.length; i++) {
    stream = (stream << BigInt(bits)) | BigInt(codes[i]!)
    const index = Number(stream & ((1n << BigInt(window)) - 1n))
    cost += (targets[i]! - scales[i]! * levels[index]!) ** 2
  }
  return cost
}

function leastCost(steps: number, bits: number, cost: (codes: number[]) => number): number {
  let least = Number.POSITIVE_INFINITY
  for (let all = 0; all < 2 ** (bits * steps); all++) {
    const codes = Array.from({ length: steps }, (_, i) => Math.floor(all / 2 ** (bits * i)) % 2 ** bits)
    least = Math.min(least, cost(codes))
  }
  return least
}

describe('the best path', () => {
  it.each([
    { bits: 2, window: 4, steps: 6 },
    { bits: 2, window: 5, steps: 5 },
    { bits: 2, window: 8, steps: 5 },
    { bits: 3, window: 8, steps: 4 },
    { bits: 4, window: 8, steps: 3 },
  ])('is the best of all: $bits bits, window $window', ({ bits, window, steps }) => {
    const random = makeRandom(bits * 100 + window)
    for (let trial = 0; trial < 4; trial++) {
      const levels = Float32Array.from({ length: 1 << window }, () => Math.round(40 * random.normal()))
      // Targets that are parts of a level and equal scales are searched exactly.
      const scales = new Float64Array(steps).fill(0.25)
      const targets = Float64Array.from({ length: steps }, () => (0.25 * Math.round(16 * 40 * random.normal())) / 16)
      const codes = new Uint8Array(steps)
      bestPath(makeTrellis(bits, window, levels), targets, scales, 0, steps, codes)
      const cost = (path: ArrayLike<number>) => costOf(path, bits, window, levels, targets, scales)
      expect(cost(codes)).toBeCloseTo(leastCost(steps, bits, cost), 6)
    }
  })

  it('weighs steps by their scales', () => {
    const random = makeRandom(7)
    const levels = Float32Array.from({ length: 16 }, () => Math.round(50 * random.normal()))
    for (let trial = 0; trial < 20; trial++) {
      const scales = Float64Array.from({ length: 5 }, () => Math.exp(random.normal()))
      const targets = scales.map((scale) => 40 * scale * random.normal())
      const codes = new Uint8Array(5)
      bestPath(makeTrellis(2, 4, levels), targets, scales, 0, 5, codes)
      const cost = (path: ArrayLike<number>) => costOf(path, 2, 4, levels, targets, scales)
      expect(cost(codes)).toBeLessThan(1.01 * leastCost(5, 2, cost) + 1e-9)
    }
  })

  it('reads and writes its own places alone', () => {
    const levels = Float32Array.from({ length: 256 }, (_, i) => (i * 37) % 101)
    const targets = new Float64Array(9).fill(20)
    const codes = new Uint8Array(9).fill(99)
    bestPath(makeTrellis(2, 8, levels), targets, new Float64Array(9).fill(1), 3, 4, codes)
    expect([...codes.subarray(0, 3), ...codes.subarray(7)]).toEqual([99, 99, 99, 99, 99])
    expect(Math.max(...codes.subarray(3, 7))).toBeLessThan(4)
  })
})

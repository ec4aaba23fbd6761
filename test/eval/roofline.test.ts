import { describe, expect, it } from 'vitest'
import type { Kernel } from '../../src/eval/kernelLatency.ts'
import { secondsOf } from '../../src/eval/latencyTable.ts'
import { roofline, rooflineTable } from '../../src/eval/roofline.ts'

const FLOAT: Kernel = { form: 'float' }
const lowBit = (bits: 2 | 4 | 8, groupSize: number): Kernel => ({
  form: 'MatMulNBits',
  bits,
  groupSize,
  accuracyLevel: 4,
})

const machine = { flopsPerSecond: 1e9, bytesPerSecond: 1e6 }

describe('roofline', () => {
  it('is the memory traffic of a product with few positions', () => {
    const shape = { rows: 10, cols: 100, positions: 1 }
    const activations = 4 * (10 + 100)
    expect(roofline(machine, shape, FLOAT)).toBeCloseTo((4000 + activations) / 1e6, 12)
    // 100 columns are four blocks of 32: 16 bytes of codes each, a scale of 4, and the sum of the codes at level 4.
    expect(roofline(machine, shape, lowBit(4, 32))).toBeCloseTo((10 * 4 * 24 + activations) / 1e6, 12)
    const level0: Kernel = { form: 'MatMulNBits', bits: 4, groupSize: 32, accuracyLevel: 0 }
    expect(roofline(machine, shape, level0)).toBeCloseTo((10 * 4 * 20 + activations) / 1e6, 12)
  })

  it('is the arithmetic of one with many, at the speed of the kernel', () => {
    const fast = { flopsPerSecond: 1e6, bytesPerSecond: 1e9, speedup: { 4: 2 } }
    const shape = { rows: 10, cols: 100, positions: 50 }
    expect(roofline(fast, shape, FLOAT)).toBeCloseTo(0.1, 12)
    expect(roofline(fast, shape, lowBit(4, 32))).toBeCloseTo(0.05, 12)
    expect(roofline(fast, shape, lowBit(8, 32))).toBeCloseTo(0.1, 12)
  })

  it('predicts ratios near those that were measured where memory decides', () => {
    // 4096 × 4096, one position, one thread: times as fast as float, from measurements of onnxruntime 1.30.
    const server = { flopsPerSecond: 2e11, bytesPerSecond: 3.2e10 }
    const shape = { rows: 4096, cols: 4096, positions: 1 }
    const float = roofline(server, shape, FLOAT)
    expect(float).toBeGreaterThan(0.002)
    expect(float).toBeLessThan(0.0023)
    for (const [kernel, measured] of [
      [lowBit(8, 32), 3.15],
      [lowBit(8, 128), 4.1],
      [lowBit(4, 32), 4.9],
      [lowBit(4, 64), 5.5],
      [lowBit(4, 128), 6.3],
    ] as const) {
      const predicted = float / roofline(server, shape, kernel)
      expect(Math.abs(predicted / measured - 1)).toBeLessThan(0.2)
    }
  })

  it('refuses rates that are none', () => {
    const shape = { rows: 1, cols: 1, positions: 1 }
    expect(() => roofline({ ...machine, bytesPerSecond: 0 }, shape, FLOAT)).toThrow(RangeError)
    expect(() => roofline({ ...machine, flopsPerSecond: Number.NaN }, shape, FLOAT)).toThrow(RangeError)
  })

  it('makes a table like a measured one', () => {
    const shape = { rows: 8, cols: 32, positions: 1 }
    const table = rooflineTable(machine, [
      { shape, kernels: [lowBit(4, 32)] },
      { shape, kernels: [lowBit(4, 32)] },
    ])
    expect(table).toMatchObject({ source: 'roofline', machine: 'roofline of 1.00 Gflop/s, 0.00100 GB/s' })
    expect(table.entries).toHaveLength(2)
    expect(secondsOf(table, shape, FLOAT)).toBe(roofline(machine, shape, FLOAT))
  })
})

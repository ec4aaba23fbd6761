/**
 * @file Times of products on a machine that is not here, from its two peaks (Williams, Waterman and Patterson 2009, "Roofline"): a
 * product takes as long as its arithmetic or its memory traffic, whichever is longer.
 *
 * With one or a few positions the traffic is the weight, and low widths gain what they save in bytes; with many the
 * arithmetic decides, and they gain only what `speedup` says. Measured on an x86-64 server core at 4096 × 4096 and one position, the times
 * relative to float are within a fifth of this for 4 and 8 bits; 2-bit kernels are up to twice as slow as it says, and products whose
 * weights stay in a cache gain less. So it is good for ratios between widths, not for absolute times.
 */
import type { Kernel, ProductShape } from './kernelLatency.ts'
import { distinctRequests, type LatencyRequest, type LatencyTable } from './latencyTable.ts'

export interface Machine {
  /** Peak of float32 arithmetic that a product reaches, a multiplication and an addition counting as two. */
  readonly flopsPerSecond: number
  /** Bandwidth at which weights arrive. */
  readonly bytesPerSecond: number
  /** How many times faster than float32 the arithmetic of a kernel is, by its width; 1 where absent. */
  readonly speedup?: Readonly<Partial<Record<2 | 4 | 8, number>>>
}

/** Bytes of a float32 number, of which activations, scales and sums consist. */
const FLOAT_BYTES = 4

/**
 * Seconds of one product: max(2·M·N·K / (peak · speedup(bits)), (weight + activations) / bandwidth), bytes as the kernel reads them.
 * @param machine rates above 0
 * @throws RangeError when a rate is not above 0
 */
export function roofline(machine: Machine, shape: ProductShape, kernel: Kernel): number {
  const { flopsPerSecond, bytesPerSecond } = machine
  const speedup = kernel.form === 'float' ? 1 : (machine.speedup?.[kernel.bits] ?? 1)
  for (const rate of [flopsPerSecond, bytesPerSecond, speedup]) {
    if (!(rate > 0)) throw new RangeError(`a machine with a rate of ${rate}`)
  }
  const { rows, cols, positions } = shape
  const activations = positions * (rows + cols) * FLOAT_BYTES
  const arithmetic = (2 * positions * rows * cols) / (flopsPerSecond * speedup)
  return Math.max(arithmetic, (weightBytes(shape, kernel) + activations) / bytesPerSecond)
}

/** What a run reads of the weight: codes, padded to whole blocks, and per block a scale, for int8 activations also the sum of its codes. */
function weightBytes({ rows, cols }: ProductShape, kernel: Kernel): number {
  if (kernel.form === 'float') return rows * cols * FLOAT_BYTES
  const blocks = Math.ceil(cols / kernel.groupSize)
  const perBlock = kernel.accuracyLevel === 4 ? 2 : 1
  return rows * blocks * ((kernel.groupSize * kernel.bits) / 8 + perBlock * FLOAT_BYTES)
}

/** A latency table of these estimates, with the same entries as a measured one would have. */
export function rooflineTable(machine: Machine, requests: readonly LatencyRequest[]): LatencyTable {
  const entries = distinctRequests(requests).flatMap(({ shape, kernels }) =>
    kernels.map((kernel) => ({ ...shape, kernel, seconds: roofline(machine, shape, kernel) })),
  )
  const { flopsPerSecond, bytesPerSecond } = machine
  const figures = `${(flopsPerSecond / 1e9).toPrecision(3)} Gflop/s, ${(bytesPerSecond / 1e9).toPrecision(3)} GB/s`
  return { machine: `roofline of ${figures}`, threads: 0, source: 'roofline', entries }
}

/**
 * @file Times of products by shape and kernel: what a latency budget is counted with. Measured on this machine, or read from
 * JSON; `roofline.ts` makes one for a machine that is not here.
 */
import os from 'node:os'
import type { RunOptions } from '../progress.ts'
import { type Kernel, kernelName, measureKernels, type ProductShape, type TimingOptions } from './kernelLatency.ts'

export interface LatencyEntry extends ProductShape {
  readonly kernel: Kernel
  /** Of one product. */
  readonly seconds: number
}

/** Times of kernels on one machine; plain data, for JSON. */
export interface LatencyTable {
  /** What the times are of: a processor, or the figures of a roofline. */
  readonly machine: string
  /** Of onnxruntime within an operator; 0 for one per core, or where it is not known. */
  readonly threads: number
  readonly source: 'measured' | 'roofline'
  readonly entries: readonly LatencyEntry[]
}

/** A product and the kernels to choose from for it. */
export interface LatencyRequest {
  readonly shape: ProductShape
  readonly kernels: readonly Kernel[]
}

const FLOAT: Kernel = { form: 'float' }

/** Requests with equal shapes joined, each kernel once, the float product in all of them. */
export function distinctRequests(requests: readonly LatencyRequest[]): LatencyRequest[] {
  const byShape = new Map<string, { shape: ProductShape; kernels: Map<string, Kernel> }>()
  for (const { shape, kernels } of requests) {
    const { rows, cols, positions } = shape
    const key = `${rows} ${cols} ${positions}`
    const known = byShape.get(key) ?? {
      shape: { rows, cols, positions },
      kernels: new Map([[kernelName(FLOAT), FLOAT]]),
    }
    byShape.set(key, known)
    for (const kernel of kernels) known.kernels.set(kernelName(kernel), kernel)
  }
  return [...byShape.values()].map(({ shape, kernels }) => ({ shape, kernels: [...kernels.values()] }))
}

/**
 * Time all kernels of all layers on this machine, each shape once.
 * @throws QtoolError as {@link measureKernels}
 */
export async function measureTable(
  requests: readonly LatencyRequest[],
  options: TimingOptions,
  run: RunOptions = {},
): Promise<LatencyTable> {
  const entries: LatencyEntry[] = []
  for (const { shape, kernels } of distinctRequests(requests)) {
    const seconds = await measureKernels(shape, kernels, options, run)
    kernels.forEach((kernel, k) => {
      entries.push({ ...shape, kernel, seconds: seconds[k]! })
    })
  }
  const cores = os.cpus()
  const machine = `${cores[0]?.model.trim() || os.arch()}, ${cores.length} cores`
  return { machine, threads: options.threads, source: 'measured', entries }
}

/** Seconds of a product with a kernel; undefined when the table has none for its very shape. */
export function secondsOf(table: LatencyTable, shape: ProductShape, kernel: Kernel): number | undefined {
  const name = kernelName(kernel)
  const { rows, cols, positions } = shape
  return table.entries.find(
    (e) => e.rows === rows && e.cols === cols && e.positions === positions && kernelName(e.kernel) === name,
  )?.seconds
}

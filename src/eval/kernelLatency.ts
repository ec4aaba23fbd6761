/**
 * @file How long the product of a layer takes at each way to store its weight: which kernel of onnxruntime runs, and the time of it
 * on this machine.
 *
 * A kernel is timed in a model of its own: several products of one input with different weights, so many that they do not
 * fit into a core's cache together (the weights of a network do not either) and that the call itself weighs little. Kernels of
 * one shape run in turns, so that a slow or busy moment of the machine hits all alike, and medians are taken.
 */
import {
  DataType,
  encodeModel,
  type ModelProto,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
  makeValueInfo,
  type TensorProto,
} from '../onnx/proto.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import { groupsOf } from '../onnx/represent/stored.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { makeRandom, type Random } from '../random.ts'
import { openSession, type Session } from '../runtime/session.ts'
import { median } from './latency.ts'

/** Y [M, N] = X [M, K] · Wᵀ. */
export interface ProductShape {
  /** N: rows of the weight. */
  readonly rows: number
  /** K: its columns. */
  readonly cols: number
  /** M: rows of activations in one run, batch times sequence. */
  readonly positions: number
}

/** What multiplies: the float32 product, or MatMulNBits at a width that has a kernel. */
export type Kernel =
  | { readonly form: 'float' }
  | {
      readonly form: 'MatMulNBits'
      readonly bits: 2 | 4 | 8
      /** block_size. */
      readonly groupSize: number
      /** 4: activations are rounded to int8. 0: they are not; only 4-bit weights have a kernel for it. */
      readonly accuracyLevel: 0 | 4
    }

type LowBit = Kernel & { readonly form: 'MatMulNBits' }

const FLOAT: Kernel = { form: 'float' }
/** Blocks and level of the products that the runtime makes of DequantizeLinear with one scale per row. */
const FUSED_BLOCK = 32

/**
 * The kernel that runs for each use of a planned layer, in order. Widths without a kernel are decoded when the model is loaded: 3
 * bits in two planes run as 4 bits, 5 and 6 bits, any width that shares its planes with an embedding lookup, and indices into
 * tables as 8.
 *
 * Convolutions, recurrent layers and products of decoded weights run in float. So says this of embedding lookups, whose time does
 * not count, and of DequantizeLinear in front of anything but a product, which decodes in every run and is slower than float.
 *
 * @param accuracyLevel as asked for; kernels of 2 and 8 bits exist for level 4 alone
 */
export function kernelsOf(plan: LayerPlan, accuracyLevel: 0 | 4): Kernel[] {
  return plan.uses.map((use, i): Kernel => {
    const isFused = use === 'DequantizeLinear' && plan.layer.uses[i]!.kernel === 'matmul' && !plan.decodesTensor
    if (use !== 'MatMulNBits' && !isFused) return FLOAT
    const bits = kernelBits(plan)
    // The runtime's own fusion always rounds activations.
    const level = bits === 4 && !isFused ? accuracyLevel : 4
    const groupSize = isFused ? (groupsOf(plan) === 1 ? FUSED_BLOCK : plan.groupSize) : plan.kernelBlock
    return { form: 'MatMulNBits', bits, groupSize, accuracyLevel: level }
  })
}

function kernelBits({ storage, bits }: LayerPlan): 2 | 4 | 8 {
  if (storage === 'rows' || storage === 'indices') return 8
  return storage === 'nibble3' ? 4 : (bits as 2 | 4 | 8)
}

/** Float weights of a timed model have this many bytes in all, or are {@link MOST_COPIES}. */
const WEIGHT_BYTES = 16 * 2 ** 20
const MOST_COPIES = 32

/** Random values in a weight, before they repeat. */
const PERIOD = 4096

/** Products that a timed model consists of. */
export function copiesFor({ rows, cols }: ProductShape): number {
  return Math.max(1, Math.min(MOST_COPIES, Math.ceil(WEIGHT_BYTES / (4 * rows * cols))))
}

/**
 * The model that is timed: `copies` products of input `x` [M, K] with weights of their own, outputs `y0`, `y1`, … Seeded random
 * weights, all different, as the runtime joins equal products; symmetric grids (zero points cost nothing that can be measured).
 */
export function kernelModel(shape: ProductShape, kernel: Kernel, copies: number): ModelProto {
  const { rows, cols, positions } = shape
  const random = makeRandom(1)
  const names = Array.from({ length: copies }, (_, i) => i)
  const isFloat = kernel.form === 'float'
  const weights = names.flatMap((i) =>
    isFloat
      ? [floatTensor(`w${i}`, [cols, rows], () => random.uniform() - 0.5)]
      : lowBitTensors(i, shape, kernel, random),
  )
  const nodes = names.map((i) => {
    if (isFloat) return makeNode('MatMul', ['x', `w${i}`], [`y${i}`], { name: `product${i}` })
    const { bits, groupSize, accuracyLevel } = kernel
    const attributes = { K: cols, N: rows, bits, block_size: groupSize, accuracy_level: accuracyLevel }
    const options = { name: `product${i}`, domain: 'com.microsoft', attributes }
    return makeNode('MatMulNBits', ['x', `w${i}`, `s${i}`], [`y${i}`], options)
  })
  return makeModel({
    irVersion: 8n,
    opsetImport: [makeOpset('', 17), makeOpset('com.microsoft', 1)],
    graph: {
      name: 'kernel',
      node: nodes,
      initializer: weights,
      input: [makeValueInfo('x', DataType.FLOAT, [positions, cols])],
      output: names.map((i) => makeValueInfo(`y${i}`, DataType.FLOAT, [positions, rows])),
    },
  })
}

function lowBitTensors(
  i: number,
  { rows, cols }: ProductShape,
  { bits, groupSize }: LowBit,
  random: Random,
): TensorProto[] {
  const blocks = Math.ceil(cols / groupSize)
  const dims = [rows, blocks, (groupSize * bits) / 8]
  const codes = patterned(new Uint8Array(dims.reduce((a, b) => a * b)), () => random.below(256))
  return [
    makeTensor({ name: `w${i}`, dims: dims.map(BigInt), dataType: DataType.UINT8, rawData: codes }),
    floatTensor(`s${i}`, [rows, blocks], () => (1 + random.uniform()) / 2 ** bits),
  ]
}

function floatTensor(name: string, dims: readonly number[], value: () => number): TensorProto {
  const data = patterned(new Float32Array(dims.reduce((a, b) => a * b)), value)
  return makeTensor({ name, dims: dims.map(BigInt), dataType: DataType.FLOAT, rawData: new Uint8Array(data.buffer) })
}

/** Fill with random values that repeat. */
function patterned<T extends Uint8Array | Float32Array>(data: T, value: () => number): T {
  const period = Math.min(data.length, PERIOD)
  for (let i = 0; i < period; i++) data[i] = value()
  for (let done = period; done < data.length; done *= 2) data.copyWithin(done, 0, done)
  return data
}

export interface TimingOptions {
  /** Of onnxruntime within an operator; 0 for one per core. */
  readonly threads: number
  /** Runs of each kernel that count; 25 when absent. */
  readonly runs?: number
  /** Products in a timed model; {@link copiesFor} when absent. */
  readonly copies?: number
}

const RUNS = 25
const WARM_UP_RUNS = 3
/** Runs of one shape end after this long, milliseconds, when each kernel has had one that counts. */
const TIME_LIMIT = 5000

/**
 * Time kernels of one shape on this machine.
 * @returns seconds of one product, one for each kernel, in order: medians
 * @throws QtoolError `model` when onnxruntime has no such kernel, `interrupted`
 */
export async function measureKernels(
  shape: ProductShape,
  kernels: readonly Kernel[],
  { threads, runs = RUNS, copies = copiesFor(shape) }: TimingOptions,
  { signal }: RunOptions = {},
): Promise<number[]> {
  const random = makeRandom(2)
  const { positions, cols } = shape
  const data = Float32Array.from({ length: positions * cols }, () => random.normal())
  const feeds = new Map([['x', { type: 'float' as const, dims: [positions, cols], data }]])
  const sessions: Session[] = []
  try {
    for (const kernel of kernels) {
      const bytes = encodeModel(kernelModel(shape, kernel, copies))
      const path = `${kernelName(kernel)} [${positions}, ${cols}] × [${cols}, ${shape.rows}]`
      // Threads that still spin from one session's run would keep cores from the next.
      sessions.push(await openSession({ bytes, path }, { threads, config: { 'session.force_spinning_stop': '1' } }))
    }
    const times: number[][] = kernels.map(() => [])
    const begin = performance.now()
    for (let run = -WARM_UP_RUNS; run < runs; run++) {
      await nextTurn()
      checkAborted(signal)
      if (performance.now() - begin > TIME_LIMIT && times.every((own) => own.length > 0)) break
      for (const [k, session] of sessions.entries()) {
        const start = performance.now()
        // All products run, whatever is fetched; one result is handed over.
        await session.run(feeds, ['y0'])
        const seconds = (performance.now() - start) / 1000
        if (run >= 0) times[k]!.push(seconds / copies)
      }
    }
    return times.map(median)
  } finally {
    for (const session of sessions) await session.dispose()
  }
}

/** Such as `float`, or `4-bit MatMulNBits in blocks of 32, level 4`. Equal for equal kernels. */
export function kernelName(kernel: Kernel): string {
  if (kernel.form === 'float') return 'float'
  return `${kernel.bits}-bit MatMulNBits in blocks of ${kernel.groupSize}, level ${kernel.accuracyLevel}`
}

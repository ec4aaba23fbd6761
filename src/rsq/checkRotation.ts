/** @file Does a rotated model compute what the original does? Both run in onnxruntime on real inputs. */
import type { FeedTensor } from '../data/modelInput.ts'
import { isFloatElement, numbersOf } from '../eval/numbers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { DataType } from '../onnx/proto.ts'
import { stageModel } from '../onnx/save.ts'
import type { Temporaries } from '../onnx/temporaries.ts'
import { forEachTensor } from '../onnx/tensors.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { openSession, type SessionSource } from '../runtime/session.ts'

/** Largest ‖a − b‖/‖a‖ that is rounding: of float32, and of weights or outputs with 16 bits. */
export const ROTATION_TOLERANCE = { float32: 1e-4, sixteenBits: 2e-2 } as const

/** Inputs of one run, and which tokens count. */
export interface CheckedFeeds {
  readonly feeds: ReadonlyMap<string, FeedTensor>
  /** [batch · sequence], 0 for padding; undefined when all tokens count. */
  readonly weights?: Float32Array | undefined
}

export interface CheckOptions extends RunOptions {
  /** The rotated model is written beside this path, under a temporary name, and removed again; its folder must exist. */
  readonly scratch: string
  readonly temporaries?: Temporaries
  /** Of onnxruntime; as many as there are cores when absent. */
  readonly threads?: number
}

/** The largest difference of an output. */
export interface RotationCheck {
  /** Name of the output; undefined when the model has no float outputs. */
  readonly output: string | undefined
  /** ‖a − b‖/‖a‖ of one run; Infinity where only one of them is finite. */
  readonly error: number
  readonly tolerance: number
  /** False also when there was nothing to compare. */
  readonly agrees: boolean
}

/**
 * Compare all float outputs, run by run. One model is open at a time.
 * @param original path of the model, or its bytes: what the user has
 * @throws QtoolError `data`, `model`, `output`, `interrupted`
 */
export async function checkRotation(
  original: SessionSource,
  rotated: OnnxModel,
  runs: readonly CheckedFeeds[],
  options: CheckOptions,
): Promise<RotationCheck> {
  const wanted = await outputsOf(original, runs, options)
  const { temporaries } = options
  const sources = typeof original === 'string' ? [original] : []
  const staged = stageModel(rotated.proto, rotated.payloads, options.scratch, {
    externalData: 'auto',
    force: true,
    sources,
    ...(temporaries ? { temporaries } : {}),
  })
  let found: ReadonlyMap<string, FeedTensor>[]
  try {
    found = await outputsOf(staged.path, runs, options)
  } finally {
    staged.discard()
  }
  let has16 = false
  forEachTensor(rotated.proto, ({ dataType, dims }) => {
    if (dims.length > 0 && (dataType === DataType.FLOAT16 || dataType === DataType.BFLOAT16)) has16 = true
  })
  let worst: { output: string | undefined; error: number } = { output: undefined, error: 0 }
  for (const [i, outputs] of wanted.entries()) {
    for (const [output, tensor] of outputs) {
      if (tensor.type === 'float16') has16 = true
      const error = relativeError(tensor, found[i]!.get(output), runs[i]!.weights)
      if (worst.output === undefined || error > worst.error) worst = { output, error }
    }
  }
  const tolerance = has16 ? ROTATION_TOLERANCE.sixteenBits : ROTATION_TOLERANCE.float32
  return { ...worst, tolerance, agrees: worst.output !== undefined && worst.error <= tolerance }
}

/** Float outputs of all runs. */
async function outputsOf(
  source: SessionSource,
  runs: readonly CheckedFeeds[],
  { threads, signal }: CheckOptions,
): Promise<ReadonlyMap<string, FeedTensor>[]> {
  const session = await openSession(source, threads === undefined ? {} : { threads })
  try {
    const names = session.outputs.filter(({ elementType }) => isFloatElement(elementType)).map(({ name }) => name)
    const results: ReadonlyMap<string, FeedTensor>[] = []
    for (const { feeds } of runs) {
      await nextTurn()
      checkAborted(signal)
      results.push(names.length > 0 ? await session.run(feeds, names) : new Map())
    }
    return results
  } finally {
    await session.dispose()
  }
}

/**
 * ‖a − b‖/‖a‖ over the numbers of tokens that count: all of them where the tensor is not [batch, sequence, …].
 * Infinities and NaNs that both have do not differ.
 */
export function relativeError(a: FeedTensor, b: FeedTensor | undefined, weights: Float32Array | undefined): number {
  const reference = numbersOf(a)
  if (!b || b.data.length !== reference.length) return Number.POSITIVE_INFINITY
  const values = numbersOf(b)
  const isByToken = weights !== undefined && a.dims.length > 2 && a.dims[0]! * a.dims[1]! === weights.length
  const size = isByToken ? reference.length / weights.length : reference.length
  let difference = 0
  let norm = 0
  for (let i = 0; i < reference.length; i++) {
    if (isByToken && weights[Math.floor(i / size)] === 0) continue
    const x = reference[i]!
    const y = values[i]!
    if (Object.is(x, y)) norm += Number.isFinite(x) ? x * x : 0
    else if (!Number.isFinite(x) || !Number.isFinite(y)) return Number.POSITIVE_INFINITY
    else {
      difference += (x - y) * (x - y)
      norm += x * x
    }
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm)
}

/**
 * @file Runs what was written: each quantized use is cut out of the file as it lies on disk, computed by onnxruntime,
 * and compared with our own dequantization of the codes that the solver chose.
 */
import { createHash } from 'node:crypto'
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { setAttributeInPlace } from '../onnx/attributes.ts'
import { indexModel, type ModelIndex } from '../onnx/graph.ts'
import { loadModel } from '../onnx/load.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { quoted } from '../onnx/names.ts'
import { cloneNode, DataType } from '../onnx/proto.ts'
import type { WrittenUse } from '../onnx/represent/apply.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import type { VerifiedLayer } from '../report.ts'
import { openSession } from '../runtime/session.ts'
import { extractComputation, PROBE_INPUT, PROBE_OUTPUT, type ProbeInput } from './extract.ts'
import type { LayerReference } from './reference.ts'

/**
 * Largest difference relative to the largest magnitude that is taken for agreement.
 * Rebuilt weights are integers times a scale with one rounding: equal bit for bit. Products are summed in float32 in
 * another order. With int8 activations each block of activations is rounded to 8 bits (measured: 0.5 to 0.7 % in the
 * mean, a few per cent at the worst output).
 */
export const TOLERANCE = { exact: 0, float32Product: 1e-4, float16Product: 4e-3, int8Activations: 0.1 } as const

/** A model as it was written, perhaps not under its final name yet. */
export interface WrittenModel {
  readonly path: string
  /** Its final path, for messages. */
  readonly shownAs?: string
  /** The model it was made from; tried when the written one does not load, to tell whose fault it is. */
  readonly source?: string
}

/**
 * Load the written model into onnxruntime and check every use of every quantized layer.
 * @param references by layer name.
 * @throws QtoolError `verify` naming the layer, when the runtime cannot load the file or computes something else;
 *   `model` when it cannot load the source either.
 */
export async function verifyWritten(
  { path, shownAs = path, source }: WrittenModel,
  written: readonly WrittenUse[],
  references: ReadonlyMap<string, LayerReference>,
  threads: number,
  run: RunOptions = {},
): Promise<VerifiedLayer[]> {
  // Without prepacking the weights stay where they are on disk: it is the graph that is checked here, kernels are below.
  const config = { 'session.disable_prepacking': '1' }
  const whole = await openSession(path, { threads, config }).catch(async (cause: unknown) => {
    // A source that the runtime refuses is the user's to mend, not a bug of ours.
    if (source !== undefined) await (await openSession(source, { threads, config })).dispose()
    throw failure(`${shownAs}: written, but onnxruntime does not load it: ${(cause as Error).message}`, cause)
  })
  await whole.dispose()
  const model = loadModel(path)
  const index = indexModel(model.proto)
  const verified: VerifiedLayer[] = []
  const kernels = new Set<string>()
  for (const [i, use] of written.entries()) {
    await nextTurn()
    checkAborted(run.signal)
    const { name } = use.plan.layer
    run.onProgress?.({ stage: 'verify', done: i, total: written.length, item: name })
    verified.push(await verifyUse(shownAs, model, index, use, references.get(name)!, threads, kernels))
  }
  run.onProgress?.({ stage: 'verify', done: written.length, total: Math.max(1, written.length) })
  return verified
}

async function verifyUse(
  path: string,
  model: OnnxModel,
  index: ModelIndex,
  use: WrittenUse,
  reference: LayerReference,
  threads: number,
  kernels: Set<string>,
): Promise<VerifiedLayer> {
  const { name } = use.plan.layer
  const check = async (tolerance: number, accuracyLevel?: 0): Promise<VerifiedLayer> => {
    const computed = await compute(path, model, index, use, reference, threads, accuracyLevel).catch((cause: Error) => {
      throw failure(
        `${path}: layer ${quoted(name)} (${use.representation}) cannot be computed: ${cause.message}`,
        cause,
      )
    })
    const largestDifference = compare(use, reference, computed)
    if (!(largestDifference <= tolerance)) {
      throw failure(
        `${path}: layer ${quoted(name)} (${use.representation}) computes something else than was decided: ` +
          `relative difference ${largestDifference.toPrecision(3)}, at most ${tolerance} is expected`,
      )
    }
    return { name, representation: use.representation, largestDifference, tolerance }
  }
  if (use.gives !== 'product') return check(TOLERANCE.exact)
  const strict = use.dataType === DataType.FLOAT16 ? TOLERANCE.float16Product : TOLERANCE.float32Product
  // With float activations, which tells wrong codes from rounding; and once for each kernel, as it will run.
  const inFloat = await check(strict, 0)
  const { bits, storage, kernelBlock, codebook } = use.plan
  const coding = codebook ? ` ${JSON.stringify(codebook.coding)}` : ''
  const kernel = `${storage} ${bits} ${kernelBlock} ${use.dataType}${coding}`
  if (!kernels.has(kernel)) await check(TOLERANCE.int8Activations)
  kernels.add(kernel)
  return inFloat
}

async function compute(
  path: string,
  model: OnnxModel,
  index: ModelIndex,
  use: WrittenUse,
  reference: LayerReference,
  threads: number,
  accuracyLevel: 0 | undefined,
): Promise<Float32Array> {
  const feeds = new Map<string, FeedTensor>()
  let input: ProbeInput | undefined
  if (use.gives === 'product') {
    input = { name: use.input!, fedAs: DataType.FLOAT, castTo: use.dataType }
    feeds.set(PROBE_INPUT, { type: 'float', dims: [1, reference.cols], data: reference.activations })
  } else if (use.gives === 'rows') {
    input = { name: use.input!, fedAs: DataType.INT64, castTo: DataType.INT64 }
    const rows = BigInt64Array.from(reference.sampledRows, ({ row }) => BigInt(row))
    feeds.set(PROBE_INPUT, { type: 'int64', dims: [rows.length], data: rows })
  }
  const bytes = extractComputation(model, index, use.scope, use.output, input, (node) => {
    if (accuracyLevel === undefined || node.opType !== 'MatMulNBits') return node
    const copy = cloneNode(node)
    setAttributeInPlace(copy, 'accuracy_level', accuracyLevel)
    return copy
  })
  // Nodes are run as they stand, so that a rebuilt weight is what its operators say and not what a fusion makes of it.
  const session = await openSession(
    { bytes, path },
    { threads, optimization: use.gives === 'product' ? 'all' : 'disabled' },
  )
  try {
    return (await session.run(feeds)).get(PROBE_OUTPUT)!.data as Float32Array
  } finally {
    await session.dispose()
  }
}

/** Largest |runtime − ours| over the largest |ours|; for whole tensors, 0 when equal bit for bit. */
function compare(use: WrittenUse, reference: LayerReference, computed: Float32Array): number {
  if (use.gives === 'rows') {
    const { cols } = reference
    const differences = reference.sampledRows.map(({ values }, i) =>
      relativeDifference(values, computed.subarray(i * cols, (i + 1) * cols)),
    )
    return Math.max(...differences)
  }
  if (use.gives === 'product') return relativeDifference(reference.product, computed)
  const rows = asRows(use, reference, computed)
  const sha256 = createHash('sha256')
    .update(new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength))
    .digest('hex')
  if (sha256 === reference.sha256) return 0
  const { cols, activations } = reference
  const product = Float64Array.from({ length: reference.rows }, (_, r) => {
    let sum = 0
    for (let k = 0; k < cols; k++) sum += rows[r * cols + k]! * activations[k]!
    return sum
  })
  // Different bits are a difference even where the product happens to agree.
  return Math.max(relativeDifference(reference.product, product), Number.EPSILON)
}

/**
 * Below this, values count as zero: kernels that correct for zero points leave rounding of the size of the scale, and
 * the scale of weights that are zero in effect is the smallest normal number.
 */
const SMALLEST_MAGNITUDE = 2 ** -100

function relativeDifference(ours: ArrayLike<number>, theirs: ArrayLike<number>): number {
  let largest = 0
  let magnitude = 0
  if (ours.length !== theirs.length) return Number.POSITIVE_INFINITY
  for (let i = 0; i < ours.length; i++) {
    const difference = Math.abs(ours[i]! - theirs[i]!)
    if (Number.isNaN(difference)) return Number.NaN
    if (difference > largest) largest = difference
    if (Math.abs(ours[i]!) > magnitude) magnitude = Math.abs(ours[i]!)
  }
  return largest === 0 ? 0 : largest / Math.max(magnitude, SMALLEST_MAGNITUDE)
}

/** The rebuilt tensor as [rows, cols] of the layer. */
function asRows(use: WrittenUse, reference: LayerReference, computed: Float32Array): Float32Array {
  const { outer, reduction, inner } =
    use.gives === 'columns' ? { outer: 1, reduction: reference.cols, inner: reference.rows } : use.plan.layer.view
  if (inner === 1) return computed
  const rows = new Float32Array(computed.length)
  for (let a = 0; a < outer; a++) {
    for (let k = 0; k < reduction; k++) {
      for (let c = 0; c < inner; c++) rows[(a * inner + c) * reduction + k] = computed[(a * reduction + k) * inner + c]!
    }
  }
  return rows
}

function failure(message: string, cause?: unknown): QtoolError {
  return new QtoolError('verify', message, {
    hint: 'the output was removed; please report this with the model, or choose another --format',
    ...(cause === undefined ? {} : { cause }),
  })
}

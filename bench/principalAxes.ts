/**
 * @file lm-3m with its residual stream turned into its principal axes: the same function, but a few channels carry most of the
 * energy, as in large language models, where rounding hurts and rotations help. For `rsq.ts`.
 *
 * `npx tsx bench/principalAxes.ts` writes bench/out/lm-3m-principal/model.onnx. It stops when outputs of the two models differ by
 * more than float rounding.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { symmetricEigen } from '../src/bitalloc/symmetricEigen.ts'
import { analyseMainGraph } from '../src/calibration/mainGraph.ts'
import type { FeedTensor } from '../src/data/modelInput.ts'
import { cloneModel } from '../src/onnx/clone.ts'
import { indexModel } from '../src/onnx/graph.ts'
import { loadModel } from '../src/onnx/load.ts'
import type { OnnxModel } from '../src/onnx/model.ts'
import { makeValueInfo } from '../src/onnx/proto.ts'
import { saveModel } from '../src/onnx/save.ts'
import { findStreams } from '../src/rsq/findStreams.ts'
import { rotateStreams } from '../src/rsq/rotateStreams.ts'
import { rotationOfMatrix } from '../src/rsq/rotations.ts'
import type { ResidualStream } from '../src/rsq/stream.ts'
import { openSession } from '../src/runtime/session.ts'
import { readArrays } from './data.ts'
import { OUT, requirePath, runBenchmark, SHARED_MODELS } from './paths.ts'

/** Sum of the stream whose axes are taken: 0 is the one after the first attention, 1 the one after the first block. */
const SUM = 1
/** Rows of calibration data, of 128 tokens each. */
const ROWS = 96
const BATCH = 8
/** Largest difference of a logit over the largest logit. */
const TOLERANCE = 1e-4

type Batches = readonly ReadonlyMap<string, FeedTensor>[]

function readBatches(): Batches {
  const { shape, data } = readArrays(join(SHARED_MODELS, 'lm-3m', 'calib_input_ids.npy')).array!
  const width = shape[1]!
  return Array.from({ length: ROWS / BATCH }, (_, batch) => {
    const ids = (data as BigInt64Array).slice(batch * BATCH * width, (batch + 1) * BATCH * width)
    return new Map([['input_ids', { type: 'int64', dims: [BATCH, width], data: ids }]])
  })
}

/** One tensor of a model on all batches. */
async function valuesOf(path: string, name: string, batches: Batches): Promise<Float32Array[]> {
  const session = await openSession(path)
  const values: Float32Array[] = []
  for (const feeds of batches) values.push((await session.run(feeds, [name])).get(name)!.data as Float32Array)
  await session.dispose()
  return values
}

/** Σ x xᵀ of a tensor of the stream, [width, width]. */
async function secondMoment(model: OnnxModel, name: string, width: number, batches: Batches): Promise<Float64Array> {
  const tapped = cloneModel(model)
  tapped.proto.graph!.output.push(makeValueInfo(name))
  const folder = mkdtempSync(join(tmpdir(), 'principal-'))
  const moment = new Float64Array(width * width)
  try {
    const path = join(folder, 'tapped.onnx')
    saveModel(tapped.proto, tapped.payloads, path, { externalData: 'never', force: false, sources: [model.path] })
    for (const values of await valuesOf(path, name, batches)) {
      for (let at = 0; at < values.length; at += width) addOuter(moment, values.subarray(at, at + width))
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  return moment
}

/** M += x xᵀ, in place. */
function addOuter(moment: Float64Array, x: Float32Array): void {
  const width = x.length
  for (let i = 0; i < width; i++) {
    const xi = x[i]!
    for (let j = 0; j < width; j++) moment[i * width + j]! += xi * x[j]!
  }
}

/** Outputs of the residual Adds, in the order of the graph; what the norms of the stream read, but for the embedding. */
function sumsOf(model: OnnxModel, { tensors }: ResidualStream): string[] {
  const adds = model.proto.graph!.node.filter(({ opType }) => opType === 'Add')
  return adds.flatMap(({ output, input }) =>
    tensors.has(output[0]!) && input.some((name) => tensors.has(name)) ? output[0]! : [],
  )
}

/** Share of the energy that the largest channels of a second moment have. */
function largestShares(values: Float64Array, count: number): string {
  const total = values.reduce((sum, value) => sum + value, 0)
  const sorted = [...values].sort((a, b) => b - a).slice(0, count)
  return sorted.map((value) => (value / total).toFixed(3)).join(' ')
}

/** Largest difference over the largest value of the original. */
function largestDifference(float: readonly Float32Array[], turned: readonly Float32Array[]): number {
  let [difference, largest] = [0, 0]
  for (const [batch, values] of float.entries()) {
    for (const [i, value] of values.entries()) {
      difference = Math.max(difference, Math.abs(value - turned[batch]![i]!))
      largest = Math.max(largest, Math.abs(value))
    }
  }
  return difference / largest
}

async function main(): Promise<void> {
  const source = requirePath(join(SHARED_MODELS, 'lm-3m', 'model.onnx'), 'the model is needed')
  const model = loadModel(source)
  const found = findStreams(analyseMainGraph(indexModel(model.proto)))
  const [stream] = found.streams
  if (!stream) throw new Error(`no stream was found: ${found.refused.map(({ reason }) => reason).join('; ')}`)
  const { width } = stream
  const batches = readBatches()
  const sum = sumsOf(model, stream)[SUM]!
  const moment = await secondMoment(model, sum, width, batches)
  const { values, vectors } = symmetricEigen(moment, width)
  // Rows are eigenvectors; v·Q has the coordinate along each where Q has them as columns.
  const q = vectors.map((_, at) => vectors[(at % width) * width + Math.floor(at / width)]!)
  const rotations = new Map([[stream, rotationOfMatrix(q, width)]])
  const turned = rotateStreams(model, found, rotations, { simplifyNorms: false }).model
  const folder = join(OUT, 'lm-3m-principal')
  mkdirSync(folder, { recursive: true })
  const output = join(folder, 'model.onnx')
  saveModel(turned.proto, turned.payloads, output, { externalData: 'never', force: true, sources: [source] })
  const diagonal = values.map((_, i) => moment[i * (width + 1)]!)
  console.log(
    `${sum}: shares of the largest channels ${largestShares(diagonal, 5)}, turned ${largestShares(values, 5)}`,
  )
  const float = await valuesOf(source, 'logits', batches)
  const difference = largestDifference(float, await valuesOf(output, 'logits', batches))
  console.log(`${output}: logits differ by ${difference.toExponential(1)} of the largest`)
  if (!(difference <= TOLERANCE)) {
    rmSync(output)
    throw new Error(`the turned model is another function: more than ${TOLERANCE}`)
  }
}

await runBenchmark(main)

/**
 * @file The same comparison with the candidate's products at accuracy level 0 (float activations) and 4 (activations
 * rounded to int8 within blocks), so that the error of the kernel can be told from the error of the weights.
 *
 * MatMulNBits carries its level as an attribute; products that onnxruntime makes of DequantizeLinear take it from the
 * session's configuration. Weights are not decoded: the nodes are edited in the .onnx file's message, and external
 * data stays where it is.
 */
import fs from 'node:fs'
import path from 'node:path'
import type { Dataset } from '../data/dataset.ts'
import { QtoolError } from '../errors.ts'
import { intAttribute, setAttributeInPlace } from '../onnx/attributes.ts'
import { indexModel, nodesOf } from '../onnx/graph.ts'
import { DataType, decodeModel, encodeModel, type ModelProto, type NodeProto } from '../onnx/proto.ts'
import type { RunOptions } from '../progress.ts'
import type { EvalReport } from '../report.ts'
import { openSession, type Session } from '../runtime/session.ts'
import { type CompareOptions, type Comparison, compareModels } from './compare.ts'
import { productsOf } from './products.ts'

export type AccuracyLevels = EvalReport['accuracyLevels']

/** Samples compared when a width is among the products that level 0 computes 25 times slower. */
export const SLOW_SAMPLES = 32
/** Larger .onnx files (weights inside, not in external data) are not held in memory for this. */
const LARGEST_FILE = 2 ** 30

const LEVEL_ENTRY = 'session.qdq_matmulnbits_accuracy_level'

export interface AccuracyLevelTask {
  readonly reference: Session
  readonly candidatePath: string
  /** The candidate's message; weights may be absent. */
  readonly candidate: ModelProto
  /** The runtime made MatMulNBits nodes of DequantizeLinear. */
  readonly hasFusedProducts: boolean
  readonly dataset: Pick<Dataset, 'count' | 'batches' | 'labels'>
  readonly options: CompareOptions
  /** The comparison of the candidate as it is, over all samples. */
  readonly asIs: Comparison
  readonly threads: number
}

/**
 * Compare at both levels.
 * @returns both results, or none when the candidate has no such products or the level makes no difference; and what the
 *   user must know
 * @throws QtoolError as {@link compareModels} does
 */
export async function compareAccuracyLevels(
  task: AccuracyLevelTask,
  run: RunOptions = {},
): Promise<{ readonly levels: AccuracyLevels; readonly warnings: readonly string[] }> {
  const products = productsOf(task.candidate)
  if (products.length === 0 && !task.hasFusedProducts) return { levels: [], warnings: [] }
  const warnings: string[] = []
  const bytes = products.length > 0 ? fs.statSync(task.candidatePath).size : 0
  if (bytes > LARGEST_FILE) {
    warnings.push(`accuracy levels are not compared: ${task.candidatePath} holds ${bytes} bytes without external data`)
    return { levels: [], warnings }
  }
  const samples = isSlowAtLevel0(task.candidate, products, task.hasFusedProducts) ? SLOW_SAMPLES : 0
  const isPart = samples > 0 && samples < task.asIs.samples
  const current = currentLevel(products, task.hasFusedProducts)
  const results: Comparison[] = []
  for (const level of [0, 4] as const) {
    if (level === current && !isPart) results.push(task.asIs)
    else results.push(await compareAt(level, task, products.length > 0, samples, run))
  }
  const [low, high] = results as [Comparison, Comparison]
  if (sameFigures(low, high)) return { levels: [], warnings }
  if (isPart) {
    warnings.push(
      `accuracy levels are compared on the first ${low.samples} samples only: onnxruntime has no fast kernel for 8- and ` +
        '2-bit weights at level 0',
    )
  }
  return {
    levels: [
      { level: 0, outputs: low.outputs, metrics: low.metrics },
      { level: 4, outputs: high.outputs, metrics: high.metrics },
    ],
    warnings,
  }
}

/** Level 4 or anything else, which all mean float activations on CPU; undefined when both occur. */
function currentLevel(products: readonly NodeProto[], hasFusedProducts: boolean): 0 | 4 | undefined {
  const levels = new Set(products.map((node) => (intAttribute(node, 'accuracy_level', 0) === 4 ? 4 : 0)))
  // The default of the session's configuration.
  if (hasFusedProducts) levels.add(4)
  return levels.size === 1 ? [...levels][0] : undefined
}

/** Only 4-bit weights have a kernel for float activations. */
function isSlowAtLevel0(model: ModelProto, products: readonly NodeProto[], hasFusedProducts: boolean): boolean {
  if (products.some((node) => intAttribute(node, 'bits', 4) !== 4)) return true
  if (!hasFusedProducts) return false
  const fourBit: readonly number[] = [DataType.INT4, DataType.UINT4]
  const index = indexModel(model)
  return index.scopes.some((scope) =>
    nodesOf(scope).some((node) => {
      if (node.opType !== 'DequantizeLinear') return false
      const constant = scope.constants.get(node.input[0] ?? '')
      return !constant || !fourBit.includes(constant.tensor.dataType)
    }),
  )
}

async function compareAt(
  level: 0 | 4,
  task: AccuracyLevelTask,
  hasProducts: boolean,
  samples: number,
  run: RunOptions,
): Promise<Comparison> {
  const { candidatePath, threads } = task
  const source = hasProducts
    ? { bytes: atLevel(candidatePath, level), path: candidatePath, folder: path.dirname(path.resolve(candidatePath)) }
    : candidatePath
  const candidate = await openSession(source, { threads, config: { [LEVEL_ENTRY]: String(level) } })
  try {
    const options = { ...task.options, samples, item: `accuracy level ${level}` }
    return await compareModels(task.reference, candidate, task.dataset, options, run)
  } finally {
    await candidate.dispose()
  }
}

/** The bytes of the .onnx file with every MatMulNBits at the level. */
function atLevel(modelPath: string, level: 0 | 4): Uint8Array {
  let model: ModelProto
  try {
    model = decodeModel(fs.readFileSync(modelPath))
  } catch (cause) {
    throw new QtoolError('model', `${modelPath}: cannot be read again: ${(cause as Error).message}`, { cause })
  }
  for (const node of productsOf(model)) setAttributeInPlace(node, 'accuracy_level', level)
  return encodeModel(model)
}

function sameFigures(a: Comparison, b: Comparison): boolean {
  return JSON.stringify([a.outputs, a.metrics]) === JSON.stringify([b.outputs, b.metrics])
}

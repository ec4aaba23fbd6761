/** @file How good a quantized model is on the whole evaluation set, against the float model's outputs, computed once. */
import { resolveEvalConfig } from '../src/configRules.ts'
import type { Dataset } from '../src/data/dataset.ts'
import type { FeedBatch } from '../src/data/modelInput.ts'
import { argmax, klOfLogits, logSumExp } from '../src/eval/divergence.ts'
import { openEvaluationData } from '../src/eval/openData.ts'
import { openSession, type Session } from '../src/runtime/session.ts'
import { prepareData } from './data.ts'
import type { BenchModel } from './modelList.ts'
import { stsPearson } from './sts.ts'

/** Products that onnxruntime makes of DequantizeLinear shall not round activations: the weights are judged, nothing else. */
export const FLOAT_ACTIVATIONS = { 'session.qdq_matmulnbits_accuracy_level': '0' }

export interface Figures {
  /** Perplexity, accuracy or Pearson. */
  readonly task: number
  /** Mean KL(float ‖ quantized) per position, nats; undefined for a model without class scores. */
  readonly kl: number | undefined
}

export interface Judge {
  readonly float: Figures
  judge(path: string): Promise<Figures>
}

/** Sums over positions of one model. */
interface Sums {
  task: number
  taskCount: number
  kl: number
  klCount: number
}

async function outputOf(session: Session, batch: FeedBatch): Promise<{ scores: Float32Array; classes: number }> {
  const [output] = (await session.run(batch.feeds, ['logits'])).values()
  return { scores: output!.data as Float32Array, classes: output!.dims.at(-1)! }
}

/** −Σ ln p(next token): position t predicts token t + 1. */
function addPerplexity(sums: Sums, scores: Float32Array, classes: number, batch: FeedBatch): void {
  const { data, dims } = batch.feeds.get('input_ids')!
  const ids = data as BigInt64Array
  const length = dims[1]!
  for (let t = 0; t < ids.length; t++) {
    if (t % length === length - 1) continue
    const next = Number(ids[t + 1]!)
    sums.task += logSumExp(scores, t * classes, classes) - scores[t * classes + next]!
    sums.taskCount++
  }
}

function addAccuracy(sums: Sums, scores: Float32Array, classes: number, batch: FeedBatch, labels: Int32Array): void {
  for (let i = 0; i < batch.count; i++) {
    if (argmax(scores, i * classes, classes) === labels[batch.start + i]) sums.task++
    sums.taskCount++
  }
}

async function judgeScores(
  path: string,
  dataset: Dataset,
  batchSize: number,
  reference: readonly Float32Array[] | undefined,
): Promise<{ figures: Figures; outputs: Float32Array[] }> {
  const session = await openSession(path, { config: FLOAT_ACTIVATIONS })
  const sums: Sums = { task: 0, taskCount: 0, kl: 0, klCount: 0 }
  const outputs: Float32Array[] = []
  for (const batch of dataset.batches(batchSize)) {
    const { scores, classes } = await outputOf(session, batch)
    if (dataset.labels) addAccuracy(sums, scores, classes, batch, dataset.labels)
    else addPerplexity(sums, scores, classes, batch)
    const float = reference?.[outputs.length]
    for (let at = 0; float && at < scores.length; at += classes) {
      sums.kl += klOfLogits(float, scores, at, classes)
      sums.klCount++
    }
    // Only the float model's are kept.
    outputs.push(reference ? new Float32Array(0) : scores)
  }
  await session.dispose()
  const mean = sums.task / sums.taskCount
  const figures = { task: dataset.labels ? mean : Math.exp(mean), kl: reference ? sums.kl / sums.klCount : 0 }
  return { figures, outputs }
}

/**
 * Run the float model on all its evaluation data and keep what it gives.
 * @param batchSize samples of one run.
 * @throws Missing without the data.
 */
export async function openJudge(model: BenchModel, batchSize: number): Promise<Judge> {
  if (model.task?.name === 'STS-B Pearson') {
    const judge = async (path: string) => ({ task: (await stsPearson(path)).pearson, kl: undefined })
    return { float: await judge(model.path), judge }
  }
  const { inputs, labels } = prepareData(model.data)
  const config = resolveEvalConfig({ data: [inputs], labels })
  const session = await openSession(model.path)
  const dataset = await openEvaluationData(config, model.path)(session.inputs)
  await session.dispose()
  const { figures, outputs } = await judgeScores(model.path, dataset, batchSize, undefined)
  return {
    float: figures,
    judge: async (path) => (await judgeScores(path, dataset, batchSize, outputs)).figures,
  }
}

/**
 * @file How far a quantized model is from the float model on evaluation data, by what the tool itself minimises: KL for
 * class scores, relative squared error for other outputs. And its task's metric.
 */
import { resolveEvalConfig } from '../src/configRules.ts'
import type { FeedBatch, FeedTensor } from '../src/data/modelInput.ts'
import { argmax } from '../src/eval/divergence.ts'
import type { Numbers } from '../src/eval/numbers.ts'
import { openEvaluationData } from '../src/eval/openData.ts'
import { OutputLoss, summarize } from '../src/eval/outputLoss.ts'
import { openSession } from '../src/runtime/session.ts'
import { prepareData } from './data.ts'
import type { BenchModel } from './modelList.ts'
import { FLOAT_ACTIVATIONS, openJudge } from './qualityJudge.ts'
import { stsPearson } from './sts.ts'

export interface MixedFigures {
  /** Mean KL per position in nats, or mean relative squared error per sample. */
  readonly loss: number
  readonly task: number
}

export interface MixedJudge {
  readonly loss: 'KL' | 'relative error'
  /** Name of the task's metric. */
  readonly task: string
  /** The float model's. */
  readonly float: number
  judge(path: string): Promise<MixedFigures>
}

/**
 * Run the float model on all its evaluation data and keep what it gives.
 * @param batchSize samples of one run.
 * @throws Missing without the data.
 */
export async function openMixedJudge(model: BenchModel, batchSize: number): Promise<MixedJudge> {
  const { task } = model
  if (task?.name === 'perplexity' || task?.name === 'accuracy') {
    const { float, judge } = await openJudge(model, batchSize)
    return {
      loss: 'KL',
      task: task.name,
      float: float.task,
      judge: async (path) => {
        const figures = await judge(path)
        return { loss: figures.kl!, task: figures.task }
      },
    }
  }
  const outputs = await openOutputs(model, batchSize)
  const loss = outputs.isScores ? 'KL' : 'relative error'
  if (task?.name !== 'STS-B Pearson') return { loss, task: 'top-1 agreement', float: 1, judge: outputs.compare }
  return {
    ...{ loss, task: task.name },
    float: (await stsPearson(model.path)).pearson,
    judge: async (path) => ({ loss: (await outputs.compare(path)).loss, task: (await stsPearson(path)).pearson }),
  }
}

/** Largest class of each row of scores. */
function topClasses({ data, dims }: FeedTensor): Int32Array {
  const classes = dims.at(-1)!
  return Int32Array.from({ length: data.length / classes }, (_, row) => argmax(data as Numbers, row * classes, classes))
}

/** Compares all outputs with the float model's; `task` is the share of rows of the first with the same largest value. */
async function openOutputs(model: BenchModel, batchSize: number) {
  const config = resolveEvalConfig({ data: [prepareData(model.data).inputs] })
  const float = await openSession(model.path)
  const batches: FeedBatch[] = [...(await openEvaluationData(config, model.path)(float.inputs)).batches(batchSize)]
  const loss = new OutputLoss('auto')
  const [first] = float.outputs
  const tops: Int32Array[] = []
  for (const [i, { feeds, count }] of batches.entries()) {
    const outputs = await float.run(feeds)
    for (const [name, tensor] of outputs) loss.addReference(i, name, tensor, { count, weights: undefined })
    tops.push(topClasses(outputs.get(first!.name)!))
  }
  await float.dispose()
  const compare = async (path: string): Promise<MixedFigures> => {
    const session = await openSession(path, { config: FLOAT_ACTIVATIONS })
    const losses: number[] = []
    let [same, rows] = [0, 0]
    for (const [i, { feeds }] of batches.entries()) {
      const outputs = await session.run(feeds)
      losses.push(...loss.compare(i, outputs))
      const own = topClasses(outputs.get(first!.name)!)
      same += own.filter((top, row) => top === tops[i]![row]).length
      rows += own.length
    }
    await session.dispose()
    return { loss: summarize(losses).mean, task: same / rows }
  }
  return { compare, isScores: loss.reference.compared(0).some(({ rows }) => rows !== undefined) }
}

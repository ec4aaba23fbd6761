/** @file How much a quickly rounded student disagrees with the float model on each sample. */
import type { Dataset } from '../data/dataset.ts'
import type { RunOptions } from '../progress.ts'
import { el2nScore, klScore } from './selectSamples.ts'
import { studentOutputs } from './studentOutputs.ts'

const SCORES = { el2n: el2nScore, kl: klScore } as const

const PURPOSE = {
  wanted: 'samples could be selected',
  hint: 'use --select random',
  item: 'scores of samples',
} as const

/**
 * Score the samples of a dataset by the first output of class scores.
 * @param student path of the rounded model.
 * @returns one score per sample, in the dataset's order; higher is more informative.
 * @throws QtoolError `usage` when the model has no output of class scores; `model`, `data`, `interrupted`.
 */
export async function scoreSamples(
  dataset: Dataset,
  batchSize: number,
  model: string,
  student: string,
  by: 'el2n' | 'kl',
  run: RunOptions,
): Promise<Float64Array> {
  const score = SCORES[by]
  // Samples that a fixed batch size leaves out of the batches have no score.
  const scores = new Float64Array(dataset.order.length).fill(Number.NEGATIVE_INFINITY)
  for await (const batch of studentOutputs(dataset, batchSize, model, student, PURPOSE, run)) {
    const { start, count, reference, candidate, classes, weights } = batch
    const perSample = reference.length / count
    const rows = perSample / classes
    for (let i = 0; i < count; i++) {
      const own = weights?.length === count * rows ? weights.subarray(i * rows, (i + 1) * rows) : undefined
      const [from, to] = [i * perSample, (i + 1) * perSample]
      scores[start + i] = score(reference.subarray(from, to), candidate.subarray(from, to), classes, own)
    }
  }
  return scores
}

/**
 * @file How much a quickly rounded student disagrees with the float model at each token: KL(float ‖ student) in nats.
 *
 * Source: the sample scores of "Deep Learning on a Data Diet" (Paul, Ganguli, Dziugaite 2021), token by token, with the
 * float model in place of labels.
 */
import { studentOutputs } from '../calibration/studentOutputs.ts'
import type { Dataset } from '../data/dataset.ts'
import { QtoolError } from '../errors.ts'
import { klOfLogits } from '../eval/divergence.ts'
import type { RunOptions } from '../progress.ts'

const HINT = 'use another --token-importance'
const PURPOSE = { wanted: 'tokens could be weighed', hint: HINT, item: 'divergence of tokens' } as const

/**
 * @param dataset the samples of the walk that fits, with its batch size: batches must be the same ones.
 * @param model path of the float model. @param student path of the rounded one.
 * @returns [rows of scores] of each batch, one for each token where the model predicts tokens; ≥ 0. 0 at padding.
 * @throws QtoolError `usage` when the model has no scores for each token; `model`, `data`, `interrupted`.
 */
export async function studentScores(
  dataset: Dataset,
  batchSize: number,
  model: string,
  student: string,
  run: RunOptions,
): Promise<Float64Array[]> {
  const scores: Float64Array[] = []
  for await (const batch of studentOutputs(dataset, batchSize, model, student, PURPOSE, run)) {
    const { count, reference, candidate, classes, weights } = batch
    const rows = reference.length / classes
    if (rows === count || (weights && weights.length !== rows)) {
      throw new QtoolError(
        'usage',
        `${model}: puts out ${rows / count} rows of class scores a sample, not one for each token`,
        {
          hint: HINT,
        },
      )
    }
    const own = new Float64Array(rows)
    for (let row = 0; row < rows; row++) {
      if (weights?.[row] !== 0) own[row] = klOfLogits(reference, candidate, row * classes, classes)
    }
    scores.push(own)
  }
  return scores
}

/** @file How much a quickly rounded student disagrees with the float model on each sample. */
import type { Dataset } from '../data/dataset.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { tokenWeights } from '../data/tokenWeights.ts'
import { QtoolError } from '../errors.ts'
import { numbersOf } from '../eval/numbers.ts'
import { type OutputKind, outputKind } from '../eval/outputKind.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { openSession } from '../runtime/session.ts'
import { el2nScore, klScore, type Score } from './selectSamples.ts'
import { isFloatTensor } from './tensors.ts'
import { CALIBRATION_SESSION } from './walk.ts'

const SCORES = { el2n: el2nScore, kl: klScore } as const

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
  // Samples that a fixed batch size leaves out of the batches have no score.
  const scores = new Float64Array(dataset.order.length).fill(Number.NEGATIVE_INFINITY)
  const float = await openSession(model, CALIBRATION_SESSION)
  const rounded = await openSession(student, CALIBRATION_SESSION)
  let output: { readonly name: string; readonly kind: OutputKind } | undefined
  let done = 0
  try {
    for (const batch of dataset.batches(batchSize)) {
      await nextTurn()
      checkAborted(run.signal)
      run.onProgress?.({ stage: 'calibrate', done, total: dataset.count, item: 'scores of samples' })
      const reference = await float.run(batch.feeds)
      const weights = tokenWeights(batch)
      output ??= scoredOutput(model, reference, weights)
      const candidate = await rounded.run(batch.feeds, [output.name])
      const all = scoresOf(reference.get(output.name)!, candidate.get(output.name)!, batch.count, output.kind, {
        score: SCORES[by],
        weights,
      })
      scores.set(all, batch.start)
      done += batch.count
    }
  } finally {
    await float.dispose()
    await rounded.dispose()
  }
  return scores
}

function scoredOutput(model: string, outputs: ReadonlyMap<string, FeedTensor>, weights: Float32Array | undefined) {
  for (const [name, tensor] of outputs) {
    if (!isFloatTensor(tensor)) continue
    const { type: elementType, dims } = tensor
    const values = numbersOf(tensor)
    // Padding may hold anything.
    const isByToken = weights?.length === values.length / dims.at(-1)!
    const rows = isByToken ? [...weights.keys()].filter((row) => weights[row] !== 0) : undefined
    const evidence = { name, elementType, dims, values, rows, largestLabel: undefined }
    const kind = outputKind({ ...evidence, logits: 'auto' })
    if (kind === 'logits' || kind === 'probabilities') return { name, kind }
  }
  throw new QtoolError('usage', `${model}: no output holds class scores, by which samples could be selected`, {
    hint: 'use --select random',
  })
}

function scoresOf(
  reference: FeedTensor,
  candidate: FeedTensor,
  samples: number,
  kind: OutputKind,
  { score, weights }: { readonly score: Score; readonly weights: Float32Array | undefined },
): number[] {
  const asLogits = (tensor: FeedTensor) =>
    kind === 'logits' ? numbersOf(tensor) : Float64Array.from(numbersOf(tensor), Math.log)
  const [p, q] = [asLogits(reference), asLogits(candidate)]
  const classes = reference.dims.at(-1)!
  const perSample = p.length / samples
  const rows = perSample / classes
  return Array.from({ length: samples }, (_, i) => {
    const own = weights?.length === samples * rows ? weights.subarray(i * rows, (i + 1) * rows) : undefined
    const [from, to] = [i * perSample, (i + 1) * perSample]
    return score(p.subarray(from, to), q.subarray(from, to), classes, own)
  })
}

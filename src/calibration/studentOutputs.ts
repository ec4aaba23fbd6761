/** @file The class scores of the float model and of a quickly rounded student, batch by batch. */
import type { Dataset } from '../data/dataset.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { tokenWeights } from '../data/tokenWeights.ts'
import { QtoolError } from '../errors.ts'
import { type Numbers, numbersOf } from '../eval/numbers.ts'
import { type OutputKind, outputKind } from '../eval/outputKind.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { openSession } from '../runtime/session.ts'
import { isFloatTensor } from './tensors.ts'
import { CALIBRATION_SESSION } from './walk.ts'

/** What the scores are for, in messages. */
export interface StudentPurpose {
  /** Follows "no output holds class scores, by which ". */
  readonly wanted: string
  readonly hint: string
  /** Of progress events. */
  readonly item: string
}

/** Both models on one batch. */
export interface StudentBatch {
  /** Place of the first sample in the dataset's order, and how many there are. */
  readonly start: number
  readonly count: number
  /** Logits [rows, classes]: for a model that puts out probabilities, their logarithms. */
  readonly reference: Numbers
  readonly candidate: Numbers
  readonly classes: number
  /** [batch · sequence], 0 for padding; undefined when all count. */
  readonly weights: Float32Array | undefined
}

/**
 * Run both models on all batches of a dataset. The first output of class scores counts.
 * @param model path of the float model. @param student path of the rounded one.
 * @throws QtoolError `usage` when the model has no output of class scores; `model`, `data`, `interrupted`.
 */
export async function* studentOutputs(
  dataset: Dataset,
  batchSize: number,
  model: string,
  student: string,
  purpose: StudentPurpose,
  run: RunOptions,
): AsyncGenerator<StudentBatch> {
  const float = await openSession(model, CALIBRATION_SESSION)
  const rounded = await openSession(student, CALIBRATION_SESSION)
  let output: { readonly name: string; readonly kind: OutputKind } | undefined
  let done = 0
  try {
    for (const batch of dataset.batches(batchSize)) {
      await nextTurn()
      checkAborted(run.signal)
      run.onProgress?.({ stage: 'calibrate', done, total: dataset.count, item: purpose.item })
      const outputs = await float.run(batch.feeds)
      const weights = tokenWeights(batch)
      output ??= scoredOutput(model, outputs, weights, purpose)
      const { name, kind } = output
      const asLogits = (tensor: FeedTensor) =>
        kind === 'logits' ? numbersOf(tensor) : Float64Array.from(numbersOf(tensor), Math.log)
      const tensor = outputs.get(name)!
      const candidate = asLogits((await rounded.run(batch.feeds, [name])).get(name)!)
      const { start, count } = batch
      yield { start, count, reference: asLogits(tensor), candidate, classes: tensor.dims.at(-1)!, weights }
      done += count
    }
  } finally {
    await float.dispose()
    await rounded.dispose()
  }
}

function scoredOutput(
  model: string,
  outputs: ReadonlyMap<string, FeedTensor>,
  weights: Float32Array | undefined,
  { wanted, hint }: StudentPurpose,
) {
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
  throw new QtoolError('usage', `${model}: no output holds class scores, by which ${wanted}`, { hint })
}

/** @file Which samples a calibration fits to, and which it never sees but judges its choices by. */
import type { Dataset } from './dataset.ts'
import { shuffled } from './pickSamples.ts'

export interface SplitOptions {
  /** Use at most this many samples for both parts together; 0 = all. */
  readonly samples: number
  /** Share of them that is held out, in [0, 1). 0 holds out nothing. */
  readonly holdout: number
  /** Any integer; equal seeds give equal parts. */
  readonly seed: number
}

export interface Split {
  readonly fit: Dataset
  /** Empty (count 0) when nothing is held out. */
  readonly held: Dataset
  /** Places in the dataset's `order`, as they were drawn; `fit.order` and `held.order` have shapes brought together. */
  readonly fitIndices: Int32Array
  readonly heldIndices: Int32Array
  /** Sentences for the user. */
  readonly notes: readonly string[]
}

/**
 * Shuffle the samples of a dataset, take some, and hold out the last of these.
 *
 * round(holdout · n) of n samples are held out, at least one and not all when n ≥ 2 and holdout > 0. No sample is in
 * both parts. For a model with a fixed batch size both are whole batches. Samples that were cut from one long text are
 * shuffled like any others, so the parts hold different pieces of the same text: the held-out error then says how well
 * the fit carries over to more of that text, not to another.
 *
 * @throws RangeError when the holdout is not in [0, 1).
 */
export function splitDataset(dataset: Dataset, { samples, holdout, seed }: SplitOptions): Split {
  if (!(holdout >= 0 && holdout < 1)) throw new RangeError(`holdout ${holdout}`)
  const notes: string[] = []
  const unit = dataset.exactBatch ?? 1
  const available = dataset.order.length
  const wanted = samples > 0 ? Math.min(samples, available) : available
  const units = Math.max(1, Math.floor(wanted / unit))
  const taken = units * unit
  if (samples > 0 && taken !== samples) {
    const why =
      taken > samples || wanted === samples ? `the model takes exactly ${unit} at a time` : 'there are no more'
    notes.push(`${taken} samples are used, not ${samples}: ${why}`)
  }
  let held = 0
  if (holdout > 0 && units >= 2) held = Math.min(Math.max(Math.round(holdout * units), 1), units - 1) * unit
  if (holdout > 0 && held === 0) {
    notes.push(`nothing is held out of ${taken} samples: choices are made on the calibration data itself`)
  }
  const order = shuffled(available, seed)
  const fitIndices = order.slice(0, taken - held)
  const heldIndices = order.slice(taken - held, taken)
  return { fit: dataset.subset(fitIndices), held: dataset.subset(heldIndices), fitIndices, heldIndices, notes }
}

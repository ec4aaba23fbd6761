/**
 * @file The loss of a network with quantized weights: how far its outputs are from the float network's on the same samples,
 * without labels. Made for hundreds of candidates against one set of references.
 *
 * - class scores: KL(p ‖ q) of the softmaxes in nats, p the float network's, mean over the sample's rows that count;
 * - other floating-point outputs: Σ (f − q)² / Σ f² over the sample ({@link ReferenceOutputs.normOf} says what near-zero samples get);
 * - integers (class ids, masks), only where there is nothing else: the share of values that differ;
 * - several outputs: the mean over them.
 */
import type { FeedTensor } from '../data/modelInput.ts'
import { leastOf } from './divergence.ts'
import { expOfNonPositive } from './exponential.ts'
import type { Numbers } from './numbers.ts'
import {
  type BatchFacts,
  candidateNumbers,
  countedSpans,
  type ReferenceOutput,
  ReferenceOutputs,
  type TensorStore,
} from './referenceOutputs.ts'

export class OutputLoss {
  readonly reference: ReferenceOutputs

  /**
   * @param logits names of the outputs that hold class scores, or 'auto'
   * @param store  keeps the references; in memory when absent
   */
  constructor(logits: 'auto' | readonly string[], store?: TensorStore) {
    this.reference = new ReferenceOutputs(logits, store)
  }

  /** Give one output of the float network for one batch; see {@link ReferenceOutputs.add}. All before the first comparison. */
  addReference(batch: number, name: string, tensor: FeedTensor, facts: BatchFacts): void {
    this.reference.add(batch, name, tensor, facts)
  }

  /**
   * Compare one batch.
   *
   * @param outputs of the candidate, by name. An output that is left out counts as unchanged: a run from the changed layer on
   *   does not give those that were made before.
   * @returns one loss per sample, ≥ 0. Infinity where the candidate has no finite answer, never NaN; 0 where nothing of a sample
   *   counts. An output without a batch axis gives all samples of the batch its loss.
   * @throws QtoolError `model` when a shape differs from the reference's
   * @throws RangeError for a batch or an output without reference
   */
  compare(batch: number, outputs: ReadonlyMap<string, FeedTensor>): Float64Array {
    for (const name of outputs.keys()) this.reference.checkName(name)
    const losses = new Float64Array(this.reference.count(batch))
    const compared = this.reference.compared(batch)
    for (const output of compared) {
      const candidate = outputs.get(output.name)
      if (!candidate) continue
      const own = this.#lossesOf(output, candidate)
      for (let s = 0; s < losses.length; s++) losses[s]! += own[output.samples === 1 ? 0 : s]! / compared.length
    }
    return losses
  }

  #lossesOf(output: ReferenceOutput, candidate: FeedTensor): Float64Array {
    const values = candidateNumbers(output, candidate)
    const reference = this.reference.valuesOf(output)
    const losses = new Float64Array(output.samples)
    if (output.rows) {
      const classes = output.dims.at(-1)!
      const least = leastOf(candidate.type)
      let row = 0
      for (const { sample, from } of countedSpans(output, classes)) {
        const crossEntropy =
          output.kind === 'logits'
            ? crossEntropyOfLogits(reference, values, from, classes, output.rows.masses[row]!)
            : crossEntropyOfProbabilities(reference, values, from, classes, output.rows.masses[row]!, least)
        losses[sample]! += divergence(crossEntropy, output.rows.negentropies[row]!) / output.counts[sample]!
        row++
      }
      return losses
    }
    const differenceOf = output.kind === 'integers' ? countDifferent : squaredDifference
    for (const { sample, from, to } of countedSpans(output)) {
      const norm = output.kind === 'integers' ? output.counts[sample]! : this.reference.normOf(output, sample)
      losses[sample]! += differenceOf(reference, values, from, to) / norm
    }
    return losses
  }
}

/** KL; rounding may leave −1e−16 where the truth is 0, and NaN is an answer that is none. */
function divergence(crossEntropy: number, negentropy: number): number {
  const kl = crossEntropy + negentropy
  return Number.isNaN(kl) ? Number.POSITIVE_INFINITY : Math.max(kl, 0)
}

/** −Σ p ln softmax(candidate) over a row, p of sum `mass`. One exponential per class. */
function crossEntropyOfLogits(p: Numbers, candidate: Numbers, from: number, classes: number, mass: number): number {
  const to = from + classes
  let max = Number.NEGATIVE_INFINITY
  for (let i = from; i < to; i++) if (candidate[i]! > max) max = candidate[i]!
  let sum = 0
  let cross = 0
  for (let i = from; i < to; i++) {
    const difference = candidate[i]! - max
    sum += expOfNonPositive(difference)
    const weight = p[i]!
    // An impossible class may have −Infinity.
    if (weight !== 0) cross += weight * difference
  }
  return Math.log(sum) - cross / mass
}

/** −Σ p ln(q / Σ q), with stored zeros of q taken for `least`. */
function crossEntropyOfProbabilities(
  p: Numbers,
  candidate: Numbers,
  from: number,
  classes: number,
  mass: number,
  least: number,
): number {
  let sum = 0
  let cross = 0
  for (let i = from; i < from + classes; i++) {
    const q = Math.max(candidate[i]!, least)
    sum += q
    const weight = p[i]!
    if (weight !== 0) cross += weight * Math.log(q)
  }
  return Math.log(sum) - cross / mass
}

/** Σ (f − q)²; equal infinities are equal, any other value that is not finite makes it infinite. */
function squaredDifference(reference: Numbers, candidate: Numbers, from: number, to: number): number {
  let sum = 0
  for (let i = from; i < to; i++) {
    const r = reference[i]!
    const c = candidate[i]!
    if (r === c) continue
    sum += (r - c) ** 2
  }
  return Number.isNaN(sum) ? Number.POSITIVE_INFINITY : sum
}

function countDifferent(reference: Numbers, candidate: Numbers, from: number, to: number): number {
  let different = 0
  for (let i = from; i < to; i++) if (reference[i] !== candidate[i]) different++
  return different
}

/** Mean of losses and its standard error. */
export interface LossSummary {
  readonly mean: number
  readonly standardError: number
}

/**
 * Mean over samples and its standard error s/√n.
 * @param losses of all samples, ≥ 0, Infinity allowed
 * @returns the error is NaN with fewer than two samples, and both are Infinity when a loss is; the mean of none is NaN
 */
export function summarize(losses: ArrayLike<number>): LossSummary {
  const { length } = losses
  let sum = 0
  for (let i = 0; i < length; i++) sum += losses[i]!
  const mean = sum / length
  if (length < 2) return { mean, standardError: Number.NaN }
  if (mean === Number.POSITIVE_INFINITY) return { mean, standardError: mean }
  let squares = 0
  for (let i = 0; i < length; i++) squares += (losses[i]! - mean) ** 2
  return { mean, standardError: Math.sqrt(squares / (length - 1) / length) }
}

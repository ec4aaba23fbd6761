/**
 * @file Figures of merit that need targets: perplexity of next-token prediction, and top-1 accuracy. Reference and
 * candidate see the same samples, so the change has a paired standard error.
 */
import { QtoolError } from '../errors.ts'
import type { TaskMetric } from '../report.ts'
import { argmax, logSumExp } from './divergence.ts'
import { type OutputBatch, samplesOf } from './metrics.ts'
import { type Numbers, numbersOf } from './numbers.ts'
import type { OutputKind } from './outputKind.ts'
import { ratioEstimate } from './statistics.ts'

/** Per sample: sums of the figure for both models, and how many terms they have. */
class PairedSums {
  readonly reference: number[] = []
  readonly candidate: number[] = []
  readonly counts: number[] = []

  addSample(reference: number, candidate: number, count: number): void {
    this.reference.push(reference)
    this.candidate.push(candidate)
    this.counts.push(count)
  }

  get count(): number {
    return this.counts.reduce((sum, n) => sum + n, 0)
  }

  /** Mean of candidate − reference with its standard error. */
  get change() {
    return ratioEstimate(
      this.candidate.map((c, s) => c - this.reference[s]!),
      this.counts,
    )
  }
}

/**
 * Perplexity exp(mean −ln p(next token)) of a causal language model. Position t of the scores predicts token t + 1;
 * a prediction counts where both positions are not padding. The first token of a sample is never predicted.
 */
export class PerplexityAccumulator {
  readonly #output: string
  readonly #kind: OutputKind
  readonly #sums = new PairedSums()

  constructor(output: string, kind: 'logits' | 'probabilities') {
    this.#output = output
    this.#kind = kind
  }

  /**
   * @param batch scores [samples, positions, vocabulary]
   * @param ids   token ids [samples, positions], flat, each below the vocabulary's size
   */
  add(batch: OutputBatch, ids: Numbers): void {
    const [samples, positions, vocabulary] = batch.reference.dims as [number, number, number]
    const reference = numbersOf(batch.reference)
    const candidate = numbersOf(batch.candidate)
    for (let s = 0; s < samples; s++) {
      let sumR = 0
      let sumC = 0
      let count = 0
      for (let t = s * positions; t < (s + 1) * positions - 1; t++) {
        if (batch.keep && !(batch.keep[t] && batch.keep[t + 1])) continue
        sumR += this.#surprise(reference, t * vocabulary, vocabulary, ids[t + 1]!)
        sumC += this.#surprise(candidate, t * vocabulary, vocabulary, ids[t + 1]!)
        count++
      }
      this.#sums.addSample(sumR, sumC, count)
    }
  }

  /** −ln p(token), nats. */
  #surprise(scores: Numbers, offset: number, classes: number, token: number): number {
    if (this.#kind === 'logits') return logSumExp(scores, offset, classes) - scores[offset + token]!
    let sum = 0
    for (let i = offset; i < offset + classes; i++) sum += scores[i]!
    return Math.log(sum) - Math.log(scores[offset + token]!)
  }

  /**
   * change = exp(Δ) − 1 with Δ the mean difference of −ln p over all predictions; its standard error is exp(Δ)·SE(Δ)
   * (delta method). Undefined when nothing was predicted.
   */
  result(): TaskMetric | undefined {
    const { count, change } = this.#sums
    if (count === 0) return undefined
    const total = (sums: readonly number[]) => sums.reduce((a, b) => a + b, 0)
    return {
      name: 'perplexity',
      output: this.#output,
      reference: Math.exp(total(this.#sums.reference) / count),
      candidate: Math.exp(total(this.#sums.candidate) / count),
      change: Math.expm1(change.mean),
      standardError: Math.exp(change.mean) * change.standardError,
      count,
    }
  }
}

/** Share of rows whose largest class is the label. Negative labels (often −1 or −100) mean "does not count". */
export class AccuracyAccumulator {
  readonly #output: string
  readonly #sums = new PairedSums()

  constructor(output: string) {
    this.#output = output
  }

  /**
   * @param batch  scores; rows lie along the last axis
   * @param labels class of each row of the whole data set, in order
   * @throws QtoolError `data` when a label is not a class of this output
   */
  add(batch: OutputBatch, labels: ArrayLike<number>): void {
    const classes = batch.reference.dims.at(-1)!
    const reference = numbersOf(batch.reference)
    const candidate = numbersOf(batch.candidate)
    const rowsPerSample = reference.length / classes / samplesOf(batch)
    for (let s = 0; s < samplesOf(batch); s++) {
      let rightR = 0
      let rightC = 0
      let count = 0
      for (let row = s * rowsPerSample; row < (s + 1) * rowsPerSample; row++) {
        const label = labels[batch.start * rowsPerSample + row]!
        if (label < 0 || (batch.keep && !batch.keep[row])) continue
        if (!(Number.isInteger(label) && label < classes)) {
          throw new QtoolError(
            'data',
            `label ${label} of sample ${batch.start + s}: ${this.#output} has ${classes} classes`,
          )
        }
        if (argmax(reference, row * classes, classes) === label) rightR++
        // A row with NaN has no largest class, so it is wrong whatever the label.
        if (!hasNaN(candidate, row * classes, classes) && argmax(candidate, row * classes, classes) === label) rightC++
        count++
      }
      this.#sums.addSample(rightR, rightC, count)
    }
  }

  /** Undefined when no row has a label. */
  result(): TaskMetric | undefined {
    const { count, change } = this.#sums
    if (count === 0) return undefined
    const share = (sums: readonly number[]) => sums.reduce((a, b) => a + b, 0) / count
    return {
      name: 'accuracy',
      output: this.#output,
      reference: share(this.#sums.reference),
      candidate: share(this.#sums.candidate),
      change: change.mean,
      standardError: change.standardError,
      count,
    }
  }
}

/** True when some value of a row is NaN: then it has no largest class. */
export function hasNaN(values: Numbers, offset: number, classes: number): boolean {
  for (let i = offset; i < offset + classes; i++) if (Number.isNaN(values[i]!)) return true
  return false
}

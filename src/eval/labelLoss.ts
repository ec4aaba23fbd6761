/**
 * @file What labels say of a network with quantized weights, beside the float network on the same samples: the cross entropy of
 * the label, and whether the largest class is the label. Made for hundreds of candidates against one set of references.
 */
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { argmax, leastOf, logSumExp } from './divergence.ts'
import { samplesOf } from './metrics.ts'
import { type Numbers, numbersOf } from './numbers.ts'
import { type OutputKind, outputKind } from './outputKind.ts'
import { summarize } from './outputLoss.ts'
import { candidateNumbers } from './referenceOutputs.ts'
import { hasNaN } from './tasks.ts'

/** Accuracy of a configuration beside that of the float network, on the same samples. */
export interface PairedAccuracy {
  /** Samples with a label, at least 1. */
  readonly samples: number
  /** How many of them the float network, and the configuration, gets right. */
  readonly floatRight: number
  readonly right: number
  /** Standard error of the difference of the two accuracies, from the paired samples; NaN with fewer than two. */
  readonly standardError: number
}

/** Figures of the samples that have a label, in their order. */
interface LabelFigures {
  /** Cross entropy of the label minus that of the float network, nats: below 0 where the label has become more likely. */
  readonly losses: number[]
  /** 1 where the largest class is the label, else 0. */
  readonly right: number[]
}

interface Reference {
  readonly dims: readonly number[]
  /** Class of each sample; below 0: none. */
  readonly labels: ArrayLike<number>
  readonly surprises: Float64Array
  readonly right: Uint8Array
}

export class LabelLoss {
  readonly #largestLabel: number
  readonly #batches = new Map<number, Reference>()
  readonly #right: number[] = []
  #output: { readonly name: string; readonly kind: OutputKind } | undefined
  #first: number | undefined

  /** @param largestLabel of all samples: an output with as many classes may hold their scores. */
  constructor(largestLabel: number) {
    this.#largestLabel = largestLabel
  }

  /** The output that holds class scores, the first one of the first batch; undefined where none does. */
  get output(): string | undefined {
    return this.#output?.name
  }

  /** Samples that have a label. */
  get samples(): number {
    return this.#right.length
  }

  /** How many of them the float network gets right. */
  get floatRight(): number {
    return this.#right.reduce((sum, one) => sum + one, 0)
  }

  /**
   * Give one output of the float network for one batch; all outputs of the first batch before the next. Class scores are an
   * output with one row per sample that {@link outputKind} says holds them; others are passed over.
   * @param labels class of each sample of the batch; below 0: it does not count.
   * @param numbers of the samples in the data, for messages.
   * @throws QtoolError `data` when a label is no class of the output, or the float network gives it no finite score.
   */
  addReference(
    batch: number,
    name: string,
    tensor: FeedTensor,
    labels: ArrayLike<number>,
    numbers: ArrayLike<number>,
  ): void {
    this.#first ??= batch
    if (batch === this.#first && !this.#output) {
      const kind = this.#kindOf(name, tensor, labels.length)
      if (kind) this.#output = { name, kind }
    }
    if (this.#output?.name !== name) return
    const classes = tensor.dims.at(-1)!
    for (let s = 0; s < labels.length; s++) {
      if (labels[s]! < classes) continue
      throw new QtoolError('data', `label ${labels[s]} of sample ${numbers[s]}: ${name} has ${classes} classes`)
    }
    const { surprises, right } = this.#judge(tensor, numbersOf(tensor), labels)
    for (let s = 0; s < labels.length; s++) {
      if (labels[s]! < 0) continue
      if (!Number.isFinite(surprises[s]!)) {
        throw new QtoolError(
          'data',
          `sample ${numbers[s]}: the float model gives its label ${labels[s]} no finite score`,
          {
            hint: 'check the labels, or leave this sample out',
          },
        )
      }
      this.#right.push(right[s]!)
    }
    this.#batches.set(batch, { dims: tensor.dims, labels, surprises, right })
  }

  /**
   * Compare one batch.
   * @param outputs of the candidate, by name; without the one that holds the scores nothing has changed.
   * @returns losses finite or Infinity; a row with NaN is wrong whatever the label.
   * @throws QtoolError `model` when a shape differs from the reference's; RangeError for a batch without reference.
   */
  compare(batch: number, outputs: ReadonlyMap<string, FeedTensor>): LabelFigures {
    const reference = this.#batches.get(batch)
    if (!reference) throw new RangeError(`batch ${batch} has no reference`)
    const { labels, dims } = reference
    const { name } = this.#output!
    const candidate = outputs.get(name)
    const own = candidate
      ? this.#judge(candidate, candidateNumbers({ name, dims, batch }, candidate), labels)
      : reference
    const figures: LabelFigures = { losses: [], right: [] }
    for (let s = 0; s < labels.length; s++) {
      if (labels[s]! < 0) continue
      const loss = own.surprises[s]! - reference.surprises[s]!
      figures.losses.push(Number.isNaN(loss) ? Number.POSITIVE_INFINITY : loss)
      figures.right.push(own.right[s]!)
    }
    return figures
  }

  /** @param right of all samples with a label, batch after batch in the order of the references. */
  accuracy(right: readonly number[]): PairedAccuracy {
    if (right.length !== this.#right.length) throw new RangeError(`${right.length} of ${this.#right.length} samples`)
    return {
      samples: right.length,
      floatRight: this.floatRight,
      right: right.reduce((sum, one) => sum + one, 0),
      standardError: summarize(right.map((one, s) => one - this.#right[s]!)).standardError,
    }
  }

  /** Of an output with one row of class scores per sample; undefined for any other. */
  #kindOf(name: string, tensor: FeedTensor, count: number): OutputKind | undefined {
    const { dims, type } = tensor
    const values = numbersOf(tensor)
    const isRowPerSample =
      samplesOf({ reference: tensor, count }) === count && dims[0] === count && values.length === count * dims.at(-1)!
    if (!isRowPerSample) return undefined
    const shape = { name, elementType: type, dims, values, rows: undefined }
    const kind = outputKind({ ...shape, largestLabel: this.#largestLabel, logits: 'auto' })
    return kind === 'logits' || kind === 'probabilities' ? kind : undefined
  }

  #judge({ type }: FeedTensor, values: Numbers, labels: ArrayLike<number>) {
    const classes = values.length / labels.length
    const surprises = new Float64Array(labels.length)
    const right = new Uint8Array(labels.length)
    const least = leastOf(type)
    for (let s = 0; s < labels.length; s++) {
      const label = labels[s]!
      if (label < 0) continue
      const from = s * classes
      surprises[s] =
        this.#output!.kind === 'logits'
          ? logSumExp(values, from, classes) - values[from + label]!
          : surpriseOfProbabilities(values, from, classes, label, least)
      right[s] = !hasNaN(values, from, classes) && argmax(values, from, classes) === label ? 1 : 0
    }
    return { surprises, right }
  }
}

/** −ln(p / Σ p), with stored zeros taken for `least`; NaN where a probability is. */
function surpriseOfProbabilities(values: Numbers, from: number, classes: number, label: number, least: number): number {
  let sum = 0
  for (let i = from; i < from + classes; i++) sum += Math.max(values[i]!, least)
  return Math.log(sum) - Math.log(Math.max(values[from + label]!, least))
}

/**
 * @file Two versions of one output, batch by batch, into an {@link OutputComparison}. Sums are float64 and nothing is
 * kept but sums and one figure per position.
 */

import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import type { OutputComparison } from '../report.ts'
import { argmax, klOfLogits, klOfProbabilities, leastOf } from './divergence.ts'
import { type Numbers, numbersOf } from './numbers.ts'
import { isDistribution, type OutputKind } from './outputKind.ts'
import { DistributionAccumulator } from './statistics.ts'

/** Sums over the differences of two number sequences of equal length. */
export class DifferenceAccumulator {
  #values = 0
  #equal = 0
  #signal = 0
  #noise = 0
  #dot = 0
  #energy = 0
  #largest = 0
  #invalid = false

  /** Add elements [from, to). Equal infinities count as equal; energies and products are taken over finite pairs. */
  add(reference: Numbers, candidate: Numbers, from: number, to: number): void {
    let equal = 0
    let signal = 0
    let noise = 0
    let dot = 0
    let energy = 0
    for (let i = from; i < to; i++) {
      const r = reference[i]!
      const c = candidate[i]!
      if (r === c) equal++
      if (r - r === 0 && c - c === 0) {
        const difference = r - c
        signal += r * r
        energy += c * c
        dot += r * c
        noise += difference * difference
        if (Math.abs(difference) > this.#largest) this.#largest = Math.abs(difference)
      } else if (Number.isNaN(r) || Number.isNaN(c)) {
        this.#invalid = true
      } else if (r !== c) {
        noise = Number.POSITIVE_INFINITY
        this.#largest = Number.POSITIVE_INFINITY
      }
    }
    this.#values += to - from
    this.#equal += equal
    this.#signal += signal
    this.#noise += noise
    this.#dot += dot
    this.#energy += energy
  }

  get values(): number {
    return this.#values
  }

  /** Share of elements that are equal. NaN when any element is NaN. */
  get equalShare(): number {
    return this.#invalid ? Number.NaN : this.#equal / this.#values
  }

  /** 10·log10(Σ r² / Σ (r − c)²), dB: Infinity when all are equal, −Infinity when only the signal is zero. */
  get sqnr(): number {
    if (this.#invalid) return Number.NaN
    return this.#noise === 0 ? Number.POSITIVE_INFINITY : 10 * Math.log10(this.#signal / this.#noise)
  }

  /** Σ r c / √(Σ r² Σ c²), in [−1, 1]: 1 when all are equal, 0 when only one side is all zeros. */
  get cosine(): number {
    if (this.#invalid || this.#noise === Number.POSITIVE_INFINITY) return Number.NaN
    if (this.#noise === 0) return 1
    const norm = Math.sqrt(this.#signal) * Math.sqrt(this.#energy)
    return norm === 0 ? 0 : Math.max(-1, Math.min(1, this.#dot / norm))
  }

  get largest(): number {
    return this.#invalid ? Number.NaN : this.#largest
  }
}

/** One batch of one output. */
export interface OutputBatch {
  readonly reference: FeedTensor
  /** Same shape as the reference. */
  readonly candidate: FeedTensor
  /** Samples in the batch, and the number of the first one. */
  readonly count: number
  readonly start: number
  /**
   * 1 for positions that count and 0 for padding, one per element of the two leading axes [batch, positions];
   * undefined when everything counts.
   */
  readonly keep: Uint8Array | undefined
}

/** Accumulates the comparison of one output. */
export class OutputAccumulator {
  readonly #name: string
  readonly #kind: OutputKind
  readonly #difference = new DifferenceAccumulator()
  readonly #kl = new DistributionAccumulator()
  #shape: readonly number[] | undefined
  #rows = 0
  #agreeing = 0
  #invalid = 0
  #firstInvalidSample = -1
  #notDistributions = 0

  constructor(name: string, kind: OutputKind) {
    this.#name = name
    this.#kind = kind
  }

  /** @throws QtoolError `data` when the reference holds NaN, or logits without a softmax: nothing can be compared with it. */
  add(batch: OutputBatch): void {
    const reference = numbersOf(batch.reference)
    const candidate = numbersOf(batch.candidate)
    const { dims } = batch.reference
    this.#shape ??= dims
    const positions = batch.keep ? batch.keep.length : samplesOf(batch)
    const perPosition = positions === 0 ? 0 : reference.length / positions
    const perSample = positions / samplesOf(batch)
    let figures: number[] = []
    for (let position = 0; position < positions; position++) {
      const from = position * perPosition
      const sample = batch.start + Math.floor(position / perSample)
      if (!batch.keep || batch.keep[position]) {
        this.#check(reference, candidate, from, from + perPosition, sample)
        this.#difference.add(reference, candidate, from, from + perPosition)
        this.#addRows(batch, reference, candidate, from, from + perPosition, sample, figures)
      }
      if ((position + 1) % perSample === 0) {
        if (this.#isScores) this.#kl.addSample(figures)
        figures = []
      }
    }
  }

  get #isScores(): boolean {
    return this.#kind === 'logits' || this.#kind === 'probabilities'
  }

  #check(reference: Numbers, candidate: Numbers, from: number, to: number, sample: number): void {
    for (let i = from; i < to; i++) {
      if (Number.isNaN(reference[i]!)) {
        throw new QtoolError('data', `output ${this.#name}: the reference model gives NaN for sample ${sample}`, {
          hint: 'check the data, or leave this sample out; nothing can be compared with NaN',
        })
      }
      if (Number.isNaN(candidate[i]!)) {
        if (this.#invalid === 0) this.#firstInvalidSample = sample
        this.#invalid++
      }
    }
  }

  #addRows(
    batch: OutputBatch,
    reference: Numbers,
    candidate: Numbers,
    from: number,
    to: number,
    sample: number,
    figures: number[],
  ): void {
    if (!this.#isScores) return
    const classes = batch.reference.dims.at(-1)!
    const least = leastOf(batch.candidate.type)
    for (let offset = from; offset < to; offset += classes) {
      this.#rows++
      if (argmax(reference, offset, classes) === argmax(candidate, offset, classes)) this.#agreeing++
      if (this.#kind === 'logits') {
        figures.push(this.#logitsRow(reference, candidate, offset, classes, sample))
      } else if (isDistribution(reference, offset, classes)) {
        figures.push(klOfProbabilities(reference, candidate, offset, classes, least))
      } else {
        this.#notDistributions++
        figures.push(Number.NaN)
      }
    }
  }

  #logitsRow(reference: Numbers, candidate: Numbers, offset: number, classes: number, sample: number): number {
    const kl = klOfLogits(reference, candidate, offset, classes)
    if (Number.isNaN(kl) && Number.isNaN(klOfLogits(reference, reference, offset, classes))) {
      throw new QtoolError(
        'data',
        `output ${this.#name}: the reference model gives infinite logits for sample ${sample}`,
        {
          hint: 'check the data; if this output is not logits, say which outputs are',
        },
      )
    }
    return kl
  }

  /** Mean KL of each sample, in nats; undefined where the output does not hold scores. */
  sampleKls(): number[] | undefined {
    return this.#isScores ? this.#kl.sampleMeans() : undefined
  }

  result(): OutputComparison {
    const difference = this.#difference
    const agreement = this.#isScores ? this.#agreeing / this.#rows : difference.equalShare
    return {
      output: this.#name,
      shape: this.#shape ?? [],
      values: difference.values,
      kl: this.#isScores ? this.#kl.result() : undefined,
      top1Agreement: this.#kind === 'numbers' ? undefined : this.#invalid > 0 ? Number.NaN : agreement,
      sqnr: difference.sqnr,
      cosine: difference.cosine,
      maxAbsoluteDifference: difference.largest,
    }
  }

  /** What a user must know about the figures. */
  warnings(): string[] {
    const warnings: string[] = []
    if (this.#invalid > 0) {
      warnings.push(
        `output ${this.#name}: the candidate gives NaN in ${this.#invalid} of ${this.#difference.values} values, ` +
          `first in sample ${this.#firstInvalidSample}; its figures are NaN`,
      )
    }
    if (this.#notDistributions > 0) {
      warnings.push(
        `output ${this.#name}: the first batch held probabilities, but ${this.#notDistributions} later rows of the ` +
          'reference do not sum to 1; its KL is NaN',
      )
    }
    return warnings
  }
}

/** Samples that the leading axis of an output holds; an output without a batch axis is one sample per batch. */
export function samplesOf(batch: { readonly reference: FeedTensor; readonly count: number }): number {
  const leading = batch.reference.dims[0] ?? 1
  return leading > 0 && leading % batch.count === 0 ? batch.count : 1
}

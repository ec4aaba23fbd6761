/**
 * @file Outputs of the reference model in the form in which many candidates are compared with them: for class scores
 * the probabilities and one entropy per row, so that a candidate costs one exponential per score; for anything else the
 * tensor itself.
 */
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { samplesOf } from './metrics.ts'
import { type Numbers, numbersOf } from './numbers.ts'
import { isDistribution, type OutputKind, outputKind } from './outputKind.ts'

/** Where references lie between comparisons: in memory, or wherever the caller puts them. */
export interface TensorStore {
  /** The store owns the numbers from now on. */
  put(batch: number, name: string, tensor: FeedTensor): void
  get(batch: number, name: string): FeedTensor
}

/** What is known of a batch besides its tensors. */
export interface BatchFacts {
  readonly count: number
  /** Weight of each token [batch · sequence], 0 for padding; undefined when all count. */
  readonly weights: Float32Array | undefined
}

/** One output of one batch; its numbers are in the store. */
export interface ReferenceOutput {
  readonly batch: number
  readonly name: string
  readonly kind: OutputKind
  readonly dims: readonly number[]
  /** Samples along its leading axis: those of the batch, or 1 for an output without a batch axis. */
  readonly samples: number
  /** 0 for a position [batch, sequence] that does not count; undefined when all do. */
  readonly keep: Float32Array | undefined
  /** Per sample: rows of class scores, or values of another kind, that count. */
  readonly counts: Float64Array
  /** Per row of class scores that counts, in order: Σ p ln p of the stored probabilities, and their sum (1 but for rounding). */
  readonly rows: { readonly negentropies: Float64Array; readonly masses: Float64Array } | undefined
  /** Per sample: Σ f² over the finite values that count; for kind `numbers`. */
  readonly energies: Float64Array | undefined
}

/** Samples with less energy per value than this share of the mean are measured against it, so that silence does not dominate. */
const LEAST_ENERGY = 0.1

interface Batch extends BatchFacts {
  readonly outputs: Map<string, ReferenceOutput>
}

export class ReferenceOutputs {
  readonly #logits: 'auto' | readonly string[]
  readonly #store: TensorStore
  readonly #batches = new Map<number, Batch>()
  readonly #kinds = new Map<string, OutputKind>()
  readonly #energies = new Map<string, { sum: number; values: number }>()
  #samples = 0

  /** @param logits names of the outputs that hold class scores; 'auto' lets {@link outputKind} decide on the first batch. */
  constructor(logits: 'auto' | readonly string[], store: TensorStore = inMemory()) {
    this.#logits = logits
    this.#store = store
  }

  /**
   * Take one output of one batch. The tensor is kept as it is, or replaced by probabilities of its shape in float32.
   * @throws QtoolError `data` when it holds NaN, or class scores that are none; `usage` when the user's `logits` cannot be any
   * @throws RangeError when it was given before, or two outputs disagree about the batch
   */
  add(batch: number, name: string, tensor: FeedTensor, facts: BatchFacts): void {
    let known = this.#batches.get(batch)
    if (!known) {
      known = { ...facts, outputs: new Map() }
      this.#batches.set(batch, known)
      this.#samples += facts.count
    }
    if (known.outputs.has(name) || known.count !== facts.count) throw new RangeError(`batch ${batch}: ${name} again`)
    const { dims } = tensor
    const values = numbersOf(tensor)
    const isByToken =
      facts.weights !== undefined &&
      dims.length > 2 &&
      dims[0]! * dims[1]! === facts.weights.length &&
      values.length > 0
    const shape = {
      dims,
      samples: samplesOf({ reference: tensor, count: facts.count }),
      keep: isByToken ? facts.weights : undefined,
    }
    for (const { from, to } of countedSpans(shape)) {
      for (let i = from; i < to; i++) if (Number.isNaN(values[i]!)) throw badReference(name, batch, 'NaN')
    }
    let kind = this.#kinds.get(name)
    if (!kind) {
      kind = this.#kindOf(name, tensor.type, values, shape)
      this.#kinds.set(name, kind)
    }
    const output = { batch, name, kind, ...shape }
    known.outputs.set(name, this.#digest(output, tensor, values))
  }

  #kindOf(name: string, elementType: string, values: Numbers, shape: Shape): OutputKind {
    const classes = shape.dims.at(-1) ?? 1
    const rows = shape.keep && [...countedSpans(shape, classes)].map(({ from }) => from / classes)
    const evidence = { name, elementType, dims: shape.dims, values, rows, largestLabel: undefined }
    return outputKind({ ...evidence, logits: this.#logits })
  }

  #digest(output: Omit<ReferenceOutput, 'counts' | 'rows' | 'energies'>, tensor: FeedTensor, values: Numbers) {
    const { batch, name, kind, dims, samples } = output
    const counts = new Float64Array(samples)
    if (kind === 'logits' || kind === 'probabilities') {
      const classes = dims.at(-1)!
      const probabilities = new Float32Array(values.length)
      const negentropies: number[] = []
      const masses: number[] = []
      for (const { sample, from } of countedSpans(output, classes)) {
        const isValid =
          kind === 'logits'
            ? softmaxInPlace(values, from, classes, probabilities)
            : normalizeInPlace(values, from, classes, probabilities)
        if (!isValid)
          throw badReference(name, batch, kind === 'logits' ? 'infinite logits' : 'rows that do not sum to 1')
        const { negentropy, mass } = entropyOf(probabilities, from, classes)
        negentropies.push(negentropy)
        masses.push(mass)
        counts[sample]!++
      }
      this.#store.put(batch, name, { type: 'float', dims, data: probabilities })
      const rows = { negentropies: Float64Array.from(negentropies), masses: Float64Array.from(masses) }
      return { ...output, counts, rows, energies: undefined }
    }
    const energies = new Float64Array(samples)
    for (const { sample, from, to } of countedSpans(output)) {
      let energy = 0
      for (let i = from; i < to; i++) if (Number.isFinite(values[i]!)) energy += values[i]! * values[i]!
      energies[sample]! += energy
      counts[sample]! += to - from
    }
    const total = this.#energies.get(name) ?? { sum: 0, values: 0 }
    this.#energies.set(name, total)
    for (let s = 0; s < samples; s++) {
      total.sum += energies[s]!
      total.values += counts[s]!
    }
    this.#store.put(batch, name, tensor)
    return { ...output, counts, rows: undefined, energies }
  }

  /** What the outputs hold. */
  get kinds(): readonly OutputKind[] {
    return [...this.#kinds.values()]
  }

  /** Numbers of the batches, in the order in which they came. */
  get batches(): readonly number[] {
    return [...this.#batches.keys()]
  }

  /** Samples of all batches. */
  get samples(): number {
    return this.#samples
  }

  /** Samples of one batch. @throws RangeError for a batch that was not added */
  count(batch: number): number {
    return this.#known(batch).count
  }

  #known(batch: number): Batch {
    const known = this.#batches.get(batch)
    if (!known) throw new RangeError(`batch ${batch} has no reference`)
    return known
  }

  /** Throw a RangeError for a name that is no output. */
  checkName(name: string): void {
    if (!this.#kinds.has(name)) throw new RangeError(`output ${name} has no reference`)
  }

  /** Outputs of a batch that are compared: those of integers only where there are no others. */
  compared(batch: number): ReferenceOutput[] {
    const outputs = [...this.#known(batch).outputs.values()]
    const others = outputs.filter(({ kind }) => kind !== 'integers')
    return others.length > 0 ? others : outputs
  }

  /** Numbers of an output: probabilities for class scores, else as they were given. */
  valuesOf({ batch, name }: ReferenceOutput): Numbers {
    return numbersOf(this.#store.get(batch, name))
  }

  /**
   * What Σ (f − q)² over a sample is divided by: its own Σ f², but no less than a tenth of what its number of values has on
   * average over all references; 1 where all references are zero. For kind `numbers`, when all references are there.
   */
  normOf({ name, energies, counts }: ReferenceOutput, sample: number): number {
    const { sum, values } = this.#energies.get(name)!
    const least = (LEAST_ENERGY * sum * counts[sample]!) / values
    return Math.max(energies![sample]!, least) || 1
  }
}

/**
 * A candidate's numbers for a reference, checked to have its shape.
 * @throws QtoolError `model`
 */
export function candidateNumbers(
  { name, dims, batch }: Pick<ReferenceOutput, 'name' | 'dims' | 'batch'>,
  candidate: FeedTensor,
): Numbers {
  if (dims.length === candidate.dims.length && dims.every((dim, axis) => dim === candidate.dims[axis])) {
    return numbersOf(candidate)
  }
  const shapes = `[${candidate.dims.join(', ')}] instead of [${dims.join(', ')}]`
  throw new QtoolError('model', `output ${name} has shape ${shapes} with quantized weights (batch ${batch})`, {
    hint: 'outputs whose shape depends on their values (selected boxes, …) cannot be compared',
  })
}

type Shape = Pick<ReferenceOutput, 'dims' | 'samples' | 'keep'>

interface Span {
  readonly sample: number
  /** Elements [from, to). */
  readonly from: number
  readonly to: number
}

/** The elements that count, in order, by positions, or by rows of `size` elements inside them. */
export function* countedSpans({ dims, samples, keep }: Shape, size?: number): Generator<Span> {
  const elements = dims.reduce((a, b) => a * b, 1)
  if (elements === 0) return
  const positions = keep ? keep.length : samples
  const width = elements / positions
  const step = size ?? width
  for (let position = 0; position < positions; position++) {
    if (keep && !(keep[position]! > 0)) continue
    const sample = Math.floor((position * samples) / positions)
    const end = (position + 1) * width
    for (let from = position * width; from < end; from += step) yield { sample, from, to: from + step }
  }
}

/** Softmax of a row into the same place of `out`. @returns false when there is none */
function softmaxInPlace(values: Numbers, from: number, classes: number, out: Float32Array): boolean {
  let max = Number.NEGATIVE_INFINITY
  for (let i = from; i < from + classes; i++) if (values[i]! > max) max = values[i]!
  if (!Number.isFinite(max)) return false
  let sum = 0
  for (let i = from; i < from + classes; i++) sum += Math.exp(values[i]! - max)
  for (let i = from; i < from + classes; i++) out[i] = Math.exp(values[i]! - max) / sum
  return true
}

/** A row of probabilities into the same place of `out`. @returns false when it is not a distribution */
function normalizeInPlace(values: Numbers, from: number, classes: number, out: Float32Array): boolean {
  if (!isDistribution(values, from, classes)) return false
  let sum = 0
  for (let i = from; i < from + classes; i++) sum += values[i]!
  for (let i = from; i < from + classes; i++) out[i] = values[i]! / sum
  return true
}

/** Of the numbers as stored: float32 rounding then moves the reference by 10⁻⁷, but leaves the divergence from it exact. */
function entropyOf(p: Float32Array, from: number, classes: number): { negentropy: number; mass: number } {
  let mass = 0
  let sum = 0
  for (let i = from; i < from + classes; i++) {
    const value = p[i]!
    mass += value
    if (value !== 0) sum += value * Math.log(value)
  }
  return { negentropy: sum / mass - Math.log(mass), mass }
}

function badReference(name: string, batch: number, what: string): QtoolError {
  return new QtoolError('data', `output ${name}: the float model gives ${what} in batch ${batch} of the data`, {
    hint: 'check the data; if this output does not hold class scores, say which outputs are logits',
  })
}

function inMemory(): TensorStore {
  const tensors = new Map<string, FeedTensor>()
  return {
    put: (batch, name, tensor) => tensors.set(`${batch} ${name}`, tensor),
    get: (batch, name) => tensors.get(`${batch} ${name}`)!,
  }
}

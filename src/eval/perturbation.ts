/**
 * @file What a candidate does to the outputs, as a vector u of whose inner products the losses of joint changes are made.
 *
 * u is scaled so that ½‖u‖² is the loss of {@link OutputLoss}, averaged over samples, to second order in the change:
 *
 * - class scores: u = √p ∘ (Δz − Σ p Δz) / √rows, Δz the change of the log-probabilities; ‖·‖² is then the Fisher metric
 *   Δzᵀ (diag p − p pᵀ) Δz, and KL(p ‖ q) = ½ of it + O(Δz³);
 * - other outputs: u = √2 (q − f) / √norm, exactly.
 *
 * Since u is linear in a small change, two layers' cross term in the loss is the inner product of their vectors.
 *
 * u has as many coordinates as the outputs have numbers. A CountSketch (Charikar, Chen and Farach-Colton 2002; Weinberger et al.
 * 2009, "Feature hashing", lemma 2) makes D of them: each coordinate is added, with a hashed sign, to a hashed bucket. Inner products of
 * sketches are unbiased over seeds, with variance (‖u‖²‖v‖² + ⟨u, v⟩² − 2 Σ uᵢ² vᵢ²) / D, so off by about ‖u‖‖v‖ / √D, or √2 of that for parallel
 * vectors; they are the same for all pairs of one seed, and a Gram matrix of sketches stays positive semidefinite.
 */
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { makeRandom } from '../random.ts'
import { leastOf } from './divergence.ts'
import type { Numbers } from './numbers.ts'
import { candidateNumbers, countedSpans, type ReferenceOutput, type ReferenceOutputs } from './referenceOutputs.ts'

/** Classes less likely carry a share below 10⁻¹² each of the metric: left out, as their logarithms are noise. */
const LEAST_PROBABILITY = 2 ** -40

/** One output of one batch, and where its coordinates begin. */
interface Part {
  readonly output: ReferenceOutput
  readonly firstRow: number
  readonly firstCoordinate: number
  /** Of the mean loss: share of the batch's samples, and of the outputs. */
  readonly share: number
}

export class OutputPerturbation {
  /** Numbers of a sketch. */
  readonly size: number
  /** True when a sketch is the vector itself, followed by zeros. */
  readonly isExact: boolean
  readonly #reference: ReferenceOutputs
  readonly #parts = new Map<number, Part[]>()
  /** One per row: what its coordinates are hashed with. */
  readonly #keys: Int32Array
  #delta = new Float64Array(0)

  /**
   * @param reference with all batches in it
   * @param size      D: numbers of a sketch
   * @param seed      of the hash; sketches can be compared when this, D and the references are the same
   * @throws QtoolError `model` when all outputs are integers, which have no small changes
   */
  constructor(reference: ReferenceOutputs, size: number, seed: number) {
    if (!(Number.isInteger(size) && size > 0)) throw new RangeError(`a sketch of ${size} numbers`)
    this.size = size
    this.#reference = reference
    let rows = 0
    let coordinates = 0
    for (const batch of reference.batches) {
      const compared = reference.compared(batch)
      const parts: Part[] = []
      for (const output of compared) {
        if (output.kind === 'integers') {
          throw new QtoolError('model', `output ${output.name} holds integers: no sensitivities between layers`, {
            hint: 'measure each layer alone (kl), or add a floating-point output to the model',
          })
        }
        const count = output.samples === 1 ? reference.count(batch) : 1
        const share = count / (reference.samples * compared.length)
        parts.push({ output, firstRow: rows, firstCoordinate: coordinates, share })
        for (const { from, to } of countedSpans(output, rowSize(output))) {
          rows++
          coordinates += to - from
        }
      }
      this.#parts.set(batch, parts)
    }
    this.isExact = coordinates <= size
    const random = makeRandom(seed)
    this.#keys = Int32Array.from({ length: this.isExact ? 0 : rows }, () => random.below(2 ** 32) | 0)
  }

  /**
   * Add one batch of a candidate to its sketch, which is its own when all batches are added.
   *
   * @param outputs of the candidate, by name; one that is left out counts as unchanged
   * @param sketch  [size], zeros before the first batch. Means nothing where the loss of the candidate is Infinity
   * @throws QtoolError `model` when a shape differs from the reference's
   * @throws RangeError for a batch or an output without reference, or a sketch of another size
   */
  addInPlace(batch: number, outputs: ReadonlyMap<string, FeedTensor>, sketch: Float32Array): void {
    if (sketch.length !== this.size) throw new RangeError(`sketch of ${sketch.length} numbers, not ${this.size}`)
    for (const name of outputs.keys()) this.#reference.checkName(name)
    const parts = this.#parts.get(batch)
    if (!parts) throw new RangeError(`batch ${batch} has no reference`)
    for (const part of parts) {
      const candidate = outputs.get(part.output.name)
      if (candidate) this.#addOutput(part, candidate, sketch)
    }
  }

  #addOutput(part: Part, candidate: FeedTensor, sketch: Float32Array): void {
    const { output, share } = part
    const values = candidateNumbers(output, candidate)
    const reference = this.#reference.valuesOf(output)
    const least = leastOf(candidate.type)
    let row = part.firstRow
    let coordinate = part.firstCoordinate
    for (const { sample, from, to } of countedSpans(output, rowSize(output))) {
      const length = to - from
      if (this.#delta.length < length) this.#delta = new Float64Array(length)
      const u = this.#delta
      if (output.rows) {
        const isLogits = output.kind === 'logits'
        whitenScores(reference, values, from, length, isLogits ? undefined : least, u)
        scaleInPlace(u, length, Math.sqrt(share / output.counts[sample]!))
      } else {
        const factor = Math.sqrt((2 * share) / this.#reference.normOf(output, sample))
        // Infinities that are equal do not differ.
        for (let i = 0; i < length; i++) {
          const r = reference[from + i]!
          const c = values[from + i]!
          u[i] = r === c ? 0 : factor * (c - r)
        }
      }
      if (this.isExact) sketch.set(u.subarray(0, length), coordinate)
      else scatter(u, length, this.#keys[row]!, sketch)
      row++
      coordinate += length
    }
  }
}

/** Class scores have rows, anything else one for all that counts in one place. */
function rowSize(output: ReferenceOutput): number | undefined {
  return output.rows ? output.dims.at(-1)! : undefined
}

/**
 * √p ∘ (Δz − Σ p Δz) of one row, Δz = ln q − ln p up to a constant.
 * @param least undefined for logits; for probabilities what a stored 0 stands for
 * @param out   [length] at least
 */
function whitenScores(
  p: Numbers,
  candidate: Numbers,
  from: number,
  length: number,
  least: number | undefined,
  out: Float64Array,
): void {
  let mass = 0
  let sum = 0
  for (let i = 0; i < length; i++) {
    const weight = p[from + i]!
    if (weight < LEAST_PROBABILITY) continue
    const value = candidate[from + i]!
    const z = least === undefined ? value : Math.log(Math.max(value, least))
    const delta = z - Math.log(weight)
    out[i] = delta
    mass += weight
    sum += weight * delta
  }
  const mean = sum / mass
  for (let i = 0; i < length; i++) {
    const weight = p[from + i]!
    out[i] = weight < LEAST_PROBABILITY ? 0 : Math.sqrt(weight) * (out[i]! - mean)
  }
}

function scaleInPlace(values: Float64Array, length: number, factor: number): void {
  for (let i = 0; i < length; i++) values[i]! *= factor
}

/**
 * Add each coordinate of a row, with its sign, to its bucket. The hash mixes the row's random key and the place in the row by
 * the finalizer of MurmurHash3 (Appleby 2011), a bijection of 32-bit words in which every bit depends on every other.
 */
function scatter(u: Float64Array, length: number, key: number, sketch: Float32Array): void {
  const perBucket = sketch.length / 2 ** 31
  for (let i = 0; i < length; i++) {
    const value = u[i]!
    if (value === 0) continue
    let h = key ^ Math.imul(i + 1, 0x9e3779b1)
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
    h ^= h >>> 16
    const bucket = ((h & 0x7fffffff) * perBucket) | 0
    sketch[bucket]! += h < 0 ? -value : value
  }
}

/**
 * @file `--select`: which samples to calibrate on, by how much a quickly rounded student disagrees with the float model.
 *
 * EL2N (Paul, Ganguli, Dziugaite 2021, "Deep Learning on a Data Diet") with the float model's probabilities in place of
 * labels, or KL. The held-out part stays a random choice: it has to stand for all data.
 */
import { shuffled } from '../data/pickSamples.ts'
import { klOfLogits, logSumExp } from '../eval/divergence.ts'
import type { Numbers } from '../eval/numbers.ts'

/** Share of the pool, those with the highest scores, that are taken for outliers. */
const OUTLIERS = 0.02

/** The disagreement of two models on one sample; see {@link el2nScore}. */
export type Score = (reference: Numbers, candidate: Numbers, classes: number, weights?: Numbers) => number

/**
 * Mean over positions of ‖softmax p − softmax q‖₂.
 * @param reference p, logits of the float model, [positions, classes]; for a model that puts out probabilities, their
 *   logarithms.
 * @param candidate q, logits of the student, of the same shape.
 * @param weights [positions], ≥ 0: 0 for padding. All positions count alike when absent.
 * @returns 0 … √2; NaN when a position that counts has no softmax, or none counts.
 */
export const el2nScore: Score = (reference, candidate, classes, weights) =>
  meanOverRows(reference, candidate, classes, weights, (at) => {
    const sumP = logSumExp(reference, at, classes)
    const sumQ = logSumExp(candidate, at, classes)
    let squares = 0
    for (let i = at; i < at + classes; i++) {
      squares += (Math.exp(reference[i]! - sumP) - Math.exp(candidate[i]! - sumQ)) ** 2
    }
    return Math.sqrt(squares)
  })

/** Mean over positions of KL(softmax p ‖ softmax q) in nats; parameters as for {@link el2nScore}. @returns ≥ 0, or NaN. */
export const klScore: Score = (reference, candidate, classes, weights) =>
  meanOverRows(reference, candidate, classes, weights, (at) => klOfLogits(reference, candidate, at, classes))

function meanOverRows(
  reference: Numbers,
  candidate: Numbers,
  classes: number,
  weights: Numbers | undefined,
  scoreAt: (offset: number) => number,
): number {
  const rows = reference.length / classes
  if (candidate.length !== reference.length || !Number.isInteger(rows) || (weights && weights.length !== rows)) {
    throw new RangeError(
      `scores of ${classes} classes: got ${reference.length}, ${candidate.length}, ${weights?.length}`,
    )
  }
  let sum = 0
  let total = 0
  for (let r = 0; r < rows; r++) {
    const weight = weights ? weights[r]! : 1
    if (weight === 0) continue
    sum += weight * scoreAt(r * classes)
    total += weight
  }
  return sum / total
}

/**
 * Choose samples by score, stratified: the top 2 % (rounded down) are passed over as outliers unless there are too few
 * others; half of the choice (rounded up) is drawn from the upper half of what is left, the rest from everything not
 * drawn yet, so that ordinary samples stay in.
 * @param scores one per sample, higher is more informative; NaN counts as the highest.
 * @param count at most scores.length.
 * @param seed any integer; equal seeds give equal choices. Samples with equal scores are in random order.
 * @returns places in `scores`, ascending.
 * @throws RangeError when there are fewer samples than `count`.
 */
export function selectSamples(scores: Float64Array, count: number, seed: number): Int32Array {
  if (!(count >= 0 && count <= scores.length)) throw new RangeError(`${count} of ${scores.length} samples`)
  const rank = (sample: number) => (Number.isNaN(scores[sample]!) ? Number.POSITIVE_INFINITY : scores[sample]!)
  // Sorting is stable, so equal scores stay shuffled; ∞ − ∞ is NaN, which counts as equal.
  const ranked = [...shuffled(scores.length, seed)].sort((a, b) => rank(b) - rank(a))
  const outliers = Math.min(Math.floor(OUTLIERS * scores.length), scores.length - count)
  const pool = ranked.slice(outliers)
  const upper = Math.ceil(pool.length / 2)
  const order = [...shuffled(upper, seed + 1)].map((place) => pool[place]!)
  const fromUpper = Math.min(Math.ceil(count / 2), upper)
  const rest = [...order.slice(fromUpper), ...pool.slice(upper)]
  const others = [...shuffled(rest.length, seed + 2)].slice(0, count - fromUpper).map((place) => rest[place]!)
  return Int32Array.from([...order.slice(0, fromUpper), ...others]).sort()
}

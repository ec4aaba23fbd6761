/**
 * @file How far two rows of class scores are from each other: Kullback–Leibler divergence and the largest class.
 *
 * KL(p ‖ q) = Σᵢ pᵢ (ln pᵢ − ln qᵢ) in nats, p the reference. Rows are [offset, offset + classes) of flat arrays;
 * everything is computed in float64. O(classes) each.
 */
import type { Numbers } from './numbers.ts'

/** Smallest positive value of an element type: what a probability stored as 0 is below. */
export function leastOf(elementType: string): number {
  return elementType === 'float16' ? 2 ** -24 : elementType === 'double' ? Number.MIN_VALUE : 2 ** -149
}

/** Largest value of a row; NaN values are passed over, −Infinity when nothing is larger. */
function largest(values: Numbers, offset: number, classes: number): number {
  let max = Number.NEGATIVE_INFINITY
  for (let i = offset; i < offset + classes; i++) if (values[i]! > max) max = values[i]!
  return max
}

/** Index within the row of its largest value; the first of equals, as ONNX ArgMax. */
export function argmax(values: Numbers, offset: number, classes: number): number {
  let best = 0
  for (let i = 1; i < classes; i++) if (values[offset + i]! > values[offset + best]!) best = i
  return best
}

/** ln Σ exp(x) over a row, without overflow. NaN when the row holds NaN or +Infinity or nothing finite. */
export function logSumExp(values: Numbers, offset: number, classes: number): number {
  const max = largest(values, offset, classes)
  let sum = 0
  for (let i = offset; i < offset + classes; i++) sum += Math.exp(values[i]! - max)
  return max + Math.log(sum)
}

/**
 * KL between the softmax of two rows of logits (log-probabilities are logits too). A logit of −Infinity is an
 * impossible class: it adds nothing where the reference has it, and makes KL infinite where only the candidate does.
 * @returns ≥ 0, or NaN when either row has no softmax (holds NaN or +Infinity or nothing finite)
 */
export function klOfLogits(reference: Numbers, candidate: Numbers, offset: number, classes: number): number {
  const maxR = largest(reference, offset, classes)
  const maxC = largest(candidate, offset, classes)
  let sumR = 0
  let sumC = 0
  let cross = 0
  for (let i = offset; i < offset + classes; i++) {
    const r = reference[i]!
    const c = candidate[i]!
    const weight = Math.exp(r - maxR)
    sumR += weight
    sumC += Math.exp(c - maxC)
    if (weight !== 0) cross += weight * (r - c)
  }
  const kl = cross / sumR - (maxR - maxC) - Math.log(sumR / sumC)
  // Rounding may leave −1e-16 where the truth is 0.
  return Math.max(kl, 0)
}

/**
 * KL between two rows of probabilities, each divided by its sum first (a quantized softmax does not add up to 1).
 * @param least what a stored 0 of the candidate stands for: the smallest positive value of its element type, since a
 *   probability below that cannot be told from 0
 * @returns ≥ 0, or NaN when a row holds NaN or sums to 0
 */
export function klOfProbabilities(
  reference: Numbers,
  candidate: Numbers,
  offset: number,
  classes: number,
  least: number,
): number {
  let sumR = 0
  let sumC = 0
  for (let i = offset; i < offset + classes; i++) {
    sumR += reference[i]!
    sumC += Math.max(candidate[i]!, least)
  }
  let kl = 0
  for (let i = offset; i < offset + classes; i++) {
    const p = reference[i]! / sumR
    const q = Math.max(candidate[i]!, least) / sumC
    // p = 0 adds nothing, but a NaN must go through.
    if (p !== 0) kl += p * Math.log(p / q)
  }
  return Math.max(kl, 0)
}

/**
 * @file A pairwise loss as a convex quadratic that equals it wherever one choice per item is taken.
 *
 * CLADO makes its matrix positive semidefinite by clipping eigenvalues, which changes the loss. Here nothing changes:
 * with one choice per item, x_k² = x_k and x_k·x_l = 0 within an item, so any block may be put on the diagonal against a
 * linear term, and what is linear in one item's choice can be moved out of the pairs. Of the blocks that make the
 * matrix positive semidefinite the smallest is taken, for the bound between choices is the nearer to the loss the
 * smaller the blocks are (compare quadratic convex reformulation, Billionnet, Elloumi & Plateau 2009, who solve a
 * semidefinite program for the best diagonal).
 */
import type { Problem } from './problem.ts'
import { symmetricEigen } from './symmetricEigen.ts'

/** constant + linear·x + ½ xᵀ M x over flattened (item, choice) options. */
export interface ConvexForm {
  /** Items and options; `starts[i]` is the first option of item i, `starts[items]` the number of options. */
  readonly starts: readonly number[]
  readonly constant: number
  readonly linear: Float64Array
  /** [options, options], symmetric and positive semidefinite; a row of zeros for one option of each item. */
  readonly matrix: Float64Array
}

/** Rounds of alternating projections; the rest is made up for by a shift of the diagonal. */
const ROUNDS = 5
/** Norms of rows below this share of the largest count as so large. */
const SMALLEST = 1e-4

/** First option of each item, and the number of options. */
export function optionStarts(problem: Problem): number[] {
  const starts = [0]
  for (const choices of problem.items) starts.push(starts[starts.length - 1]! + choices.length)
  return starts
}

/** Pairs of different items only, the mean of both orders. */
export function symmetricPairs(gram: ArrayLike<number>, starts: readonly number[]): Float64Array {
  const size = starts[starts.length - 1]!
  if (gram.length !== size * size) throw new RangeError(`a matrix of ${gram.length} numbers for ${size} options`)
  const pairs = new Float64Array(size * size)
  forPairs(starts, (a, b) => {
    pairs[a * size + b] = (gram[a * size + b]! + gram[b * size + a]!) / 2
  })
  return pairs
}

/**
 * @param losses per option.
 * @param pairs [options, options], symmetric, zero within items.
 */
export function convexForm(starts: readonly number[], losses: Float64Array, pairs: Float64Array): ConvexForm {
  const size = losses.length
  // The option that interacts least stands for "nothing": its interactions become linear.
  const base = starts.slice(1).map((to, i) => leastRow(pairs, size, starts[i]!, to))
  const itemOf = base.flatMap((_, i) => Array.from({ length: starts[i + 1]! - starts[i]! }, () => i))
  const linear = losses.slice()
  let constant = 0
  for (const i of base) {
    for (const j of base) constant -= pairs[i * size + j]! / 2
    for (let b = 0; b < size; b++) linear[b]! += pairs[i * size + b]!
  }
  const moved = new Float64Array(size * size)
  forPairs(starts, (a, b) => {
    const [i, j] = [base[itemOf[a]!]!, base[itemOf[b]!]!]
    moved[a * size + b] = pairs[a * size + b]! - pairs[i * size + b]! - pairs[a * size + j]! + pairs[i * size + j]!
  })
  const free = Array.from({ length: size }, (_, a) => a).filter((a) => base[itemOf[a]!] !== a)
  const matrix = completed(moved, size, free, itemOf)
  for (let a = 0; a < size; a++) linear[a]! -= matrix[a * size + a]! / 2
  return { starts, constant, linear, matrix }
}

/**
 * The matrix with small blocks on its diagonal that make it positive semidefinite: by Dykstra's projections the least
 * ones (Frobenius), once every row is brought to the same norm, so that small interactions get small blocks.
 */
function completed(
  moved: Float64Array,
  size: number,
  free: readonly number[],
  itemOf: readonly number[],
): Float64Array {
  const n = free.length
  const norms = free.map((a) => Math.sqrt(moved.subarray(a * size, (a + 1) * size).reduce((sum, x) => sum + x * x, 0)))
  const least = SMALLEST * norms.reduce((a, b) => Math.max(a, b), 0)
  const scales = norms.map((norm) => (least > 0 ? Math.max(norm, least) : 1))
  const within = (t: number) => itemOf[free[Math.floor(t / n)]!] === itemOf[free[t % n]!]
  const fixed = Float64Array.from({ length: n * n }, (_, t) => {
    const [r, s] = [Math.floor(t / n), t % n]
    return moved[free[r]! * size + free[s]!]! / (scales[r]! * scales[s]!)
  })
  let current = fixed.slice()
  const correction = new Float64Array(n * n)
  for (let round = 0; round < ROUNDS && n > 0; round++) {
    for (let t = 0; t < n * n; t++) correction[t]! += current[t]!
    const clipped = positivePart(correction, n)
    for (let t = 0; t < n * n; t++) correction[t]! -= clipped[t]!
    current = clipped.map((value, t) => (within(t) ? value : fixed[t]!))
  }
  for (let r = 0; r < n; r++) {
    for (let s = 0; s < r; s++) {
      current[r * n + s] = current[s * n + r] = (current[r * n + s]! + current[s * n + r]!) / 2
    }
  }
  const { values } = symmetricEigen(current, n)
  // What the rounds left negative, and beyond the rounding of the eigenvalues, so that the bounds hold.
  const shift = values.reduce((a, b) => Math.max(a, -b), 0) + 1e-12 * values.reduce((a, b) => Math.max(a, b), 0)
  const matrix = new Float64Array(size * size)
  for (let r = 0; r < n; r++) {
    current[r * n + r]! += shift
    for (let s = 0; s < n; s++) matrix[free[r]! * size + free[s]!] = current[r * n + s]! * scales[r]! * scales[s]!
  }
  return matrix
}

/** The matrix with its negative eigenvalues set to zero: the nearest positive semidefinite one. */
function positivePart(matrix: Float64Array, n: number): Float64Array {
  const { values, vectors } = symmetricEigen(matrix, n)
  const result = matrix.slice()
  values.forEach((value, e) => {
    if (!(value < 0)) return
    const v = vectors.subarray(e * n, (e + 1) * n)
    for (let r = 0; r < n; r++) {
      const factor = value * v[r]!
      for (let s = 0; s < n; s++) result[r * n + s]! -= factor * v[s]!
    }
  })
  return result
}

function leastRow(pairs: Float64Array, size: number, from: number, to: number): number {
  let best = from
  let least = Number.POSITIVE_INFINITY
  for (let a = from; a < to; a++) {
    let sum = 0
    for (let b = 0; b < size; b++) sum += Math.abs(pairs[a * size + b]!)
    if (sum < least) [best, least] = [a, sum]
  }
  return best
}

function forPairs(starts: readonly number[], visit: (a: number, b: number) => void): void {
  const size = starts[starts.length - 1]!
  for (let i = 0; i + 1 < starts.length; i++) {
    for (let a = starts[i]!; a < starts[i + 1]!; a++) {
      for (let b = 0; b < size; b++) if (b < starts[i]! || b >= starts[i + 1]!) visit(a, b)
    }
  }
}

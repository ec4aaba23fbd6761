/**
 * @file The pairwise model of the loss: what each layer costs alone, and what every two cost on top of that.
 *
 *   f(x) = Σ_i s_i + Σ_{i<j} M_ij = ½·xᵀMx,   M_ii = 2·s_i
 *
 * An index i stands for a layer at a candidate; x has a 1 for each that is chosen, at most one per layer. To second order
 * f = ½‖Σ_i u_i‖², where u_i is what i alone changes in the outputs, in the output's metric (for KL: √p times the change
 * of the centred logits), so M_ij = ⟨u_i, u_j⟩. That takes the runs of the singles and no others. CLADO (Deng et al.,
 * 2023) runs every pair instead. Pairs are right for small perturbations: with saturation they count too much.
 */

/** Columns of a strip of the Gram matrix: of a few hundred rows as much as the second cache holds. */
const STRIP = 1024

/**
 * Gram matrix of perturbations, summed in float64. Each entry depends on its two rows alone.
 * @param sketches [count, width] row-major: outputs' perturbations in the output's metric, or a random projection of them
 * @returns [count, count], symmetric.
 * @throws RangeError when the length is not count·width.
 */
export function gramOf(sketches: Float32Array, count: number, width: number): Float64Array<ArrayBuffer> {
  if (sketches.length !== count * width) {
    throw new RangeError(`Gram: want ${count} × ${width} numbers, got ${sketches.length}`)
  }
  const gram = new Float64Array(count * count)
  for (let start = 0; start < width; start += STRIP) {
    const size = Math.min(STRIP, width - start)
    for (let i = 0; i < count; i++) {
      const left = i * width + start
      for (let j = i; j < count; j += 4) addProducts(gram, i * count + j, sketches, left, j, count, width, start, size)
    }
  }
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < i; j++) gram[i * count + j] = gram[j * count + i]!
  }
  return gram
}

/** Row i times rows j … j + 3 over a strip. Past the last row, the last is taken again and its product dropped. */
function addProducts(
  gram: Float64Array,
  at: number,
  rows: Float32Array,
  left: number,
  j: number,
  count: number,
  width: number,
  start: number,
  size: number,
): void {
  const last = count - 1
  const first = j * width + start
  const second = Math.min(j + 1, last) * width + start
  const third = Math.min(j + 2, last) * width + start
  const fourth = Math.min(j + 3, last) * width + start
  let a = 0
  let b = 0
  let c = 0
  let d = 0
  for (let k = 0; k < size; k++) {
    const value = rows[left + k]!
    a += value * rows[first + k]!
    b += value * rows[second + k]!
    c += value * rows[third + k]!
    d += value * rows[fourth + k]!
  }
  gram[at]! += a
  if (j + 1 < count) gram[at + 1]! += b
  if (j + 2 < count) gram[at + 2]! += c
  if (j + 3 < count) gram[at + 3]! += d
}

/**
 * How long perturbations are taken to be in the cross terms.
 *
 * - `singles` (default): √(2·s_i), so M_ij = 2·√(s_i·s_j)·cos(u_i, u_j). The Gram matrix tells directions only. At low
 *   widths ½‖u_i‖² is off its measured single by the third order, which is not small; cross terms are then off with it,
 *   and beside measured singles M can predict a negative loss. Scaled, M is positive semidefinite for singles ≥ 0, as a
 *   Gram matrix with rescaled rows. It also takes out what a random projection did to the lengths.
 * - `gram`: M_ij = ⟨u_i, u_j⟩ as it stands. Exact to second order and no further. Where the loss is exactly quadratic
 *   both are the same.
 */
export type CrossTerms = 'singles' | 'gram'

/**
 * M from the Gram matrix and the measured singles, with 2·s_i on the diagonal. Products of two candidates of one layer are
 * kept: no configuration has both, but M would not be semidefinite without them.
 * @param gram    [n, n] from {@link gramOf}; not modified
 * @param singles [n] measured losses; cross terms of those not above 0 are 0 with `singles`
 * @returns [n, n], symmetric.
 * @throws RangeError when the shapes differ.
 */
export function interactionsFromGram(
  gram: Float64Array,
  singles: ArrayLike<number>,
  crossTerms: CrossTerms = 'singles',
): Float64Array<ArrayBuffer> {
  const count = singles.length
  checkSquare(gram, count)
  const scale = Float64Array.from({ length: count }, (_, i) => {
    if (crossTerms === 'gram') return 1
    const squares = gram[i * count + i]!
    return squares > 0 && singles[i]! > 0 ? Math.sqrt((2 * singles[i]!) / squares) : 0
  })
  const interactions = new Float64Array(count * count)
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) interactions[i * count + j] = scale[i]! * scale[j]! * gram[i * count + j]!
    interactions[i * count + i] = 2 * singles[i]!
  }
  return interactions
}

/** A run with two layers changed: indices as in the singles, and its loss. */
export interface PairRun {
  readonly first: number
  readonly second: number
  readonly loss: number
}

/**
 * M from runs of pairs: Ω_ij = f({i, j}) − f({i}) − f({j}), 2·s_i on the diagonal, 0 for pairs that were not run (two
 * candidates of one layer never are). Not positive semidefinite in general; a solver that needs that projects it.
 * @param singles [n] measured losses
 * @returns [n, n], symmetric.
 * @throws RangeError for an index that is not in the singles, a pair of equal indices, or a pair given twice.
 */
export function interactionsFromPairs(
  singles: ArrayLike<number>,
  pairs: readonly PairRun[],
): Float64Array<ArrayBuffer> {
  const count = singles.length
  const interactions = new Float64Array(count * count)
  const seen = new Uint8Array(count * count)
  for (let i = 0; i < count; i++) interactions[i * count + i] = 2 * singles[i]!
  for (const { first, second, loss } of pairs) {
    const inside = (index: number) => Number.isInteger(index) && index >= 0 && index < count
    if (!inside(first) || !inside(second) || first === second) {
      throw new RangeError(`pairs: want two different indices below ${count}, got ${first} and ${second}`)
    }
    const at = first * count + second
    const mirrored = second * count + first
    if (seen[at]) throw new RangeError(`pairs: ${first} and ${second} are given twice`)
    seen[at] = seen[mirrored] = 1
    interactions[at] = interactions[mirrored] = loss - singles[first]! - singles[second]!
  }
  return interactions
}

/**
 * Loss of a configuration, Σ s_i + Σ_{i<j} M_ij. May be negative where M is not positive semidefinite.
 * @param chosen       indices into the singles, one for each layer that does not stay float
 * @param singles      [n]
 * @param interactions [n, n], the diagonal is not read
 * @throws RangeError when the shapes differ.
 */
export function predictPairwise(
  chosen: ArrayLike<number>,
  singles: ArrayLike<number>,
  interactions: Float64Array,
): number {
  const count = singles.length
  checkSquare(interactions, count)
  let loss = 0
  for (let a = 0; a < chosen.length; a++) {
    const i = chosen[a]!
    loss += singles[i]!
    for (let b = a + 1; b < chosen.length; b++) loss += interactions[i * count + chosen[b]!]!
  }
  return loss
}

function checkSquare(matrix: Float64Array, count: number): void {
  if (matrix.length !== count * count) {
    throw new RangeError(`pairwise: want ${count} × ${count} numbers, got ${matrix.length}`)
  }
}

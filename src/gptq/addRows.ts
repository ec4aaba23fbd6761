/** @file The inner loop of the solver: multiples of matrix rows added to a vector, four rows at a time. */

/**
 * sums[i] += a·M[row, i] + b·M[row + 1, i] + c·M[row + 2, i] + d·M[row + 3, i] for from ≤ i < to. One load and one store
 * of `sums` for four multiplications: twice as fast as row by row.
 *
 * @param matrix M, row-major with `width` columns.
 */
function addFourRowsInPlace(
  sums: Float64Array,
  from: number,
  to: number,
  matrix: Float32Array,
  width: number,
  row: number,
  a: number,
  b: number,
  c: number,
  d: number,
): void {
  let first = row * width + from
  let second = first + width
  let third = second + width
  let fourth = third + width
  for (let i = from; i < to; i++) {
    sums[i]! += a * matrix[first++]! + b * matrix[second++]! + (c * matrix[third++]! + d * matrix[fourth++]!)
  }
}

/** sums[i] += factor·M[row, i] for from ≤ i < to. */
export function addRowInPlace(
  sums: Float64Array,
  from: number,
  to: number,
  matrix: Float32Array,
  width: number,
  row: number,
  factor: number,
): void {
  const base = row * width
  for (let i = from; i < to; i++) sums[i]! += factor * matrix[base + i]!
}

/** sums[i] += Σ_r factors[r]·M[r, i] over rows start ≤ r < end, for from ≤ i < to. */
export function addRowsInPlace(
  sums: Float64Array,
  from: number,
  to: number,
  matrix: Float32Array,
  width: number,
  factors: Float64Array,
  start: number,
  end: number,
): void {
  let r = start
  for (; r + 3 < end; r += 4) {
    const a = factors[r]!
    const b = factors[r + 1]!
    const c = factors[r + 2]!
    const d = factors[r + 3]!
    if (a !== 0 || b !== 0 || c !== 0 || d !== 0) addFourRowsInPlace(sums, from, to, matrix, width, r, a, b, c, d)
  }
  for (; r < end; r++) if (factors[r] !== 0) addRowInPlace(sums, from, to, matrix, width, r, factors[r]!)
}

/** @file Dense linear algebra by the textbook: unblocked triple loops on arrays of rows, float64. Slow and obvious. */

export type Rows = readonly (readonly number[])[]

/** A flat row-major array as rows. */
export function toRows(flat: ArrayLike<number>, rows: number, cols: number): number[][] {
  return Array.from({ length: rows }, (_, i) => Array.from({ length: cols }, (_, j) => flat[i * cols + j]!))
}

export function transposed(matrix: Rows): number[][] {
  return Array.from({ length: matrix[0]?.length ?? 0 }, (_, j) => matrix.map((row) => row[j]!))
}

/** A·B, for A [m, k] and B [k, n] with k > 0. */
export function product(a: Rows, b: Rows): number[][] {
  return a.map((row) => b[0]!.map((_, j) => row.reduce((sum, x, k) => sum + x * b[k]![j]!, 0)))
}

/** Lower Cholesky factor by Cholesky–Banachiewicz; the index of the pivot that was not positive when there is none. */
function lowerCholesky(h: Rows): number[][] | number {
  const l = h.map((row) => row.map(() => 0))
  for (let i = 0; i < h.length; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = h[i]![j]!
      for (let k = 0; k < j; k++) sum -= l[i]![k]! * l[j]![k]!
      if (i === j && !(sum > 0)) return i
      l[i]![j] = i === j ? Math.sqrt(sum) : sum / l[j]![j]!
    }
  }
  return l
}

const reversed = (matrix: Rows): number[][] => [...matrix].reverse().map((row) => [...row].reverse())

/** Upper triangular T with H = T·Tᵀ, by reversing H, factoring, and reversing back; or the failed pivot's index in H. */
export function upperFactor(h: Rows): number[][] | number {
  const l = lowerCholesky(reversed(h))
  return typeof l === 'number' ? h.length - 1 - l : reversed(l)
}

/** X with X·H = B by Gaussian elimination with partial pivoting on Hᵀ·Xᵀ = Bᵀ. */
export function solveRight(h: Rows, b: Rows): number[][] {
  const n = h.length
  const work = transposed(h).map((row, i) => [...row, ...b.map((right) => right[i]!)])
  for (let c = 0; c < n; c++) {
    let best = c
    for (let r = c + 1; r < n; r++) if (Math.abs(work[r]![c]!) > Math.abs(work[best]![c]!)) best = r
    const pivotRow = work[best]!
    work[best] = work[c]!
    work[c] = pivotRow
    for (let r = 0; r < n; r++) {
      if (r === c) continue
      const factor = work[r]![c]! / pivotRow[c]!
      if (factor !== 0) for (let k = c; k < pivotRow.length; k++) work[r]![k]! -= factor * pivotRow[k]!
    }
  }
  return b.map((_, i) => work.map((row, r) => row[n + i]! / row[r]!))
}

/** Frobenius norm of the difference, divided by the norm of `b`. */
export function relativeDistance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let difference = 0
  let size = 0
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    size += b[i]! ** 2
  }
  return Math.sqrt(difference / size)
}

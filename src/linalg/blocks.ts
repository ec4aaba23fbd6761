/** @file Dense kernels on one block of a matrix, in float64: the parts of blocked algorithms that are not products. */

/** Rows or columns that the blocked algorithms treat at a time; 64 to 192 take the same time. */
export const BLOCK = 128

/**
 * Replace the upper triangle of the symmetric block A [size, size] by the upper triangular T with A = T·Tᵀ, and what
 * lies below the diagonal by zeros. Only the upper triangle is read.
 * @returns the index of the first pivot, from the last row upwards, that was not a positive finite number; −1 when
 * there was none. The block is of no use after a failure.
 */
export function factorBlockInPlace(block: Float64Array, size: number): number {
  const column = new Float64Array(size)
  for (let j = size - 1; j >= 0; j--) {
    const row = j * size
    const pivot = block[row + j]!
    // Also false for NaN.
    if (!(pivot > 0 && pivot < Number.POSITIVE_INFINITY)) return j
    const root = Math.sqrt(pivot)
    block.fill(0, row, row + j)
    block[row + j] = root
    // The column is kept as a row as well, so that the update below reads memory in order.
    for (let i = 0; i < j; i++) {
      column[i] = block[i * size + j]! / root
      block[i * size + j] = column[i]!
    }
    for (let i = 0; i < j; i++) {
      const left = column[i]!
      const at = i * size
      for (let k = i; k < j; k++) block[at + k]! -= left * column[k]!
    }
  }
  return -1
}

/** Inverse of the upper triangular T [size, size] with a nonzero diagonal; upper triangular as well. New. */
export function invertUpperBlock(block: Float64Array, size: number): Float64Array {
  const inverse = new Float64Array(size * size)
  for (let i = size - 1; i >= 0; i--) {
    const scale = 1 / block[i * size + i]!
    const row = inverse.subarray(i * size, (i + 1) * size)
    row[i] = scale
    for (let k = i + 1; k < size; k++) {
      const left = -block[i * size + k]! * scale
      for (let j = k; j < size; j++) row[j]! += left * inverse[k * size + j]!
    }
  }
  return inverse
}

/** Columns [start, end) of the rows [0, rows) of a row-major matrix with `cols` columns; new, [rows, end − start]. */
export function copyColumns(
  matrix: Float64Array,
  cols: number,
  rows: number,
  start: number,
  end: number,
): Float64Array {
  const width = end - start
  const copy = new Float64Array(rows * width)
  for (let i = 0; i < rows; i++) copy.set(matrix.subarray(i * cols + start, i * cols + end), i * width)
  return copy
}

/** Side of the tiles of {@link transpose}: two of them lie in the first-level cache. */
const TILE = 32

/** Transpose of a row-major [rows, cols] matrix; new. */
export function transpose(matrix: Float64Array, rows: number, cols: number): Float64Array {
  const result = new Float64Array(rows * cols)
  for (let top = 0; top < rows; top += TILE) {
    const bottom = Math.min(top + TILE, rows)
    for (let left = 0; left < cols; left += TILE) {
      const right = Math.min(left + TILE, cols)
      for (let i = top; i < bottom; i++) {
        for (let j = left; j < right; j++) result[j * rows + i] = matrix[i * cols + j]!
      }
    }
  }
  return result
}

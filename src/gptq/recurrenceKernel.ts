/**
 * @file The column recurrence inside a block, for a range of rows: each column is decided at its conditional optimum by a
 * column quantizer, which is all that grids and codebooks have to bring.
 */
import type { SolvedRows } from './layer.ts'

/** A block of columns to decide. */
export interface RecurrenceBlock {
  /** The block's columns in the order in which they are decided, [B]. */
  readonly columns: Int32Array
  /** T of the block, [B, B], upper triangular. */
  readonly factor: Float32Array
  /** E·T of the columns decided before the block, [N, B]; undefined in the first block. */
  readonly earlier: Float32Array | undefined
  /** The block's errors W* − Ŵ, [B, N]; written. */
  readonly errors: Float32Array
}

/** What decides the codes of a column: a grid, or a codebook. */
export interface ColumnQuantizer {
  /**
   * Give rows [first, end) of a column the values nearest to their targets, all rows counting the same, and keep the codes.
   * @param targets [end − first].
   * @param values  [end − first], overwritten: as the file decodes.
   */
  round(column: number, first: number, end: number, targets: Float64Array, values: Float64Array): void
}

/** Columns whose errors reach the later columns together. */
const STRIP = 4

let sums = new Float64Array(0)
let errorsOfStrip = new Float64Array(0)
let targets = new Float64Array(0)
let values = new Float64Array(0)

/**
 * t_j = W*_j + (Σ_{i<j} E_i T_ij) / T_jj is the target of column j given what was decided: with it, column j's term
 * (Σ_{i≤j} E_i T_ij)² of the loss E·H_d·Eᵀ = Σ_j (E·T)_j² is least. The codes are GPTQ's (Babai's nearest plane).
 *
 * @param first, end rows; what is written to `layer` and to the block is theirs alone.
 */
export function decideColumns(
  layer: SolvedRows,
  { columns, factor, earlier, errors }: RecurrenceBlock,
  first: number,
  end: number,
  quantizer: ColumnQuantizer,
): void {
  const { rows, cols, target, rowLoss, rowSquares } = layer
  const width = columns.length
  const count = end - first
  reserve(width, count)
  if (earlier) {
    for (let r = 0; r < count; r++) {
      const at = (first + r) * width
      for (let j = 0; j < width; j++) sums[j * count + r] = earlier[at + j]!
    }
  } else sums.fill(0, 0, width * count)
  for (let j = 0; j < width; j++) {
    const column = columns[j]!
    const root = factor[j * width + j]!
    const own = j * count
    for (let r = 0; r < count; r++) targets[r] = target[(first + r) * cols + column]! + sums[own + r]! / root
    quantizer.round(column, first, end, targets, values)
    const place = j % STRIP
    for (let r = 0; r < count; r++) {
      const error = Math.fround(target[(first + r) * cols + column]! - values[r]!)
      errors[j * rows + first + r] = error
      errorsOfStrip[place * count + r] = error
      rowSquares[first + r]! += error * error
      const term = sums[own + r]! + error * root
      rowLoss[first + r]! += term * term
    }
    const next = Math.min(width, j - place + STRIP)
    if (j + 1 < next) addToStrip(j, next, factor, width, place, count)
    else addStrip(j - place, next, factor, width, count)
  }
}

function reserve(width: number, count: number): void {
  if (sums.length < width * count) sums = new Float64Array(width * count)
  if (targets.length >= count) return
  errorsOfStrip = new Float64Array(STRIP * count)
  targets = new Float64Array(count)
  values = new Float64Array(count)
}

/** The errors of column j reach the columns of its strip at once. */
function addToStrip(j: number, next: number, factor: Float32Array, width: number, place: number, count: number): void {
  for (let i = j + 1; i < next; i++) {
    const t = factor[j * width + i]!
    const to = i * count
    const from = place * count
    for (let r = 0; r < count; r++) sums[to + r]! += errorsOfStrip[from + r]! * t
  }
}

/** The errors of a whole strip reach all columns after it: one load and one store of a sum for four multiplications. */
function addStrip(strip: number, next: number, factor: Float32Array, width: number, count: number): void {
  if (next - strip < STRIP) return
  const first = strip * width
  for (let i = next; i < width; i++) {
    const a = factor[first + i]!
    const b = factor[first + width + i]!
    const c = factor[first + 2 * width + i]!
    const d = factor[first + 3 * width + i]!
    const to = i * count
    for (let r = 0; r < count; r++) {
      sums[to + r]! +=
        errorsOfStrip[r]! * a +
        errorsOfStrip[count + r]! * b +
        (errorsOfStrip[2 * count + r]! * c + errorsOfStrip[3 * count + r]! * d)
    }
  }
}

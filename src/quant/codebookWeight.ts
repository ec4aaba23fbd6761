/**
 * @file What a weight stored as indices into learned tables is.
 *
 * real(n, k) = float32(level(n, k) · scale(n, g)),  g = ⌊k / groupSize⌋, where the level is an integer of −127 … 127 that a
 * table has at an index. Levels of 8 bits are what the 8-bit kernel of onnxruntime computes with, so nothing is rounded
 * again when the tables are looked up at load.
 */
import type { StoredScaleType } from './quantizedWeight.ts'

/** Widths of an index, per weight. */
export type IndexBits = 2 | 3 | 4

/**
 * How a weight finds its level.
 *
 * Rows are dealt out to P lanes: row n is step ⌊n / P⌋ of lane n mod P. Lanes know nothing of each other.
 *
 * - `scalar`: its code is the index. P = N.
 * - `vector`: the `dim` weights of a lane and column share one code of 8 bits, and the table has a level for each. P = ⌈N /
 *   dim⌉; where N is no multiple, the last weights of the last lanes are not there.
 * - `trellis`: the index is the last `window` bits of the codes of the lane so far, the newest lowest, after zeros. P = ⌈N /
 *   128⌉. A code costs `bits`, and yet a weight has 2^window levels to choose from, which its predecessors share
 *   (trellis-coded quantization, Marcellin & Fischer 1990, in the bit-shift form of QTIP, Tseng et al. 2024).
 */
export type Coding =
  | { readonly kind: 'scalar' }
  | { readonly kind: 'vector'; readonly dim: 2 | 4 }
  | { readonly kind: 'trellis'; readonly window: TrellisWindow }

/** One byte an index, or one and a half. */
export type TrellisWindow = 8 | 12

/** Most steps of a lane of a trellis. */
const LANE_STEPS = 128

/** What decides the form of a codebook weight in the file, apart from its numbers. */
export interface CodebookForm {
  readonly coding: Coding
  /** Different tables, T ≥ 1; above 1 for `scalar` only. */
  readonly tables: number
  /** T is the most that there may be: the weights decide how many pay for themselves. Absent where T is settled. */
  readonly mostTables?: true
  /** The table is one of the fixed ones: all layers of a file that have it share one copy. */
  readonly shared: boolean
  /** Rows of a table need not follow each other: the file stores where each row of the layer is. */
  readonly permuted: boolean
  /**
   * Rows of each table, one table after the other: T numbers above 0 whose sum is N, stored in place of an index for each
   * row. Absent where rows of a table may lie anywhere.
   */
  readonly runs?: readonly number[] | undefined
}

export interface CodebookWeight {
  /** Output rows N. */
  readonly rows: number
  /** Input columns K. */
  readonly cols: number
  readonly bits: IndexBits
  readonly coding: Coding
  /** [codeRows, K] row-major, one byte each: codeRows = N, or P for vectors, whose codes have 8 bits. */
  readonly codes: Uint8Array
  /** Levels, −127 … 127, [T, entries, dim]; entries = 2^bits, 2^8 for vectors, 2^window for a trellis. */
  readonly tables: Int8Array
  /** The table of each row, 0 … T − 1, [N]. */
  readonly tableOf: Uint16Array
  /** Input columns that share a scale. */
  readonly groupSize: number
  /** Exactly representable in `scaleType`; [N, groups]; above 0. */
  readonly scales: Float32Array
  readonly scaleType: StoredScaleType
  /** As on grids. */
  readonly scaleStep?: number | undefined
}

/** The table of each row, from how many rows each has. */
export function tablesOfRuns(runs: readonly number[]): Uint16Array {
  return Uint16Array.from(runs.flatMap((rows, table) => new Array<number>(rows).fill(table)))
}

/** Lanes P of a coding on N rows. */
export function lanesOf(coding: Coding, rows: number): number {
  if (coding.kind === 'scalar') return rows
  return Math.ceil(rows / (coding.kind === 'vector' ? coding.dim : LANE_STEPS))
}

/** Levels in one table. */
export function tableLength(coding: Coding, bits: IndexBits): number {
  if (coding.kind === 'vector') return 256 * coding.dim
  return 1 << (coding.kind === 'trellis' ? coding.window : bits)
}

/**
 * Levels of one row.
 * @param into [cols], overwritten.
 */
export function levelsOfRow(weight: CodebookWeight, row: number, into: Int8Array): void {
  const { rows, cols, bits, coding, codes, tables, tableOf } = weight
  const table = tableOf[row]! * tableLength(coding, bits)
  const lanes = lanesOf(coding, rows)
  const codeRow = coding.kind === 'vector' ? row % lanes : row
  const step = Math.floor(row / lanes)
  for (let k = 0; k < cols; k++) {
    let index = codes[codeRow * cols + k]!
    if (coding.kind === 'vector') index = index * coding.dim + step
    if (coding.kind === 'trellis') {
      for (let at = bits, n = row - lanes; at < coding.window && n >= 0; at += bits, n -= lanes) {
        index |= codes[n * cols + k]! << at
      }
      index &= (1 << coding.window) - 1
    }
    into[k] = tables[table + index]!
  }
}

let levels = new Int8Array(0)

/** One row of real weights; see `dequantizeRow`. */
export function decodeRow(weight: CodebookWeight, row: number, into: Float32Array): void {
  const { cols, groupSize, scales } = weight
  if (levels.length < cols) levels = new Int8Array(cols)
  levelsOfRow(weight, row, levels)
  const groups = Math.ceil(cols / groupSize)
  for (let g = 0; g < groups; g++) {
    const scale = scales[row * groups + g]!
    const end = Math.min(cols, (g + 1) * groupSize)
    for (let k = g * groupSize; k < end; k++) into[k] = levels[k]! * scale
  }
}

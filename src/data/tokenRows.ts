/** @file Token ids → rows of equal length: packed one after the other, or each text in a row of its own with padding. */

/** Rows of tokens as one array. */
export interface TokenRows {
  /** [count, width], padded on the right. */
  readonly ids: Int32Array
  /** [count, width], 1 for a token and 0 for padding. */
  readonly mask: Int32Array
  /** Tokens in each row. */
  readonly lengths: Int32Array
  readonly count: number
  readonly width: number
}

/**
 * Pack tokens into full rows.
 *
 * Every row begins with `prefix`, as a text of its own would; where the next tokens have it already it is not repeated.
 *
 * @param length  of a row, more than that of the prefix.
 * @param enough  stop after so many rows; 0 = never.
 * @returns the full rows, or when there are none the only short one; `left` tokens at the end that fill no row.
 */
export function packTokens(
  pieces: Iterable<readonly number[]>,
  { length, prefix, enough }: { length: number; prefix: readonly number[]; enough: number },
): { readonly rows: readonly (readonly number[])[]; readonly left: number } {
  const rows: number[][] = []
  let row: number[] = []
  let fresh = 0
  for (const piece of pieces) {
    for (let at = 0; at < piece.length; at++) {
      if (row.length === 0 && !prefix.every((id, i) => piece[at + i] === id)) row.push(...prefix)
      row.push(piece[at]!)
      fresh++
      if (row.length < length) continue
      rows.push(row)
      row = []
      fresh = 0
      if (rows.length === enough) return { rows, left: 0 }
    }
  }
  if (rows.length === 0 && fresh > 0) return { rows: [row], left: 0 }
  return { rows, left: fresh }
}

/**
 * Bring rows to one width with padding on the right.
 * @param width  at least the longest row's; the longest row's when absent.
 */
export function padRows(rows: readonly (readonly number[])[], padding: number, width?: number): TokenRows {
  const lengths = Int32Array.from(rows, (row) => row.length)
  const wide = width ?? lengths.reduce((a, b) => Math.max(a, b), 0)
  const ids = new Int32Array(rows.length * wide).fill(padding)
  const mask = new Int32Array(rows.length * wide)
  for (const [r, row] of rows.entries()) {
    ids.set(row, r * wide)
    mask.fill(1, r * wide, r * wide + row.length)
  }
  return { ids, mask, lengths, count: rows.length, width: wide }
}

/** @file Rows lengthened with zeros. */

/** @param codes [rows, cols]. @returns [rows, padded]; `codes` itself where nothing is missing. */
export function padRows(codes: Uint8Array, rows: number, cols: number, padded: number): Uint8Array {
  if (cols === padded) return codes
  const out = new Uint8Array(rows * padded)
  for (let r = 0; r < rows; r++) out.set(codes.subarray(r * cols, (r + 1) * cols), r * padded)
  return out
}

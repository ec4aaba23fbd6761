/**
 * @file Values of a weight that is indices into tables, written from the definition: the codes of a lane as one string of
 * binary digits, cut at each step. Shares no code with src/.
 */

export interface OracleWeight {
  readonly rows: number
  readonly cols: number
  readonly bits: number
  readonly kind: 'scalar' | 'vector' | 'trellis'
  /** Weights of a vector, or bits of a window; unused for scalars. */
  readonly size: number
  readonly codes: ArrayLike<number>
  readonly tables: ArrayLike<number>
  readonly tableOf: ArrayLike<number>
  readonly groupSize: number
  readonly scales: ArrayLike<number>
}

/** real(n, k) = float32(level · scale), [rows][cols]. */
export function codebookValues(w: OracleWeight): number[][] {
  const groups = Math.ceil(w.cols / w.groupSize)
  return Array.from({ length: w.rows }, (_, n) =>
    Array.from({ length: w.cols }, (_, k) =>
      Math.fround(levelAt(w, n, k) * w.scales[n * groups + Math.floor(k / w.groupSize)]!),
    ),
  )
}

function levelAt(w: OracleWeight, n: number, k: number): number {
  if (w.kind === 'scalar') return w.tables[w.tableOf[n]! * 2 ** w.bits + w.codes[n * w.cols + k]!]!
  const lanes = Math.ceil(w.rows / (w.kind === 'vector' ? w.size : 128))
  const lane = n % lanes
  const step = (n - lane) / lanes
  if (w.kind === 'vector') return w.tables[w.codes[lane * w.cols + k]! * w.size + step]!
  let digits = '0'.repeat(w.size)
  for (let s = 0; s <= step; s++) {
    digits += w.codes[(s * lanes + lane) * w.cols + k]!.toString(2).padStart(w.bits, '0')
  }
  return w.tables[Number.parseInt(digits.slice(-w.size), 2)]!
}

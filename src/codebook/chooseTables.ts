/**
 * @file How many tables the rows of a layer should share, by stored bytes.
 *
 * A table costs bytes and lowers the error. What an error is worth in bytes follows from the slope of error against bits: D ∝
 * 2^(−2R), so an error that falls by the factor f is worth ½·log2(1/f) bits per weight. T tables are worth their bytes when
 * they lower the error by more than as many bits per weight would: D(T) < D(1) · 2^(−2ΔR), ΔR = 8 · extra bytes / weights.
 */
import type { IndexBits } from '../quant/codebookWeight.ts'
import { makeRandom } from '../random.ts'
import { groupSketches, sketchRows } from './rowGroups.ts'
import { weightedClusters } from './weightedKMeans.ts'

const OFFERED = [1, 2, 4, 8, 16] as const
/** Weights that the error is estimated from, at most. */
const SAMPLE = 2 ** 20

export interface TableProblem {
  /** [N, K]. */
  readonly target: Float32Array
  readonly rows: number
  readonly cols: number
  /** What the squared error of a column counts, diag(H), [K]; all the same when absent. */
  readonly diagonal?: Float64Array | undefined
  readonly bits: IndexBits
  /** Bytes that a row costs where there is more than one table: its place, or which table it has. 1 when absent. */
  readonly rowBytes?: number
  /** How rows are dealt out to so many tables, above 1; by the shape of their distribution when absent. */
  readonly group?: (tables: number) => Uint16Array
  readonly seed: number
}

export interface TableOffer {
  /** Tables in use, T. */
  readonly tables: number
  /** [N]. */
  readonly tableOf: Uint16Array
  /** Centres of each group in units of a row's root mean square, [T, 2^bits]. */
  readonly centres: Float64Array
  /** Σ diag(H) · (target − nearest centre · rms)², of the weights in the sample. */
  readonly error: number
  /** Bytes beyond codes and scales. */
  readonly bytes: number
  /** `bytes`, less what the lower error than that of one table is worth. */
  readonly price: number
}

/** Root mean square of each row, [N]. */
export function rowScales(target: Float32Array, rows: number, cols: number): Float32Array {
  return Float32Array.from({ length: rows }, (_, row) => {
    let squares = 0
    for (let k = 0; k < cols; k++) squares += target[row * cols + k]! ** 2
    return Math.sqrt(squares / cols)
  })
}

/**
 * Offers of 1, 2, 4, 8 and 16 tables, by rising T, without those that come to the same T or to more bytes than the codes.
 *
 * Each has an optimal table for each group and the scale of each row at its root mean square. The solver refits both and
 * feeds errors forward, which lowers all these errors alike.
 */
export function offerTables(problem: TableProblem): TableOffer[] {
  const { target, rows, cols, bits, rowBytes = 1, seed } = problem
  const scales = rowScales(target, rows, cols)
  const normalized = target.map((value, i) => value / (scales[Math.floor(i / cols)]! || 1))
  const group = problem.group ?? byShape(normalized, rows, cols, seed)
  const sample = sampleOf(problem, normalized, scales)
  const offers: TableOffer[] = []
  for (const wanted of OFFERED) {
    const tableOf = wanted === 1 ? new Uint16Array(rows) : group(wanted)
    const tables = tableOf.reduce((most, table) => Math.max(most, table + 1), 1)
    if (offers.some((offer) => offer.tables === tables)) continue
    const bytes = tables * 2 ** bits + (tables > 1 ? rows * rowBytes : 0)
    // Tables larger than the codes learn the weights by heart, of which the slope knows nothing.
    if (tables > 1 && bytes > (rows * cols * bits) / 8) continue
    const { centres, error } = clusterGroups(sample, tableOf, tables, 1 << bits)
    const before = offers[0]?.error ?? error
    const gain = error === before ? 0 : 0.5 * Math.log2(before / error)
    offers.push({ tables, tableOf, centres, error, bytes, price: bytes - (gain * rows * cols) / 8 })
  }
  return offers
}

function byShape(normalized: Float32Array, rows: number, cols: number, seed: number) {
  const sketches = sketchRows(normalized, rows, cols)
  return (tables: number) => groupSketches(sketches, rows, tables, makeRandom(seed))
}

/** The offer of least price; of equal ones that with fewer tables. */
export function chooseTables(problem: TableProblem): TableOffer {
  return offerTables(problem).reduce((best, offer) => (offer.price < best.price ? offer : best))
}

interface Sample {
  readonly values: Float32Array
  readonly weights: Float32Array
  readonly rows: Uint32Array
}

/** Every so many-th weight, from another column in each row. */
function sampleOf({ rows, cols, diagonal }: TableProblem, normalized: Float32Array, scales: Float32Array): Sample {
  const step = Math.ceil((rows * cols) / SAMPLE)
  const count = Math.floor((rows * cols - 1) / step) + 1
  const sample = { values: new Float32Array(count), weights: new Float32Array(count), rows: new Uint32Array(count) }
  for (let i = 0; i < count; i++) {
    const row = Math.floor((i * step) / cols)
    const col = (((i * step) % cols) + row) % cols
    sample.rows[i] = row
    sample.values[i] = normalized[row * cols + col]!
    sample.weights[i] = scales[row]! ** 2 * (diagonal ? diagonal[col]! : 1)
  }
  return sample
}

function clusterGroups(sample: Sample, tableOf: Uint16Array, tables: number, entries: number) {
  const places: number[][] = Array.from({ length: tables }, () => [])
  for (const [i, row] of sample.rows.entries()) places[tableOf[row]!]!.push(i)
  const centres = new Float64Array(tables * entries)
  let error = 0
  for (const [table, own] of places.entries()) {
    if (own.length === 0) continue
    const clusters = weightedClusters(
      Float32Array.from(own, (i) => sample.values[i]!),
      Float32Array.from(own, (i) => sample.weights[i]!),
      entries,
    )
    centres.set(clusters.centres, table * entries)
    error += clusters.error
  }
  return { centres, error }
}

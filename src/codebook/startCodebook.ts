/** @file The first tables and scales of a layer, from its weights alone; the solver refits both. */
import { type IndexBits, lanesOf, tableLength, tablesOfRuns } from '../quant/codebookWeight.ts'
import { roundScale } from '../quant/grid.ts'
import { groupsPerRow, type ScaleType } from '../quant/quantizedWeight.ts'
import { makeRandom } from '../random.ts'
import { offerTables } from './chooseTables.ts'
import type { CodebookStart } from './codebookLayer.ts'
import type { CodebookOptions } from './codebookOptions.ts'
import { fixedTable, trellisTable } from './fixedTables.ts'
import { groupRows } from './rowGroups.ts'
import { spreadPlaces } from './spreadPlaces.ts'
import { vectorTable } from './vectorTables.ts'
import { weightedKMeans } from './weightedKMeans.ts'

/** Rows and what their columns count. */
interface Rows {
  /** [N, K]. */
  readonly target: Float32Array
  readonly rows: number
  readonly cols: number
  /** Diagonal of H_d, [K]; undefined where all count the same. */
  readonly diagonal?: Float64Array | undefined
}

/** Levels of trained tables stay within this at first, so that they can move outwards. */
const ROOM = 112
/** Of what is drawn for the first tables: nothing that a user should choose. */
const SEED = 0
/** Weights that a shared table is trained on, at most. */
const SAMPLE = 2 ** 18
/** Scale of a group without weights other than zero: any will do. */
const IDLE_SCALE = 2 ** -10

/** Scales are σ of each group over what σ is in the table's levels; float32 where float16 cannot hold one. */
export function startCodebook(given: Rows, options: CodebookOptions): CodebookStart {
  const { target, rows, cols } = given
  const { bits, groupSize, form } = options
  const deviations = deviationsOf(target, rows, cols, groupSize)
  const { tables, tableOf, units } = firstTables(given, options, deviations)
  const groups = groupsPerRow(cols, groupSize)
  const scalesAs = (scaleType: ScaleType) =>
    deviations.map((deviation, i) => {
      const unit = units[tableOf[Math.floor(i / groups)]!]!
      return deviation === 0 ? IDLE_SCALE : roundScale(deviation / unit, scaleType)
    })
  const halves = scalesAs('float16')
  const scaleType = halves.includes(0) ? 'float32' : 'float16'
  const scales = scaleType === 'float16' ? halves : scalesAs('float32').map((scale) => scale || IDLE_SCALE)
  return { target, rows, cols, bits, groupSize, form, scaleType, tables, tableOf, scales }
}

/** √(mean of w²) of each group, [N, groups]. */
function deviationsOf(target: Float32Array, rows: number, cols: number, groupSize: number): Float32Array {
  const groups = groupsPerRow(cols, groupSize)
  const deviations = new Float32Array(rows * groups)
  for (let row = 0; row < rows; row++) {
    for (let g = 0; g < groups; g++) {
      const end = Math.min(cols, (g + 1) * groupSize)
      let squares = 0
      for (let k = g * groupSize; k < end; k++) squares += target[row * cols + k]! ** 2
      deviations[row * groups + g] = Math.sqrt(squares / (end - g * groupSize))
    }
  }
  return deviations
}

interface FirstTables {
  /** [T, length]. */
  readonly tables: Float32Array
  readonly tableOf: Uint16Array
  /** Levels that one standard deviation is, by table. */
  readonly units: readonly number[]
}

function firstTables(given: Rows, options: CodebookOptions, deviations: Float32Array): FirstTables {
  const { bits, form } = options
  const { rows } = given
  const single = (levels: ArrayLike<number>, unit: number): FirstTables => {
    return { tables: Float32Array.from(levels), tableOf: new Uint16Array(rows), units: [unit] }
  }
  if (form.coding.kind === 'trellis') {
    const { levels, unit } = trellisTable(bits, form.coding.window)
    return single(levels, unit)
  }
  if (form.shared) {
    const { levels, unit } = fixedTable(bits)
    return single(levels, unit)
  }
  const normalized = normalize(given, options.groupSize, deviations)
  if (form.coding.kind === 'vector') {
    const { dim } = form.coding
    const table = vectorTable(vectorsOf(normalized, given, dim), dim, makeRandom(SEED))
    return scaled([table], new Uint16Array(rows))
  }
  const tableOf = tablesOfRows(given, options, normalized)
  const count = tableOf.reduce((most, table) => Math.max(most, table + 1), 1)
  // Fewer tables than were asked for, where there are fewer kinds of rows.
  const tables = Array.from({ length: count }, (_, table) => trainedTable(normalized, given, tableOf, table, bits))
  return scaled(tables, tableOf)
}

/** Rows of one shape of distribution share a table: a given number of shapes, or as many as pay for themselves. */
function tablesOfRows(given: Rows, { bits, form }: CodebookOptions, normalized: Float32Array): Uint16Array {
  const { rows, cols } = given
  if (form.runs) return tablesOfRuns(form.runs)
  if (form.mostTables) {
    const offers = offerTables({ ...given, bits, seed: SEED }).filter(({ tables }) => tables <= form.tables)
    return offers.reduce((best, offer) => (offer.price < best.price ? offer : best)).tableOf
  }
  if (form.tables === rows) return Uint16Array.from({ length: rows }, (_, row) => row)
  return groupRows(normalized, rows, cols, form.tables, makeRandom(SEED))
}

/** Tables in deviations as integer levels. */
function scaled(tables: readonly Float32Array[], tableOf: Uint16Array): FirstTables {
  const units = tables.map((table) => ROOM / Math.max(1e-6, ...table.map(Math.abs)))
  const levels = tables.flatMap((table, t) => [...table].map((value) => Math.round(value * units[t]!)))
  return { tables: Float32Array.from(levels), tableOf, units }
}

/** Weights over the deviation of their group. */
function normalize({ target, rows, cols }: Rows, groupSize: number, deviations: Float32Array): Float32Array {
  const groups = groupsPerRow(cols, groupSize)
  const normalized = new Float32Array(rows * cols)
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < cols; k++) {
      const deviation = deviations[row * groups + Math.floor(k / groupSize)]!
      normalized[row * cols + k] = deviation > 0 ? target[row * cols + k]! / deviation : 0
    }
  }
  return normalized
}

/** The weights of lanes that are whole, [n, dim]. */
function vectorsOf(normalized: Float32Array, { rows, cols }: Rows, dim: 2 | 4): Float32Array {
  const lanes = lanesOf({ kind: 'vector', dim }, rows)
  const whole = Math.max(1, rows - lanes * (dim - 1))
  const vectors = new Float32Array(whole * cols * dim)
  for (let lane = 0; lane < whole; lane++) {
    for (let k = 0; k < cols; k++) {
      for (let i = 0; i < dim; i++)
        vectors[(lane * cols + k) * dim + i] = normalized[(lane + i * lanes) * cols + k] ?? 0
    }
  }
  return vectors
}

/** Exact k-means of the rows of a table, columns weighing as the root of the Hessian's diagonal. */
function trainedTable(
  normalized: Float32Array,
  { rows, cols, diagonal }: Rows,
  tableOf: Uint16Array,
  table: number,
  bits: IndexBits,
): Float32Array {
  const own = [...tableOf.keys()].filter((row) => tableOf[row] === table && row < rows)
  const places = spreadPlaces(Math.min(own.length, Math.max(1, Math.floor(SAMPLE / cols))), own.length)
  const sampled = Array.from(places, (place) => own[place]!)
  const values = new Float64Array(sampled.length * cols)
  const weights = new Float64Array(values.length)
  sampled.forEach((row, i) => {
    for (let k = 0; k < cols; k++) {
      values[i * cols + k] = normalized[row * cols + k]!
      weights[i * cols + k] = diagonal ? Math.sqrt(diagonal[k]!) : 1
    }
  })
  const length = tableLength({ kind: 'scalar' }, bits)
  const centres = values.length > 0 ? weightedKMeans(values, weights, length) : new Float64Array(0)
  return Float32Array.from({ length }, (_, i) => centres[Math.min(i, centres.length - 1)] ?? 0)
}

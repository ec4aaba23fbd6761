/** @file The best tables for the codes as they are: closed form, shared by all rows of a table (JLCM's codebook update). */
import type { Descent } from '../gptq/descent.ts'
import { sharedFloats } from '../gptq/layer.ts'
import { factorUpper } from '../linalg/factor.ts'
import { solveWithFactor } from '../linalg/solve.ts'
import type { Products } from '../runtime/products.ts'
import { type CodebookLayer, tableLengthOf } from './codebookLayer.ts'
import { codebookColumns } from './columns.ts'
import { formLength, tableFormsTask } from './tableForms.ts'
import { forPanels, takeRowInPlace, tryLayer } from './trial.ts'

/** Rows are sampled where all of them would take more additions: N·K² of them. */
const MOST_ADDITIONS = 2 ** 32
/** Numbers that all units together may leave. */
const MOST_SUMS = 2 ** 21
/** Sampled rows in a unit, at least. */
const LEAST_ROWS = 16
/** Of the trace: keeps systems with entries that few weights use well posed. */
const RIDGE = 1e-9
/** Levels are 8-bit integers, the same on both sides of zero. */
const LARGEST = 127

/**
 * Refit every table to the codes of its rows: δ = (Σ A·H_d·Aᵀ)⁻¹·Σ A·Rᵀ, A the indicators of a row's codes times its scales.
 * Levels are rounded to integers; a table changes only where the loss of its rows falls.
 * @returns tables changed.
 */
export async function refitTables(descent: Descent<CodebookLayer>): Promise<number> {
  const { layer } = descent
  const before = layer.tables.slice()
  for (const { table, component, change } of await solutions(descent)) {
    const { length, dim } = sizesOf(layer)
    for (let e = 0; e < change.length; e++) {
      const at = table * length + e * dim + component
      layer.tables[at] = Math.min(LARGEST, Math.max(-LARGEST, Math.round(before[at]! + change[e]!)))
    }
  }
  return keepBetter(descent, before)
}

function sizesOf(layer: CodebookLayer) {
  const length = tableLengthOf(layer)
  const dim = layer.coding.kind === 'vector' ? layer.coding.dim : 1
  return { length, dim, entries: length / dim, tables: layer.tables.length / length }
}

interface TableChange {
  readonly table: number
  readonly component: number
  readonly change: Float64Array
}

async function solutions(descent: Descent<CodebookLayer>): Promise<TableChange[]> {
  const { layer, means, damped } = descent
  const { cols, groups, groupSize } = layer
  const { dim, entries, tables } = sizesOf(layer)
  const { sampled, starts, tableOfUnit } = sample(layer)
  const count = sampled.length
  const hessian = sharedFloats(cols * cols)
  hessian.set(damped)
  const scales = sharedFloats(count * groups)
  sampled.forEach((row, i) => {
    scales.set(layer.scales.subarray(row * groups, (row + 1) * groups), i * groups)
  })
  const places = new Uint16Array(new SharedArrayBuffer(count * cols * 2))
  const ofColumn = new Uint16Array(layer.rows)
  const columns = codebookColumns(layer)
  for (let k = 0; k < cols; k++) {
    columns.places(k, 0, layer.rows, ofColumn)
    for (let i = 0; i < count; i++) places[i * cols + k] = ofColumn[sampled[i]!]!
  }
  const residuals = sharedFloats(count * cols)
  await forPanels(descent, descent.errors, (from, width, panel) => {
    for (let i = 0; i < count; i++) {
      const at = sampled[i]! * width
      residuals.set(panel.subarray(at, at + width), i * cols + from)
    }
  })
  const job = { cols, entries, dim, hessian, residuals, places, scales, groupSize, starts }
  const sums = await means.pool.run(tableFormsTask(job), means.signal)
  const length = formLength(entries)
  const changes: TableChange[] = []
  for (let table = 0; table < tables; table++) {
    for (let component = 0; component < dim; component++) {
      const system = new Float64Array(length)
      for (let unit = 0; unit < tableOfUnit.length; unit++) {
        if (tableOfUnit[unit] !== table) continue
        const at = (unit * dim + component) * length
        for (let i = 0; i < length; i++) system[i]! += sums[at + i]!
      }
      changes.push({ table, component, change: await solveTable(system, entries, means.products) })
    }
  }
  return changes
}

/** Solve M·δ = b; entries that no weight has stay. @param system M [E, E], then b [E]. */
async function solveTable(system: Float64Array, entries: number, products: Products): Promise<Float64Array> {
  const matrix = system.slice(0, entries * entries)
  let trace = 0
  for (let e = 0; e < entries; e++) trace += matrix[e * (entries + 1)]!
  if (!(trace > 0)) return new Float64Array(entries)
  for (let e = 0; e < entries; e++) {
    matrix[e * (entries + 1)]! += matrix[e * (entries + 1)] === 0 ? trace : RIDGE * trace
  }
  const factored = await factorUpper(matrix, entries, products)
  if (!('factor' in factored)) return new Float64Array(entries)
  return solveWithFactor(factored.factor, entries, system.slice(entries * entries), 1, products)
}

/** Rows table by table, and how they are cut into units. */
function sample(layer: CodebookLayer) {
  const { rows, cols, tableOf } = layer
  const { entries, dim, tables } = sizesOf(layer)
  const stride = Math.ceil((rows * cols * cols) / MOST_ADDITIONS)
  const byTable = Array.from({ length: tables }, (): number[] => [])
  for (let row = 0; row < rows; row++) byTable[tableOf[row]!]!.push(row)
  const mostUnits = Math.max(1, Math.floor(MOST_SUMS / (dim * formLength(entries)) / tables))
  const sampled: number[] = []
  const starts = [0]
  const tableOfUnit: number[] = []
  byTable.forEach((all, table) => {
    // A stride that shares no factor with the steps of a lane visits all components.
    const own = all.filter((_, i) => i % (stride % 2 === 0 ? stride + 1 : stride) === 0)
    const size = Math.max(LEAST_ROWS, Math.ceil(own.length / mostUnits))
    for (let from = 0; from < own.length; from += size) {
      sampled.push(...own.slice(from, from + size))
      starts.push(sampled.length)
      tableOfUnit.push(table)
    }
  })
  return { sampled, starts: Int32Array.from(starts), tableOfUnit }
}

/** Keep the new tables where they lower the loss; `layer` has them, the errors are still those of `before`. */
async function keepBetter(descent: Descent<CodebookLayer>, before: Float32Array): Promise<number> {
  const { layer } = descent
  const { rows, tableOf, tables, rowLoss } = layer
  const { length, tables: count } = sizesOf(layer)
  const trial = await tryLayer(descent)
  const gain = new Float64Array(count)
  for (let row = 0; row < rows; row++) gain[tableOf[row]!]! += rowLoss[row]! - trial.losses[row]!
  for (let table = 0; table < count; table++) {
    if (!(gain[table]! > 0)) tables.set(before.subarray(table * length, (table + 1) * length), table * length)
  }
  for (let row = 0; row < rows; row++) if (gain[tableOf[row]!]! > 0) takeRowInPlace(descent, trial, row)
  return gain.filter((value) => value > 0).length
}

/** @file A codebook as a column quantizer: the nearest values of a column, lane by lane, and what the codes decode to. */
import type { ColumnQuantizer } from '../gptq/recurrenceKernel.ts'
import { type CodebookLayer, tableLengthOf } from './codebookLayer.ts'
import { bestPath, makeTrellis } from './trellis.ts'

/** Rows [first, end) are whole lanes in all of these. */
export interface CodebookColumns extends ColumnQuantizer {
  /** As `round`, but the codes are only kept by {@link keep}. */
  propose(column: number, first: number, end: number, targets: Float64Array, values: Float64Array): void
  /** Keep what was proposed last for the lanes of rows [from, to), which lie in what was proposed. */
  keep(column: number, from: number, to: number): void
  /** The levels that the codes stand for. @param levels [end − first], overwritten. */
  levels(column: number, first: number, end: number, levels: Float64Array): void
  /** Where in its table each row finds its level. @param places [end − first], overwritten. */
  places(column: number, first: number, end: number, places: Uint16Array): void
}

let codes = new Uint8Array(0)
let scalesOfRows = new Float64Array(0)
let atPlaces = new Uint16Array(0)

/** What the codings differ in. */
interface Coder {
  /** Fill the proposed codes for rows [first, end). */
  search(first: number, end: number, targets: Float64Array): void
  /** Places in the tables of rows [first, end) by codes of a column, `read(row − first)`. */
  placesOf(first: number, end: number, read: (offset: number) => number, places: Uint16Array): void
}

/** Columns of a layer, for one thread. */
export function codebookColumns(layer: CodebookLayer): CodebookColumns {
  const { cols, coding, groups, groupSize, tables, tableOf } = layer
  const length = tableLengthOf(layer)
  const isVector = coding.kind === 'vector'
  const coder = coderOf(layer)
  /** Row of the stored codes that belongs to a row. */
  const codeRow = (row: number) => (isVector ? laneOf(layer, row) : row)
  let proposed = 0
  const columns: CodebookColumns = {
    propose(column, first, end, targets, values) {
      const count = end - first
      reserve(count)
      proposed = first
      let group = first * groups + ((column / groupSize) | 0)
      for (let r = 0; r < count; r++, group += groups) scalesOfRows[r] = layer.scales[group]!
      coder.search(first, end, targets)
      coder.placesOf(first, end, (r) => codes[r]!, atPlaces)
      for (let r = 0; r < count; r++) {
        values[r] = Math.fround(tables[tableOf[first + r]! * length + atPlaces[r]!]! * scalesOfRows[r]!)
      }
    },
    keep(column, from, to) {
      for (let row = from; row < to; row++) layer.codes[codeRow(row) * cols + column] = codes[row - proposed]!
    },
    round(column, first, end, targets, values) {
      columns.propose(column, first, end, targets, values)
      columns.keep(column, first, end)
    },
    places(column, first, end, places) {
      coder.placesOf(first, end, (r) => layer.codes[codeRow(first + r) * cols + column]!, places)
    },
    levels(column, first, end, levels) {
      reserve(end - first)
      columns.places(column, first, end, atPlaces)
      for (let row = first; row < end; row++) {
        levels[row - first] = tables[tableOf[row]! * length + atPlaces[row - first]!]!
      }
    },
  }
  return columns
}

function reserve(count: number): void {
  if (codes.length >= count) return
  codes = new Uint8Array(count)
  scalesOfRows = new Float64Array(count)
  atPlaces = new Uint16Array(count)
}

/** The lane of a row: the first lanes have as many rows as any, the others one less. */
function laneOf({ rows, laneStarts }: CodebookLayer, row: number): number {
  const lanes = laneStarts.length - 1
  const steps = Math.ceil(rows / lanes)
  const long = rows - lanes * (steps - 1)
  const whole = long * steps
  return row < whole ? Math.floor(row / steps) : long + Math.floor((row - whole) / (steps - 1))
}

function coderOf(layer: CodebookLayer): Coder {
  switch (layer.coding.kind) {
    case 'scalar':
      return scalarCoder(layer)
    case 'vector':
      return vectorCoder(layer, layer.coding.dim)
    case 'trellis':
      return trellisCoder(layer, layer.coding.window)
  }
}

function scalarCoder(layer: CodebookLayer): Coder {
  const { tables, tableOf } = layer
  const length = tableLengthOf(layer)
  return {
    search(first, end, targets) {
      for (let row = first; row < end; row++) {
        const wanted = targets[row - first]! / scalesOfRows[row - first]!
        const table = tableOf[row]! * length
        let best = 0
        let least = Math.abs(wanted - tables[table]!)
        for (let i = 1; i < length; i++) {
          const distance = Math.abs(wanted - tables[table + i]!)
          if (distance < least) {
            least = distance
            best = i
          }
        }
        codes[row - first] = best
      }
    },
    placesOf(first, end, read, places) {
      for (let r = 0; r < end - first; r++) places[r] = read(r)
    },
  }
}

function vectorCoder(layer: CodebookLayer, dim: number): Coder {
  const { laneStarts, tables } = layer
  const forLanes = (first: number, end: number, visit: (from: number, to: number) => void) => {
    for (let lane = laneOf(layer, first); laneStarts[lane]! < end; lane++)
      visit(laneStarts[lane]!, laneStarts[lane + 1]!)
  }
  return {
    search(first, end, targets) {
      forLanes(first, end, (from, to) => {
        let best = 0
        let least = Number.POSITIVE_INFINITY
        for (let i = 0; i < 256; i++) {
          let distance = 0
          for (let row = from; row < to; row++) {
            const error = targets[row - first]! - scalesOfRows[row - first]! * tables[i * dim + row - from]!
            distance += error * error
          }
          if (distance < least) {
            least = distance
            best = i
          }
        }
        for (let row = from; row < to; row++) codes[row - first] = best
      })
    },
    placesOf(first, end, read, places) {
      forLanes(first, end, (from, to) => {
        for (let row = from; row < to; row++) places[row - first] = read(row - first) * dim + row - from
      })
    },
  }
}

function trellisCoder(layer: CodebookLayer, window: number): Coder {
  const { laneStarts, bits } = layer
  const trellis = makeTrellis(bits, window, layer.tables)
  const mask = (1 << window) - 1
  return {
    search(first, end, targets) {
      for (let lane = laneOf(layer, first); laneStarts[lane]! < end; lane++) {
        const from = laneStarts[lane]!
        bestPath(trellis, targets, scalesOfRows, from - first, laneStarts[lane + 1]! - from, codes)
      }
    },
    placesOf(first, end, read, places) {
      for (let lane = laneOf(layer, first); laneStarts[lane]! < end; lane++) {
        let index = 0
        for (let row = laneStarts[lane]!; row < laneStarts[lane + 1]!; row++) {
          index = ((index << bits) | read(row - first)) & mask
          places[row - first] = index
        }
      }
    },
  }
}

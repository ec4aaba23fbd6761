/** @file The state of a layer while its codebook is solved: in shared memory, so that worker threads read and write it. */
import { type SolvedRows, sharedFloats } from '../gptq/layer.ts'
import {
  type CodebookForm,
  type CodebookWeight,
  type Coding,
  type IndexBits,
  lanesOf,
  tableLength,
} from '../quant/codebookWeight.ts'
import { groupsPerRow, type ScaleType } from '../quant/quantizedWeight.ts'

/** Rows stand lane after lane here, so that those that are decided together lie together; see `Coding`. */
export interface CodebookLayer extends SolvedRows {
  readonly bits: IndexBits
  readonly coding: Coding
  readonly groupSize: number
  /** Groups in a row. */
  readonly groups: number
  readonly scaleType: ScaleType
  /** Row at which each lane begins, [P + 1]. */
  readonly laneStarts: Int32Array
  /** Levels: integers −127 … 127, [T, length of a table]. */
  readonly tables: Float32Array
  /** The table of each row, [N]. */
  readonly tableOf: Uint16Array
  /** [N, K], or [P, K] for vectors. */
  readonly codes: Uint8Array
  /** [N, groups]. */
  readonly scales: Float32Array
}

/** A lane order of rows: place → row of the layer, [N], and where lanes begin. */
export interface LaneOrder {
  readonly rowAt: Int32Array
  readonly laneStarts: Int32Array
}

/** Rows n, n + P, n + 2P, … one after the other, lane by lane. */
export function laneOrder(coding: Coding, rows: number): LaneOrder {
  const lanes = lanesOf(coding, rows)
  const rowAt = new Int32Array(rows)
  const laneStarts = new Int32Array(new SharedArrayBuffer((lanes + 1) * 4))
  let place = 0
  for (let lane = 0; lane < lanes; lane++) {
    laneStarts[lane] = place
    for (let row = lane; row < rows; row += lanes) rowAt[place++] = row
  }
  laneStarts[lanes] = place
  return { rowAt, laneStarts }
}

/** What a layer starts from, in its own order of rows. */
export interface CodebookStart {
  /** W*, [N, K]. Not modified. */
  readonly target: Float32Array
  readonly rows: number
  readonly cols: number
  readonly bits: IndexBits
  readonly groupSize: number
  readonly form: CodebookForm
  readonly scaleType: ScaleType
  /** Levels, [T, length of a table]. */
  readonly tables: Float32Array
  /** [N]. */
  readonly tableOf: Uint16Array
  /** [N, groups]. */
  readonly scales: Float32Array
}

/** The layer in lane order; its codes are zeros. */
export function makeCodebookLayer(start: CodebookStart, { rowAt, laneStarts }: LaneOrder): CodebookLayer {
  const { target, rows, cols, bits, groupSize, form, scaleType } = start
  const groups = groupsPerRow(cols, groupSize)
  const codeRows = form.coding.kind === 'vector' ? laneStarts.length - 1 : rows
  const tableOf = new Uint16Array(new SharedArrayBuffer(rows * 2))
  const ordered = sharedFloats(rows * cols)
  const scales = sharedFloats(rows * groups)
  rowAt.forEach((row, place) => {
    tableOf[place] = start.tableOf[row]!
    ordered.set(target.subarray(row * cols, (row + 1) * cols), place * cols)
    scales.set(start.scales.subarray(row * groups, (row + 1) * groups), place * groups)
  })
  const tables = sharedFloats(start.tables.length)
  tables.set(start.tables)
  return {
    rows,
    cols,
    bits,
    coding: form.coding,
    groupSize,
    groups,
    scaleType,
    laneStarts,
    tables,
    tableOf,
    codes: new Uint8Array(new SharedArrayBuffer(codeRows * cols)),
    scales,
    target: ordered,
    rowLoss: new Float64Array(new SharedArrayBuffer(rows * 8)),
    rowSquares: new Float64Array(new SharedArrayBuffer(rows * 8)),
  }
}

/** The weight in the layer's own order of rows; arrays of its own. */
export function weightOf(layer: CodebookLayer, { rowAt }: LaneOrder): CodebookWeight {
  const { rows, cols, bits, coding, groupSize, groups, scaleType } = layer
  const tableOf = new Uint16Array(rows)
  const scales = new Float32Array(rows * groups)
  const codes = coding.kind === 'vector' ? layer.codes.slice() : new Uint8Array(rows * cols)
  rowAt.forEach((row, place) => {
    tableOf[row] = layer.tableOf[place]!
    scales.set(layer.scales.subarray(place * groups, (place + 1) * groups), row * groups)
    if (coding.kind !== 'vector') codes.set(layer.codes.subarray(place * cols, (place + 1) * cols), row * cols)
  })
  const tables = Int8Array.from(layer.tables)
  return { rows, cols, bits, coding, codes, tables, tableOf, groupSize, scales, scaleType }
}

/** Levels in one table of the layer. */
export function tableLengthOf({ coding, bits }: CodebookLayer): number {
  return tableLength(coding, bits)
}

/** @file The state of a layer while it is solved: in shared memory, so that worker threads read and write it in place. */
import type { Bits, ScaleType } from '../quant/quantizedWeight.ts'

/** Rows under solution, whatever their values are made of; everything is in the column order of the model. */
export interface SolvedRows {
  /** N and K. */
  readonly rows: number
  readonly cols: number
  /** W*, [N, K]. */
  readonly target: Float32Array
  /** E·H_d·Eᵀ of each row, E = W* − Ŵ, kept up to date. */
  readonly rowLoss: Float64Array
  /** Σ E² of each row, kept up to date. */
  readonly rowSquares: Float64Array
}

/** Rows on grids; codes and grids change under way. */
export interface Layer extends SolvedRows {
  readonly bits: Bits
  readonly groupSize: number
  /** Groups in a row. */
  readonly groups: number
  readonly scaleType: ScaleType
  /** [N, K]. */
  readonly codes: Uint8Array
  /** [N, groups]. */
  readonly scales: Float32Array
  /** [N, groups]; undefined on symmetric grids. */
  readonly zeroPoints: Uint8Array | undefined
}

/** Columns that are worked on at a time: wide enough for efficient products, few enough for the second-level cache. */
const BLOCK = 128
/** The longest group that a block may take whole. */
const LONGEST_IN_BLOCK = 256

/** Whether scale and zero point are refitted inside a block; longer groups are refitted by products. */
export function groupsFitBlocks(layer: Layer): boolean {
  return Math.min(layer.groupSize, layer.cols) <= LONGEST_IN_BLOCK
}

/** Columns in a block of the descent: whole groups where they fit. */
export function descentBlock(layer: Layer): number {
  const group = Math.min(layer.groupSize, layer.cols)
  if (!groupsFitBlocks(layer)) return Math.min(BLOCK, layer.cols)
  return Math.min(layer.cols, group > BLOCK ? group : Math.floor(BLOCK / group) * group)
}

/** Columns in a block of the recurrence. */
export function recurrenceBlock(layer: SolvedRows): number {
  return Math.min(BLOCK, layer.cols)
}

/** About half a millisecond: long against the hand-over, short enough that threads end together. */
const UNIT_OPERATIONS = 1 << 19
/** Rows that share a cache line of a [columns, rows] matrix. */
const LINE = 16

/** How rows are shared out: rows in a unit, and units. Follows from the shape alone. */
export function rowUnits(rows: number, operationsPerRow: number): { readonly size: number; readonly units: number } {
  const size = Math.max(LINE, Math.floor(UNIT_OPERATIONS / operationsPerRow / LINE) * LINE)
  return { size, units: Math.ceil(rows / size) }
}

/** An array that threads share. */
export function sharedFloats(length: number): Float32Array {
  return new Float32Array(new SharedArrayBuffer(length * 4))
}

/** Σ of a vector, in order. */
export function total(values: Float64Array): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]!
  return sum
}

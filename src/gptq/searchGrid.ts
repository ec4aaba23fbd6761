/**
 * @file Other scales for a group, tried out with the codes that follow from them. The closed-form refit keeps the codes, so
 * it stays near the scale that it starts from; this is how a group gets away from a bad one.
 */
import { clamp, ROUNDER, roundScale } from '../quant/grid.ts'
import type { ScaleType } from '../quant/quantizedWeight.ts'
import { addRowInPlace } from './addRows.ts'

/** Times the present scale. Wider or finer sets gain little more. */
const FACTORS = [0.8, 0.9, 0.95, 1.05, 1.1, 1.2]
/** A row of a block under descent; arrays of at least the block's width. */
export interface BlockRow {
  /** R, the values and the levels (code − zero point) of the columns. */
  readonly residual: Float64Array
  readonly value: Float64Array
  readonly level: Float64Array
}

/** What a search found. */
export interface Found {
  scale: number
  /** By how much the loss falls; 0 = nothing better. */
  gain: number
  /** For the group's columns, at their places in the block. */
  readonly value: Float64Array
  readonly level: Float64Array
}

let residual = new Float64Array(0)
let value = new Float64Array(0)
let level = new Float64Array(0)
/** What the last trial gained, and Σ |step|·norm of its steps. */
let gain = 0
let doubt = 0

/**
 * Try scales around the present one on columns [start, end) of a block; the zero point stays. The row is not changed.
 * One look at each scale, column by column, every column making up for those before it; the most promising gets a
 * second pass, which mends what the first did too early.
 *
 * @param hessian H_d of the block, with `width` columns.
 * @param norms   ‖H_d[:, j]‖₂ of the block's columns.
 * @param noise   float32 noise of R per unit of norm: a gain must exceed what it could feign.
 * @param low     the lowest level; `largest` the number of levels less one.
 * @param found   written.
 */
export function searchScale(
  row: BlockRow,
  start: number,
  end: number,
  hessian: Float32Array,
  width: number,
  norms: Float64Array,
  noise: number,
  scale: number,
  scaleType: ScaleType,
  low: number,
  largest: number,
  found: Found,
): void {
  if (value.length < width) {
    residual = new Float64Array(width)
    value = new Float64Array(width)
    level = new Float64Array(width)
  }
  found.gain = 0
  let promising = 0
  let most = Number.NEGATIVE_INFINITY
  for (const factor of FACTORS) {
    const trial = roundScale(factor * scale, scaleType)
    if (trial === 0 || trial === scale) continue
    begin(row, start, end)
    pass(start, end, hessian, width, norms, trial, low, largest, false)
    if (gain <= most) continue
    most = gain
    promising = trial
  }
  if (promising === 0) return
  begin(row, start, end)
  pass(start, end, hessian, width, norms, promising, low, largest, true)
  pass(start, end, hessian, width, norms, promising, low, largest, true)
  if (!(gain > 2 * noise * doubt)) return
  found.gain = gain
  found.scale = promising
  for (let j = start; j < end; j++) {
    found.value[j] = value[j]!
    found.level[j] = level[j]!
  }
}

function begin(row: BlockRow, start: number, end: number): void {
  gain = 0
  doubt = 0
  for (let j = start; j < end; j++) {
    residual[j] = row.residual[j]!
    value[j] = row.value[j]!
  }
}

/**
 * Move each column to the level that is best for it.
 * @param keepAll R of earlier columns follows too, as another pass needs it.
 */
function pass(
  start: number,
  end: number,
  hessian: Float32Array,
  width: number,
  norms: Float64Array,
  scale: number,
  low: number,
  largest: number,
  keepAll: boolean,
): void {
  for (let j = start; j < end; j++) {
    const diagonal = hessian[j * width + j]!
    const r = residual[j]!
    const before = value[j]!
    const nearest = (before + r / diagonal) / scale + ROUNDER - ROUNDER
    const best = clamp(nearest, low, low + largest)
    const moved = Math.fround(best * scale)
    level[j] = best
    const step = moved - before
    if (step === 0) continue
    value[j] = moved
    gain += step * (2 * r - step * diagonal)
    doubt += Math.abs(step) * norms[j]!
    addRowInPlace(residual, keepAll ? start : j + 1, end, hessian, width, j, -step)
  }
}

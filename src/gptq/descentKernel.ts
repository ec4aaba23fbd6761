/** @file Coordinate descent on the codes of a block of columns, and a refit of its groups' grids, for a range of rows. */
import { clamp, ROUNDER } from '../quant/grid.ts'
import { symmetricZeroPoint } from '../quant/quantizedWeight.ts'
import type { Task } from '../threads/kernel.ts'
import { addRowInPlace, addRowsInPlace } from './addRows.ts'
import type { DescentBlock } from './descent.ts'
import { type Layer, rowUnits } from './layer.ts'
import { type GroupForms, type Refit, refitGrid } from './refit.ts'
import { type BlockRow, type Found, searchScale } from './searchGrid.ts'

export interface DescentJob extends DescentBlock {
  readonly layer: Layer
  /** 1·H·1ᵀ of each of the block's groups. */
  readonly ones: Float64Array
  /** Whether the grids are refitted too; the block then consists of whole groups. */
  readonly refit: boolean
  /** Whether a refit first tries other scales. */
  readonly search: boolean
}

/** What a unit leaves: codes changed, grids changed. */
const SUMS = 2

export function descentTask(job: DescentJob): Task<DescentJob> {
  const { units } = unitsOf(job)
  return { kernel: { module: import.meta.url, runUnit }, job, units, sums: SUMS }
}

function unitsOf({ layer, norms, refit }: DescentJob) {
  return rowUnits(layer.rows, norms.length * ((refit ? 2 : 1) * norms.length + 16))
}

/** Passes over a block before the next one: each is cheap, since R follows the changes. */
const PASSES = 3
/** float32 sums of K products are off by about this part of the norms' product at most. */
const ROUNDING = 2 ** -21

/** One row of a block. */
let residual = new Float64Array(0)
let value = new Float64Array(0)
let level = new Float64Array(0)
let scaleOf = new Float64Array(0)
let low = new Float64Array(0)
let product = new Float64Array(0)
let blockRow: BlockRow = { residual, value, level }
let better: Found = { scale: 1, gain: 0, value, level }

function reserve(width: number): void {
  if (residual.length >= width) return
  residual = new Float64Array(width)
  value = new Float64Array(width)
  level = new Float64Array(width)
  scaleOf = new Float64Array(width)
  low = new Float64Array(width)
  product = new Float64Array(width)
  blockRow = { residual, value, level }
  better = { scale: 1, gain: 0, value: new Float64Array(width), level: new Float64Array(width) }
}

const forms: GroupForms = { levelLevel: 0, levelOne: 0, oneOne: 0, levelResidual: 0, oneResidual: 0 }
const found: Refit = { scale: 1, shift: 0, gain: 0 }

/** What the moves in a row gained so far, and how many there were. */
let gained = 0
let moves = 0
let refits = 0

export function runUnit(job: DescentJob, unit: number, results: Float64Array): void {
  const { layer, norms } = job
  const { size } = unitsOf(job)
  const width = norms.length
  reserve(width)
  moves = 0
  refits = 0
  const end = Math.min(layer.rows, (unit + 1) * size)
  for (let row = unit * size; row < end; row++) {
    gained = 0
    loadRow(job, row)
    const noise = ROUNDING * Math.sqrt(layer.rowSquares[row]!)
    descend(job, noise)
    if (job.refit && refitGroups(job, row, noise)) descend(job, noise)
    storeRow(job, row)
    layer.rowLoss[row]! -= gained
  }
  results[unit * SUMS] = moves
  results[unit * SUMS + 1] = refits
}

function loadRow({ layer, from, norms, residuals }: DescentJob, row: number): void {
  const { cols, bits, groupSize, groups, codes, scales, zeroPoints } = layer
  const width = norms.length
  const middle = symmetricZeroPoint(bits)
  for (let j = 0; j < width; j++) residual[j] = residuals[row * width + j]!
  for (let j = 0; j < width; ) {
    const index = ((from + j) / groupSize) | 0
    const group = row * groups + index
    const scale = scales[group]!
    const zeroPoint = zeroPoints ? zeroPoints[group]! : middle
    const end = Math.min(width, (index + 1) * groupSize - from)
    for (; j < end; j++) {
      const k = codes[row * cols + from + j]! - zeroPoint
      level[j] = k
      value[j] = Math.fround(k * scale)
      scaleOf[j] = scale
      low[j] = -zeroPoint
    }
  }
}

/** Write the row's codes and errors back. */
function storeRow({ layer, from, norms, errors }: DescentJob, row: number): void {
  const { rows, cols, target, codes, rowSquares } = layer
  const width = norms.length
  let change = 0
  for (let j = 0; j < width; j++) {
    const at = row * cols + from + j
    const error = Math.fround(target[at]! - value[j]!)
    const before = errors[j * rows + row]!
    change += error * error - before * before
    errors[j * rows + row] = error
    codes[at] = level[j]! - low[j]!
  }
  rowSquares[row]! += change
}

/** Move columns to the level that is best with all others fixed, as long as that lowers the loss by more than rounding. */
function descend({ layer, hessian, norms }: DescentJob, noise: number): void {
  const width = norms.length
  const largest = (1 << layer.bits) - 1
  for (let pass = 0; pass < PASSES; pass++) {
    let hasMoved = false
    for (let j = 0; j < width; j++) {
      const diagonal = hessian[j * width + j]!
      const r = residual[j]!
      const scale = scaleOf[j]!
      const least = low[j]!
      const nearest = (value[j]! + r / diagonal) / scale + ROUNDER - ROUNDER
      const best = clamp(nearest, least, least + largest)
      if (best === level[j]) continue
      const moved = Math.fround(best * scale)
      const step = moved - value[j]!
      const gain = step * (2 * r - step * diagonal)
      if (!(gain > 2 * Math.abs(step) * noise * norms[j]!)) continue
      level[j] = best
      value[j] = moved
      gained += gain
      moves++
      hasMoved = true
      addRowInPlace(residual, 0, width, hessian, width, j, -step)
    }
    if (!hasMoved) return
  }
}

/** Refit each group of the row; @returns whether a grid changed. */
function refitGroups(job: DescentJob, row: number, noise: number): boolean {
  const { layer, from, norms } = job
  const { groupSize, groups, scales, zeroPoints, bits, scaleType } = layer
  const width = norms.length
  let hasChanged = false
  for (let start = 0; start < width; start += groupSize) {
    const end = Math.min(width, start + groupSize)
    const group = row * groups + (from + start) / groupSize
    if (job.search && searchGroup(job, group, start, end, noise)) hasChanged = true
    const scale = scales[group]!
    const zeroPoint = zeroPoints ? zeroPoints[group]! : undefined
    measure(job, start, end)
    if (!refitGrid(forms, scale, scaleType, zeroPoint, (1 << bits) - 1, found)) continue
    scales[group] = found.scale
    if (zeroPoints) zeroPoints[group]! += found.shift
    gained += found.gain
    refits++
    hasChanged = true
    for (let j = start; j < end; j++) {
      const k = level[j]! - found.shift
      const moved = Math.fround(k * found.scale)
      product[j] = value[j]! - moved
      level[j] = k
      value[j] = moved
      scaleOf[j] = found.scale
      low[j]! -= found.shift
    }
    addRowsInPlace(residual, 0, width, job.hessian, width, product, start, end)
  }
  return hasChanged
}

/** Try other scales for a group; @returns whether one was better. */
function searchGroup({ layer, hessian, norms }: DescentJob, group: number, start: number, end: number, noise: number) {
  const { scales, scaleType, bits } = layer
  const width = norms.length
  const largest = (1 << bits) - 1
  const scale = scales[group]!
  searchScale(blockRow, start, end, hessian, width, norms, noise, scale, scaleType, low[start]!, largest, better)
  if (better.gain === 0) return false
  scales[group] = better.scale
  gained += better.gain
  refits++
  for (let j = start; j < end; j++) {
    product[j] = value[j]! - better.value[j]!
    value[j] = better.value[j]!
    level[j] = better.level[j]!
    scaleOf[j] = better.scale
  }
  addRowsInPlace(residual, 0, width, hessian, width, product, start, end)
  return true
}

/** The group's forms: g² multiplications, fewer where levels are 0. */
function measure({ layer, hessian, norms, ones }: DescentJob, start: number, end: number): void {
  const width = norms.length
  for (let j = start; j < end; j++) product[j] = 0
  addRowsInPlace(product, start, end, hessian, width, level, start, end)
  let levelLevel = 0
  let levelOne = 0
  let levelResidual = 0
  let oneResidual = 0
  for (let j = start; j < end; j++) {
    levelLevel += level[j]! * product[j]!
    levelOne += product[j]!
    levelResidual += level[j]! * residual[j]!
    oneResidual += residual[j]!
  }
  forms.levelLevel = levelLevel
  forms.levelOne = levelOne
  forms.oneOne = ones[start / layer.groupSize]!
  forms.levelResidual = levelResidual
  forms.oneResidual = oneResidual
}

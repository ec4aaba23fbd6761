/**
 * @file From the weights of one group to its grid: range, then clip or zero-point refinement, then the least-squares
 * scale. In every step the squared error is the judge, so no method is ever worse than min-max on a group.
 */
import { shrunkScale } from './clip.ts'
import type { Grid, GridSpec, GroupSums } from './grid.ts'
import { copySums, measureGroup, minMaxGrid, roundScale } from './grid.ts'
import type { GroupScan } from './scan.ts'
import { refineZeroPoint } from './zeroPoint.ts'

/** Each refit gains less than the one before: together 0.5 to 5 % of the squared error, a third one under 0.1 %. */
const REFITS = 2

const sums: GroupSums = { squaredError: 0, weightLevel: 0, levelLevel: 0 }
const trial: GroupSums = { squaredError: 0, weightLevel: 0, levelLevel: 0 }

/**
 * The scale that minimises the squared error for fixed levels is Σ w·level / Σ level². Round it to its stored type, let
 * the codes follow, and keep it if the squared error of the group fell; `sums` moves along with the grid.
 */
function refitScale(weights: Float32Array, start: number, end: number, spec: GridSpec, grid: Grid): void {
  for (let round = 0; round < REFITS && sums.levelLevel > 0; round++) {
    const scale = roundScale(sums.weightLevel / sums.levelLevel, spec.scaleType)
    if (scale === 0 || scale === grid.scale) return
    measureGroup(weights, start, end, spec.bits, scale, grid.zeroPoint, trial)
    if (!(trial.squaredError < sums.squaredError)) return
    grid.scale = scale
    copySums(trial, sums)
  }
}

/**
 * Fit the grid of weights[start … end) into `grid`.
 *
 * @param scan the range of the same weights; finite.
 */
export function fitGroup(
  weights: Float32Array,
  start: number,
  end: number,
  spec: GridSpec,
  scan: GroupScan,
  grid: Grid,
): void {
  minMaxGrid(spec, scan.lo, scan.hi, grid)
  if (spec.method === 'minmax' || !grid.fits || (scan.lo === 0 && scan.hi === 0)) return
  const { scale, zeroPoint } = grid
  measureGroup(weights, start, end, spec.bits, scale, zeroPoint, sums)
  if (spec.method === 'hqq') {
    refineZeroPoint(weights, start, end, spec, grid, sums, trial)
  } else {
    const shrunk = shrunkScale(weights, start, end, spec, scan.lo, scan.hi, grid)
    if (shrunk !== scale) {
      measureGroup(weights, start, end, spec.bits, shrunk, zeroPoint, trial)
      // The clip minimises the 2.4th power; where the square disagrees, min-max stays.
      if (trial.squaredError < sums.squaredError) {
        grid.scale = shrunk
        copySums(trial, sums)
      }
    }
  }
  refitScale(weights, start, end, spec, grid)
}

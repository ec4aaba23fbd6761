/**
 * @file Data-free refinement of a group's zero point after HQQ (Badri and Shaji, "Half-Quadratic Quantization", 2023):
 * minimise Σ |e|^0.7 over a real zero point by half-quadratic splitting, e = ŵ − w in grid steps, so that outliers
 * keep their error and the many small weights lose theirs. The operators want an integer, so the neighbours of
 * the real zero point are tried and the best by squared error is kept.
 */
import type { Grid, GridSpec, GroupSums } from './grid.ts'
import { clamp, copySums, measureGroup, ROUNDER } from './grid.ts'
import { interpolate, TABLE_END, tabulatePower } from './powerTable.ts'

const NORM = 0.7
const FIRST_PENALTY = 10
const PENALTY_GROWTH = 1.01
const ITERATIONS = 20

const powers = tabulatePower(NORM - 1)

/** magnitude^(p − 1). Only asked for above 0.14, where the table is good to 10^−5. */
function power(magnitude: number): number {
  return magnitude < TABLE_END ? interpolate(powers, magnitude) : magnitude ** (NORM - 1)
}

/**
 * The real zero point of least Σ |e|^0.7 at a fixed scale, from a start.
 * One iteration: levels for the zero point; u = the part of each error that the p-norm leaves alone (generalised
 * soft threshold); zero point ← mean(code − (w / scale − u)). It ends when Σ |e| no longer falls.
 *
 * @param largest 2^bits − 1.
 * @param first   where to start, in code units.
 */
export function realZeroPoint(
  weights: Float32Array,
  start: number,
  end: number,
  largest: number,
  scale: number,
  first: number,
): number {
  const inverse = 1 / scale
  let zeroPoint = first
  let best = first
  let least = Number.POSITIVE_INFINITY
  let penalty = FIRST_PENALTY
  for (let iteration = 0; iteration < ITERATIONS; iteration++) {
    // Below this, the threshold swallows the whole error: |e| = |e|^(p − 1) / penalty.
    const swallowed = (1 / penalty) ** (1 / (2 - NORM))
    let magnitude = 0
    let sum = 0
    for (let i = start; i < end; i++) {
      const place = weights[i]! * inverse
      const nearest = place + zeroPoint + ROUNDER - ROUNDER
      const code = clamp(nearest, 0, largest)
      const error = place - (code - zeroPoint)
      const size = Math.abs(error)
      magnitude += size
      const kept = size > swallowed ? size - power(size) / penalty : 0
      sum += code - place + (error < 0 ? -kept : kept)
    }
    if (!(magnitude < least)) return best
    least = magnitude
    best = zeroPoint
    zeroPoint = sum / (end - start)
    penalty *= PENALTY_GROWTH
  }
  return best
}

/**
 * Move the zero point of an asymmetric min-max grid to an integer neighbour of the HQQ zero point, if that lowers the
 * squared error of the group.
 *
 * @param grid the group's min-max grid; its zero point is replaced.
 * @param sums holds the sums on `grid` before and after.
 */
export function refineZeroPoint(
  weights: Float32Array,
  start: number,
  end: number,
  spec: GridSpec,
  grid: Grid,
  sums: GroupSums,
  trial: GroupSums,
): void {
  const largest = (1 << spec.bits) - 1
  const first = grid.zeroPoint
  const real = realZeroPoint(weights, start, end, largest, grid.scale, first)
  for (const candidate of [Math.floor(real), Math.ceil(real)]) {
    const zeroPoint = clamp(candidate, 0, largest)
    if (zeroPoint === first) continue
    measureGroup(weights, start, end, spec.bits, grid.scale, zeroPoint, trial)
    if (trial.squaredError < sums.squaredError) {
      grid.zeroPoint = zeroPoint
      copySums(trial, sums)
    }
  }
}

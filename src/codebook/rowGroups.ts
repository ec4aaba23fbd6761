/**
 * @file Rows of similar distribution: groups that share a table (JLCM, Yvinec et al. 2023, step 1).
 *
 * A row, over its own scale, is sketched by 32 quantiles. The L2 distance of two sketches is the 2-Wasserstein distance of
 * the two distributions, up to the sketch, so k-means on sketches groups rows by shape. The paper leaves the clustering
 * open; normalizing, quantiles and k-means++ are ours.
 */
import type { Random } from '../random.ts'
import { spreadPlaces } from './spreadPlaces.ts'

const QUANTILES = 32
/** Values of a row that its quantiles come from, and rows that centres come from, at most. */
const ROW_SAMPLE = 2048
const SKETCH_SAMPLE = 2048
const RESTARTS = 4
const MOST_PASSES = 30

/**
 * Deal rows out to tables by the shape of their distribution.
 * @param normalized [N, K], each row over its own root mean square.
 * @param tables T ≥ 1.
 * @returns the table of each row, [N]; 0 … G − 1 in the order of their first rows, all of them used, with G ≤ T: fewer where
 *   there are fewer different rows.
 * @throws RangeError when T is not 1 … 65535, or the array is not [N, K].
 */
export function groupRows(
  normalized: Float32Array,
  rows: number,
  cols: number,
  tables: number,
  random: Random,
): Uint16Array {
  if (normalized.length !== rows * cols) {
    throw new RangeError(`row groups: ${normalized.length} weights, not ${rows} × ${cols}`)
  }
  if (!Number.isInteger(tables) || tables < 1 || tables > 65535) throw new RangeError(`row groups: ${tables} tables`)
  if (tables === 1 || rows === 0 || cols === 0) return new Uint16Array(rows)
  return groupSketches(sketchRows(normalized, rows, cols), rows, tables, random)
}

/** Quantiles of each row at (i + ½) / 32, linear between order statistics, [N, 32]. */
export function sketchRows(normalized: Float32Array, rows: number, cols: number): Float64Array {
  const places = spreadPlaces(Math.min(cols, ROW_SAMPLE), cols)
  const sample = new Float32Array(places.length)
  const sketches = new Float64Array(rows * QUANTILES)
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < sample.length; i++) sample[i] = normalized[row * cols + places[i]!]!
    sample.sort()
    for (let i = 0; i < QUANTILES; i++) {
      const at = Math.max(0, Math.min(sample.length - 1, ((i + 0.5) / QUANTILES) * sample.length - 0.5))
      const below = Math.floor(at)
      const above = Math.min(below + 1, sample.length - 1)
      sketches[row * QUANTILES + i] = sample[below]! + (at - below) * (sample[above]! - sample[below]!)
    }
  }
  return sketches
}

/**
 * As {@link groupRows}, from sketches, which groupings into several numbers of tables can share.
 * @param rows N; numbers of a sketch are what that leaves: those of layers that share their rows may lie side by side.
 */
export function groupSketches(sketches: Float64Array, rows: number, tables: number, random: Random): Uint16Array {
  const width = sketches.length / rows
  const places = spreadPlaces(Math.min(rows, SKETCH_SAMPLE), rows)
  const sampled = Float64Array.from({ length: places.length * width }, (_, i) => {
    return sketches[places[Math.floor(i / width)]! * width + (i % width)]!
  })
  let centres: Float64Array = new Float64Array(0)
  let least = Number.POSITIVE_INFINITY
  for (let restart = 0; restart < RESTARTS; restart++) {
    const found = lloyd(sampled, width, spreadCentres(sampled, width, tables, random))
    if (found.error < least) {
      least = found.error
      centres = found.centres
    }
  }
  return numbered(nearestCentres(sketches, width, centres).group)
}

/** k-means++ (Arthur & Vassilvitskii 2007): each next centre by the squared distance to those there are. */
function spreadCentres(points: Float64Array, width: number, count: number, random: Random): Float64Array {
  const rows = points.length / width
  const distance = new Float64Array(rows).fill(Number.POSITIVE_INFINITY)
  const centres: number[] = []
  for (let next = random.below(rows); ; ) {
    centres.push(...points.subarray(next * width, (next + 1) * width))
    let total = 0
    for (let row = 0; row < rows; row++) {
      distance[row] = Math.min(distance[row]!, squaredDistance(points, row, points, next, width))
      total += distance[row]!
    }
    if (centres.length === count * width) return Float64Array.from(centres)
    let left = random.uniform() * total
    next = 0
    for (let row = 0; row < rows && left >= 0; row++) {
      if (distance[row]! > 0) next = row
      left -= distance[row]!
    }
  }
}

/** Lloyd's iteration. A centre that loses all its rows stays where it is. */
function lloyd(points: Float64Array, width: number, start: Float64Array): { centres: Float64Array; error: number } {
  const centres = start.slice()
  let error = Number.POSITIVE_INFINITY
  for (let pass = 0; pass < MOST_PASSES; pass++) {
    const nearest = nearestCentres(points, width, centres)
    if (!(nearest.error < error)) break
    error = nearest.error
    const counts = new Float64Array(centres.length / width)
    for (const group of nearest.group) counts[group] = counts[group]! + 1
    for (let i = 0; i < centres.length; i++) if (counts[Math.floor(i / width)]! > 0) centres[i] = 0
    for (const [row, group] of nearest.group.entries()) {
      for (let i = 0; i < width; i++) {
        const at = group * width + i
        centres[at] = centres[at]! + points[row * width + i]! / counts[group]!
      }
    }
  }
  return { centres, error }
}

function nearestCentres(
  points: Float64Array,
  width: number,
  centres: Float64Array,
): { group: Uint16Array; error: number } {
  const group = new Uint16Array(points.length / width)
  let error = 0
  for (let row = 0; row < group.length; row++) {
    let least = Number.POSITIVE_INFINITY
    for (let centre = 0; centre < centres.length / width; centre++) {
      const distance = squaredDistance(points, row, centres, centre, width)
      if (distance < least) {
        least = distance
        group[row] = centre
      }
    }
    error += least
  }
  return { group, error }
}

function squaredDistance(a: Float64Array, i: number, b: Float64Array, j: number, width: number): number {
  let sum = 0
  for (let q = 0; q < width; q++) sum += (a[i * width + q]! - b[j * width + q]!) ** 2
  return sum
}

/** The same groups, numbered in the order of their first rows. */
function numbered(group: Uint16Array): Uint16Array {
  const names = new Map<number, number>()
  return group.map((old) => {
    const name = names.get(old) ?? names.size
    names.set(old, name)
    return name
  })
}

/**
 * @file Groups of rows for several layers at once, whose rows are the same channels: the shapes of a channel's rows side by
 * side are one sketch, so that each group is alike in all of them.
 */
import type { IndexBits } from '../quant/codebookWeight.ts'
import { makeRandom } from '../random.ts'
import { offerTables, rowScales } from './chooseTables.ts'
import { groupSketches, sketchRows } from './rowGroups.ts'

/** Weights of a layer: [rows, cols]. */
interface Target {
  readonly target: Float32Array
  readonly cols: number
}

/** Of what is drawn: nothing that a user should choose. */
const SEED = 0

/**
 * Deal channels out to tables.
 * @param rows of every layer, N ≥ 1.
 * @param wanted tables, T ≥ 1; `auto`: as many as pay for themselves in all layers together.
 * @param extraBytes that T ≥ 2 tables cost in all layers beside the tables themselves.
 * @returns the table of each row, [N]: 0 … G − 1 in the order of their first rows, with G ≤ T.
 */
export function joinedGroups(
  targets: readonly Target[],
  rows: number,
  bits: IndexBits,
  wanted: 'auto' | number,
  extraBytes: (tables: number) => number,
): Uint16Array {
  const sketches = joinedSketches(targets, rows)
  const known = new Map<number, Uint16Array>()
  const group = (tables: number): Uint16Array => {
    const found = known.get(tables) ?? groupSketches(sketches, rows, tables, makeRandom(SEED))
    known.set(tables, found)
    return found
  }
  if (wanted !== 'auto') return group(Math.min(rows, wanted))
  const prices = new Map<number, { price: number; layers: number; tableOf: Uint16Array }>()
  for (const target of targets) {
    for (const offer of offerTables({ ...target, rows, bits, rowBytes: 0, group, seed: SEED })) {
      const { tables, tableOf } = offer
      const { price, layers } = prices.get(tables) ?? { price: tables > 1 ? extraBytes(tables) : 0, layers: 0 }
      prices.set(tables, { price: price + offer.price, layers: layers + 1, tableOf })
    }
  }
  // Some layers may be too small for so many tables.
  const all = [...prices.values()].filter(({ layers }) => layers === targets.length)
  return all.reduce((best, each) => (each.price < best.price ? each : best)).tableOf
}

function joinedSketches(targets: readonly Target[], rows: number): Float64Array {
  const own = targets.map(({ target, cols }) => {
    const scales = rowScales(target, rows, cols)
    const normalized = target.map((value, i) => value / (scales[Math.floor(i / cols)]! || 1))
    return sketchRows(normalized, rows, cols)
  })
  const width = own[0]!.length / rows
  const joined = new Float64Array(rows * width * own.length)
  for (const [i, sketches] of own.entries()) {
    for (let row = 0; row < rows; row++) {
      joined.set(sketches.subarray(row * width, (row + 1) * width), (row * own.length + i) * width)
    }
  }
  return joined
}

/**
 * @file Tables that do not depend on the weights: NF4, the best scalar tables of a normal source, and the trained
 * trellises. All layers of a file share one copy.
 */
import type { IndexBits, TrellisWindow } from '../quant/codebookWeight.ts'
import { normalDensity, normalDistribution, normalQuantile } from './normal.ts'
import { TRAINED_TRELLISES } from './trellisTables.ts'

export interface FixedTable {
  /** [2^bits] ascending, or [2^window] by index for a trellis; −127 … 127. */
  readonly levels: Int8Array
  /**
   * Levels per unit of the source: per standard deviation for a normal source, per largest magnitude for NF4. The scale of
   * weights with standard deviation σ is σ / unit.
   */
  readonly unit: number
}

/** Level that stands for the largest level of a table. */
const LARGEST = 127

const made = new Map<string, FixedTable>()

/**
 * Levels of the trained trellis of a width and window, whose `unit` is the level of one standard deviation.
 * @throws RangeError when there is no such table.
 */
export function trellisTable(bits: IndexBits, window: TrellisWindow): FixedTable {
  return remember(`trellis ${bits} ${window}`, () => {
    const trained = TRAINED_TRELLISES.find((table) => table.bits === bits && table.window === window)
    if (!trained) throw new RangeError(`no trellis of ${bits} bits with a window of ${window}`)
    return { levels: Int8Array.from(Buffer.from(trained.levels, 'base64')), unit: trained.unit }
  })
}

/**
 * The scalar table with the least mean squared error on a unit normal (Lloyd 1957, Max 1960) for 2 and 3 bits, and NF4 for
 * 4. Rounded to int8 the largest level is 127.
 */
export function fixedTable(bits: IndexBits): FixedTable {
  return remember(`scalar ${bits}`, () => (bits === 4 ? normalFloat() : rounded(lloydMax(1 << bits))))
}

/**
 * NormalFloat of 4 bits (QLoRA, Dettmers et al. 2023, section 3): quantiles of the normal distribution, 8 above 0, 7 below
 * it, and 0 itself, scaled so that the largest magnitude is 1. The outermost probability is the mean of 1 − 1/30 and
 * 1 − 1/32, so that both halves end at it.
 *
 * The unit is per standard deviation of a normal source: the scale σ / unit has the least mean squared error there, where
 * QLoRA takes the largest magnitude of each block of 64.
 */
function normalFloat(): FixedTable {
  const outermost = 1 - (1 / 30 + 1 / 32) / 2
  const half = (count: number) =>
    Array.from({ length: count }, (_, i) => normalQuantile(outermost + (i / count) * (0.5 - outermost)))
  const largest = normalQuantile(outermost)
  const values = [...half(7).map((value) => -value), 0, ...half(8).reverse()]
  const levels = Int8Array.from(values, (value) => Math.round((value / largest) * LARGEST))
  return { levels, unit: bestUnit(levels) }
}

function rounded(values: readonly number[]): FixedTable {
  const unit = LARGEST / values.at(-1)!
  const levels = Int8Array.from(values, (value) => Math.round(value * unit))
  return { levels, unit: bestUnit(levels) }
}

/**
 * Levels of least mean squared error for a unit normal: each is the mean of its interval, and intervals meet half-way.
 * Lloyd's iteration has one fixed point, since the logarithm of the density is concave (Fleischer 1964).
 */
function lloydMax(count: number): number[] {
  let values = Array.from({ length: count }, (_, i) => normalQuantile((i + 0.5) / count))
  for (let change = 1; change > 1e-12; ) {
    const edges = edgesOf(values)
    const better = values.map((_, i) => {
      const [low, high] = [edges[i]!, edges[i + 1]!]
      return (normalDensity(low) - normalDensity(high)) / (normalDistribution(high) - normalDistribution(low))
    })
    change = Math.max(...better.map((value, i) => Math.abs(value - values[i]!)))
    values = better
  }
  return values
}

/** The unit of least mean squared error on a unit normal: with intervals given, the scale is a ratio of two sums. */
function bestUnit(levels: Int8Array): number {
  let unit = LARGEST / 2.5
  for (let change = 1; change > 1e-12; ) {
    const edges = edgesOf([...levels].map((level) => level / unit))
    let cross = 0
    let square = 0
    for (const [i, level] of levels.entries()) {
      cross += level * (normalDensity(edges[i]!) - normalDensity(edges[i + 1]!))
      square += level * level * (normalDistribution(edges[i + 1]!) - normalDistribution(edges[i]!))
    }
    change = Math.abs(square / cross / unit - 1)
    unit = square / cross
  }
  return unit
}

function edgesOf(values: readonly number[]): number[] {
  const between = values.slice(1).map((value, i) => (values[i]! + value) / 2)
  return [Number.NEGATIVE_INFINITY, ...between, Number.POSITIVE_INFINITY]
}

function remember(key: string, make: () => FixedTable): FixedTable {
  const table = made.get(key) ?? make()
  made.set(key, table)
  return table
}

/** @file From almost a solution to a good one: back within the limits, then single changes while they help. */
import type { Option, Presolved } from './presolve.ts'

/**
 * Change options until all limits are kept: each time the change that loses least per violation it takes away. May stop
 * short of a feasible choice that exists.
 *
 * @param taken per item an index into its options; changed in place.
 * @returns whether all limits are kept.
 */
export function repairInPlace(presolved: Presolved, taken: number[]): boolean {
  const totals = totalsOf(presolved, taken)
  const scales = presolved.limits.map((limit) => 1 / Math.max(1, limit))
  const violation = (costs: readonly number[]) =>
    costs.reduce((sum, cost, c) => sum + Math.max(0, cost - presolved.limits[c]!) * scales[c]!, 0)
  for (let current = violation(totals); current > 0; current = violation(totals)) {
    let best: { item: number; option: number; rate: number } | undefined
    presolved.items.forEach((options, item) => {
      const now = options[taken[item]!]!
      options.forEach((option, k) => {
        const saved = current - violation(totals.map((total, c) => total - now.costs[c]! + option.costs[c]!))
        if (!(saved > 0)) return
        const lost = option.loss - now.loss
        // A change that loses nothing comes before all that do.
        const rate = lost > 0 ? saved / lost : Number.POSITIVE_INFINITY
        if (best === undefined || rate > best.rate) best = { item, option: k, rate }
      })
    })
    if (best === undefined) return false
    moveInPlace(presolved, taken, totals, best.item, best.option)
  }
  return true
}

/**
 * Single changes that keep all limits, until none lowers the loss, or at equal loss the first cost, or at equal costs
 * the index.
 *
 * @param taken a choice that keeps all limits, indices into the options; changed in place.
 */
export function polishInPlace(presolved: Presolved, taken: number[]): void {
  const totals = totalsOf(presolved, taken)
  for (let changed = true; changed; ) {
    changed = false
    presolved.items.forEach((options, item) => {
      options.forEach((option, k) => {
        const now = options[taken[item]!]!
        if (!isBetter(option, now)) return
        if (totals.some((total, c) => total - now.costs[c]! + option.costs[c]! > presolved.limits[c]!)) return
        moveInPlace(presolved, taken, totals, item, k)
        changed = true
      })
    })
  }
}

/** Units. */
export function lossOfTaken(presolved: Presolved, taken: readonly number[]): number {
  return taken.reduce((sum, k, i) => sum + presolved.items[i]![k]!.loss, 0)
}

/** By how much each constraint is exceeded; none of the values is above 0 when all are kept. */
export function excessOf(presolved: Presolved, taken: readonly number[]): number[] {
  return totalsOf(presolved, taken).map((total, c) => total - presolved.limits[c]!)
}

function isBetter(a: Option, b: Option): boolean {
  if (a.loss !== b.loss) return a.loss < b.loss
  const [costA, costB] = [a.costs[0] ?? 0, b.costs[0] ?? 0]
  return costA !== costB ? costA < costB : a.index < b.index
}

function totalsOf(presolved: Presolved, taken: readonly number[]): number[] {
  return presolved.limits.map((_, c) => taken.reduce((sum, k, i) => sum + presolved.items[i]![k]!.costs[c]!, 0))
}

function moveInPlace(presolved: Presolved, taken: number[], totals: number[], item: number, option: number): void {
  const options = presolved.items[item]!
  for (let c = 0; c < totals.length; c++) totals[c]! += options[option]!.costs[c]! - options[taken[item]!]!.costs[c]!
  taken[item] = option
}

/** @file Good choices under a pairwise loss: single changes and swaps from several starts. Proves nothing. */
import type { Random } from '../random.ts'
import { comparedLimits, type Problem } from './problem.ts'

/** A problem with pairwise losses, flattened for speed. */
export interface PairProblem {
  readonly starts: readonly number[]
  /** Per option. */
  readonly losses: Float64Array
  /** [options, options], symmetric, zero within items. */
  readonly pairs: Float64Array
  /** Per constraint, per option. */
  readonly costs: readonly Float64Array[]
  readonly limits: readonly number[]
}

export function pairProblem(problem: Problem, starts: readonly number[], pairs: Float64Array): PairProblem {
  const options = problem.items.flat()
  return {
    starts,
    pairs,
    losses: Float64Array.from(options, (option) => option.loss),
    costs: problem.constraints.map((_, c) => Float64Array.from(options, (option) => option.costs[c]!)),
    limits: comparedLimits(problem),
  }
}

/** Loss of a choice, given by flat options, one per item. */
export function pairLoss({ losses, pairs }: PairProblem, taken: readonly number[]): number {
  const size = losses.length
  let loss = 0
  taken.forEach((a, i) => {
    loss += losses[a]!
    for (let j = 0; j < i; j++) loss += pairs[a * size + taken[j]!]!
  })
  return loss
}

/**
 * Single changes and swaps of two items, the best first, until none helps.
 *
 * @param taken flat options, one per item, that keep the limits; changed in place.
 * @returns the loss reached.
 */
export function descendPairsInPlace(problem: PairProblem, taken: number[]): number {
  const { starts, losses, pairs, costs, limits } = problem
  const size = losses.length
  const totals = costs.map((column) => taken.reduce((sum, a) => sum + column[a]!, 0))
  const field = losses.slice()
  for (const b of taken) for (let a = 0; a < size; a++) field[a]! += pairs[b * size + a]!
  const fits = (out: readonly number[], into: readonly number[]) =>
    limits.every((limit, c) => {
      let total = totals[c]!
      for (let t = 0; t < out.length; t++) total += costs[c]![into[t]!]! - costs[c]![out[t]!]!
      return total <= limit
    })
  const apply = (item: number, into: number) => {
    const out = taken[item]!
    for (let a = 0; a < size; a++) field[a]! += pairs[into * size + a]! - pairs[out * size + a]!
    for (let c = 0; c < totals.length; c++) totals[c]! += costs[c]![into]! - costs[c]![out]!
    taken[item] = into
  }
  const tiny = -1e-13 * losses.reduce((sum, loss) => sum + Math.abs(loss), Number.MIN_VALUE)
  for (;;) {
    let best: { gain: number; items: readonly number[]; into: readonly number[] } | undefined
    const offer = (gain: number, items: readonly number[], into: readonly number[]) => {
      if (gain >= (best?.gain ?? tiny)) return
      if (
        fits(
          items.map((i) => taken[i]!),
          into,
        )
      )
        best = { gain, items, into }
    }
    for (let i = 0; i < taken.length; i++) {
      for (let a = starts[i]!; a < starts[i + 1]!; a++) {
        const single = field[a]! - field[taken[i]!]!
        offer(single, [i], [a])
        if (a === taken[i]) continue
        for (let j = 0; j < i; j++) {
          for (let b = starts[j]!; b < starts[j + 1]!; b++) {
            if (b === taken[j]) continue
            const [x, y] = [taken[i]!, taken[j]!]
            const both = pairs[a * size + b]! - pairs[a * size + y]! - pairs[x * size + b]! + pairs[x * size + y]!
            const gain = single + field[b]! - field[y]! + both
            if (gain < (best?.gain ?? tiny)) offer(gain, [i, j], [a, b])
          }
        }
      }
    }
    if (best === undefined) return pairLoss(problem, taken)
    const { items, into } = best
    items.forEach((item, t) => {
      apply(item, into[t]!)
    })
  }
}

/** Descents from the start, then from disturbed copies of the best: `restarts` of them. */
export function searchPairs(
  problem: PairProblem,
  start: readonly number[],
  random: Random,
  restarts: number,
): number[] {
  let best = [...start]
  let least = descendPairsInPlace(problem, best)
  for (let restart = 0; restart < restarts; restart++) {
    const taken = [...best]
    const changes = Math.max(2, Math.ceil(taken.length / 10))
    for (let change = 0; change < changes; change++) {
      const i = random.below(taken.length)
      taken[i] = problem.starts[i]! + random.below(problem.starts[i + 1]! - problem.starts[i]!)
    }
    if (!cheapenInPlace(problem, taken)) continue
    const loss = descendPairsInPlace(problem, taken)
    if (loss < least) [best, least] = [taken, loss]
  }
  return best
}

/** Takes cheaper options, first where little is lost per cost, until the limits are kept; false when that fails. */
export function cheapenInPlace({ starts, losses, costs, limits }: PairProblem, taken: number[]): boolean {
  const totals = costs.map((column) => taken.reduce((sum, a) => sum + column[a]!, 0))
  for (;;) {
    const c = totals.findIndex((total, index) => total > limits[index]!)
    if (c < 0) return true
    let best: { item: number; into: number; rate: number } | undefined
    taken.forEach((out, item) => {
      for (let a = starts[item]!; a < starts[item + 1]!; a++) {
        const saved = costs[c]![out]! - costs[c]![a]!
        if (!(saved > 0)) continue
        // What is already kept must stay kept.
        const breaks = totals.some(
          (total, d) => d !== c && total <= limits[d]! && total + costs[d]![a]! - costs[d]![out]! > limits[d]!,
        )
        const rate = (losses[a]! - losses[out]!) / saved
        if (!breaks && (best === undefined || rate < best.rate)) best = { item, into: a, rate }
      }
    })
    if (best === undefined) return false
    const { item, into } = best
    for (let d = 0; d < totals.length; d++) totals[d]! += costs[d]![into]! - costs[d]![taken[item]!]!
    taken[item] = into
  }
}

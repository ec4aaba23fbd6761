/**
 * @file A problem in whole numbers, without choices that no best solution takes. Sums of whole numbers are the same in
 * any order, so equal losses and costs are equal for every solver, and ties have a meaning.
 */
import { comparedLimits, isWhole, type Problem } from './problem.ts'

/** A choice that is left, relative to the least of its item. */
export interface Option {
  /** Its index among the choices of the item. */
  readonly index: number
  /** Per constraint, above the least of the item; whole. */
  readonly costs: readonly number[]
  /** Above the least of the item; whole multiples of the unit. */
  readonly loss: number
}

export interface Presolved {
  /** Per item, by ascending cost of the first constraint, then loss, then index; at least one. */
  readonly items: readonly (readonly Option[])[]
  /** Per constraint, what is left above the least costs of all items; whole, ≥ 0. */
  readonly limits: readonly number[]
  /** Loss of a unit, a power of two. */
  readonly unit: number
  /** What was taken off the losses of the items, in units. */
  readonly offset: number
}

/** Sums of losses stay below 2^50 units: exact, with bits to spare for products with multipliers. */
const LOSS_BITS = 50
/** Sums of costs that are fractions, in units. */
const COST_BITS = 48

/**
 * Bring a feasible problem into whole numbers and drop dominated choices: those for which another of the item takes no
 * more of anything and loses no more (of equal ones the first stays).
 *
 * Losses are rounded to 2⁻⁵⁰ of their largest sum; costs that are not whole to 2⁻⁴⁸. Both are far below what can be
 * measured, and `evaluateChoice` gives the totals in the caller's numbers.
 */
export function presolve(problem: Problem): Presolved {
  const { items, constraints } = problem
  const largest = sum(items.map((choices) => Math.max(...choices.map((choice) => Math.abs(choice.loss)))))
  const unit = powerOfTwo(largest, LOSS_BITS)
  const limits = comparedLimits(problem)
  const scales = constraints.map((_, c) => {
    if (isWhole(problem, c)) return 1
    return powerOfTwo(sum(items.map((choices) => Math.max(...choices.map((choice) => choice.costs[c]!)))), COST_BITS)
  })
  const whole = items.map((choices) =>
    choices.map((choice, index) => ({
      index,
      costs: choice.costs.map((cost, c) => Math.round(cost / scales[c]!)),
      loss: Math.round(choice.loss / unit),
    })),
  )
  const leastCosts = whole.map((options) => constraints.map((_, c) => Math.min(...options.map((o) => o.costs[c]!))))
  const rest = constraints.map((_, c) => {
    const above = Math.floor(limits[c]! / scales[c]!) - sum(leastCosts.map((costs) => costs[c]!))
    // No limit at all, or one that nothing reaches: the largest sum is limit enough, and finite.
    const most = sum(whole.map((options, i) => Math.max(...options.map((o) => o.costs[c]!)) - leastCosts[i]![c]!))
    return Math.max(0, Math.min(above, most))
  })
  let offset = 0
  const kept = whole.map((options, i) => {
    const relative = options.map((o) => ({ ...o, costs: o.costs.map((cost, c) => cost - leastCosts[i]![c]!) }))
    const left = undominated(relative.filter((o) => o.costs.every((cost, c) => cost <= rest[c]!)))
    if (left.length === 0) return [] // only where several constraints together leave nothing
    const least = Math.min(...left.map((o) => o.loss))
    offset += least
    return left.map((o) => ({ ...o, loss: o.loss - least }))
  })
  return divided({ items: kept, limits: rest, unit, offset })
}

/** Whether the presolve already shows that nothing is feasible: some item has no choice left. */
export function leavesNothing(presolved: Presolved): boolean {
  return presolved.items.some((options) => options.length === 0)
}

function undominated(options: readonly Option[]): Option[] {
  const first = (o: Option) => o.costs[0] ?? 0
  const sorted = [...options].sort((a, b) => first(a) - first(b) || a.loss - b.loss || a.index - b.index)
  return sorted.filter((b) => !sorted.some((a) => a !== b && dominates(a, b)))
}

function dominates(a: Option, b: Option): boolean {
  if (a.loss > b.loss || a.costs.some((cost, c) => cost > b.costs[c]!)) return false
  return a.loss < b.loss || a.costs.some((cost, c) => cost < b.costs[c]!) || a.index < b.index
}

/** Costs over their common divisor: the limit falls to a sum that can occur, and bounds get closer. */
function divided(presolved: Presolved): Presolved {
  const divisors = presolved.limits.map((_, c) => {
    let divisor = 0
    for (const options of presolved.items) for (const o of options) divisor = commonDivisor(o.costs[c]!, divisor)
    return Math.max(1, divisor)
  })
  return {
    ...presolved,
    items: presolved.items.map((options) =>
      options.map((o) => ({ ...o, costs: o.costs.map((cost, c) => cost / divisors[c]!) })),
    ),
    limits: presolved.limits.map((limit, c) => Math.floor(limit / divisors[c]!)),
  }
}

function commonDivisor(a: number, b: number): number {
  while (b !== 0) [a, b] = [b, a % b]
  return a
}

/** The power of two u with `largest` ≤ u · 2^bits; 1 for nothing at all. */
function powerOfTwo(largest: number, bits: number): number {
  return largest > 0 ? 2 ** (Math.ceil(Math.log2(largest)) - bits) : 1
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}

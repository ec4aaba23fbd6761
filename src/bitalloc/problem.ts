/**
 * @file The multiple-choice problem that all solvers share: one choice per item, the least total loss, every limit kept.
 * Knows what a solution costs, and whether any exists.
 */
import { QtoolError } from '../errors.ts'

/** One way to store an item: a layer, or layers tied together. */
export interface Choice {
  /**
   * What it takes of each constraint, finite and ≥ 0. Whole numbers (bytes, bits, nanoseconds) are summed exactly;
   * others are compared with a slack of 1e-11 of the limit, for the rounding of sums.
   */
  readonly costs: readonly number[]
  /** Finite; may be negative where measuring is noisy. */
  readonly loss: number
}

export interface Constraint {
  /** For messages: `bytes`, `mean bits`, `latency`. */
  readonly name: string
  /** The most that the costs may add up to; `Infinity` is no limit. */
  readonly limit: number
}

export interface Problem {
  /** At least one choice per item; an item with a single choice is pinned. */
  readonly items: readonly (readonly Choice[])[]
  readonly constraints: readonly Constraint[]
}

export interface Solution {
  /** Per item, the index of its choice. */
  readonly choice: readonly number[]
  /** By the model of the loss. */
  readonly loss: number
  /** Per constraint, never above its limit. */
  readonly costs: readonly number[]
  /** Proved lower bound of the loss; equal to `loss` when the solution is optimal. */
  readonly bound: number
  readonly solver: 'dp' | 'ilp' | 'quadratic'
}

/** What a constraint can be brought down to, others aside. */
export interface LeastCost {
  readonly name: string
  readonly limit: number
  readonly least: number
  /** The choices that reach it; of equally cheap ones that of less loss, then the first. */
  readonly choice: readonly number[]
}

/** Slack for sums of fractions in floating point, relative to the limit. */
const FRACTION_SLACK = 1e-11

/** Total loss and costs of one choice per item, summed in the order of the items. */
export function evaluateChoice(
  problem: Problem,
  choice: readonly number[],
): { readonly loss: number; readonly costs: readonly number[] } {
  const costs = problem.constraints.map(() => 0)
  let loss = 0
  problem.items.forEach((choices, i) => {
    const taken = choices[choice[i]!]!
    loss += taken.loss
    for (let c = 0; c < costs.length; c++) costs[c]! += taken.costs[c]!
  })
  return { loss, costs }
}

/** Whether all costs of constraint `c` are whole numbers, whose sums are exact. */
export function isWhole(problem: Problem, c: number): boolean {
  return problem.items.every((choices) => choices.every((choice) => Number.isInteger(choice.costs[c])))
}

/** The limits to compare sums with: a little above those of constraints whose costs are fractions. */
export function comparedLimits(problem: Problem): number[] {
  return problem.constraints.map(({ limit }, c) => (isWhole(problem, c) ? limit : limit + FRACTION_SLACK * limit))
}

/** The least that each constraint can be brought down to, each for itself. */
export function leastCosts(problem: Problem): LeastCost[] {
  return problem.constraints.map(({ name, limit }, c) => {
    const choice = problem.items.map((choices) => {
      let best = 0
      for (let k = 1; k < choices.length; k++) {
        const difference = choices[k]!.costs[c]! - choices[best]!.costs[c]!
        if (difference < 0 || (difference === 0 && choices[k]!.loss < choices[best]!.loss)) best = k
      }
      return best
    })
    return { name, limit, least: evaluateChoice(problem, choice).costs[c]!, choice }
  })
}

/**
 * Refuse a problem that cannot be solved because of one constraint alone. Constraints that only together leave nothing
 * are found by the solvers, see {@link jointlyInfeasible}.
 *
 * @throws QtoolError `infeasible`: which constraints bind, and the least that can be reached for each.
 * @throws RangeError on numbers that are no problem: NaN, negative costs, items without choices, differing lengths.
 */
export function checkFeasible(problem: Problem): void {
  checkNumbers(problem)
  const limits = comparedLimits(problem)
  const binding = leastCosts(problem).filter(({ least }, c) => least > limits[c]!)
  if (binding.length === 0) return
  const asked = binding.map(({ name, limit }) => `${name} of at most ${figure(limit)}`).join(' and ')
  const reached = binding.map(({ name, least }) => `${figure(least)} (${name})`).join(' and ')
  throw new QtoolError('infeasible', `${asked} cannot be reached: the least is ${reached}`, {
    hint: `raise the limit to ${reached}, or allow smaller candidates`,
  })
}

/**
 * The error for constraints of which each can be kept, but not all together.
 *
 * @param leastBesides per constraint, the least that is reached while the others are kept; undefined where unknown.
 */
export function jointlyInfeasible(problem: Problem, leastBesides: readonly (number | undefined)[]): QtoolError {
  const asked = problem.constraints.map(({ name, limit }) => `${name} of at most ${figure(limit)}`).join(' and ')
  const known = problem.constraints.flatMap(({ name }, c) =>
    leastBesides[c] === undefined ? [] : [`${figure(leastBesides[c])} (${name})`],
  )
  const reached = known.length > 0 ? `: while the others are kept, the least is ${known.join(' or ')}` : ''
  return new QtoolError('infeasible', `${asked} can each be reached, but not together${reached}`, {
    hint: known.length > 0 ? `raise one limit: ${known.join(' or ')}` : 'raise one of the limits',
  })
}

/**
 * Items that must take the same choice, as one: the sums of their costs and losses. Choices correspond by index, so all
 * items have equally many.
 */
export function tie(...items: readonly (readonly Choice[])[]): Choice[] {
  const [first, ...others] = items
  if (first === undefined) throw new RangeError('nothing to tie')
  if (others.some((choices) => choices.length !== first.length)) {
    throw new RangeError(`tied items have ${items.map((choices) => choices.length).join(', ')} choices`)
  }
  return first.map((_, k) => ({
    costs: first[k]!.costs.map((_, c) => items.reduce((sum, choices) => sum + choices[k]!.costs[c]!, 0)),
    loss: items.reduce((sum, choices) => sum + choices[k]!.loss, 0),
  }))
}

function checkNumbers({ items, constraints }: Problem): void {
  for (const { name, limit } of constraints) if (Number.isNaN(limit)) throw new RangeError(`limit of ${name} is NaN`)
  items.forEach((choices, i) => {
    if (choices.length === 0) throw new RangeError(`item ${i} has no choices`)
    for (const { costs, loss } of choices) {
      if (!Number.isFinite(loss)) throw new RangeError(`item ${i} has a loss of ${loss}`)
      if (costs.length !== constraints.length) throw new RangeError(`item ${i} has ${costs.length} costs`)
      const wrong = costs.find((cost) => !(cost >= 0 && cost < Number.POSITIVE_INFINITY))
      if (wrong !== undefined) throw new RangeError(`item ${i} has a cost of ${wrong}`)
    }
  })
}

/** A number for a message; fractions are rounded up at the fourth decimal, so that a limit set to it can be met. */
function figure(value: number): string {
  return String(Number.isInteger(value) ? value : Math.ceil(value * 1e4 - 1e-6) / 1e4)
}

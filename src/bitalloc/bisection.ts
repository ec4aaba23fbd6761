/**
 * @file Searches for an accuracy bound: over the order of sensitivities, and over the budget of another solver. Every
 * answer has been evaluated, except the start, which is taken to keep the bound.
 *
 * The search over the order is that of Schaefer et al. 2023 (arXiv 2306.04879) as far as its abstract tells it, made
 * exact; the greedy pass and the search over budgets are ours.
 */
import { QtoolError } from '../errors.ts'

/** Real losses of configurations. */
interface Evaluated {
  /** The loss of a configuration: per item its level, 0 the most precise. */
  readonly evaluate: (levels: readonly number[]) => Promise<number>
  /** The most that the loss may be. */
  readonly bound: number
}

export interface OrderedSearch extends Evaluated {
  /** Items to lower, the least sensitive first; items that are not listed stay at level 0. */
  readonly order: readonly number[]
  /** Levels of each item; 1 for an item that cannot be lowered. */
  readonly depths: readonly number[]
}

export interface SearchResult {
  readonly levels: readonly number[]
  /** As evaluated; undefined for a start that nothing improved on. */
  readonly loss: number | undefined
  readonly evaluations: number
}

/**
 * Level by level, the longest prefix of the order that can be lowered one level further; only items lowered to a level
 * are tried at the next. On losses that rise with every step this is the longest prefix there is.
 *
 * Takes at most P·(1 + ⌈log2 L⌉) evaluations for L items and P levels below the first.
 */
export async function bisectOrder({ order, depths, evaluate, bound }: OrderedSearch): Promise<SearchResult> {
  let levels = depths.map(() => 0)
  let loss: number | undefined
  let evaluations = 0
  let candidates = [...order]
  for (let level = 1; ; level++) {
    candidates = candidates.filter((item) => depths[item]! > level)
    if (candidates.length === 0) break
    const before = levels
    const keeps = async (count: number) => {
      const tried = [...before]
      for (const item of candidates.slice(0, count)) tried[item] = level
      const measured = await evaluate(tried)
      evaluations++
      if (!(measured <= bound)) return false
      levels = tried
      loss = measured
      return true
    }
    let low = 0
    let high = candidates.length
    if (await keeps(high)) low = high
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if (await keeps(middle)) low = middle
      else high = middle
    }
    candidates = candidates.slice(0, low)
  }
  return { levels, loss, evaluations }
}

/**
 * From a configuration that keeps the bound: in the order, one item at a time one level down, kept when the bound still
 * is; round after round, an item that failed is not tried again. At most L·P evaluations, and `most`.
 */
export async function greedyPass(
  { order, depths, evaluate, bound }: OrderedSearch,
  start: Pick<SearchResult, 'levels' | 'loss'>,
  most = Number.POSITIVE_INFINITY,
): Promise<SearchResult> {
  const levels = [...start.levels]
  let loss = start.loss
  let evaluations = 0
  let open = order.filter((item) => levels[item]! + 1 < depths[item]!)
  while (open.length > 0 && evaluations < most) {
    const next: number[] = []
    for (const item of open) {
      if (evaluations >= most) break
      levels[item]!++
      const measured = await evaluate(levels.slice())
      evaluations++
      if (measured <= bound) {
        loss = measured
        if (levels[item]! + 1 < depths[item]!) next.push(item)
      } else levels[item]!--
    }
    open = next
  }
  return { levels, loss, evaluations }
}

/** What a solver makes of a budget, and its real loss. */
export interface SolvedBudget {
  readonly loss: number
  /** What the solution really costs, at most the budget. */
  readonly cost: number
}

export interface BudgetSearch<S extends SolvedBudget> {
  /** Budgets to search between, low ≤ high; `low` must be feasible for the solver. */
  readonly low: number
  readonly high: number
  /** The search ends when the budget is known to this; 1 by default, which suits bytes. > 0. */
  readonly step?: number
  /** Solves and evaluates. */
  readonly solveAt: (budget: number) => Promise<S>
  /** The most that the loss may be. */
  readonly bound: number
  /** Evaluations at most, at least 2; 20 by default. */
  readonly most?: number
}

/**
 * The smallest budget whose solution keeps the bound, taking the loss to fall as the budget rises. Whatever the losses
 * do, the answer is a solution that was evaluated and keeps the bound.
 *
 * @returns `solved`: the solution at `budget`; `failed`: the largest budget below it that was seen to fail, if any.
 * @throws QtoolError `infeasible` when the solution at `high` does not keep the bound.
 */
export async function bisectBudget<S extends SolvedBudget>(
  search: BudgetSearch<S>,
): Promise<{
  readonly budget: number
  readonly solved: S
  readonly failed: number | undefined
  readonly evaluations: number
}> {
  const { low, high, solveAt, bound } = search
  if (!(low <= high)) throw new RangeError(`budgets from ${low} to ${high}`)
  const { step = 1, most = 20 } = search
  let solved = await solveAt(high)
  let evaluations = 1
  if (!(solved.loss <= bound)) {
    const message = `a loss of at most ${bound} cannot be reached: the largest budget (${high}) gives ${solved.loss.toPrecision(4)}`
    throw new QtoolError('infeasible', message, { hint: 'allow a larger loss, or more precise candidates' })
  }
  // A solution that takes less than its budget is also that of the budget it takes.
  let budget = Math.min(high, Math.max(low, solved.cost))
  let failed: number | undefined
  while (evaluations < most && budget > low && budget - (failed ?? low) > (failed === undefined ? 0 : step)) {
    // The least budget first: then every later step halves what is left.
    const tried = failed === undefined ? low : middleOf(failed, budget, step)
    if (tried <= (failed ?? Number.NEGATIVE_INFINITY) || tried >= budget) break
    const answer = await solveAt(tried)
    evaluations++
    if (answer.loss <= bound) {
      solved = answer
      budget = Math.min(tried, Math.max(low, answer.cost))
    } else failed = tried
  }
  return { budget, solved, failed, evaluations }
}

/** Whole steps above the lower end, so that budgets of bytes stay whole. */
function middleOf(low: number, high: number, step: number): number {
  return low + step * Math.max(1, Math.floor((high - low) / (2 * step)))
}

/**
 * @file Solves a problem with one constraint exactly, by dynamic programming over Pareto lists.
 *
 * Rate–distortion allocation (Xu et al., ICCV 2023) with lists instead of a table over all rates, and with what makes
 * such lists short (Pisinger 1995): the linear relaxation gives a price and a bound, sweeps over the options next to that price give a solution,
 * and options and states that cannot beat it are left out of the exact sweep.
 */
import { lossOfTaken } from './incumbent.ts'
import { fixOptions, type Prices, priced, relaxOne, slackOf } from './lagrangian.ts'
import { sweep } from './paretoSweep.ts'
import { type Presolved, presolve } from './presolve.ts'
import { checkFeasible, evaluateChoice, type Problem, type Solution } from './problem.ts'

/** Options of the sweeps that look for a good solution, each over what the one before left open. */
const CORES = [40, 160]
/** States per item of these sweeps. */
const NARROW = 4000
/** States per item of the sweep that proves. */
const WIDE = 50_000

/**
 * The choice with the least total loss that keeps the limit; of equal ones the one that costs least, then the one with
 * the lowest indices, earlier items first.
 *
 * Losses are added as they are: a model that adds in the logarithm (coverage) passes those terms as losses.
 *
 * @param problem exactly one constraint.
 * @param options `room`: states kept per item. When an instance needs more, the solution is the best of those kept, and
 * its `bound` is below its loss by what that may have cost.
 * @throws QtoolError `infeasible` with the least that can be reached.
 */
export function solvePareto(problem: Problem, options: { readonly room?: number } = {}): Solution {
  if (problem.constraints.length !== 1) throw new RangeError(`${problem.constraints.length} constraints instead of one`)
  checkFeasible(problem)
  const presolved = presolve(problem)
  const room = options.room ?? WIDE
  const { prices, taken, left } = approach(presolved, room)
  const wide = sweep(left, prices, lossOfTaken(left, taken) + slackOf(presolved), room)
  // Only where room was short can the sweep end above what is known already.
  const best = wide.taken && wide.loss <= lossOfTaken(left, taken) ? wide.taken : taken
  const choice = best.map((k, i) => left.items[i]![k]!.index)
  const { loss, costs } = evaluateChoice(problem, choice)
  const bound = Math.min(loss, (wide.dropped + presolved.offset) * presolved.unit)
  return { choice, loss, costs, bound, solver: 'dp' }
}

/**
 * A good solution of a problem with one constraint, and what is left open beside it.
 *
 * @returns `left`: the problem without the options that no solution as good takes; `taken`: indices into its options.
 */
export function approach(
  presolved: Presolved,
  room = Number.POSITIVE_INFINITY,
): { readonly prices: Prices; readonly taken: readonly number[]; readonly left: Presolved } {
  const { prices, incumbent } = relaxOne(presolved)
  let left = presolved
  let taken: readonly number[] = incumbent.taken
  for (const size of CORES) {
    const known = lossOfTaken(left, taken)
    const core = coreOf(left, prices, taken, size)
    const found = sweep(core, prices, known + slackOf(presolved), Math.min(NARROW, room))
    if (found.taken && found.loss < known) {
      taken = found.taken.map((k, i) => left.items[i]!.indexOf(core.items[i]![k]!))
    }
    const fixed = fixOptions(left, prices, lossOfTaken(left, taken))
    taken = taken.map((k, i) => fixed.items[i]!.indexOf(left.items[i]![k]!))
    left = fixed
  }
  return { prices, taken, left }
}

/** The options that cost least beyond the best of their items, those best ones, and the known solution. */
function coreOf(presolved: Presolved, { prices, least }: Prices, taken: readonly number[], size: number): Presolved {
  const excess = presolved.items.map((options, i) => options.map((o) => priced(o, prices) - least[i]!))
  const sorted = excess.flatMap((values) => values.filter((value) => value > 0)).sort((a, b) => a - b)
  const most = sorted[Math.min(size, sorted.length) - 1] ?? 0
  const items = presolved.items.map((options, i) => options.filter((_, k) => k === taken[i] || excess[i]![k]! <= most))
  return { ...presolved, items }
}

/** The best choice at each limit: the curve of cost against loss. Limits as in {@link solvePareto}, in any order. */
export function paretoCurve(problem: Problem, limits: readonly number[]): Solution[] {
  return limits.map((limit) =>
    solvePareto({ items: problem.items, constraints: problem.constraints.map(({ name }) => ({ name, limit })) }),
  )
}

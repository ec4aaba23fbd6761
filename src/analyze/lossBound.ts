/** @file The smallest model that keeps bounds on what held-out samples lose: the budget is searched for, or widths are lowered in one order. */
import { bisectBudget, bisectOrder, greedyPass } from '../bitalloc/bisection.ts'
import { evaluateChoice } from '../bitalloc/problem.ts'
import { type Allocation, type AllocationTask, allocate, checkedEvaluate } from './allocate.ts'
import { type Limit, limitsOfBudgets, problemOf, spread } from './allocationProblem.ts'
import { type Bounds, boundError, strainOf } from './bounds.ts'
import { lossTable } from './losses.ts'

/** The budget is known to this share of the range that was searched. */
const PRECISION = 1e-3
/** Solutions that are run while the budget is searched for. */
const SEARCHES = 12

/**
 * The allocation with the fewest stored bits that keeps the bounds, as measured.
 * @param others  limits that are kept as well, such as one on latency.
 * @param inOrder lower one layer after the other by falling tolerance, as the inter-layer paper does, instead of solving for
 *   budgets.
 * @throws QtoolError `infeasible` when the most precise candidates do not keep it; `usage` without data to run on.
 */
export async function smallestAllocation(
  task: Omit<AllocationTask, 'limits'>,
  others: readonly Limit[],
  bounds: Bounds,
  inOrder: boolean,
): Promise<Allocation> {
  const evaluate = checkedEvaluate(task)
  const { items, layers } = task
  const unreachable = (reached: Parameters<typeof boundError>[1]) =>
    boundError(bounds, reached, 'the most precise candidates come', 'allow more with --max-kl or --max-drop')
  const size: Limit = limitsOfBudgets([{ kind: 'bitsPerWeight', bits: 64 }], layers, items, {
    byteLimit: undefined,
    otherBytes: 0,
  })[0]!
  const limits = [size, ...others]
  const table = lossTable(task.analysis, task.sensitivities[0]!)
  const problem = problemOf(items, limits, table.losses)
  if (!inOrder) {
    const costs = problem.items.map((choices) => choices.map((choice) => choice.costs[0]!))
    const low = costs.reduce((sum, own) => sum + Math.min(...own), 0)
    const high = costs.reduce((sum, own) => sum + Math.max(...own), 0)
    const { solved } = await bisectBudget({
      // At most 1 where the bounds are kept.
      ...{ low, high, bound: 1, most: SEARCHES, step: Math.max(1, (high - low) * PRECISION) },
      solveAt: async (budget) => {
        const allocation = await allocate({
          ...{ ...task, bounds },
          limits: [{ ...size, limit: Math.floor(budget) }, ...others],
          evaluations: 0,
        })
        const { options, measured } = allocation
        const loss = strainOf(bounds, options, measured!)
        if (loss > 1 && budget === high) throw unreachable({ options, measured: measured! })
        return { allocation, loss, cost: allocation.limits[0]!.used }
      },
    })
    return solved.allocation
  }
  // Levels of an item: its choices by falling bytes, each with more loss than the one before.
  const levels = problem.items.map((choices) => {
    const byCost = choices.map((_, k) => k).sort((a, b) => choices[b]!.costs[0]! - choices[a]!.costs[0]!)
    return byCost.filter((k, i) => i === 0 || choices[k]!.costs[0]! < choices[byCost[i - 1]!]!.costs[0]!)
  })
  const choiceOf = (at: readonly number[]) => at.map((level, item) => levels[item]![level]!)
  const optionsOf = (at: readonly number[]) => spread(items, choiceOf(at), layers.length)
  const losses = new Map<string, number>()
  const run = async (at: readonly number[]) => {
    const options = optionsOf(at)
    const loss = await evaluate(options)
    losses.set(at.join(), loss)
    return strainOf(bounds, options, loss)
  }
  const harm = problem.items.map((choices, item) => choices[levels[item]!.at(-1)!]!.loss)
  const order = harm.map((_, item) => item).sort((a, b) => harm[a]! - harm[b]! || a - b)
  const search = { order, depths: levels.map((own) => own.length), evaluate: run, bound: 1 }
  const first = levels.map(() => 0)
  if ((await run(first)) > 1) throw unreachable({ options: optionsOf(first), measured: losses.get(first.join())! })
  const found = await bisectOrder(search)
  const greedy = await greedyPass(search, found, task.evaluations)
  const choice = choiceOf(greedy.levels)
  const { loss, costs } = evaluateChoice(problem, choice)
  const measured = losses.get(greedy.levels.join())!
  return {
    options: spread(items, choice, layers.length),
    proposals: [
      {
        from: task.sensitivities[0]!,
        choice,
        options: spread(items, choice, layers.length),
        predicted: loss,
        objective: loss,
        bound: undefined,
        measured,
      },
    ],
    chosen: 0,
    measured,
    evaluations: found.evaluations + greedy.evaluations + 1,
    accepted: 0,
    limits: costs.map((used, c) => ({ name: limits[c]!.name, limit: limits[c]!.limit, used })),
  }
}

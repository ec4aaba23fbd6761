/**
 * @file From measured sensitivities to one allocation: each cost vector is solved to a proved bound, the results are run for
 * real on held-out samples, and the best is improved by exchanges as long as that really helps.
 */
import { solveIlp } from '../bitalloc/integerProgram.ts'
import { evaluateBest, localSearch } from '../bitalloc/localSearch.ts'
import { solvePareto } from '../bitalloc/pareto.ts'
import { evaluateChoice, type Solution } from '../bitalloc/problem.ts'
import { solveQuadratic } from '../bitalloc/quadratic.ts'
import { QtoolError } from '../errors.ts'
import type { RunOptions } from '../progress.ts'
import { gramOfItems, type Item, type Limit, problemOf, spread } from './allocationProblem.ts'
import type { Analysis, Sensitivity } from './analysis.ts'
import { type Bounds, strainOf } from './bounds.ts'
import { lossTable, predict } from './losses.ts'
import type { LayerOptions } from './measuredLayers.ts'
import { byReliability, preferred, uniformChoice } from './proposals.ts'

/** Options per layer; undefined for a layer that stays as it is. */
type Options = readonly (number | undefined)[]

/** The loss of a configuration on held-out samples, run for real. */
export type RunConfiguration = (options: Options) => Promise<number>

/** Standard error of the difference between two configurations that were run, from the same samples; 0 where it is not known. */
export type ErrorOfDifference = (one: Options, other: Options) => number

interface Proposal {
  /** The cost vector that it comes from; `uniform` has one choice for all layers. */
  readonly from: Sensitivity | 'uniform'
  /** Per item. */
  readonly choice: readonly number[]
  /** Per layer. */
  readonly options: Options
  /** Loss by its model; undefined for `uniform`. */
  readonly predicted: number | undefined
  /** What was minimised, which some models add up in another domain, and its proved lower bound; undefined for `uniform`. */
  readonly objective: number | undefined
  readonly bound: number | undefined
  readonly measured: number | undefined
}

export interface Allocation {
  /** Per layer, the place of its option; undefined for a layer that stays as it is. */
  readonly options: Options
  readonly proposals: readonly Proposal[]
  /** The place of the proposal that it comes from. */
  readonly chosen: number
  /** On held-out samples, after the exchanges; undefined where nothing was run. */
  readonly measured: number | undefined
  readonly evaluations: number
  /** Exchanges that were kept. */
  readonly accepted: number
  readonly limits: readonly { readonly name: string; readonly limit: number; readonly used: number }[]
}

export interface AllocationTask {
  readonly analysis: Analysis
  readonly layers: readonly LayerOptions[]
  readonly items: readonly Item[]
  readonly limits: readonly Limit[]
  readonly sensitivities: readonly Sensitivity[]
  readonly solver: 'ilp' | 'dp'
  /** Undefined where there is only the analysis: the first sensitivity decides. */
  readonly evaluate: RunConfiguration | undefined
  readonly errorOfDifference?: ErrorOfDifference | undefined
  /** What is run has to keep them, where something does: the caller sees to the rest. */
  readonly bounds?: Bounds | undefined
  /** Real evaluations at most. */
  readonly evaluations: number
  readonly run: RunOptions
}

/** An exchange must lower the loss by this share, and by this many standard errors of the difference: with few samples the
 * best of many exchanges is the luckiest. */
const NOISE_SHARE = 0.002
const CLEAR_ERRORS = 2

/**
 * Allocate.
 * @throws QtoolError `infeasible` with the least that can be reached; `usage` when the analysis lacks a sensitivity.
 */
export async function allocate(task: AllocationTask): Promise<Allocation> {
  const { items, layers, limits, evaluate, errorOfDifference, run } = task
  const optionsOf = (choice: readonly number[]) => spread(items, choice, layers.length)
  const proposals: Proposal[] = []
  const sensitivities = byReliability(task)
  for (const [i, name] of sensitivities.entries()) {
    run.onProgress?.({ stage: 'allocate', done: i, total: sensitivities.length, item: name })
    const { choice, bound, loss } = await propose(task, name)
    const predicted = predictedLoss(task, name, optionsOf(choice), loss)
    proposals.push({
      from: name,
      choice,
      options: optionsOf(choice),
      predicted,
      objective: loss,
      bound,
      measured: undefined,
    })
  }
  const first = problemOf(items, limits, lossTable(task.analysis, sensitivities[0]!).losses)
  const uniform = uniformChoice(first, task)
  if (uniform) {
    const unknown = { predicted: undefined, objective: undefined, bound: undefined, measured: undefined }
    proposals.push({ from: 'uniform', choice: uniform, options: optionsOf(uniform), ...unknown })
  }
  const used = (choice: readonly number[]) =>
    evaluateChoice(first, choice).costs.map((cost, c) => ({
      name: limits[c]!.name,
      limit: limits[c]!.limit,
      used: cost,
    }))
  if (!evaluate) {
    const { choice } = proposals[0]!
    const none = { chosen: 0, measured: undefined, evaluations: 0, accepted: 0 }
    return { options: optionsOf(choice), proposals, limits: used(choice), ...none }
  }
  let done = 0
  const total = Math.max(1, proposals.length + task.evaluations)
  const known = new Map<string, EvaluatedLoss>()
  const measure = async (choice: readonly number[]) => {
    run.onProgress?.({ stage: 'allocate', done: done++, total, item: 'trying allocations' })
    const loss = await evaluate(optionsOf(choice))
    known.set(choice.join(), { choice, loss, strain: task.bounds ? strainOf(task.bounds, optionsOf(choice), loss) : 0 })
    return loss
  }
  const tried = await evaluateBest(
    proposals.map(({ choice }) => choice),
    measure,
  )
  const isClear = (one: readonly number[], other: readonly number[], difference: number) =>
    difference > CLEAR_ERRORS * (errorOfDifference?.(optionsOf(one), optionsOf(other)) ?? 0)
  const keeps = (choice: readonly number[]) => known.get(choice.join())!.strain <= 1
  const best = preferred(tried, proposals, isClear, keeps)
  // Exchanges are tried in the order of what the winner's own model says.
  const from = proposals[best.index]!.from
  const table = lossTable(task.analysis, from === 'uniform' ? sensitivities[0]! : from)
  const improved = await localSearch({
    problem: problemOf(items, limits, table.losses),
    ...(table.gram ? { gram: itemGram(task, table.gram) } : {}),
    start: best.choice,
    startLoss: best.loss,
    evaluate: measure,
    most: task.evaluations,
    noise: NOISE_SHARE * Math.abs(best.loss),
    isClear: (one, than) => {
      const difference = known.get(than.join())!.loss - known.get(one.join())!.loss
      return (keeps(one) || !keeps(than)) && isClear(one, than, difference)
    },
  })
  const final = keeps(improved.choice) ? improved : nearest([...known.values()])
  const source = proposals.findIndex(({ choice }) => choice.join() === final.choice.join())
  return {
    options: optionsOf(final.choice),
    proposals: proposals.map((proposal, i) => ({ ...proposal, measured: tried.losses[i]! })),
    chosen: final === improved || source < 0 ? best.index : source,
    measured: final.loss,
    evaluations: tried.evaluations + improved.evaluations,
    accepted: improved.accepted,
    limits: used(final.choice),
  }
}

/** A choice that was run. */
interface EvaluatedLoss {
  readonly choice: readonly number[]
  readonly loss: number
  /** At most 1 where the bounds are kept. */
  readonly strain: number
}

/** Of what was run, the least loss that keeps the bounds; where nothing does, what comes nearest to it. */
function nearest(known: readonly EvaluatedLoss[]): EvaluatedLoss {
  const rank = ({ strain }: EvaluatedLoss) => Math.max(1, strain)
  return known.reduce((best, one) => {
    const difference = rank(one) - rank(best)
    return difference < 0 || (difference === 0 && one.loss < best.loss) ? one : best
  })
}

/** Models such as coverage add in another domain than the loss's own. A layer that stays as it is has no candidate to ask for. */
function predictedLoss(
  { analysis }: AllocationTask,
  name: Sensitivity,
  options: readonly (number | undefined)[],
  loss: number,
): number {
  return options.includes(undefined) ? loss : predict(analysis, name, options as readonly number[])
}

/** @throws QtoolError `usage` where allocations cannot be run. */
export function checkedEvaluate({ evaluate }: Pick<AllocationTask, 'evaluate'>): RunConfiguration {
  if (evaluate) return evaluate
  throw new QtoolError('usage', 'a bound on the loss needs data to run allocations on', {
    hint: 'give calibration data with --data, with the analysis too',
  })
}

async function propose(task: AllocationTask, name: Sensitivity): Promise<Solution> {
  const { losses, gram } = lossTable(task.analysis, name)
  const problem = problemOf(task.items, task.limits, losses)
  if (gram) return solveQuadratic(problem, itemGram(task, gram))
  return task.solver === 'dp' ? solvePareto(problem) : solveIlp(problem)
}

function itemGram({ items, layers }: AllocationTask, gram: ArrayLike<number>): Float64Array {
  return gramOfItems(
    items,
    gram,
    layers.map(({ options }) => options.length),
  )
}

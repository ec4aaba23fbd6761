/**
 * @file From budgets to a plan whose layers differ: measure or read an analysis, allocate, and check the exact bytes of what
 * would be written.
 */
import { type Budget, parseBudgets } from '../bitalloc/budget.ts'
import type { QuantizeConfig } from '../config.ts'
import { QtoolError } from '../errors.ts'
import type { Layers } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import type { RunOptions } from '../progress.ts'
import { planFigures } from '../quantize/planFigures.ts'
import { type Freedom, freedomOf, limitsOf, type ModelPlan } from '../quantize/planModel.ts'
import type { Allocation, AllocationTask, ErrorOfDifference, RunConfiguration } from './allocate.ts'
import { itemsOf, type Limit } from './allocationProblem.ts'
import type { Analysis } from './analysis.ts'
import { type AccuracyOf, type Bounds, boundError, hasBounds, strainOf } from './bounds.ts'
import { allocateInRoom, type BudgetQuestion, bestRoom, roomsOf } from './budgetRoom.ts'
import { codebookQuestion, isAskedCodebook } from './codebookCandidates.ts'
import { smallestAllocation } from './lossBound.ts'
import type { LayerOptions } from './measuredLayers.ts'
import { leastOptions } from './optionBytes.ts'
import { tableSets } from './sharedTables.ts'

/** What an allocation is made from. */
export interface MixedTask {
  readonly model: OnnxModel
  readonly found: Layers
  readonly config: QuantizeConfig
  readonly analysis: Analysis
  /** In the order of the analysis, options in the order of its candidates. */
  readonly layers: readonly LayerOptions[]
  /** Runs a configuration on held-out samples; undefined with an analysis alone. */
  readonly evaluate: RunConfiguration | undefined
  readonly errorOfDifference?: ErrorOfDifference | undefined
  /** Of configurations that were run; undefined without labels. */
  readonly accuracyOf?: AccuracyOf | undefined
  /** A limit on latency, where there is one. */
  readonly latency: Limit | undefined
  readonly run: RunOptions
}

export interface MixedPlan {
  readonly plan: ModelPlan
  readonly allocation: Allocation
}

/** Of means in floating point. */
const SLACK = 1e-9

/**
 * Allocate within the budgets.
 * @param reserve bytes to be kept free: by which earlier plans came out larger than they were planned.
 * @throws QtoolError `infeasible` when the least is above a limit, or no allocation keeps `maxKl` and `maxDrop`.
 */
export async function mixedPlan(task: MixedTask, reserve = 0): Promise<MixedPlan> {
  const { model, found, config, layers, latency } = task
  const bounds: Bounds = { maxKl: config.maxKl, maxDrop: config.maxDrop, accuracyOf: task.accuracyOf }
  const isBounded = hasBounds(bounds)
  const base = { ...allocationTask(task), ...(isBounded && task.evaluate ? { bounds } : {}) }
  const budgets = budgetsOf(config)
  const planOf = (options: Allocation['options']) => planOfOptions(task, options)
  const bytes = (options: Allocation['options']) => {
    const plan = planOf(options)
    return planFigures(model, found, plan, plan.settled).outputBytes
  }
  const byteLimit = smallest(budgets.map((budget) => limitsOf(model, budget).byteLimit))
  const question: BudgetQuestion = { layers, items: base.items, budgets, byteLimit, reserve, latency, bytes }
  if (isBounded && budgets.length === 0) {
    const allocation = await smallestAllocation(base, latency ? [latency] : [], bounds, config.solver === 'bisection')
    return { plan: planOf(allocation.options), allocation }
  }
  const strain = ({ options, measured }: Allocation) =>
    isBounded ? Math.max(1, strainOf(bounds, options, measured ?? 0)) : 1
  const isBetter = (one: Allocation, other: Allocation) => {
    const difference = strain(one) - strain(other)
    return difference < 0 || (difference === 0 && lossOf(one) <= lossOf(other))
  }
  const room = await bestRoom(base, roomsOf(question), question)
  const best = await allocateInRoom(base, room, question, isBetter)
  if (!best) {
    throw new QtoolError('infeasible', `no allocation was found that keeps the budget ${config.budget}`, {
      hint: 'raise the budget a little: the bytes of nodes and names depend on the allocation',
    })
  }
  if (strain(best) > 1) {
    throw boundError(
      bounds,
      { options: best.options, measured: best.measured ?? 0 },
      `the budget ${config.budget} comes`,
      'raise the budget or the bound; without a budget the smallest that keeps the bound is searched for',
    )
  }
  return { plan: planOf(best.options), allocation: best }
}

/**
 * Refuse budgets that even the smallest candidates exceed. Needs no losses: it is asked before anything is measured.
 * @throws QtoolError `infeasible`, with the least in the unit of the budget.
 */
export function checkReachable({ model, found, config, layers }: Omit<MixedTask, Unmeasured>): void {
  const items = itemsOf(layers, allowedOptions(found, freedomOf(model, found, config), layers, config), config.tie)
  // Tables that layers share may cost more than they save.
  const least = new Map(
    tableSets(layers, items).map((set) => {
      const options = leastOptions(layers, set.items)
      return [options.join(), options]
    }),
  )
  const figures = [...least.values()].flatMap((options) => {
    const plan = planOfOptions({ model, found, config, layers }, options)
    return plan.plans.length === 0 ? [] : [planFigures(model, found, plan, plan.settled)]
  })
  if (figures.length === 0) return
  const outputBytes = Math.min(...figures.map((own) => own.outputBytes))
  const storedBits = Math.min(...figures.map((own) => own.storedBits))
  const weights = items.reduce((sum, item) => item.layers.reduce((all, l) => all + layers[l]!.layer.weights, sum), 0)
  const leastCodes = items.reduce((sum, { layers: own, allowed }) => {
    const costOf = (k: number) =>
      own.reduce((all, l) => all + layers[l]!.options[k]!.plan.bits * layers[l]!.layer.weights, 0)
    return sum + Math.min(...allowed.map(costOf))
  }, 0)
  for (const [i, budget] of budgetsOf(config).entries()) {
    const { byteLimit } = limitsOf(model, budget)
    const [isKept, reached] =
      budget.kind === 'meanBits'
        ? [budget.bits >= leastCodes / weights - SLACK, `${roundedUp(leastCodes / weights)}bit`]
        : budget.kind === 'bitsPerWeight'
          ? [budget.bits >= storedBits - SLACK, `${roundedUp(storedBits)}bpw`]
          : [byteLimit! >= outputBytes, `${outputBytes} bytes of output files`]
    if (isKept) continue
    const asked = config.budget!.split(',')[i]!.trim()
    throw new QtoolError('infeasible', `the budget ${asked} cannot be kept: the least is ${reached}`, {
      hint: 'raise the budget, or allow smaller widths for layers that are set',
    })
  }
}

/** What is known only after measuring. */
type Unmeasured = 'analysis' | 'evaluate' | 'errorOfDifference' | 'accuracyOf' | 'latency' | 'run'

/** Up to the fourth decimal, so that a budget set to it can be kept. */
function roundedUp(bits: number): number {
  return Math.ceil(bits * 1e4 - 1e-6) / 1e4
}

/** As measured, or else as the model of the loss that decided says. */
function lossOf({ measured, proposals, chosen }: Allocation): number {
  return measured ?? proposals[chosen]!.predicted ?? 0
}

function smallest(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter((value) => value !== undefined)
  return known.length > 0 ? Math.min(...known) : undefined
}

/** Places of the options that the user's settings leave: an analysis may have more. */
function allowedOptions(
  found: Layers,
  { fixed }: Freedom,
  layers: readonly LayerOptions[],
  config: QuantizeConfig,
): number[][] {
  const { groupSize, symmetric } = config
  const question = codebookQuestion(config, found.layers)
  const isAskedOf =
    (layer: LayerOptions['layer']) =>
    ({ choice, plan }: LayerOptions['options'][number]) => {
      // The runtime or the format of this run may not have the tables of another.
      if (choice.codebook) {
        return question !== undefined && !!plan.codebook && isAskedCodebook(choice, layer, found.layers, question)
      }
      return (
        (groupSize === undefined || choice.groupSize === groupSize) &&
        (symmetric === 'auto' || choice.symmetric === symmetric)
      )
    }
  return layers.map(({ layer, options }) => {
    const isAsked = isAskedOf(layer)
    const own = fixed[found.layers.indexOf(layer)]
    if (own === 'skip') return []
    if (!options.some(isAsked)) {
      throw new QtoolError('usage', `${layer.name} was not measured at the group size and grids that are asked for`, {
        hint: 'measure again with the same --group-size and --symmetric or --asymmetric, or leave them out here',
      })
    }
    const allowed = options.flatMap((option, k) =>
      isAsked(option) && (own === undefined || option.choice.bits === own) ? [k] : [],
    )
    if (allowed.length > 0) return allowed
    const widths = [...new Set(options.map(({ choice }) => choice.bits))].join(', ')
    throw new QtoolError('usage', `--layer sets ${layer.name} to ${own} bits; it was measured at ${widths}`, {
      hint: 'measure it again with that --layer, or choose one of these widths',
    })
  })
}

/** What all allocations of a task share. */
export function allocationTask(task: MixedTask): Omit<AllocationTask, 'limits'> {
  const { model, found, config, analysis, layers, evaluate, errorOfDifference, run } = task
  return {
    ...{ analysis, layers, evaluate, errorOfDifference, run },
    items: itemsOf(layers, allowedOptions(found, freedomOf(model, found, config), layers, config), config.tie),
    sensitivities: config.sensitivity,
    solver: config.solver === 'dp' ? 'dp' : 'ilp',
    evaluations: config.evaluations,
  }
}

function budgetsOf({ budget }: QuantizeConfig): Budget[] {
  return budget === undefined ? [] : parseBudgets(budget)
}

/** The plan of an allocation; layers that were not measured stay as they are. */
export function planOfOptions(
  { model, found, config, layers }: Omit<MixedTask, Unmeasured>,
  options: Allocation['options'],
): ModelPlan {
  const { planner, warnings } = freedomOf(model, found, config)
  const choices = new Map(
    layers.flatMap(({ layer, options: own }, i) => {
      const option = options[i]
      return option === undefined ? [] : [[layer, own[option]!.choice] as const]
    }),
  )
  const planned = planner(found.layers.map((layer) => choices.get(layer) ?? 'skip'))
  const bounds = budgetsOf(config).map((budget) => limitsOf(model, budget))
  return {
    ...planned,
    settled: { ...config, budget: undefined },
    warnings,
    byteLimit: smallest(bounds.map(({ byteLimit }) => byteLimit)),
    bitsPerWeightLimit: smallest(bounds.map(({ bitsPerWeightLimit }) => bitsPerWeightLimit)),
  }
}

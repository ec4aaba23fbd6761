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
import {
  type Allocation,
  type AllocationTask,
  allocate,
  type ErrorOfDifference,
  type RunConfiguration,
} from './allocate.ts'
import { itemsOf, type Limit, limitsOfBudgets } from './allocationProblem.ts'
import type { Analysis } from './analysis.ts'
import { type AccuracyOf, type Bounds, boundError, hasBounds, strainOf } from './bounds.ts'
import { smallestAllocation } from './lossBound.ts'
import type { LayerOptions } from './measuredLayers.ts'
import { bytesAround, leastOptions, storedBytes } from './optionBytes.ts'

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

/** Times that the room for weights is corrected by what the whole file really takes. */
const CORRECTIONS = 6
/** Room that is left is used when it is more than this share of the budget. */
const LEFT_OVER = 0.002
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
  const { items } = base
  const budgets = budgetsOf(config)
  const planOf = (options: Allocation['options']) => planOfOptions(task, options)
  const bytes = (options: Allocation['options']) => {
    const plan = planOf(options)
    return planFigures(model, found, plan, plan.settled).outputBytes
  }
  const byteLimit = smallest(budgets.map((budget) => limitsOf(model, budget).byteLimit))
  const around = byteLimit === undefined ? [] : bytesAround(layers, items, bytes)
  const limitsWith = (otherBytes: number): Limit[] => {
    const limits = limitsOfBudgets(budgets, layers, items, { byteLimit, otherBytes }).map((limit) => {
      if (limit.name !== 'bytes') return limit
      return { ...limit, costs: limit.costs.map((own, l) => own.map((cost, k) => cost + around[l]![k]!)) }
    })
    const units: Readonly<Record<string, number>> = { bytes: 1, 'stored bits': 8 }
    const lowered = limits.map((limit) => ({
      ...limit,
      limit: limit.limit - Math.ceil(reserve * (units[limit.name] ?? 0)),
    }))
    return latency ? [...lowered, latency] : lowered
  }
  if (isBounded && budgets.length === 0) {
    const allocation = await smallestAllocation(base, limitsWith(0), bounds, config.solver === 'bisection')
    return { plan: planOf(allocation.options), allocation }
  }
  const strain = ({ options, measured }: Allocation) =>
    isBounded ? Math.max(1, strainOf(bounds, options, measured ?? 0)) : 1
  const isBetter = (one: Allocation, other: Allocation) => {
    const difference = strain(one) - strain(other)
    return difference < 0 || (difference === 0 && lossOf(one) <= lossOf(other))
  }
  const least = leastOptions(layers, items)
  const otherThan = (options: Allocation['options'], total: number) =>
    total -
    storedBytes(layers, options) -
    options.reduce<number>((sum, k, l) => sum + (k === undefined ? 0 : around[l]![k]!), 0)
  let otherBytes = byteLimit === undefined ? 0 : otherThan(least, bytes(least))
  let best: Allocation | undefined
  for (let i = 0; i < (byteLimit === undefined ? 1 : CORRECTIONS); i++) {
    // Only what is written counts: the first allocations find out how much that is beside the weights.
    const isRough = byteLimit !== undefined && best === undefined && i < 2
    const allocation = await allocate({
      ...base,
      limits: limitsWith(otherBytes),
      ...(isRough ? { evaluate: undefined } : {}),
    })
    if (byteLimit === undefined) {
      best = allocation
      break
    }
    const total = bytes(allocation.options)
    const allowed = byteLimit - Math.ceil(reserve)
    otherBytes = otherThan(allocation.options, total)
    if (total <= allowed && !isRough) {
      // A later one has other room for weights, not always more.
      if (best === undefined || isBetter(allocation, best)) best = allocation
      if (allowed - total <= LEFT_OVER * allowed) break
    }
  }
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
  const least = leastOptions(layers, items)
  const plan = planOfOptions({ model, found, config, layers }, least)
  if (plan.plans.length === 0) return
  const { outputBytes, storedBits } = planFigures(model, found, plan, plan.settled)
  const weights = plan.plans.reduce((sum, { layer }) => sum + layer.weights, 0)
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
  { groupSize, symmetric }: QuantizeConfig,
): number[][] {
  const isAsked = ({ choice }: LayerOptions['options'][number]) =>
    (groupSize === undefined || choice.groupSize === groupSize) &&
    (symmetric === 'auto' || choice.symmetric === symmetric)
  return layers.map(({ layer, options }) => {
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

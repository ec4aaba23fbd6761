/**
 * @file From a budget to a plan with one configuration for all layers.
 *
 * Each candidate is planned for every layer and built as an output without contents, so that the figures that are
 * compared are those of the real file. Widths that differ by layer come from src/analyze and take the same seam.
 */
import { allocateUniform, type Candidate } from '../bitalloc/allocate.ts'
import { type Budget, parseBudget } from '../bitalloc/budget.ts'
import { uniformCandidates } from '../bitalloc/candidates.ts'
import { applyOverrides } from '../bitalloc/overrides.ts'
import { codebookForm, codebookNamed, hasBits, isAutomatic, windowAsked } from '../codebook/codebookForms.ts'
import { DEFAULT_BITS, DEFAULT_GROUP_SIZE, isCalibrated, type QuantizeConfig } from '../config.ts'
import { QtoolError } from '../errors.ts'
import type { Layers, WeightedLayer } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import type { LayerChoice } from '../onnx/represent/plan.ts'
import { planFigures } from './planFigures.ts'
import { type LayerPlanner, layerPlanner, onGrid, type PlannedLayers } from './planLayers.ts'

export interface ModelPlan extends PlannedLayers {
  /** What the metadata says: the settings, with what the budget came to where that is the same for all layers. */
  readonly settled: QuantizeConfig
  readonly warnings: readonly string[]
  /** The budget in bytes of output files, where it is one. */
  readonly byteLimit: number | undefined
  /** The budget in stored bits per weight, where it is one. */
  readonly bitsPerWeightLimit: number | undefined
}

/** What the overrides leave to the budget. */
export interface Freedom {
  /** Per layer: a width or 'skip' that the user set, undefined where it is free. */
  readonly fixed: readonly (LayerChoice['bits'] | 'skip' | undefined)[]
  readonly planner: LayerPlanner
  readonly warnings: readonly string[]
}

/** Read the overrides. */
export function freedomOf(
  model: OnnxModel,
  found: Layers,
  config: Pick<QuantizeConfig, 'layers' | 'format' | 'accuracyLevel' | 'scales' | 'groupSize'>,
): Freedom {
  const named = found.layers.map((layer) => ({ name: layer.name, weight: layer.constant.name }))
  const { choices: fixed, unmatched } = applyOverrides(named, config.layers)
  const warnings = [...unmatched.map((pattern) => `--layer ${pattern} matches no layer`), ...fixedInputs(model, found)]
  return { fixed, planner: layerPlanner(model, found, config), warnings }
}

/** The budget where the output is held to it. */
export function limitsOf(
  model: OnnxModel,
  budget: Budget | undefined,
): Pick<ModelPlan, 'byteLimit' | 'bitsPerWeightLimit'> {
  const byteLimit =
    budget?.kind === 'bytes'
      ? budget.bytes
      : budget?.kind === 'ratio'
        ? Math.floor(budget.ratio * sourceBytesOf(model))
        : undefined
  return { byteLimit, bitsPerWeightLimit: budget?.kind === 'bitsPerWeight' ? budget.bits : undefined }
}

function sourceBytesOf(model: OnnxModel): number {
  return model.files.reduce((sum, file) => sum + file.bytes, 0)
}

/**
 * Plan the whole model. `plans` is empty when nothing can be quantized.
 * @param rejected earlier plans whose real output turned out larger than the budget.
 */
export function planModel(
  model: OnnxModel,
  found: Layers,
  config: QuantizeConfig,
  rejected: readonly ModelPlan[] = [],
): ModelPlan {
  const { fixed, planner, warnings } = freedomOf(model, found, config)
  const budget = config.budget === undefined ? undefined : parseBudget(config.budget)
  const withTables = config.method === 'codebook' ? tableChoices(found, config) : undefined
  const defaults = { bits: DEFAULT_BITS, groupSize: withTables ? 'channel' : DEFAULT_GROUP_SIZE } as const
  const configurations = uniformCandidates(budget, config, defaults).filter(
    ({ bits }) => !withTables || hasBits(codebookNamed(config), bits),
  )
  const planFor = (choice: LayerChoice) =>
    planner(
      found.layers.map((layer, i) => {
        const bits = fixed[i]
        if (bits === 'skip') return bits
        const own = bits === undefined ? choice : { ...choice, bits }
        return withTables ? withTables(layer, own) : own
      }),
    )
  const settledBy = ({ bits, groupSize, symmetric }: LayerChoice): QuantizeConfig => {
    return { ...config, bits, groupSize, symmetric, budget: undefined }
  }
  const chosen: LayerChoice =
    budget === undefined ? { ...configurations[0]!, symmetric: config.symmetric } : choose(budget)
  return { ...planFor(chosen), settled: settledBy(chosen), warnings, ...limitsOf(model, budget) }

  function choose(within: Budget): LayerChoice {
    // A budget on the mean width says nothing of zero points; elsewhere doing without them is a candidate of its own. Tables
    // have none.
    const both = config.symmetric === 'auto' && within.kind !== 'meanBits' && !withTables
    const grids: QuantizeConfig['symmetric'][] = both ? ['auto', 'yes'] : [config.symmetric]
    const candidates = configurations
      .flatMap((configuration) => grids.map((symmetric): LayerChoice => ({ ...configuration, symmetric })))
      .filter((choice) => !rejected.some(({ settled }) => isSame(settled, choice)))
      .map((choice): Candidate & { choice: LayerChoice; weightBytes: number } => {
        return { config: choice, choice, ...planFigures(model, found, planFor(choice), settledBy(choice)) }
      })
    if (candidates.length === 0) {
      throw new QtoolError('infeasible', `no configuration keeps the budget ${config.budget}`, {
        hint: 'raise the budget',
      })
    }
    const fixedBytes = Math.min(...candidates.map(({ outputBytes, weightBytes }) => outputBytes - weightBytes))
    return allocateUniform(within, candidates, { sourceBytes: sourceBytesOf(model), fixedBytes }).choice
  }
}

/** About what the nodes that look tables up take in the file beyond those that unpack codes, in bytes (measured). */
const NODES_OF_TABLES = 800

/**
 * How each layer's choice gets its tables. A layer that was set by hand to a width that the codebook does not have is on a
 * grid.
 */
function tableChoices(
  found: Layers,
  config: QuantizeConfig,
): (layer: WeightedLayer, choice: LayerChoice) => LayerChoice {
  const name = codebookNamed(config)
  const { rowGroups } = config
  const trellisWindow = windowAsked(config)
  const weights = found.layers.reduce((sum, layer) => sum + layer.weights, 0)
  // What tables lose is known on data alone.
  const mayBeGrids = isAutomatic(config) && isCalibrated(config)
  const gridRoom = mayBeGrids ? (config.budget === undefined ? NODES_OF_TABLES : 0) : undefined
  return ({ view, runs }, choice) => {
    if (!hasBits(name, choice.bits)) return onGrid(choice, config)
    const rows = view.outer * view.inner
    const codebook = codebookForm(name, choice.bits, rows, { rowGroups, trellisWindow, weights }, runs)
    return { ...choice, codebook, gridRoom }
  }
}

function isSame(settled: QuantizeConfig, { bits, groupSize, symmetric }: LayerChoice): boolean {
  return settled.bits === bits && settled.groupSize === groupSize && settled.symmetric === symmetric
}

/** Since IR 4, an initializer that is a graph input too is a default that callers may override. */
const IR_DEFAULTS = 4n

/** Weights that a caller may feed today, and not any more when they are quantized. */
function fixedInputs({ proto }: OnnxModel, found: Layers): string[] {
  if (proto.irVersion < IR_DEFAULTS) return []
  const inputs = new Set(proto.graph!.input.map((input) => input.name))
  const fixed = found.layers.filter(
    ({ constant }) => !constant.node && !constant.scope.parent && inputs.has(constant.name),
  )
  return fixed.map(
    ({ constant }) => `input ${constant.name} has a weight as its default: quantized, it is no input any more`,
  )
}

/** What the user should know of a plan that does less than was asked. */
export function planWarnings({ warnings, plans }: ModelPlan): string[] {
  const counts = new Map<string, number>()
  for (const note of plans.flatMap((plan) => plan.notes)) counts.set(note, (counts.get(note) ?? 0) + 1)
  return [...warnings, ...[...counts].map(([note, count]) => `${count} ${count === 1 ? 'layer' : 'layers'}: ${note}`)]
}

/**
 * @file From a budget to a plan: candidates → allocation → representation.
 *
 * Each uniform candidate is planned for every layer and built as an output without contents, so that the figures that
 * the allocation compares are those of the real file. A later allocator with mixed widths takes the same seam.
 */
import { allocateUniform, type Candidate } from '../bitalloc/allocate.ts'
import { type Budget, parseBudget } from '../bitalloc/budget.ts'
import { type Configuration, expectedError, uniformCandidates } from '../bitalloc/candidates.ts'
import { applyOverrides } from '../bitalloc/overrides.ts'
import { analyseMainGraph } from '../calibration/mainGraph.ts'
import { DEFAULT_BITS, DEFAULT_GROUP_SIZE, type QuantizeConfig } from '../config.ts'
import { QtoolError } from '../errors.ts'
import type { Layers, WeightedLayer } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { opsetOf, planOpset } from '../onnx/opset.ts'
import {
  BLOCKED_DEQUANTIZE_OPSET,
  type LayerPlan,
  PLANES,
  planLayer,
  type Target,
  UNPACK_OPSET,
} from '../onnx/represent/plan.ts'
import { storedBytes } from '../onnx/represent/stored.ts'
import { tensorByteLength } from '../onnx/tensorData.ts'
import type { Bits } from '../quant/quantizedWeight.ts'
import { VERSION } from '../version.ts'
import { plannedBiases } from './biasEdits.ts'
import { buildOutput, type Provenance, plannedLayer } from './buildOutput.ts'
import { outputSize } from './outputSize.ts'

interface SkippedLayer {
  readonly layer: WeightedLayer
  readonly reason: string
  /** The user said so. */
  readonly byUser: boolean
}

export interface ModelPlan {
  readonly configuration: Configuration
  /** Grids that may be used: what the user asked for, or 'yes' where only grids without zero points fit the budget. */
  readonly symmetric: QuantizeConfig['symmetric']
  readonly target: Target
  readonly plans: readonly LayerPlan[]
  /** Layers that keep their type, with the reason. */
  readonly skipped: readonly SkippedLayer[]
  readonly warnings: readonly string[]
  /** The budget in bytes of output files, where it is one. */
  readonly byteLimit: number | undefined
  /** The budget in stored bits per weight, where it is one. */
  readonly bitsPerWeightLimit: number | undefined
}

/**
 * About what the nodes, names and metadata around a quantized tensor take in the file (measured on small models, first
 * layer apart, which also brings the shared constants). A layer that saves less than this stays as it is.
 */
function nodeBytes({ storage, bits, uses }: LayerPlan): number {
  if (storage !== 'rows' && storage !== 'nibble3') return 400
  const planes = bits === 8 ? 0 : PLANES[bits].length
  return 700 + 250 * planes + (uses.includes('gather-rows') ? 900 : 0)
}

/**
 * Expected error of a grid symmetric about zero over that of a min-max grid, for groups of 32 normal weights: it must
 * reach the larger of both ends on both sides (simulated: 1.19 at 32, 1.24 at 16, 1.14 at 128).
 */
const SYMMETRIC_PENALTY = 1.19

/** The configuration that a plan came to: the width and groups that a budget stands for. */
export function settled(
  config: QuantizeConfig,
  { configuration, symmetric }: Pick<ModelPlan, 'configuration' | 'symmetric'>,
): QuantizeConfig {
  return { ...config, ...configuration, symmetric, budget: undefined }
}

/**
 * Plan the whole model. `plans` is empty when nothing can be quantized.
 * @param rejected earlier plans whose real output turned out larger than the budget.
 */
export function planModel(
  model: OnnxModel,
  found: Layers,
  config: QuantizeConfig,
  rejected: readonly Pick<ModelPlan, 'configuration' | 'symmetric'>[] = [],
): ModelPlan {
  // Digests are not known yet; they are as long as these.
  const provenance: Provenance = { version: VERSION, sha256: model.files.map(() => '0'.repeat(64)) }
  const named = found.layers.map((layer) => ({ name: layer.name, weight: layer.constant.name }))
  const { choices, unmatched } = applyOverrides(named, config.layers)
  const warnings = [...unmatched.map((pattern) => `--layer ${pattern} matches no layer`), ...fixedInputs(model, found)]
  const budget = config.budget === undefined ? undefined : parseBudget(config.budget)
  const defaults = { bits: DEFAULT_BITS, groupSize: DEFAULT_GROUP_SIZE }
  const configurations = uniformCandidates(budget, config, defaults)
  const reachable = opsetFinder(model, found)
  const graph = config.method === 'gptq' ? analyseMainGraph(found.index) : undefined

  const planFor = (configuration: Configuration) => {
    const widths = found.layers.map((_, i) => choices[i] ?? configuration.bits)
    return planAll(found.layers, widths, configuration.groupSize, config, reachable)
  }
  const sourceBytes = model.files.reduce((sum, file) => sum + file.bytes, 0)
  const limits = {
    byteLimit: byteLimitOf(budget, sourceBytes),
    bitsPerWeightLimit: budget?.kind === 'bitsPerWeight' ? budget.bits : undefined,
  }
  const chosen =
    budget === undefined ? { config: configurations[0]!, symmetric: config.symmetric } : choose(budget, sourceBytes)
  const { config: configuration, symmetric } = chosen
  return { configuration, symmetric, ...planFor(configuration), warnings, ...limits }

  function choose(within: Budget, source: number): { config: Configuration; symmetric: QuantizeConfig['symmetric'] } {
    const candidates = configurations.flatMap((configuration) => {
      const planned = planFor(configuration)
      // A budget on the mean width says nothing of zero points; elsewhere doing without them is a candidate of its own.
      const both = config.symmetric === 'auto' && within.kind !== 'meanBits'
      const grids: QuantizeConfig['symmetric'][] = both ? ['auto', 'yes'] : [config.symmetric]
      const isRejected = (symmetric: QuantizeConfig['symmetric']) =>
        rejected.some(({ configuration: { bits, groupSize }, symmetric: grid }) => {
          return bits === configuration.bits && groupSize === configuration.groupSize && grid === symmetric
        })
      return grids
        .filter((symmetric) => !isRejected(symmetric))
        .map((symmetric) => candidateOf(configuration, symmetric, planned))
    })
    if (candidates.length === 0) {
      throw new QtoolError('infeasible', `no configuration keeps the budget ${config.budget}`, {
        hint: 'raise the budget',
      })
    }
    const fixedBytes = Math.min(...candidates.map((candidate) => candidate.outputBytes - candidate.weightBytes))
    const { config: configuration, symmetric } = allocateUniform(within, candidates, {
      sourceBytes: source,
      fixedBytes,
    })
    return { config: configuration, symmetric }
  }

  function candidateOf(
    configuration: Configuration,
    symmetric: QuantizeConfig['symmetric'],
    { plans, target }: Pick<ModelPlan, 'plans' | 'target'>,
  ): Candidate & { symmetric: QuantizeConfig['symmetric']; weightBytes: number } {
    // Zero points may or may not come on top; the larger is what a budget must hold.
    const withoutZeros = symmetric === 'yes'
    // Corrected biases may come on top too.
    const biases = graph ? plannedBiases(graph, plans) : []
    const built = buildOutput(
      model,
      plans.map((plan) => plannedLayer(plan, withoutZeros)),
      biases,
      target,
      settled(config, { configuration, symmetric }),
      provenance,
    )
    const outputBytes = outputSize(built.model, model, config.externalData).totalBytes
    const { expectedError: error, ...rest } = figures(plans, withoutZeros)
    return {
      config: configuration,
      symmetric,
      ...rest,
      expectedError: withoutZeros ? error * SYMMETRIC_PENALTY : error,
      outputBytes,
    }
  }
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

function byteLimitOf(budget: Budget | undefined, sourceBytes: number): number | undefined {
  if (budget?.kind === 'bytes') return budget.bytes
  return budget?.kind === 'ratio' ? Math.floor(budget.ratio * sourceBytes) : undefined
}

function figures(plans: readonly LayerPlan[], symmetric: boolean) {
  let weights = 0
  let bits = 0
  let weightBytes = 0
  let error = 0
  for (const plan of plans) {
    const count = plan.layer.weights
    weights += count
    bits += plan.bits * count
    weightBytes += storedBytes(plan, symmetric, 'float16')
    error += expectedError(plan.bits, plan.groupSize, plan.layer.view.reduction) * count
  }
  const per = Math.max(1, weights)
  return { meanBits: bits / per, storedBits: (8 * weightBytes) / per, expectedError: error / per, weightBytes }
}

function planAll(
  layers: readonly WeightedLayer[],
  widths: readonly (Bits | 'skip')[],
  groupSize: number | 'channel',
  config: QuantizeConfig,
  reachable: (wanted: number) => number,
): Pick<ModelPlan, 'plans' | 'skipped' | 'target'> {
  const base = { format: config.format, accuracyLevel: config.accuracyLevel }
  const wanted = wantedOpset(layers, widths, groupSize, config)
  const target: Target = { ...base, opset: reachable(wanted) }
  const plans: LayerPlan[] = []
  const skipped: SkippedLayer[] = []
  layers.forEach((layer, i) => {
    const bits = widths[i]!
    if (bits === 'skip') {
      skipped.push({ layer, reason: 'skipped by --layer', byUser: true })
      return
    }
    const plan = planLayer(layer, bits, groupSize, target)
    const before = tensorByteLength(layer.constant.tensor)
    const after = storedBytes(plan, config.symmetric !== 'no', 'float16') + nodeBytes(plan)
    if (after < before) plans.push(plan)
    else
      skipped.push({
        layer,
        reason: `would not get smaller: ${before} bytes now, about ${after} quantized`,
        byUser: false,
      })
  })
  return { plans, skipped, target }
}

/** The lowest opset at which every layer can be written as asked. */
function wantedOpset(
  layers: readonly WeightedLayer[],
  widths: readonly (Bits | 'skip')[],
  groupSize: number | 'channel',
  config: QuantizeConfig,
): number {
  const used = widths.filter((bits): bits is Bits => bits !== 'skip')
  if (config.format === 'standard') return used.length > 0 ? BLOCKED_DEQUANTIZE_OPSET : 0
  // At the newest opset nothing is widened, so the plan shows what each layer would like to be.
  const ideal: Target = { format: config.format, accuracyLevel: config.accuracyLevel, opset: BLOCKED_DEQUANTIZE_OPSET }
  return layers.reduce((opset, layer, i) => {
    const bits = widths[i]!
    if (bits === 'skip') return opset
    const { storage } = planLayer(layer, bits, groupSize, ideal)
    return storage === 'blocks' || storage === 'packed' ? opset : Math.max(opset, UNPACK_OPSET[bits])
  }, 0)
}

/** For a wanted opset, the highest useful one that the model's operators allow; never below its own. */
function opsetFinder(model: OnnxModel, found: Layers): (wanted: number) => number {
  // A function may have an older opset than the model; what is written into it must do with that.
  const scopes = found.layers.flatMap(({ constant, uses }) => [
    constant.scope,
    ...uses.filter((use) => use.kernel !== undefined).map((use) => use.scope),
  ])
  const opsets = [...new Set(scopes)].map((scope) => opsetOf(model.proto, scope))
  const own = Math.min(planOpset(model.proto, 0).from, ...opsets)
  const steps = [BLOCKED_DEQUANTIZE_OPSET, UNPACK_OPSET[3], UNPACK_OPSET[4]]
  const known = new Map<number, number>()
  return (wanted) => {
    const cached = known.get(wanted)
    if (cached !== undefined) return cached
    const tried = [wanted, ...steps.filter((step) => step < wanted)].filter((step) => step > own)
    const reached = tried.find((step) => planOpset(model.proto, step).blockers.length === 0) ?? own
    known.set(wanted, reached)
    return reached
  }
}

/** @file From a choice per layer to a plan of the model: representations, the opset that carries them, layers left alone. */
import { DEFAULT_GROUP_SIZE, type QuantizeConfig } from '../config.ts'
import type { Layers, WeightedLayer } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { opsetOf, planOpset } from '../onnx/opset.ts'
import { codebookOpset } from '../onnx/represent/codebookForm.ts'
import {
  BLOCKED_DEQUANTIZE_OPSET,
  type LayerChoice,
  type LayerPlan,
  PLANES,
  planLayer,
  type Target,
  UNPACK_OPSET,
} from '../onnx/represent/plan.ts'
import { plannedTensorBytes } from '../onnx/represent/stored.ts'
import { tensorByteLength } from '../onnx/tensorData.ts'

interface SkippedLayer {
  readonly layer: WeightedLayer
  readonly reason: string
  /** The user said so. */
  readonly byUser: boolean
}

export interface PlannedLayers {
  readonly target: Target
  readonly plans: readonly LayerPlan[]
  /** Layers that keep their type, with the reason. */
  readonly skipped: readonly SkippedLayer[]
}

/** Choices for all layers of the model, in their order. */
export type LayerPlanner = (choices: readonly (LayerChoice | 'skip')[]) => PlannedLayers

/**
 * About what the nodes, names and metadata around a quantized tensor take in the file (measured on small models, first
 * layer apart, which also brings the shared constants). A layer that saves less than this stays as it is.
 */
function nodeBytes({ storage, bits, uses, codebook }: LayerPlan): number {
  if (codebook) return 2000
  if (storage !== 'rows' && storage !== 'nibble3') return 400
  const planes = bits === 8 ? 0 : PLANES[bits].length
  return 700 + 250 * planes + (uses.includes('gather-rows') ? 900 : 0)
}

/** A planner for one model. */
export function layerPlanner(
  model: OnnxModel,
  found: Layers,
  {
    format,
    accuracyLevel,
    scales,
    groupSize,
  }: Pick<QuantizeConfig, 'format' | 'accuracyLevel' | 'scales' | 'groupSize'>,
): LayerPlanner {
  const reachable = opsetFinder(model, found)
  return (choices) => {
    const chosen = found.layers.map((layer, i) => ({ layer, choice: choices[i]! }))
    const target: Target = {
      format,
      accuracyLevel,
      byteScales: scales === 'auto',
      opset: reachable(wantedOpset(chosen, { format, accuracyLevel }, groupSize)),
    }
    const plans: LayerPlan[] = []
    const skipped: SkippedLayer[] = []
    for (const { layer, choice } of chosen) {
      if (choice === 'skip') {
        skipped.push({ layer, reason: 'skipped by --layer', byUser: true })
        continue
      }
      const plan = planEither(layer, choice, target, groupSize)
      const before = tensorByteLength(layer.constant.tensor)
      const after = plannedTensorBytes(plan, choice.symmetric !== 'no') + nodeBytes(plan)
      if (after < before) plans.push(plan)
      else {
        const reason = `would not get smaller: ${before} bytes now, about ${after} quantized`
        skipped.push({ layer, reason, byUser: false })
      }
    }
    return { plans, skipped, target }
  }
}

/** A choice of tables as one of a grid: a whole row is too long for one grid, unless the user wants it so. */
export function onGrid(choice: LayerChoice, { groupSize }: Pick<QuantizeConfig, 'groupSize'>): LayerChoice {
  const size = groupSize ?? (choice.groupSize === 'channel' ? DEFAULT_GROUP_SIZE : choice.groupSize)
  return { ...choice, groupSize: size, codebook: undefined }
}

/** Plan one layer. One that cannot have the tables of its choice is on a grid, with the notes that say why. */
function planEither(
  layer: WeightedLayer,
  choice: LayerChoice,
  target: Target,
  groupSize: QuantizeConfig['groupSize'],
): LayerPlan {
  const plan = planLayer(layer, choice, target)
  if (plan.codebook && choice.gridRoom !== undefined) {
    return { ...plan, onGrid: gridInstead(plan, choice, choice.gridRoom, target) }
  }
  if (!choice.codebook || plan.codebook) return plan
  const grid = planLayer(layer, onGrid(choice, { groupSize }), target)
  return { ...grid, notes: [...new Set([...plan.notes, ...grid.notes])] }
}

/** The best grid of the width of tables that takes no more bytes, but for the room that there is: zero points if they fit in. */
function gridInstead(plan: LayerPlan, choice: LayerChoice, room: number, target: Target): LayerPlan | undefined {
  const most = plannedTensorBytes(plan, true) + room
  for (const symmetric of ['no', 'yes'] as const) {
    const grid = planLayer(plan.layer, { ...choice, symmetric, codebook: undefined }, target)
    // An opset that cannot carry the width has made it a wider one.
    const isFit = grid.bits === plan.bits && plannedTensorBytes(grid, symmetric === 'yes') <= most
    if (isFit) return { ...grid, notes: [...grid.notes, 'on a grid, which loses less than tables here'] }
  }
  return undefined
}

/** The lowest opset at which every layer can be written as asked. */
function wantedOpset(
  chosen: readonly { readonly layer: WeightedLayer; readonly choice: LayerChoice | 'skip' }[],
  target: Omit<Target, 'opset'>,
  groupSize: QuantizeConfig['groupSize'],
): number {
  // At the newest opset nothing is widened, so the plan shows what each layer would like to be.
  const ideal: Target = { ...target, opset: BLOCKED_DEQUANTIZE_OPSET }
  const wanted = chosen.flatMap(({ layer, choice }) => {
    if (choice === 'skip') return []
    if (target.format === 'standard') return [BLOCKED_DEQUANTIZE_OPSET]
    const plan = planEither(layer, choice, ideal, groupSize)
    return plan.onGrid ? [opsetOfPlan(plan), opsetOfPlan(plan.onGrid)] : [opsetOfPlan(plan)]
  })
  return Math.max(0, ...wanted)
}

/** The lowest opset that carries what a layer is stored as; 0 where any does. */
function opsetOfPlan({ storage, bits, codebook }: LayerPlan): number {
  if (codebook) return codebookOpset(codebook, bits)
  return storage === 'blocks' || storage === 'packed' ? 0 : UNPACK_OPSET[bits]
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

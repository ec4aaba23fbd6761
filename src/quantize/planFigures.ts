/** @file What a plan comes to in bits and bytes, before any weight is quantized: the figures that budgets are held to. */
import { expectedError } from '../bitalloc/candidates.ts'
import { analyseMainGraph } from '../calibration/mainGraph.ts'
import { expectedIndexError } from '../codebook/codebookForms.ts'
import { isCalibrated, type QuantizeConfig } from '../config.ts'
import type { Layers } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import { plannedTensorBytes } from '../onnx/represent/stored.ts'
import type { IndexBits } from '../quant/codebookWeight.ts'
import { VERSION } from '../version.ts'
import { plannedBiases } from './biasEdits.ts'
import { buildOutput, type Provenance, plannedLayer } from './buildOutput.ts'
import { outputSize } from './outputSize.ts'
import type { PlannedLayers } from './planLayers.ts'
import { storedTotal } from './storedTotal.ts'

export interface PlanFigures {
  /** Mean width of codes and indices over the quantized weights, bits. */
  readonly meanBits: number
  /** Stored bits per weight over the same weights: codes, scales, zero points, tables, padding. */
  readonly storedBits: number
  /** The same in bytes, all of them. */
  readonly weightBytes: number
  /** All output files. */
  readonly outputBytes: number
  /** Expected squared error of the weights relative to their squares; see bitalloc/candidates.ts. */
  readonly expectedError: number
}

/**
 * Expected error of a grid symmetric about zero over that of a min-max grid, for groups of 32 normal weights: it must
 * reach the larger of both ends on both sides (simulated: 1.19 at 32, 1.24 at 16, 1.14 at 128).
 */
const SYMMETRIC_PENALTY = 1.19

/** Zero points may or may not come on top where both grids are allowed; the larger is what a budget must hold. */
export function plannedBytes(plan: LayerPlan): number {
  return plannedTensorBytes(plan, plan.symmetric === 'yes')
}

/** @param config as the metadata will state it. */
export function planFigures(
  model: OnnxModel,
  found: Layers,
  { plans, target }: PlannedLayers,
  config: QuantizeConfig,
): PlanFigures {
  // Corrected biases may come on top.
  const layers = plans.map(({ layer }) => layer)
  const biases = isCalibrated(config) ? plannedBiases(analyseMainGraph(found.index), layers) : []
  const planned = plans.map((plan) => plannedLayer(plan, plan.symmetric === 'yes'))
  const built = buildOutput(model, planned, biases, target, config, plannedProvenance(model))
  const { totalBytes: outputBytes } = outputSize(built.model, model, config.externalData)
  let weights = 0
  let bits = 0
  let error = 0
  for (const plan of plans) {
    const count = plan.layer.weights
    weights += count
    bits += plan.bits * count
    error += expectedErrorOf(plan) * count
  }
  const per = Math.max(1, weights)
  const weightBytes = storedTotal(planned)
  return {
    meanBits: bits / per,
    storedBits: (8 * weightBytes) / per,
    weightBytes,
    outputBytes,
    expectedError: error / per,
  }
}

function expectedErrorOf({ bits, groupSize, symmetric, codebook, layer }: LayerPlan): number {
  if (codebook) return expectedIndexError(bits as IndexBits, groupSize)
  const own = expectedError(bits, groupSize, layer.view.reduction)
  return symmetric === 'yes' ? own * SYMMETRIC_PENALTY : own
}

/** Digests are not known yet; they are as long as these. */
export function plannedProvenance(model: OnnxModel): Provenance {
  return { version: VERSION, sha256: model.files.map(() => '0'.repeat(64)) }
}

/** @file Plans and quantizes until what comes out keeps the budget. */
import type { CalibrationData } from '../calibration/openCalibration.ts'
import { isCalibrated, type QuantizeConfig } from '../config.ts'
import type { RunOptions } from '../progress.ts'
import type { CalibrationReport } from '../report.ts'
import type { BiasEdit } from './biasEdits.ts'
import { buildOutput } from './buildOutput.ts'
import { calibrate, dropCheckpoint } from './calibrate.ts'
import type { CalibrationTask } from './calibratedLayers.ts'
import { outputSize } from './outputSize.ts'
import { plannedProvenance } from './planFigures.ts'
import type { ModelPlan } from './planModel.ts'
import { type QuantizedLayerData, quantizeLayers } from './quantizeLayers.ts'
import type { LayerSource } from './readWeight.ts'
import { storedTotal } from './storedTotal.ts'
import type { Output } from './writeOutput.ts'

/** Slack for sums in floating point. */
const BITS_SLACK = 1e-9

/** What was decided for every layer. */
export interface Quantized {
  readonly plan: ModelPlan
  readonly layers: readonly QuantizedLayerData[]
  /** Biases that take back mean errors. */
  readonly biases: readonly BiasEdit[]
  readonly calibration: CalibrationReport | undefined
  readonly warnings: readonly string[]
}

/** A plan whose real output was larger than the budget. */
export interface RejectedPlan {
  readonly plan: ModelPlan
  /** By so many bytes. */
  readonly excess: number
}

const UNCALIBRATED = { biases: [], report: undefined, warnings: [] } as const

/**
 * Quantize within the configuration's budget. A plan counts on float16 scales; where a tensor turns out to need float32,
 * the output may be larger than planned, and the next candidate takes its place.
 * @param data     calibration data, where there is some.
 * @param makePlan the next plan, after some whose real output turned out larger than the budget.
 * @throws QtoolError `infeasible` when no candidate is left.
 */
export async function quantizeWithinBudget(
  { source, found, importance }: Pick<CalibrationTask, 'source' | 'found' | 'importance'>,
  config: QuantizeConfig,
  output: Output,
  data: CalibrationData | undefined,
  makePlan: (rejected: readonly RejectedPlan[]) => Promise<ModelPlan>,
  run: RunOptions,
): Promise<Quantized> {
  const rejected: RejectedPlan[] = []
  for (;;) {
    run.onProgress?.({ stage: 'plan', done: 0, total: 1 })
    const plan = await makePlan(rejected)
    const { plans } = plan
    const { sink } = output
    // Statistics are those of the float network, whatever the plan: the first pass has written them.
    const own = data && rejected.length > 0 ? { ...config, stats: [] } : config
    const made = isCalibrated(config)
      ? await calibrate({ source, found, importance, plans, config: own, sink }, data, output.temporaries, run)
      : { ...UNCALIBRATED, layers: await quantizeLayers(source, plans, config, sink, run) }
    const { layers, biases, report, warnings } = made
    const excess = excessBytes(source, plan, made, config, output)
    if (excess <= 0) return { plan, layers, biases, calibration: report, warnings }
    rejected.push({ plan, excess })
    dropCheckpoint(config)
    output.restart()
  }
}

/** Bytes above the budget; 0 when it is kept. */
function excessBytes(
  { model }: Omit<LayerSource, 'workspace'>,
  plan: ModelPlan,
  { layers, biases }: Pick<Quantized, 'layers' | 'biases'>,
  config: QuantizeConfig,
  output: Output,
): number {
  if (layers.length === 0) return 0
  let excess = 0
  if (plan.bitsPerWeightLimit !== undefined) {
    const weights = layers.reduce((sum, layer) => sum + layer.plan.layer.weights, 0)
    excess = storedTotal(layers) - ((plan.bitsPerWeightLimit + BITS_SLACK) * weights) / 8
  }
  if (plan.byteLimit === undefined) return Math.max(0, excess)
  const built = buildOutput(model, layers, biases, plan.target, plan.settled, plannedProvenance(model))
  const { totalBytes } = outputSize(built.model, model, config.externalData, output.path)
  return Math.max(0, excess, totalBytes - plan.byteLimit)
}

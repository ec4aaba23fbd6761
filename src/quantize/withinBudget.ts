/** @file Plans and quantizes until what comes out keeps the budget. */
import type { CalibrationData } from '../calibration/openCalibration.ts'
import type { QuantizeConfig } from '../config.ts'
import type { Layers } from '../onnx/layers.ts'
import type { RunOptions } from '../progress.ts'
import type { CalibrationReport } from '../report.ts'
import { VERSION } from '../version.ts'
import type { BiasEdit } from './biasEdits.ts'
import { buildOutput } from './buildOutput.ts'
import { calibrate, dropCheckpoint } from './calibrate.ts'
import { outputSize } from './outputSize.ts'
import { type ModelPlan, planModel, settled } from './planModel.ts'
import { type QuantizedLayerData, quantizeLayers } from './quantizeLayers.ts'
import type { LayerSource } from './readWeight.ts'
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

const UNCALIBRATED = { biases: [], report: undefined, warnings: [] } as const

/**
 * Quantize within the configuration's budget. A plan counts on float16 scales; where a tensor turns out to need float32,
 * the output may be larger than planned, and the next candidate takes its place.
 * @param data calibration data, where there is some.
 * @throws QtoolError `infeasible` when no candidate is left.
 */
export async function quantizeWithinBudget(
  source: Omit<LayerSource, 'workspace'>,
  found: Layers,
  config: QuantizeConfig,
  output: Output,
  data: CalibrationData | undefined,
  run: RunOptions,
): Promise<Quantized> {
  const rejected: ModelPlan[] = []
  for (;;) {
    run.onProgress?.({ stage: 'plan', done: 0, total: 1 })
    const plan = planModel(source.model, found, config, rejected)
    const { plans, symmetric } = plan
    const { sink } = output
    // Statistics are those of the float network, whatever the plan: the first pass has written them.
    const own = data && rejected.length > 0 ? { ...config, stats: [] } : config
    const made =
      config.method === 'gptq'
        ? await calibrate({ source, found, plans, config: own, symmetric, sink }, data, output.temporaries, run)
        : { ...UNCALIBRATED, layers: await quantizeLayers(source, plans, config, symmetric, sink, run) }
    const { layers, biases, report, warnings } = made
    if (keepsBudget(source, plan, made, config, output)) return { plan, layers, biases, calibration: report, warnings }
    rejected.push(plan)
    dropCheckpoint(config)
    output.restart()
  }
}

function keepsBudget(
  { model }: Omit<LayerSource, 'workspace'>,
  plan: ModelPlan,
  { layers, biases }: Pick<Quantized, 'layers' | 'biases'>,
  config: QuantizeConfig,
  output: Output,
): boolean {
  if (layers.length === 0) return true
  if (plan.bitsPerWeightLimit !== undefined) {
    const bytes = layers.reduce((sum, { tensors }) => tensors.reduce((all, tensor) => all + tensor.bytes, sum), 0)
    const weights = layers.reduce((sum, layer) => sum + layer.plan.layer.weights, 0)
    return (8 * bytes) / weights <= plan.bitsPerWeightLimit + BITS_SLACK
  }
  if (plan.byteLimit === undefined) return true
  // Digests are as long as these.
  const provenance = { version: VERSION, sha256: model.files.map(() => '0'.repeat(64)) }
  const built = buildOutput(model, layers, biases, plan.target, settled(config, plan), provenance)
  return outputSize(built.model, model, config.externalData, output.path).totalBytes <= plan.byteLimit
}

/** @file Plans and quantizes until what comes out keeps the budget. */
import type { QuantizeConfig } from '../config.ts'
import type { Layers } from '../onnx/layers.ts'
import type { RunOptions } from '../progress.ts'
import { VERSION } from '../version.ts'
import { buildOutput } from './buildOutput.ts'
import { outputSize } from './outputSize.ts'
import { type ModelPlan, planModel, settled } from './planModel.ts'
import { type QuantizedLayerData, quantizeLayers } from './quantizeLayers.ts'
import type { LayerSource } from './readWeight.ts'
import type { Output } from './writeOutput.ts'

/** Slack for sums in floating point. */
const BITS_SLACK = 1e-9

/**
 * Quantize within the configuration's budget. A plan counts on float16 scales; where a tensor turns out to need float32,
 * the output may be larger than planned, and the next candidate takes its place.
 * @throws QtoolError `infeasible` when no candidate is left.
 */
export async function quantizeWithinBudget(
  source: Omit<LayerSource, 'workspace'>,
  found: Layers,
  config: QuantizeConfig,
  output: Output,
  run: RunOptions,
): Promise<{ plan: ModelPlan; layers: QuantizedLayerData[] }> {
  const rejected: ModelPlan[] = []
  for (;;) {
    run.onProgress?.({ stage: 'plan', done: 0, total: 1 })
    const plan = planModel(source.model, found, config, rejected)
    const layers = await quantizeLayers(source, plan.plans, config, plan.symmetric, output.sink, run)
    if (keepsBudget(source, plan, layers, config, output)) return { plan, layers }
    rejected.push(plan)
    output.restart()
  }
}

function keepsBudget(
  { model }: Omit<LayerSource, 'workspace'>,
  plan: ModelPlan,
  layers: readonly QuantizedLayerData[],
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
  const built = buildOutput(model, layers, plan.target, settled(config, plan), provenance)
  return outputSize(built.model, model, config.externalData, output.path).totalBytes <= plan.byteLimit
}

/**
 * @file Weights in, stored layers out: reads each weight once in the order of the files, quantizes it, packs it, and
 * hands its bytes to a sink, so that one weight at a time is in memory.
 */
import type { QuantizeConfig } from '../config.ts'
import type { Payload } from '../onnx/model.ts'
import { DataType } from '../onnx/proto.ts'
import { packLayer } from '../onnx/represent/packLayer.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import { checkAborted, type RunOptions } from '../progress.ts'
import { gridCandidates } from '../quant/candidates.ts'
import { quantizeTensor } from '../quant/quantizeTensor.ts'
import { type LayerReference, makeReference, type Rounding } from '../verify/reference.ts'
import type { StoredLayer } from './buildOutput.ts'
import { fileOrder, type LayerSource, readStored, weightErrors } from './readWeight.ts'

/** A stored layer with what is known of its error, and what it must compute. */
export interface QuantizedLayerData extends StoredLayer {
  readonly scaleType: 'float16' | 'float32'
  /** ‖W − Ŵ‖² and ‖W‖². */
  readonly squaredError: number
  readonly squaredNorm: number
  /** Undefined when verification was not asked for. */
  readonly reference: LayerReference | undefined
}

/**
 * Quantize every planned layer.
 * @param sink takes a stored tensor's bytes and says where they are from now on.
 * @returns one per plan, in the order of the plans.
 * @throws QtoolError `model` when a weight is not a number.
 */
export async function quantizeLayers(
  source: LayerSource,
  plans: readonly LayerPlan[],
  config: QuantizeConfig,
  symmetric: QuantizeConfig['symmetric'],
  sink: (bytes: Uint8Array) => Payload,
  run: RunOptions,
): Promise<QuantizedLayerData[]> {
  const results: QuantizedLayerData[] = []
  const totalWeights = Math.max(
    1,
    plans.reduce((sum, plan) => sum + plan.layer.weights, 0),
  )
  let done = 0
  const layers = plans.map((plan) => plan.layer)
  for (const i of fileOrder(source.model, layers)) {
    const plan = plans[i]!
    checkAborted(run.signal)
    run.onProgress?.({ stage: 'quantize', done, total: totalWeights, item: plan.layer.name })
    results[i] = await quantizeLayer(source, plan, config, symmetric, sink, run)
    done += plan.layer.weights
  }
  run.onProgress?.({ stage: 'quantize', done: totalWeights, total: totalWeights })
  return results
}

async function quantizeLayer(
  source: LayerSource,
  plan: LayerPlan,
  config: QuantizeConfig,
  symmetric: QuantizeConfig['symmetric'],
  sink: (bytes: Uint8Array) => Payload,
  run: RunOptions,
): Promise<QuantizedLayerData> {
  const { layer, bits, groupSize } = plan
  const stored = readStored(source, layer)
  const candidates = gridCandidates(config.method, symmetric)
  const { weight, scheme, method, squaredError, squaredNorm } = await weightErrors(source.model.path, layer, () =>
    quantizeTensor(stored, { bits, groupSize, candidates }, source.pool, run.signal),
  )
  const { tensors, bytes } = packLayer(plan, weight)
  const exact = plan.decodesTensor || plan.uses.includes('DequantizeLinear')
  const reference =
    config.verify && !config.dryRun ? makeReference(weight, roundingOf(plan), config.seed, exact) : undefined
  return {
    plan,
    choice: { scheme, method },
    tensors,
    payloads: bytes.map(sink),
    scaleType: weight.scaleType,
    squaredError,
    squaredNorm,
    reference,
  }
}

/** Type in which the file hands the weight on. Kernels compute with the dequantized values themselves. */
function roundingOf(plan: LayerPlan): Rounding {
  const use = plan.layer.uses[0]!
  const type = plan.decodesTensor ? plan.layer.constant.tensor.dataType : use.dataType
  if (type === DataType.FLOAT16) return 'float16'
  return type === DataType.BFLOAT16 ? 'bfloat16' : 'float32'
}

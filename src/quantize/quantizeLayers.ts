/**
 * @file Weights in, stored layers out: reads each weight once in the order of the files, quantizes it, packs it, and
 * hands its bytes to a sink, so that one weight at a time is in memory.
 */
import { codebookOptions } from '../codebook/codebookOptions.ts'
import { roundToCodebook } from '../codebook/roundToCodebook.ts'
import type { QuantizeConfig } from '../config.ts'
import type { Payload } from '../onnx/model.ts'
import { DataType } from '../onnx/proto.ts'
import { packLayer } from '../onnx/represent/packLayer.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { gridCandidates } from '../quant/candidates.ts'
import { tableLength } from '../quant/codebookWeight.ts'
import { isCodebook, type QuantizedWeight, type StoredScaleType } from '../quant/quantizedWeight.ts'
import { quantizeTensor } from '../quant/quantizeTensor.ts'
import { Workspace } from '../quant/workspace.ts'
import type { LayerCalibration } from '../report.ts'
import { type LayerReference, makeReference, type Rounding } from '../verify/reference.ts'
import type { StoredLayer } from './buildOutput.ts'
import { roundedAsPlanned } from './layerScales.ts'
import type { GridChoice } from './metadata.ts'
import { fileOrder, type LayerSource, readStored, weightErrors } from './readWeight.ts'

/** A layer's numbers. */
interface RoundedLayer {
  readonly weight: QuantizedWeight
  /** Undefined for a codebook. */
  readonly choice: GridChoice | undefined
  /** ‖W − Ŵ‖² and ‖W‖². */
  readonly squaredError: number
  readonly squaredNorm: number
}

/** A stored layer with what is known of its error, and what it must compute. */
export interface QuantizedLayerData extends StoredLayer {
  readonly scaleType: StoredScaleType
  /** ‖W − Ŵ‖² and ‖W‖². */
  readonly squaredError: number
  readonly squaredNorm: number
  /** Undefined when verification was not asked for. */
  readonly reference: LayerReference | undefined
  /** How calibration data decided; undefined without. */
  readonly calibration: LayerCalibration | undefined
}

/**
 * Quantize every planned layer.
 * @param sink takes a stored tensor's bytes and says where they are from now on.
 * @returns one per plan, in the order of the plans.
 * @throws QtoolError `model` when a weight is not a number.
 */
export async function quantizeLayers(
  source: Omit<LayerSource, 'workspace'>,
  plans: readonly LayerPlan[],
  config: QuantizeConfig,
  sink: (bytes: Uint8Array) => Payload,
  run: RunOptions,
): Promise<QuantizedLayerData[]> {
  const results: QuantizedLayerData[] = []
  const totalWeights = Math.max(
    1,
    plans.reduce((sum, plan) => sum + plan.layer.weights, 0),
  )
  let done = 0
  const order = fileOrder(
    source.model,
    plans.map((plan) => plan.layer),
  )
  // Two of everything: while the pool computes on one weight, this thread packs the one before and reads the next.
  const workspaces = [new Workspace(), new Workspace()] as const
  const start = (place: number): Promise<RoundedLayer> | undefined => {
    const i = order[place]
    if (i === undefined) return undefined
    const computing = compute({ ...source, workspace: workspaces[place % 2]! }, plans[i]!, config, run.signal)
    // Handled where it is awaited, which may be after another layer has failed.
    computing.catch(() => {})
    return computing
  }
  let computing = start(0)
  for (const [place, i] of order.entries()) {
    const plan = plans[i]!
    checkAborted(run.signal)
    run.onProgress?.({ stage: 'quantize', done, total: totalWeights, item: plan.layer.name })
    const quantized = await computing!
    computing = start(place + 1)
    // The pool's first answer starts its main job; only then does this thread go on.
    await nextTurn()
    results[i] = await packQuantized(plan, quantized, config, sink)
    done += plan.layer.weights
  }
  run.onProgress?.({ stage: 'quantize', done: totalWeights, total: totalWeights })
  return results
}

/** Read a weight and have the pool quantize it. The reading is done when this returns. */
function compute(
  source: LayerSource,
  plan: LayerPlan,
  { method }: QuantizeConfig,
  signal: AbortSignal | undefined,
): Promise<RoundedLayer> {
  const { layer, bits, groupSize, symmetric } = plan
  const { pool } = source
  const stored = readStored(source, layer)
  const tables = codebookOptions(plan)
  if (tables) {
    return weightErrors(source.model.path, layer, async () => {
      const rounded = await roundToCodebook(stored, tables, { pool, signal })
      return { ...roundedAsPlanned(plan, stored, rounded), choice: undefined }
    })
  }
  const options = {
    bits,
    groupSize,
    candidates: gridCandidates(method === 'rtn' ? 'rtn' : 'auto', symmetric),
    workspace: source.workspace,
  }
  return weightErrors(source.model.path, layer, async () => {
    const { scheme, method, ...rounded } = await quantizeTensor(stored, options, pool, signal)
    return { ...roundedAsPlanned(plan, stored, rounded), choice: { scheme, method } }
  })
}

/** Pack a layer and hand its bytes to the sink. */
export async function packQuantized(
  planned: LayerPlan,
  { weight, choice, squaredError, squaredNorm }: RoundedLayer,
  config: QuantizeConfig,
  sink: (bytes: Uint8Array) => Payload,
): Promise<QuantizedLayerData> {
  const plan = asSolved(planned, weight)
  const { tensors, bytes } = packLayer(plan, weight)
  await nextTurn()
  const payloads = bytes.map(sink)
  await nextTurn()
  const keep = {
    hash: plan.decodesTensor || plan.uses.includes('DequantizeLinear'),
    rows: plan.uses.includes('GatherBlockQuantized') || plan.uses.includes('gather-rows'),
  }
  const verifies = config.verify && !config.dryRun
  const reference = verifies ? makeReference(weight, roundingOf(plan), config.seed, keep) : undefined
  const { scaleType } = weight
  return { plan, choice, tensors, payloads, scaleType, squaredError, squaredNorm, reference, calibration: undefined }
}

/**
 * The plan of what the weight has come to: the grid that took the place of tables, or as many tables as pay for themselves,
 * which only the weights can say.
 */
function asSolved(plan: LayerPlan, weight: QuantizedWeight): LayerPlan {
  const { codebook } = plan
  if (!codebook) return plan
  if (!isCodebook(weight)) return plan.onGrid!
  const tables = weight.tables.length / tableLength(weight.coding, weight.bits)
  if (codebook.runs) return plan
  const { coding, shared, permuted } = codebook
  return { ...plan, codebook: { coding, tables, shared, permuted: permuted && tables > 1 } }
}

/** Type in which the file hands the weight on. Kernels compute with the dequantized values themselves. */
function roundingOf(plan: LayerPlan): Rounding {
  const use = plan.layer.uses[0]!
  const type = plan.decodesTensor ? plan.layer.constant.tensor.dataType : use.dataType
  if (type === DataType.FLOAT16) return 'float16'
  return type === DataType.BFLOAT16 ? 'bfloat16' : 'float32'
}

/**
 * @file The plans that a quantization tries, one after the other until what comes out keeps the budget: uniform, of a file, or
 * allocated layer by layer.
 */
import { parseLatency } from '../bitalloc/budget.ts'
import type { CalibrationData } from '../calibration/openCalibration.ts'
import type { QuantizeConfig } from '../config.ts'
import type { Layers } from '../onnx/layers.ts'
import { checkOutput } from '../onnx/outputFiles.ts'
import type { RunOptions } from '../progress.ts'
import { type ModelPlan, planModel } from '../quantize/planModel.ts'
import type { LayerSource } from '../quantize/readWeight.ts'
import type { RejectedPlan } from '../quantize/withinBudget.ts'
import type { AllocationReport } from '../report.ts'
import type { Limit } from './allocationProblem.ts'
import { accuracyReport, allocationReport } from './allocationReport.ts'
import { inferShapes } from './inferShapes.ts'
import { latencyConstraint } from './latencyConstraint.ts'
import { readLatencyFile, writeLatencyFile } from './latencyFile.ts'
import { layerLatencies } from './layerLatency.ts'
import type { LayerOptions } from './measuredLayers.ts'
import { mixedPlan } from './mixedPlan.ts'
import { openMixed } from './openMixed.ts'
import { paretoCurve, writeCurve } from './paretoFile.ts'
import { planFromFile, savePlan } from './planFile.ts'

export interface QuantizePlans {
  /** The next plan, after some whose real output was larger than the budget. */
  readonly next: (rejected: readonly RejectedPlan[]) => Promise<ModelPlan>
  /** Of the last plan; undefined where nothing was allocated. */
  readonly report: () => AllocationReport | undefined
  readonly warnings: readonly string[]
  close(): Promise<void>
}

/**
 * Open the plans of a configuration.
 * @param data    calibration data, where there is some.
 * @param scratch names a scratch directory.
 * @throws QtoolError `usage`, `data`, `model`, `infeasible`, `output`, `interrupted`.
 */
export async function openPlans(
  source: Omit<LayerSource, 'workspace'>,
  found: Layers,
  config: QuantizeConfig,
  data: CalibrationData | undefined,
  scratch: () => string,
  run: RunOptions,
): Promise<QuantizePlans> {
  const { model } = source
  const written = [config.savePlan, config.pareto].filter((file) => file !== undefined)
  if (written.length > 0) checkOutput(written, { force: config.force || config.savePlan === config.plan, sources: [] })
  const saved = (plan: ModelPlan): ModelPlan => {
    if (config.savePlan !== undefined) savePlan(config.savePlan, plan)
    return plan
  }
  const none = { report: () => undefined, warnings: [], close: async () => {} }
  if (config.plan !== undefined) {
    const { plan: file } = config
    return { ...none, next: async () => saved(planFromFile(file, model, found, config)) }
  }
  if (config.solver === 'uniform') {
    return {
      ...none,
      next: async (rejected) =>
        saved(
          planModel(
            model,
            found,
            config,
            rejected.map(({ plan }) => plan),
          ),
        ),
    }
  }
  const mixed = await openMixed(source, found, config, data, scratch, run)
  const { analysis, layers } = mixed.task
  let report: AllocationReport | undefined
  try {
    const latency = await latencyLimit(source, found, config, layers, data, run)
    const task = { ...mixed.task, latency: latency?.limit }
    return {
      warnings: [...mixed.warnings, ...(latency?.notes ?? [])],
      report: () => report,
      close: mixed.close,
      next: async (rejected) => {
        const { plan, allocation } = await mixedPlan(
          task,
          rejected.reduce((sum, { excess }) => sum + excess, 0),
        )
        const curve = config.pareto === undefined ? undefined : await paretoCurve(task, allocation)
        if (curve) writeCurve(config.pareto!, curve)
        const accuracy = accuracyReport(task.accuracyOf?.(allocation.options), config.maxDrop)
        report = { ...allocationReport(allocation, analysis, layers, task.config), accuracy, pareto: curve }
        return saved(plan)
      },
    }
  } catch (error) {
    await mixed.close()
    throw error
  }
}

/** `--max-latency` as a limit, with what is to be said of it. */
async function latencyLimit(
  { model }: Omit<LayerSource, 'workspace'>,
  found: Layers,
  config: QuantizeConfig,
  layers: readonly LayerOptions[],
  data: CalibrationData | undefined,
  run: RunOptions,
): Promise<{ readonly limit: Limit; readonly notes: readonly string[] } | undefined> {
  const { maxLatency, positions, accuracyLevel, latency: file } = config
  if (maxLatency === undefined) return undefined
  const times = file === undefined ? undefined : readLatencyFile(file)
  const [batch] = data ? data.fit.batches(1) : []
  const latencies = await layerLatencies(
    {
      ...{ model, layers, positions, accuracyLevel, threads: 0 },
      shapes: await inferShapes(model, found).catch(() => new Map()),
      feeds: batch?.feeds,
      ...(times ? { times } : {}),
    },
    run,
  )
  if (file !== undefined && times === undefined) writeLatencyFile(file, latencies.times)
  const { costs, limit } = latencyConstraint(latencies, parseLatency(maxLatency))
  return { limit: { name: 'nanoseconds of products', limit, costs }, notes: latencies.notes }
}

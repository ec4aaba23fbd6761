/**
 * @file Forms of a model that compute the same, and ways to weigh its tokens: which of them quantizes best is found out by
 * calibrating each at one width and comparing the outputs on held-out samples.
 */
import { isSolvedAtCut } from '../calibration/groups.ts'
import type { CalibrationData } from '../calibration/openCalibration.ts'
import type { QuantizeConfig } from '../config.ts'
import type { Layers } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import type { RunOptions } from '../progress.ts'
import { calibrateLayers, type ImportanceOf } from './calibratedLayers.ts'
import { HeldOutOutputs } from './heldOutOutputs.ts'
import { groupedLayers, isFeedable } from './layerGroups.ts'
import { quantizedAsTensor } from './layerRows.ts'
import { readMember } from './members.ts'
import { openNetworkWalk } from './networkWalk.ts'
import { planModel } from './planModel.ts'
import type { LayerSource } from './readWeight.ts'
import { SolvedLayers } from './solvedLayers.ts'

export interface Variant {
  readonly model: OnnxModel
  readonly found: Layers
  /** Undefined where all tokens count the same. */
  readonly importance: ImportanceOf | undefined
}

export interface TrialSetting {
  readonly source: Omit<LayerSource, 'workspace' | 'model'>
  readonly config: QuantizeConfig
  readonly data: CalibrationData
  readonly run: RunOptions
}

/**
 * Calibrate a variant with one width for all layers, and forget the weights.
 * @returns the loss of each held-out sample: KL in nats, or relative squared error of outputs that are no scores.
 * @throws QtoolError as {@link calibrateLayers}.
 */
export async function heldOutLosses(variant: Variant, setting: TrialSetting): Promise<readonly number[]> {
  const { model, found, importance } = variant
  const { source, data, run } = setting
  const config = uniformConfig(setting.config)
  const { plans } = planModel(model, found, config)
  const sink = (bytes: Uint8Array) => ({ kind: 'planned', byteLength: bytes.length }) as const
  const solved = new SolvedLayers(config, sink, undefined)
  const task = { source: { ...source, model }, found, plans, config, sink, importance }
  const made = await calibrateLayers(task, data, { statistics: undefined, solved }, run)
  return made.heldOutLosses
}

/** Fitted samples that rounding is tried on. */
const STUDENT_SAMPLES = 16

/**
 * Loss of the model with plainly rounded weights, on some of the samples that fits see: what tells one random rotation
 * from another without a calibration.
 */
export async function roundingLoss({ model, found }: Variant, setting: TrialSetting): Promise<number> {
  const { source, data, run } = setting
  const { plans } = planModel(model, found, uniformConfig(setting.config))
  const layers = plans.map(({ layer }) => layer)
  const planOf = new Map(plans.map((plan) => [plan.layer, plan]))
  const grouped = groupedLayers(found, layers)
  const judged = data.fit.subset(Array.from({ length: Math.min(STUDENT_SAMPLES, data.fit.count) }, (_, i) => i))
  const outputs = new HeldOutOutputs()
  const samples = { ...data, fit: judged.subset([]), held: judged }
  const walk = openNetworkWalk(model, layers, grouped, samples, run, (name, batch, float, quantized) => {
    outputs.add(name, { float, quantized, ...walk.batches[batch]! })
  })
  try {
    for (const group of grouped.groups) {
      if (isSolvedAtCut(group)) await walk.advance(group.position)
      for (const { layer } of group.members) {
        if (!isFeedable(layer)) continue
        const { rounded } = await readMember({ ...source, model }, planOf.get(layer)!, undefined, run.signal)
        walk.change(layer.constant.name, quantizedAsTensor(layer, rounded))
      }
    }
    await walk.advance(grouped.graph.nodes.length)
  } finally {
    walk.close()
  }
  return meanOf(outputs.losses())
}

/** One width for all layers: the best that keeps the first of the budgets; that of the defaults where there is none. */
function uniformConfig(config: QuantizeConfig): QuantizeConfig {
  const [budget] = config.budget?.split(',') ?? []
  return { ...config, solver: 'uniform', budget, dryRun: true }
}

/** The width and group size of all layers in trials of a variant, in words. */
export function trialWidth({ model, found }: Variant, config: QuantizeConfig): string {
  const { bits, groupSize } = planModel(model, found, uniformConfig(config)).settled
  return `${bits} bits, ${groupSize === 'channel' ? 'one scale per output' : `groups of ${groupSize}`}`
}

/** How a trial did beside another one on the same samples. */
export interface Comparison {
  /** Mean loss over the other's, less 1. */
  readonly change: number
  /** Of that share, from the differences of samples; NaN for one sample. */
  readonly standardError: number
  /** True where the fall is larger than what chance makes of it. */
  readonly isBetter: boolean
}

/** With fewer samples nothing can be said of chance: the loss must fall by {@link CLEAR_FALL} then. */
const FEW_SAMPLES = 4
const CLEAR_FALL = 0.02

/** Compare pair by pair. @param losses, before one for each sample, in the same order. */
export function compareLosses(losses: readonly number[], before: readonly number[]): Comparison {
  const base = meanOf(before)
  const differences = losses.map((loss, i) => loss - before[i]!)
  const mean = meanOf(differences)
  const count = differences.length
  const variance = differences.reduce((sum, d) => sum + (d - mean) ** 2, 0) / (count - 1)
  const standardError = Math.sqrt(variance / count)
  const isBetter = count < FEW_SAMPLES ? mean < -CLEAR_FALL * base : mean < -standardError
  return { change: mean / base, standardError: standardError / base, isBetter: Number.isFinite(mean) && isBetter }
}

export function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

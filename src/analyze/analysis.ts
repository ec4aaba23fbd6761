/**
 * @file What measuring a model leaves: figures per layer and candidate, from which any budget can be allocated in seconds. The
 * JSON of `qtool analyze --data … -o analysis.json`.
 */
import type { LayerChoice } from '../onnx/represent/plan.ts'

/** Raised whenever a field changes its meaning or goes away. */
export const ANALYSIS_VERSION = 1

/** How sensitivities can be measured; see docs/ANALYSIS.md. */
export const SENSITIVITIES = [
  'kl',
  'hessian',
  'coverage',
  'shapley',
  'pairwise',
  'clado',
  'lim',
  'zd',
  'mse',
  'proxy',
  'outputs',
  'labels',
] as const
export type Sensitivity = (typeof SENSITIVITIES)[number]

/** Digests: an analysis fits a run when they are equal. */
export interface AnalysisFingerprint {
  readonly model: string
  /** Of the calibration data. */
  readonly data: string
  /** Of the settings that the figures depend on. */
  readonly settings: string
  /** Of the class labels, where there were some. */
  readonly labels?: string
}

interface MeasuredValue {
  /** Infinity where some sample has no finite answer. */
  readonly mean: number
  /** Over samples; null with fewer than two. */
  readonly standardError: number | null
}

export interface MeasuredCandidate extends LayerChoice {
  readonly storedBytes: number
  /** ‖W − Ŵ‖². */
  readonly squaredError: number
  /** ‖W − Ŵ‖² / ‖W‖². */
  readonly relativeError: number
  /** Relative error of the layer's outputs on the fitted samples; null without statistics. */
  readonly proxy: number | null
  /**
   * Squared error of the outputs relative to the float model's, in place of KL, with only this layer changed; null when not
   * measured, or when that is the loss anyway.
   */
  readonly outputs: MeasuredValue | null
  /**
   * Cross entropy of the held-out samples' labels minus that of the float model, in nats, with only this layer changed: below 0
   * by noise, or where the label has become more likely; null when not measured.
   */
  readonly labels: MeasuredValue | null
  /** Loss of the model with only this layer changed: KL in nats, or relative squared error. */
  readonly loss: MeasuredValue
}

export interface MeasuredLayer {
  /** Its place among all layers of the analysis, from 0, in the order of the model; in a shard there are gaps between places. */
  readonly place: number
  readonly name: string
  readonly weight: string
  readonly weights: number
  readonly candidates: readonly MeasuredCandidate[]
  /** Trace of the layer's Fisher matrix by forward runs; null when not measured. */
  readonly trace: { readonly value: number; readonly standardError: number; readonly probes: number } | null
  /** Sketch of what each candidate does to the outputs, base64 of little-endian float32; null when not measured. */
  readonly sketches: readonly string[] | null
  /** Loss of the model with all layers but this one at each level; null when not measured. See {@link Analysis.levels}. */
  readonly leaveOneOut: readonly number[] | null
}

/** A part of the network with its own input and output on the residual stream. */
export interface MeasuredBlock {
  readonly name: string
  /** Names of its layers. */
  readonly layers: readonly string[]
  /** −cos of its input and output; null when not measured. */
  readonly lim: number | null
  /** Share of its weights more than one standard deviation above the mean. */
  readonly zd: number | null
}

/** Loss of a drawn configuration, to judge predictions by. */
export interface MeasuredConfiguration {
  /** Per layer, also of other shards, the place of its candidate. */
  readonly choice: readonly number[]
  readonly loss: number
}

export interface Analysis {
  readonly schemaVersion: number
  readonly kind: 'analysis'
  readonly qtoolVersion: string
  readonly fingerprint: AnalysisFingerprint
  /** 'kl': class scores; 'relative': other outputs. */
  readonly metric: 'kl' | 'relative'
  readonly samples: { readonly fitted: number; readonly heldOut: number }
  /** Held-out samples with a label, and how many of them the float model gets right; null without labels. */
  readonly accuracy: { readonly samples: number; readonly floatRight: number } | null
  readonly sensitivities: readonly Sensitivity[]
  /** Which part of the layers was measured, index from 0: `--shard 1/4` is index 0 of 4. Null for all. */
  readonly shard: { readonly index: number; readonly count: number } | null
  /** Layers of the whole analysis, those of other shards included. */
  readonly layerCount: number
  /** By rising place; without a shard all places from 0 to `layerCount` − 1. */
  readonly layers: readonly MeasuredLayer[]
  /**
   * Configurations with all layers alike: `choice[l]` is the candidate of layer l, of about the same width everywhere; null
   * when not measured.
   */
  readonly levels: readonly MeasuredConfiguration[] | null
  readonly blocks: readonly MeasuredBlock[] | null
  /** Drawn with a seed; empty when not measured. */
  readonly configurations: readonly MeasuredConfiguration[]
  /**
   * CLADO's direct pairs: loss with candidates of two layers, [layer, candidate, layer, candidate, loss], layers by place, the
   * smaller first, in rising order; null when not measured.
   */
  readonly pairs: readonly (readonly [number, number, number, number, number])[] | null
}

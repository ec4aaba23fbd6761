/** @file The parts of reports about mixed precision: what was measured, and how widths were given to layers. */
import type { CodebookForm } from './quant/codebookWeight.ts'
import type { Bits } from './quant/quantizedWeight.ts'

/** One way to quantize a layer. */
export interface LayerConfiguration {
  readonly bits: Bits
  readonly groupSize: number | 'channel'
  readonly symmetric: 'auto' | 'yes' | 'no'
  /** Levels come from tables; absent on grids. */
  readonly codebook?: Omit<CodebookForm, 'runs'> | undefined
}

/** A layer alone at one candidate. */
export interface CandidateFigures extends LayerConfiguration {
  /** Of the model on held-out samples, with only this layer changed; may be a little below 0, which is noise. */
  readonly loss: number
  /** Of the loss, over samples; undefined with fewer than two. */
  readonly standardError: number | undefined
  /** Cross entropy of labels above that of the original, nats, below 0 too; undefined when not measured. */
  readonly labels?: { readonly loss: number; readonly standardError: number | undefined } | undefined
  readonly storedBytes: number
}

/** How well a sensitivity predicts the loss of drawn configurations of this model. */
export interface Agreement {
  readonly sensitivity: string
  /** Share of the variance that predictions explain as they stand, at most 1; undefined where there is nothing to compare. */
  readonly rSquared: number | undefined
  /** Rank correlation, −1 … 1; undefined likewise. */
  readonly spearman: number | undefined
}

/** A part of the network with its own input and output on the residual stream. */
export interface BlockFigures {
  readonly name: string
  readonly layers: readonly string[]
  /** −cos of its input and output, −1 … 1; undefined when not measured. */
  readonly lim: number | undefined
  /** Share of its weights more than a standard deviation above the mean; undefined when not measured. */
  readonly zd: number | undefined
}

/** What a measurement on data came to. The file at `path` has more. */
export interface AnalysisReport {
  /** What losses are: KL in nats per position, or squared error relative to the float model's outputs. */
  readonly metric: 'kl' | 'relative'
  readonly samples: { readonly fitted: number; readonly heldOut: number }
  /** Held-out samples with a label, and how many of them the original gets right; undefined without labels. */
  readonly accuracy?: { readonly samples: number; readonly floatRight: number } | undefined
  /** In the order of the model; of a shard, its own. */
  readonly layers: readonly { readonly name: string; readonly candidates: readonly CandidateFigures[] }[]
  /** Empty without drawn configurations. */
  readonly agreements: readonly Agreement[]
  /** Empty when no measure of blocks was asked for. */
  readonly blocks: readonly BlockFigures[]
  /** Where the analysis was written; undefined when nowhere. */
  readonly path: string | undefined
}

/** An allocation that was considered. */
export interface AllocationCandidate {
  /** The cost vector that it is the best for. */
  readonly from: string
  /** Its loss as that model of it says. */
  readonly predicted: number
  /** On held-out samples; undefined when it was not run. */
  readonly measured: number | undefined
  readonly chosen: boolean
}

/** A point of the curve of loss over size. */
export interface ParetoPoint {
  /** As a budget expression. */
  readonly budget: string
  /** Of all output files. */
  readonly bytes: number
  readonly predicted: number
  readonly measured: number | undefined
}

/** Accuracy of an allocation on held-out samples, as it was run. */
export interface AllocationAccuracy {
  /** Held-out samples with a label. */
  readonly samples: number
  /** How many of them the original, and the allocation, gets right. */
  readonly floatRight: number
  readonly right: number
  /** right/samples − floatRight/samples. */
  readonly change: number
  /** Of `change`, over paired samples; undefined with fewer than two. */
  readonly standardError: number | undefined
  /** Most that the accuracy was to fall; undefined where that was not asked. */
  readonly maxDrop: number | undefined
}

/** How widths were given to layers. */
export interface AllocationReport {
  readonly solver: 'ilp' | 'dp' | 'bisection'
  readonly sensitivities: readonly string[]
  /** What losses are: KL in nats per position, or squared error relative to the float model's outputs. */
  readonly metric: 'kl' | 'relative'
  /** What was to be kept, in the unit of its name, and what the result takes of it. */
  readonly constraints: readonly { readonly name: string; readonly limit: number; readonly used: number }[]
  readonly candidates: readonly AllocationCandidate[]
  /** Loss of the result, after the local search; undefined when nothing was run. */
  readonly measured: number | undefined
  /** Undefined without labels, and when nothing was run. */
  readonly accuracy?: AllocationAccuracy | undefined
  /** Lower bound of what the chosen cost vector predicts for any allocation; undefined where none is proved. */
  readonly bound: number | undefined
  /** (predicted − bound) / |predicted| of the chosen candidate, at least 0: 0 is proved to be the best. */
  readonly gap: number | undefined
  /** Allocations that were run. */
  readonly evaluations: number
  /** Moves of the local search that were kept. */
  readonly accepted: number
  /** The best configuration with one width for all that keeps the limits; undefined when there is none. */
  readonly uniform: { readonly bits: Bits; readonly measured: number | undefined } | undefined
  /** In the order of the model. */
  readonly layers: readonly ({ readonly name: string } & LayerConfiguration)[]
  readonly pareto?: readonly ParetoPoint[] | undefined
}

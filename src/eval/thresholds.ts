/** @file Limits that the user set, against what was measured. */
import type { Thresholds } from '../config.ts'
import { QtoolError } from '../errors.ts'
import type { ModelMemory, OutputComparison, TaskMetric, Threshold } from '../report.ts'

/** What thresholds are compared with. */
export interface Measured {
  readonly outputs: readonly OutputComparison[]
  readonly metrics: readonly TaskMetric[]
  /** Bytes of all candidate files. */
  readonly candidateBytes: number
  readonly latencyMilliseconds: { readonly reference: number; readonly candidate: number }
  readonly memoryBytes: { readonly candidate: ModelMemory } | undefined
}

interface Rule {
  /** −1: the measured figure must not be below the limit; 1: not above. */
  readonly sense: 1 | -1
  /** Undefined when nothing of the kind was measured. */
  readonly measure: (measured: Measured) => number | undefined
  /** Why it can be missing, and what to do. */
  readonly missing?: { readonly why: string; readonly hint: string }
}

const NO_CLASSES = {
  why: 'no output was recognised as class or token logits',
  hint: 'name the outputs that are logits, or leave this threshold out',
}
const NO_NUMBERS = { why: 'no output is floating-point', hint: 'use the agreement threshold for integer outputs' }

/** The worst of the outputs that have the figure; NaN is worse than any number. */
function worst(figures: readonly (number | undefined)[], sense: 1 | -1): number | undefined {
  const known = figures.filter((figure) => figure !== undefined)
  if (known.length === 0) return undefined
  return sense === 1 ? Math.max(...known) : Math.min(...known)
}

/** Outputs that are not integers: those have agreement but no KL. */
function floatOutputs({ outputs }: Measured): readonly OutputComparison[] {
  return outputs.filter((output) => output.kl !== undefined || output.top1Agreement === undefined)
}

function changeOf({ metrics }: Measured, name: TaskMetric['name']): number | undefined {
  return worst(
    metrics.filter((metric) => metric.name === name).map(({ change }) => (name === 'accuracy' ? -change : change)),
    1,
  )
}

const RULES: { readonly [K in keyof Thresholds]-?: Rule } = {
  maxKl: {
    sense: 1,
    measure: ({ outputs }) =>
      worst(
        outputs.map((o) => o.kl?.mean),
        1,
      ),
    missing: NO_CLASSES,
  },
  minAgreement: {
    sense: -1,
    measure: ({ outputs }) =>
      worst(
        outputs.map((o) => o.top1Agreement),
        -1,
      ),
    missing: { ...NO_CLASSES, why: 'no output is integers or was recognised as class or token logits' },
  },
  minSqnr: {
    sense: -1,
    measure: (m) =>
      worst(
        floatOutputs(m).map((o) => o.sqnr),
        -1,
      ),
    missing: NO_NUMBERS,
  },
  minCosine: {
    sense: -1,
    measure: (m) =>
      worst(
        floatOutputs(m).map((o) => o.cosine),
        -1,
      ),
    missing: NO_NUMBERS,
  },
  maxDifference: {
    sense: 1,
    measure: (m) =>
      worst(
        floatOutputs(m).map((o) => o.maxAbsoluteDifference),
        1,
      ),
    missing: NO_NUMBERS,
  },
  maxAccuracyDrop: {
    sense: 1,
    measure: (m) => changeOf(m, 'accuracy'),
    missing: { why: 'accuracy needs labels', hint: 'give the labels of the data, or leave this threshold out' },
  },
  maxPerplexityRise: {
    sense: 1,
    measure: (m) => changeOf(m, 'perplexity'),
    missing: {
      why: 'no output gives next-token logits for the input input_ids (logits [samples, positions, vocabulary] of a causal model)',
      hint: 'name the output that is logits, or leave this threshold out',
    },
  },
  maxSize: { sense: 1, measure: ({ candidateBytes }) => candidateBytes },
  maxMemory: {
    sense: 1,
    measure: ({ memoryBytes }) => memoryBytes?.candidate.peak,
    missing: { why: 'memory could not be measured', hint: 'the warnings say why; or leave this threshold out' },
  },
  maxLatencyRatio: {
    sense: 1,
    measure: ({ latencyMilliseconds: { reference, candidate } }) => candidate / reference,
    missing: { why: 'latency was not measured', hint: 'ask for at least one run' },
  },
}

function cannotCheck(name: keyof Thresholds): QtoolError {
  const { why, hint } = RULES[name].missing!
  return new QtoolError('usage', `threshold ${name} cannot be checked: ${why}`, { hint })
}

/**
 * Refuse before the long part of an evaluation what can be seen to be impossible.
 * @throws QtoolError `usage` for a threshold on accuracy without labels
 */
export function checkThresholdsAhead(thresholds: Thresholds, hasLabels: boolean): void {
  if (thresholds.maxAccuracyDrop !== undefined && !hasLabels) throw cannotCheck('maxAccuracyDrop')
}

/**
 * Compare every threshold that is set with its figure: the worst output's where there are several (of KL the mean). A
 * figure that is NaN fails.
 * @throws QtoolError `usage` when a figure could not be measured, so that a threshold is never passed unseen
 */
export function checkThresholds(thresholds: Thresholds, measured: Measured): Threshold[] {
  const checked: Threshold[] = []
  for (const [name, limit] of Object.entries(thresholds) as [keyof Thresholds, number | undefined][]) {
    if (limit === undefined) continue
    const { sense, measure } = RULES[name]
    const figure = measure(measured)
    if (figure === undefined) throw cannotCheck(name)
    checked.push({ name, limit, measured: figure, passed: sense === 1 ? figure <= limit : figure >= limit })
  }
  return checked
}

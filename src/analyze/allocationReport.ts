/** @file What the report says of an allocation and of a measurement. */
import type { QuantizeConfig } from '../config.ts'
import type { PairedAccuracy } from '../eval/labelLoss.ts'
import type { LayerChoice } from '../onnx/represent/plan.ts'
import type { AllocationReport, AnalysisReport } from '../report.ts'
import type { Allocation } from './allocate.ts'
import type { Analysis } from './analysis.ts'
import { writtenForm } from './codebookField.ts'
import type { LayerOptions } from './measuredLayers.ts'
import { agreements } from './predictions.ts'

/** @param layers in the order of the analysis. */
export function allocationReport(
  { options, proposals, chosen, measured, evaluations, accepted, limits }: Allocation,
  analysis: Analysis,
  layers: readonly LayerOptions[],
  { solver, sensitivity }: QuantizeConfig,
): AllocationReport {
  const winner = proposals[chosen]!
  const uniform = proposals.find(({ from }) => from === 'uniform')
  const { objective, bound } = winner
  const candidates = proposals.flatMap(({ from, predicted, measured: own }, i) =>
    predicted === undefined ? [] : [{ from, predicted, measured: own, chosen: i === chosen }],
  )
  return {
    solver: solver as AllocationReport['solver'],
    sensitivities: sensitivity,
    metric: analysis.metric,
    constraints: limits,
    candidates,
    measured,
    // Models that add in another domain have bounds there, which would not compare with a loss.
    bound: winner.predicted === objective ? bound : undefined,
    gap:
      bound === undefined || objective === undefined
        ? undefined
        : Math.max(0, objective - bound) / Math.max(Number.MIN_VALUE, Math.abs(objective)),
    evaluations,
    accepted,
    uniform: uniform && { bits: mostCommonBits(layers, uniform.options), measured: uniform.measured },
    layers: layers.flatMap(({ layer, options: own }, i) => {
      const option = options[i]
      return option === undefined ? [] : [{ name: layer.name, ...asReported(own[option]!.choice) }]
    }),
  }
}

/** On grids without `codebook`. */
function asReported({ bits, groupSize, symmetric, codebook }: LayerChoice) {
  return { bits, groupSize, symmetric, ...(codebook ? { codebook: writtenForm(codebook) } : {}) }
}

/** @param maxDrop the bound, where there is one. */
export function accuracyReport(
  accuracy: PairedAccuracy | undefined,
  maxDrop: number | undefined,
): AllocationReport['accuracy'] {
  if (!accuracy) return undefined
  const { samples, floatRight, right, standardError } = accuracy
  return {
    ...{ samples, floatRight, right, maxDrop },
    change: (right - floatRight) / samples,
    standardError: Number.isNaN(standardError) ? undefined : standardError,
  }
}

function mostCommonBits(layers: readonly LayerOptions[], options: readonly (number | undefined)[]) {
  const counts = new Map<LayerOptions['options'][number]['choice']['bits'], number>()
  options.forEach((option, i) => {
    if (option === undefined) return
    const { bits } = layers[i]!.options[option]!.choice
    counts.set(bits, (counts.get(bits) ?? 0) + 1)
  })
  return [...counts].sort((a, b) => b[1] - a[1])[0]![0]
}

/** @param path where the analysis was written. */
export function analysisReport(analysis: Analysis, path: string | undefined): AnalysisReport {
  const { metric, samples, accuracy, layers, blocks, shard } = analysis
  return {
    metric,
    samples,
    accuracy: accuracy ?? undefined,
    layers: layers.map(({ name, candidates }) => ({
      name,
      candidates: candidates.map(({ storedBytes, loss, labels, ...choice }) => ({
        ...asReported(choice),
        storedBytes,
        loss: loss.mean,
        standardError: loss.standardError ?? undefined,
        labels: labels ? { loss: labels.mean, standardError: labels.standardError ?? undefined } : undefined,
      })),
    })),
    agreements: shard || analysis.configurations.length === 0 ? [] : agreements(analysis),
    blocks: (blocks ?? []).map(({ name, layers: own, lim, zd }) => ({
      ...{ name, layers: own },
      lim: lim ?? undefined,
      zd: zd ?? undefined,
    })),
    path,
  }
}

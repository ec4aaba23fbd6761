/** @file Measures a model on held-out samples by the sensitivities that are asked for: sweep, whole configurations, blocks. */

import { findBlocks } from '../calibration/blocks.ts'
import { labelsFingerprint } from '../calibration/fingerprint.ts'
import { judgingBatches } from '../calibration/judgingBatches.ts'
import type { CalibrationData } from '../calibration/openCalibration.ts'
import type { Mapping } from '../codebook/codebookForms.ts'
import type { CalibrationConfig } from '../config.ts'
import { type LossSummary, summarize } from '../eval/outputLoss.ts'
import { estimateTrace, probeStep, rademacher } from '../hessian/hutchinson.ts'
import type { Layers } from '../onnx/layers.ts'
import type { RunOptions } from '../progress.ts'
import { calibrationFingerprint } from '../quantize/calibrate.ts'
import { groupedLayers, isFeedable } from '../quantize/layerGroups.ts'
import { rowsAsTensor } from '../quantize/layerRows.ts'
import type { LayerSource } from '../quantize/readWeight.ts'
import { makeRandom } from '../random.ts'
import { openProducts } from '../runtime/products.ts'
import { VERSION } from '../version.ts'
import {
  ANALYSIS_VERSION,
  type Analysis,
  type AnalysisFingerprint,
  type MeasuredCandidate,
  type MeasuredLayer,
  type Sensitivity,
} from './analysis.ts'
import { measureBlocks } from './blockMeasures.ts'
import type { CandidateStore } from './candidateStore.ts'
import { writtenForm } from './codebookField.ts'
import { Configurations } from './configurations.ts'
import type { LayerOptions } from './measuredLayers.ts'
import { type LayerAt, type Sweep, sweepLayers } from './sweep.ts'
import { WholeRuns } from './wholeRuns.ts'

export interface MeasureTask {
  readonly source: Omit<LayerSource, 'workspace'>
  readonly found: Layers
  readonly layers: readonly LayerOptions[]
  readonly sensitivities: readonly Sensitivity[]
  readonly damping: number
  /** Of codebooks; descent when absent. */
  readonly mapping?: Mapping | undefined
  /** Part of the layers: place % count = index. */
  readonly shard: { readonly index: number; readonly count: number } | undefined
  /** Configurations that are drawn to judge predictions by. */
  readonly configurations: number
  /** Most probes of a trace. */
  readonly probes: number
  readonly seed: number
  readonly fingerprint: AnalysisFingerprint
}

/** What an analysis depends on: as statistics do, and on how candidates are solved, and on labels where there are some. */
export function analysisFingerprint(
  config: Parameters<typeof calibrationFingerprint>[0] & Pick<CalibrationConfig, 'damping' | 'labels'>,
  model: Parameters<typeof calibrationFingerprint>[1],
): AnalysisFingerprint {
  const { damping, labels } = config
  const fingerprint = calibrationFingerprint(config, model, { damping })
  return labels === undefined ? fingerprint : { ...fingerprint, labels: labelsFingerprint(labels) }
}

/** Numbers in a sketch: inner products are off by about 1 % of the lengths' product. */
const SKETCH = 8192

export interface Measured {
  readonly analysis: Analysis
  /** Runs whole configurations; undefined for a shard. To be closed. */
  readonly configurations: Configurations | undefined
  readonly notes: ReadonlyMap<string, number>
}

/**
 * Measure.
 * @param store takes the solved candidates, which whole configurations are made of.
 * @throws QtoolError `data`, `model`, `usage`, `interrupted`.
 */
export async function measure(
  task: MeasureTask,
  data: CalibrationData,
  store: CandidateStore,
  run: RunOptions,
): Promise<Measured> {
  const { source, found, layers, sensitivities, shard, seed } = task
  const grouped = groupedLayers(
    found,
    layers.map(({ layer }) => layer),
  )
  const has = (name: Sensitivity) => sensitivities.includes(name)
  const products = openProducts(source.pool.threads)
  const traces = new Map<number, MeasuredLayer['trace']>()
  let configurations: Configurations | undefined
  try {
    const sweep = await sweepLayers({
      ...{ source, grouped, layers, data, store, seed, run, damping: task.damping, mapping: task.mapping },
      wanted: (layer) => shard === undefined || layer % shard.count === shard.index,
      tools: { pool: source.pool, products, signal: run.signal },
      sketch: has('pairwise') ? SKETCH : 0,
      outputs: has('outputs'),
      labels: has('labels'),
      ...(has('hessian')
        ? { more: async (at: LayerAt) => void traces.set(at.layer, await traceOf(at, task.probes, seed)) }
        : {}),
    })
    if (!shard) configurations = await Configurations.open(source, layers, grouped, data, store, run)
    const whole = configurations && new WholeRuns(layers, configurations, { count: task.configurations, seed }, run)
    const levels = has('coverage') || has('shapley') ? await whole?.levels() : undefined
    const leaveOneOut = levels && has('shapley') ? await whole!.leaveOneOut(levels) : undefined
    const blocks =
      has('lim') || has('zd')
        ? await measureBlocks(
            { source, grouped, layers: layers.map(({ layer }) => layer), data, run },
            findBlocks(
              grouped.graph,
              layers.map(({ layer }) => layer),
            ),
            { lim: has('lim'), zd: has('zd') },
          )
        : null
    const analysis: Analysis = {
      schemaVersion: ANALYSIS_VERSION,
      kind: 'analysis',
      qtoolVersion: VERSION,
      fingerprint: task.fingerprint,
      metric: sweep.loss.reference.kinds.some((kind) => kind === 'logits' || kind === 'probabilities')
        ? 'kl'
        : 'relative',
      samples: { fitted: data.fit.count, heldOut: data.held.count },
      accuracy: sweep.labels ? { samples: sweep.labels.samples, floatRight: sweep.labels.floatRight } : null,
      sensitivities,
      shard: shard ?? null,
      layerCount: layers.length,
      layers: measuredLayers(task, sweep, traces, leaveOneOut),
      levels: levels ?? null,
      blocks,
      configurations: (await whole?.drawn()) ?? [],
      pairs: has('clado') ? ((await whole?.pairs()) ?? null) : null,
    }
    return { analysis, configurations, notes: sweep.notes }
  } catch (error) {
    await configurations?.close()
    throw error
  } finally {
    await products.dispose()
  }
}

function measuredLayers(
  { layers }: MeasureTask,
  { figures, sketches }: Sweep,
  traces: ReadonlyMap<number, MeasuredLayer['trace']>,
  leaveOneOut: readonly (readonly number[])[] | undefined,
): MeasuredLayer[] {
  const usual = lossPerError(layers, figures, ({ loss }) => loss)
  const usualOfLabels = Math.max(
    0,
    lossPerError(layers, figures, ({ labels }) => labels),
  )
  const hasLabels = figures.some((own) => own?.some(({ labels }) => labels))
  return layers.flatMap(({ layer, options }, i): MeasuredLayer[] => {
    const measured = figures[i]
    if (!measured) return []
    const guess = (mean: number) => ({ mean, standardError: Number.NaN })
    const own = isFeedable(layer)
      ? measured
      : measured.map((one) => ({
          ...one,
          loss: guess(usual * one.relativeError),
          outputs: undefined,
          labels: hasLabels ? guess(usualOfLabels * one.relativeError) : undefined,
        }))
    const candidates = options.map(
      ({ choice: { bits, groupSize, symmetric, codebook }, storedBytes }, k): MeasuredCandidate => {
        const { loss, outputs, labels, proxy, squaredError, relativeError } = own[k]!
        return {
          ...{ bits, groupSize, symmetric },
          ...(codebook ? { codebook: writtenForm(codebook) } : {}),
          storedBytes,
          squaredError,
          relativeError,
          proxy: proxy ?? null,
          outputs: outputs ? measuredValue(outputs) : null,
          labels: labels ? measuredValue(labels) : null,
          loss: measuredValue(loss),
        }
      },
    )
    return [
      {
        place: i,
        name: layer.name,
        weight: layer.constant.name,
        weights: layer.weights,
        candidates,
        trace: traces.get(i) ?? null,
        sketches: sketches[i]?.map(base64Of) ?? null,
        leaveOneOut: leaveOneOut?.[i] ?? null,
      },
    ]
  })
}

function measuredValue({ mean, standardError }: LossSummary): MeasuredCandidate['loss'] {
  return { mean, standardError: Number.isNaN(standardError) ? null : standardError }
}

function base64Of(values: Float32Array): string {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64')
}

/**
 * Median over the measured candidates of loss per relative error of the weights. A layer whose weight cannot be fed to a session, as in
 * a branch, cannot be measured; without a guess it would seem to cost nothing, and get the narrowest width.
 */
function lossPerError(
  layers: readonly LayerOptions[],
  figures: Sweep['figures'],
  lossOf: (figures: NonNullable<Sweep['figures'][number]>[number]) => LossSummary | undefined,
): number {
  const ratios = layers.flatMap(({ layer }, i) =>
    isFeedable(layer)
      ? (figures[i] ?? []).flatMap((one) => {
          const mean = lossOf(one)?.mean
          return one.relativeError > 0 && Number.isFinite(mean) ? [mean! / one.relativeError] : []
        })
      : [],
  )
  return ratios.sort((a, b) => a - b)[ratios.length >> 1] ?? 1
}

/** Hutchinson's estimate for the layer that the network stands before. */
async function traceOf({ layer, member, walk, trial, loss }: LayerAt, probes: number, seed: number) {
  const { rows, plan } = member
  const step = probeStep(rows)
  const lossAt = async (signs: Int8Array, sign: number): Promise<number> => {
    const moved = rows.map((value, i) => value + sign * step * signs[i]!)
    const values = new Map([[plan.layer.constant.name, rowsAsTensor(plan.layer, moved)]])
    const losses: number[] = []
    for (const batch of judgingBatches(walk)) {
      losses.push(...loss.compare(batch, await trial.run('float', batch, { values, place: 'candidate' })))
    }
    return summarize(losses).mean
  }
  const estimate = await estimateTrace(
    async (index) => {
      const signs = rademacher(makeRandom(seed + 7919 * layer + index), rows.length)
      return ((await lossAt(signs, 1)) + (await lossAt(signs, -1))) / step ** 2
    },
    { minProbes: Math.min(4, probes), maxProbes: probes },
  )
  const { trace, standardError, probes: made } = estimate
  return { value: trace, standardError, probes: made }
}

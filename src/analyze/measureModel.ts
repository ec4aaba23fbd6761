/** @file `qtool analyze --data`: measures a model and writes the analysis; `--merge` joins the parts of one. */
import { openCalibration } from '../calibration/openCalibration.ts'
import type { AnalyzeConfig } from '../config.ts'
import type { Dataset } from '../data/dataset.ts'
import { QtoolError } from '../errors.ts'
import type { Layers } from '../onnx/layers.ts'
import { checkOutput } from '../onnx/outputFiles.ts'
import type { RunOptions } from '../progress.ts'
import { freedomOf } from '../quantize/planModel.ts'
import type { LayerSource } from '../quantize/readWeight.ts'
import { type AnalysisReport, type AnalyzeReport, SCHEMA_VERSION } from '../report.ts'
import { VERSION } from '../version.ts'
import { analysisReport } from './allocationReport.ts'
import { mergeAnalyses, readAnalysis, writeAnalysis } from './analysisFile.ts'
import { CandidateStore } from './candidateStore.ts'
import type { CodebookQuestion } from './codebookCandidates.ts'
import { analysisFingerprint, measure } from './measure.ts'
import { layerOptions } from './measuredLayers.ts'

/** How candidates are written when they are quantized; sizes depend on it. */
const TARGET = { format: 'auto', accuracyLevel: 4, scales: 'auto' } as const

/** Who scores samples, where they are selected by scores. */
export type Score = (pool: Dataset, batchSize: number) => Promise<Float64Array>

/**
 * Measure.
 * @param scratch names scratch directories.
 * @throws QtoolError `data`, `model`, `usage`, `output`, `interrupted`.
 */
export async function measureModel(
  source: Omit<LayerSource, 'workspace'>,
  found: Layers,
  config: AnalyzeConfig,
  scratch: (name: string) => () => string,
  score: Score,
  run: RunOptions,
): Promise<{ readonly report: AnalysisReport; readonly warnings: readonly string[] }> {
  const { model } = source
  const { output, force, shard, damping, seed, probes, configurations, sensitivity } = config
  if (output !== undefined) checkOutput([output], { force, sources: model.files.map(({ path }) => path) })
  const data = await openCalibration(config, model, scratch('activations'), score)
  const freedom = freedomOf(model, found, { ...TARGET, layers: config.layers })
  const counting = config.candidates === 'all' ? ({ kind: 'bitsPerWeight', bits: 16 } as const) : undefined
  // The default group size leaves the choice to the candidates.
  const groupSize = config.candidates === 'all' ? undefined : config.groupSize
  const layers = layerOptions(found.layers, freedom, { ...config, groupSize }, counting, questionOf(config))
  if (layers.length === 0) throw new QtoolError('model', `${model.path}: no layer gets smaller at any width`)
  const store = new CandidateStore(scratch('candidates'))
  try {
    const {
      analysis,
      configurations: runs,
      notes,
    } = await measure(
      {
        ...{ source, found, layers, damping, seed, probes, configurations, sensitivities: sensitivity },
        mapping: config.mapping,
        shard: shard === undefined ? undefined : partOf(shard),
        fingerprint: analysisFingerprint(config, model),
      },
      data,
      store,
      run,
    )
    await runs?.close()
    if (output !== undefined) writeAnalysis(output, analysis, force)
    const without = [...notes].map(
      ([reason, count]) => `${count} ${count === 1 ? 'layer' : 'layers'} measured without statistics: ${reason}`,
    )
    return { report: analysisReport(analysis, output), warnings: [...freedom.warnings, ...without] }
  } finally {
    store.close()
  }
}

/** Groups are those of grids: tables have a scale for each row. */
function questionOf({ codebook, rowGroups, trellisWindow }: AnalyzeConfig): CodebookQuestion | undefined {
  return codebook === undefined ? undefined : { codebook, rowGroups, trellisWindow }
}

/** 'i/n', checked, from 1 → from 0. */
function partOf(shard: string): { readonly index: number; readonly count: number } {
  const [index, count] = shard.split('/').map(Number)
  return { index: index! - 1, count: count! }
}

/** Join the parts of a measurement. @throws QtoolError `usage`, `data`, `output`. */
export function mergedReport({ merge, output, force, groupSize }: AnalyzeConfig): AnalyzeReport {
  const merged = mergeAnalyses(
    merge.map((file) => readAnalysis(file)),
    merge,
  )
  writeAnalysis(output!, merged, force)
  return {
    schemaVersion: SCHEMA_VERSION,
    kind: 'analyze',
    qtoolVersion: VERSION,
    model: undefined,
    groupSize,
    layers: [],
    leftAlone: [],
    totals: { weights: 0, weightBytes: 0, leftAloneBytes: 0, otherBytes: 0, widths: [] },
    analysis: analysisReport(merged, output),
    warnings: [],
  }
}

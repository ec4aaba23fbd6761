/** @file What each layer would cost and lose at each width, from the weights alone. */
import type { AnalyzeConfig } from '../config.ts'
import type { Layers, WeightedLayer } from '../onnx/layers.ts'
import { planLayer, type Target } from '../onnx/represent/plan.ts'
import { storedBytes } from '../onnx/represent/stored.ts'
import { checkAborted, type RunOptions } from '../progress.ts'
import { BITS, type Bits } from '../quant/quantizedWeight.ts'
import { relativeErrors } from '../quant/relativeErrors.ts'
import { fileOrder, type LayerSource, readStored, weightErrors } from '../quantize/readWeight.ts'
import { layerInfo } from '../quantize/report.ts'
import type { AnalyzeReport, WidthFigures } from '../report.ts'
import type { InferredShape } from './inferShapes.ts'

/** Sizes are those of the default format where nothing stands in its way. */
const TARGET: Target = { format: 'auto', opset: 21, accuracyLevel: 4 }

/** One analysed layer; its squared norm makes sums over layers possible. */
export interface LayerAnalysis {
  readonly layer: WeightedLayer
  readonly widths: readonly WidthFigures[]
  readonly squaredNorm: number
}

/** Analyse every layer, in the order in which the weights lie in the files. @returns in the order of `found.layers`. */
export async function analyzeLayers(
  source: LayerSource,
  found: Layers,
  config: AnalyzeConfig,
  run: RunOptions,
): Promise<LayerAnalysis[]> {
  const results: LayerAnalysis[] = []
  const { layers } = found
  let done = 0
  for (const i of fileOrder(source.model, layers)) {
    const layer = layers[i]!
    checkAborted(run.signal)
    run.onProgress?.({ stage: 'analyze', done: done++, total: layers.length, item: layer.name })
    const { reduction } = layer.view
    const groupSize = config.groupSize === 'channel' ? reduction : Math.min(config.groupSize, reduction)
    const weight = readStored(source, layer)
    const errors = await weightErrors(source.model.path, layer, () =>
      relativeErrors(weight, groupSize, BITS, source.pool, run.signal),
    )
    const { squaredNorm } = errors
    const widths = BITS.map((bits: Bits, w): WidthFigures => {
      const plan = planLayer(layer, { bits, groupSize: config.groupSize, symmetric: 'auto' }, TARGET)
      const { squaredError, scheme, scaleType } = errors.widths[w]!
      return {
        bits,
        storedBytes: storedBytes(plan, scheme !== 'asymmetric', scaleType),
        relativeError: squaredNorm === 0 ? 0 : squaredError / squaredNorm,
      }
    })
    results[i] = { layer, widths, squaredNorm }
  }
  return results
}

/** The layers' rows of the report, and the totals over them. */
export function summarize(
  found: Layers,
  analyses: readonly LayerAnalysis[],
  shapes: ReadonlyMap<string, InferredShape>,
  leftAloneBytes: number,
  totalBytes: number,
): Pick<AnalyzeReport, 'layers' | 'totals'> {
  const infos = analyses.map(({ layer }) => layerInfo(found, layer, shapes))
  const weightBytes = infos.reduce((sum, info) => sum + info.bytes, 0)
  const norm = analyses.reduce((sum, analysis) => sum + analysis.squaredNorm, 0)
  const widths = BITS.map((bits, w): WidthFigures => {
    const error = analyses.reduce((sum, { widths: own, squaredNorm }) => sum + own[w]!.relativeError * squaredNorm, 0)
    const bytes = analyses.reduce((sum, { widths: own }) => sum + own[w]!.storedBytes, 0)
    return { bits, storedBytes: bytes, relativeError: norm === 0 ? 0 : error / norm }
  })
  return {
    layers: infos.map((info, i) => ({ ...info, shareOfBytes: info.bytes / totalBytes, widths: analyses[i]!.widths })),
    totals: {
      weights: infos.reduce((sum, info) => sum + info.weights, 0),
      weightBytes,
      leftAloneBytes,
      otherBytes: totalBytes - weightBytes - leftAloneBytes,
      widths,
    },
  }
}

/** @file The quantize report, from what was planned, chosen, written and verified. */
import { codebookNamed } from '../codebook/codebookForms.ts'
import type { QuantizeConfig } from '../config.ts'
import { fileSizes } from '../onnx/fileSizes.ts'
import { findConstant } from '../onnx/graph.ts'
import type { Layers, WeightedLayer } from '../onnx/layers.ts'
import { layerMacs } from '../onnx/macs.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { planOpset } from '../onnx/opset.ts'
import { elementTypeName, tensorByteLength } from '../onnx/tensorData.ts'
import type { CodebookForm } from '../quant/codebookWeight.ts'
import type {
  AllocationReport,
  CalibrationReport,
  FileSizes,
  LayerInfo,
  LeftAlone,
  QuantizedLayer,
  QuantizeReport,
  RsqReport,
  VerifiedLayer,
} from '../report.ts'
import { SCHEMA_VERSION } from '../report.ts'
import type { BiasEdit } from './biasEdits.ts'
import type { PlannedLayers } from './planLayers.ts'
import type { ModelPlan } from './planModel.ts'
import type { QuantizedLayerData } from './quantizeLayers.ts'
import { storedTotal } from './storedTotal.ts'

/** What every report says of a layer. @param shapes inferred output shapes, where the model declares none. */
export function layerInfo(
  found: Layers,
  layer: WeightedLayer,
  shapes?: ReadonlyMap<string, readonly (number | string | undefined)[]>,
): LayerInfo {
  const { tensor, name } = layer.constant
  return {
    name: layer.name,
    weight: name,
    operators: [...new Set(layer.uses.map((use) => use.node.opType))],
    shape: layer.dims,
    elementType: elementTypeName(tensor.dataType),
    weights: layer.weights,
    bytes: tensorByteLength(tensor),
    macs: layerMacs(found.index, layer, shapes),
  }
}

/** Every float tensor that stays as it is; vectors (biases, norms) that share a reason and operator in one entry. */
export function leftAlone(found: Layers, skipped: PlannedLayers['skipped']): LeftAlone[] {
  const own = skipped.map(({ layer, reason }): LeftAlone => {
    const { name, weight, operators, bytes } = layerInfo(found, layer)
    return { name, operator: operators.join('+'), weight, bytes, reason }
  })
  const grouped = new Map<string, LeftAlone & { count: number }>()
  for (const { constant, operator, node, reason } of found.unquantizable) {
    const bytes = tensorByteLength(constant.tensor)
    const isVector = constant.tensor.dims.filter((d) => d > 1n).length <= 1
    const key = isVector ? `${operator} ${reason}` : `${constant.name} ${node}`
    const known = grouped.get(key)
    const count = (known?.count ?? 0) + 1
    const total = (known?.bytes ?? 0) + bytes
    const shown =
      count === 1 ? { name: node, weight: constant.name } : { name: `${count} nodes`, weight: `${count} tensors` }
    grouped.set(key, { ...shown, operator, bytes: total, reason, count })
  }
  // A tensor is listed once: on its own, or with the first quantized node that reads it.
  const listed = new Set([...found.layers, ...found.unquantizable].map(({ constant }) => constant.tensor))
  const quantized = found.quantizedNodes.map(({ scope, node }): LeftAlone => {
    const all = node.input.flatMap((name) => (name && findConstant(scope, name)) || [])
    const constants = all.filter(({ tensor }) => !listed.has(tensor))
    for (const { tensor } of constants) listed.add(tensor)
    const bytes = constants.reduce((sum, { tensor }) => sum + tensorByteLength(tensor), 0)
    const weight = constants[0]?.name ?? '-'
    return {
      name: node.name || node.output[0] || '',
      operator: node.opType,
      weight,
      bytes,
      reason: 'already quantized',
    }
  })
  return [
    ...own,
    ...[...grouped.values()].map(({ count: _count, ...entry }) => entry),
    ...quantized.filter((q) => q.bytes > 0),
  ]
}

export interface QuantizeOutcome {
  readonly model: OnnxModel
  readonly found: Layers
  readonly plan: ModelPlan
  readonly layers: readonly QuantizedLayerData[]
  readonly biases: readonly BiasEdit[]
  /** What calibration had to say. */
  readonly notices: readonly string[]
  /** How widths were given to layers; undefined where all are alike. */
  readonly allocation: AllocationReport | undefined
  /** Undefined without calibration data. */
  readonly calibration: CalibrationReport | undefined
  readonly rsq: RsqReport | undefined
  readonly sha256: readonly { readonly path: string; readonly sha256: string }[]
  readonly output: FileSizes
  readonly loading: QuantizeReport['loading']
  /** Bytes of each layer as written, where that is not the compact form. */
  readonly expandedBytes: readonly number[] | undefined
  readonly verified: readonly VerifiedLayer[] | undefined
  readonly seconds: number
  readonly warnings: readonly string[]
}

export function quantizeReport(outcome: QuantizeOutcome, config: QuantizeConfig, qtoolVersion: string): QuantizeReport {
  const { model, found, plan, layers, output } = outcome
  const source = fileSizes(model)
  const opset = planOpset(model.proto, plan.target.opset)
  const expanded = outcome.expandedBytes
  const rows = layers.map((layer, i) => quantizedLayer(found, layer, config, expanded?.[i]))
  const stored = expanded ? expanded.reduce((total, bytes) => total + bytes, 0) : storedTotal(layers)
  const weights = rows.reduce((sum, row) => sum + row.weights, 0)
  const sum = (value: (layer: QuantizedLayerData) => number) => layers.reduce((total, layer) => total + value(layer), 0)
  const norm = sum((layer) => layer.squaredNorm)
  return {
    schemaVersion: SCHEMA_VERSION,
    kind: 'quantize',
    qtoolVersion,
    dryRun: config.dryRun,
    source: { ...source, sha256: outcome.sha256 },
    output,
    budget: config.budget,
    format: config.format,
    opset: { from: opset.from, to: opset.to },
    layers: rows,
    leftAlone: leftAlone(found, plan.skipped),
    totals: {
      weights,
      meanBits: weights === 0 ? 0 : rows.reduce((total, row) => total + row.bits * row.weights, 0) / weights,
      bitsPerWeight: weights === 0 ? 0 : (8 * stored) / weights,
      relativeError: norm === 0 ? 0 : sum((layer) => layer.squaredError) / norm,
      ratio: output.totalBytes / source.totalBytes,
    },
    loading: outcome.loading,
    allocation: outcome.allocation,
    calibration: outcome.calibration,
    rsq: outcome.rsq,
    verified: outcome.verified,
    seconds: outcome.seconds,
    warnings: outcome.warnings,
  }
}

/** @param expanded bytes of the layer as written; undefined where that is the compact form. */
function quantizedLayer(
  found: Layers,
  layer: QuantizedLayerData,
  config: QuantizeConfig,
  expanded: number | undefined,
): QuantizedLayer {
  const { plan, choice, tensors, squaredError, squaredNorm } = layer
  const info = layerInfo(found, plan.layer)
  const storedBytes = expanded ?? tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)
  return {
    ...info,
    bits: plan.bits,
    groupSize: plan.groupSize,
    ...(choice ?? tablesOf(plan.codebook!, config)),
    scaleType: layer.scaleType,
    representations: [...new Set(plan.uses)],
    storedBytes,
    bitsPerWeight: (8 * storedBytes) / info.weights,
    relativeError: squaredNorm === 0 ? 0 : squaredError / squaredNorm,
    notes: plan.notes,
    calibration: layer.calibration,
  }
}

function tablesOf({ coding, tables, shared, permuted }: CodebookForm, config: QuantizeConfig) {
  const name = codebookNamed(config)
  return { method: 'codebook', codebook: { name, coding, tables, shared, permuted } } as const
}

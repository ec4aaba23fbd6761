/** @file What a written model says of how it was made, in its `metadata_props`. The same input gives the same bytes. */
import { isCalibrated, type QuantizeConfig } from '../config.ts'
import { METADATA, type PlanEntry } from '../onnx/metadata.ts'
import { type ModelProto, makeMetadata } from '../onnx/proto.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import type { GridMethod } from '../quant/grid.ts'
import type { GridScheme } from '../quant/quantizedWeight.ts'

/** How one layer's grid was chosen. A layer whose levels come from tables has none. */
export interface GridChoice {
  readonly scheme: GridScheme
  readonly method: GridMethod
}

/**
 * The options that shape the output; threads, verification and the like do not, and would make equal outputs differ. A
 * budget stands there as what it came to. Paths do not either: the same data in another place are the same.
 */
function shapingOptions(config: QuantizeConfig): Partial<QuantizeConfig> {
  const { bits, groupSize, method, symmetric, layers, format, accuracyLevel, seed } = config
  const { scales } = config
  const form = { ...(scales === 'auto' ? {} : { scales }), ...(config.expand ? { expand: true } : {}) }
  const own = {
    bits,
    groupSize,
    method,
    symmetric,
    layers,
    format,
    accuracyLevel,
    ...form,
    seed,
    ...methodSettings(config),
  }
  if (!isCalibrated(config)) return own
  const { damping } = config
  // Without data, what is said of them are defaults that nothing came from.
  if (config.data.length === 0) return { ...own, damping }
  return { ...own, damping, ...samplingOptions(config) }
}

/** Which samples, and how they became inputs. */
function samplingOptions(config: QuantizeConfig): Partial<QuantizeConfig> {
  const { samples, holdout, select, seqLen, rename, set, normalize, imageSize, layout } = config
  return { samples, holdout, select, seqLen, rename, set, normalize, imageSize, layout }
}

/**
 * What a method is told besides: which codebook, or which rotations are tried and how tokens are weighed. What came of it
 * follows from these.
 */
export function methodSettings(config: QuantizeConfig): Partial<QuantizeConfig> {
  if (config.method === 'codebook') {
    const { codebook, rowGroups, trellisWindow, mapping } = config
    return { codebook, rowGroups, trellisWindow, mapping }
  }
  if (config.method !== 'rsq') return {}
  const { rotation, rotationSeeds, onlineRotation, tokenImportance, roll } = config
  const { importanceMin, importanceExponent, importanceLength, importanceQuantile } = config
  const importance = { importanceMin, importanceExponent, importanceLength, importanceQuantile }
  return { rotation, rotationSeeds, onlineRotation, tokenImportance, roll, ...importance }
}

/**
 * Enter how the model was made, in place, replacing what an earlier run of qtool entered.
 * @param sha256  of the source's files, the .onnx file first.
 * @param choices one per plan; undefined for a layer whose levels come from tables.
 */
export function writeMetadataInPlace(
  proto: ModelProto,
  version: string,
  config: QuantizeConfig,
  sha256: readonly string[],
  plans: readonly LayerPlan[],
  choices: readonly (GridChoice | undefined)[],
): void {
  const keys: readonly string[] = Object.values(METADATA)
  const kept = proto.metadataProps.filter((entry) => !keys.includes(entry.key))
  const plan = plans.map(
    (p, i): PlanEntry => ({
      weight: p.layer.constant.name,
      bits: p.bits,
      group: p.groupSize,
      ...(choices[i] ?? tablesOf(p)),
      as: [...new Set(p.uses)].join('+'),
    }),
  )
  proto.metadataProps = [
    ...kept,
    makeMetadata(METADATA.version, version),
    makeMetadata(METADATA.source, `sha256:${sha256.join(',')}`),
    makeMetadata(METADATA.config, JSON.stringify(shapingOptions(config))),
    makeMetadata(METADATA.plan, JSON.stringify(plan)),
  ]
}

/** What stands in place of a grid. */
function tablesOf({ codebook }: LayerPlan): Pick<PlanEntry, 'method' | 'coding' | 'tables'> {
  if (!codebook) throw new RangeError('metadata: a layer has neither a grid nor tables')
  const { coding, tables } = codebook
  const size = coding.kind === 'vector' ? coding.dim : coding.kind === 'trellis' ? coding.window : ''
  return { method: 'codebook', coding: `${coding.kind}${size}`, tables }
}

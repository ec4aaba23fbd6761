/** @file What qtool writes into a model's `metadata_props` about how the model was made, and reads back. */
import type { ModelProto } from './proto.ts'

/** Keys that qtool writes. */
export const METADATA = {
  version: 'qtool.version',
  source: 'qtool.source',
  config: 'qtool.config',
  plan: 'qtool.plan',
} as const

/** One quantized layer, as the plan in the metadata tells it. */
export interface PlanEntry {
  readonly weight: string
  readonly bits: number
  readonly group: number
  /** Of a grid. */
  readonly scheme?: string
  /** How the grid was found, or 'codebook'. */
  readonly method: string
  /** How indices find levels, and the number of tables. */
  readonly coding?: string
  readonly tables?: number
  readonly as: string
}

/**
 * Weights that qtool quantized, in the order of their numbers: decode nodes of weight i are named `qtool/i/<step>`.
 * Empty for a model that qtool did not write, and when the entry was tampered with.
 */
export function plannedWeights(model: ModelProto): string[] {
  const entry = model.metadataProps.find(({ key }) => key === METADATA.plan)
  if (!entry) return []
  try {
    return (JSON.parse(entry.value) as PlanEntry[]).map(({ weight }) => String(weight))
  } catch {
    return []
  }
}

/** @file What a plan says of a layer's codebook, as the solver takes it. */
import type { CodebookForm, IndexBits } from '../quant/codebookWeight.ts'
import type { Mapping } from './codebookForms.ts'

export interface CodebookOptions {
  readonly bits: IndexBits
  /** Input columns that share a scale; K for one scale per row. */
  readonly groupSize: number
  readonly form: CodebookForm
  /** All but `descent`, the default, for scalar codes with tables of their own. */
  readonly mapping?: Mapping | undefined
}

/** What {@link codebookOptions} reads of a plan. */
interface Planned {
  readonly bits: number
  readonly groupSize: number
  readonly codebook: CodebookForm | undefined
  readonly layer: { readonly weights: number }
}

/** Mixtures that are learned, at most: three times as many float64 are held at once. */
const MOST_MIXTURES = 2 ** 24

/**
 * Undefined for a grid.
 * @param mapping wanted; a layer with too many weights times levels has `descent` instead.
 */
export function codebookOptions(plan: Planned, mapping: Mapping = 'descent'): CodebookOptions | undefined {
  const { bits, groupSize, codebook, layer } = plan
  if (!codebook) return undefined
  const fits = layer.weights * 2 ** bits <= MOST_MIXTURES
  return { bits: bits as IndexBits, groupSize, form: codebook, mapping: fits ? mapping : 'descent' }
}

/** The window in which candidates for a trellis are compared: the wider one takes 16 times as long. */
const DRAFT_WINDOW = 8

/** The same with as little to search as there is; the form is then not that of the file, or the mapping not the one asked for. */
export function draftOf(options: CodebookOptions): CodebookOptions {
  const { form, mapping } = options
  if (mapping !== undefined && mapping !== 'descent') return { ...options, mapping: 'descent' }
  if (form.coding.kind !== 'trellis' || form.coding.window === DRAFT_WINDOW) return options
  return { ...options, form: { ...form, coding: { kind: 'trellis', window: DRAFT_WINDOW } } }
}

/** Levels that the solver compares for a weight. */
export function levelsCompared({ bits, form: { coding } }: CodebookOptions): number {
  if (coding.kind === 'scalar') return 1 << bits
  return coding.kind === 'vector' ? 256 : 1 << coding.window
}

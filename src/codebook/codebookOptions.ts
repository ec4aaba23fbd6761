/** @file What a plan says of a layer's codebook, as the solver takes it. */
import type { CodebookForm, IndexBits } from '../quant/codebookWeight.ts'

export interface CodebookOptions {
  readonly bits: IndexBits
  /** Input columns that share a scale; K for one scale per row. */
  readonly groupSize: number
  readonly form: CodebookForm
}

/** Undefined for a grid. */
export function codebookOptions(plan: {
  readonly bits: number
  readonly groupSize: number
  readonly codebook: CodebookForm | undefined
}): CodebookOptions | undefined {
  const { bits, groupSize, codebook } = plan
  return codebook && { bits: bits as IndexBits, groupSize, form: codebook }
}

/** The window in which candidates for a trellis are compared: the wider one takes 16 times as long. */
const DRAFT_WINDOW = 8

/** The same with as little to search as there is; the form is then not that of the file. */
export function draftOf(options: CodebookOptions): CodebookOptions {
  const { form } = options
  if (form.coding.kind !== 'trellis' || form.coding.window === DRAFT_WINDOW) return options
  return { ...options, form: { ...form, coding: { kind: 'trellis', window: DRAFT_WINDOW } } }
}

/** Levels that the solver compares for a weight. */
export function levelsCompared({ bits, form: { coding } }: CodebookOptions): number {
  if (coding.kind === 'scalar') return 1 << bits
  return coding.kind === 'vector' ? 256 : 1 << coding.window
}

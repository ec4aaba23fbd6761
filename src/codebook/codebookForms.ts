/**
 * @file The codebooks that a user can name: the widths that each has, and the form that it takes in a layer. What its
 * numbers are is decided elsewhere, from the weights.
 */
import type { CodebookForm, IndexBits, TrellisWindow } from '../quant/codebookWeight.ts'

/**
 * - `jlcm`: scalars, a few tables that groups of rows share.
 * - `lut`: scalars, a table per row.
 * - `nf4`: scalars, one fixed table (NormalFloat, Dettmers et al. 2023).
 * - `vq`: vectors with 256 entries, one table per layer.
 * - `trellis`: a fixed table of which each weight sees a part, which the weights before it decide.
 */
export const CODEBOOK_NAMES = ['jlcm', 'lut', 'nf4', 'vq', 'trellis'] as const
export type CodebookName = (typeof CODEBOOK_NAMES)[number]

/**
 * How the levels of weights are found once columns have been decided one after the other: by discrete moves, or by gradient
 * descent on mixtures of levels with the paper's distance-weighted update, or with the plain gradient of the softmax.
 */
export const MAPPINGS = ['descent', 'proximal', 'softmax'] as const
export type Mapping = (typeof MAPPINGS)[number]

/** What method `codebook` makes. */
export interface CodebookSettings {
  /**
   * `auto`: trellis; with data, a grid of the same width in the layers where that loses less. `light`: the same with a window of 8,
   * and where layers are allocated, grids alone in models of more than 20 million weights.
   */
  readonly codebook: 'auto' | 'light' | CodebookName
  /** Different tables of `jlcm`, 1 … 16; `auto`: as many as pay for themselves in stored bytes. */
  readonly rowGroups: 'auto' | number
  /** Bits of an index of `trellis`; `auto`: 12 in a model of one to 20 million weights, else 8. */
  readonly trellisWindow: 'auto' | TrellisWindow
  /** All but `descent` go with `jlcm` and `lut`, and with data or statistics. */
  readonly mapping: Mapping
}

/** Row groups of `jlcm` that a plan counts on until the weights have decided: as many as there may be. */
const MOST_ROW_GROUPS = 16
/**
 * The wider window is worth .04 bits per weight (½·log2 of .0804 over .0761), and its table takes 4 kB: that is less from a
 * million weights on. It takes 16 times as long to search, and more memory at load: a minute in a model of 3 million.
 */
const WIDE_WINDOW = { from: 1e6, below: 20e6 }

const BITS: Readonly<Record<CodebookName, readonly IndexBits[]>> = {
  jlcm: [4, 3, 2],
  lut: [4, 3, 2],
  nf4: [4],
  vq: [4, 2],
  trellis: [4, 3, 2],
}

/** The codebook that a setting stands for. */
export function codebookNamed({ codebook }: Pick<CodebookSettings, 'codebook'>): CodebookName {
  return isAutomatic({ codebook }) ? 'trellis' : (codebook as CodebookName)
}

/** True where no codebook is named: grids may take its place. */
export function isAutomatic({ codebook }: Pick<CodebookSettings, 'codebook'>): boolean {
  return codebook === 'auto' || codebook === 'light'
}

/** The window that a setting asks for. */
export function windowAsked({
  codebook,
  trellisWindow,
}: Pick<CodebookSettings, 'codebook' | 'trellisWindow'>): CodebookSettings['trellisWindow'] {
  return codebook === 'light' && trellisWindow === 'auto' ? 8 : trellisWindow
}

/** Widths of an index that a codebook has, the widest first. */
export function codebookBits(name: CodebookName): readonly IndexBits[] {
  return BITS[name]
}

/** True when a codebook has indices of a width. */
export function hasBits(name: CodebookName, bits: number): bits is IndexBits {
  return (BITS[name] as readonly number[]).includes(bits)
}

/**
 * The form of a layer.
 * @param bits one of {@link codebookBits}.
 * @param rows of the layer, N ≥ 1.
 * @param weights of all layers of the model: one window serves them all.
 * @param runs of `jlcm`: rows of each table, where those of a table were put one after the other.
 * @throws RangeError for a width that the codebook does not have.
 */
export function codebookForm(
  name: CodebookName,
  bits: IndexBits,
  rows: number,
  { rowGroups, trellisWindow, weights }: Omit<CodebookSettings, 'codebook' | 'mapping'> & { readonly weights: number },
  runs?: readonly number[] | undefined,
): CodebookForm {
  if (!hasBits(name, bits)) throw new RangeError(`codebook ${name} has no indices of ${bits} bits`)
  const scalar = { kind: 'scalar' } as const
  switch (name) {
    case 'jlcm': {
      if (runs) return { coding: scalar, tables: runs.length, shared: false, permuted: false, runs }
      const form = { coding: scalar, shared: false, permuted: true }
      if (rowGroups === 'auto') return { ...form, tables: Math.min(rows, MOST_ROW_GROUPS), mostTables: true }
      const tables = Math.min(rows, rowGroups)
      return { ...form, tables, permuted: tables > 1 }
    }
    case 'lut':
      return { coding: scalar, tables: rows, shared: false, permuted: false }
    case 'nf4':
      return { coding: scalar, tables: 1, shared: true, permuted: false }
    case 'vq':
      return { coding: { kind: 'vector', dim: bits === 2 ? 4 : 2 }, tables: 1, shared: false, permuted: false }
    case 'trellis': {
      const isWide = weights >= WIDE_WINDOW.from && weights < WIDE_WINDOW.below
      const window = trellisWindow === 'auto' ? (isWide ? 12 : 8) : trellisWindow
      return { coding: { kind: 'trellis', window }, tables: 1, shared: true, permuted: false }
    }
  }
}

/** ‖W − Ŵ‖² / ‖W‖² of the best table of 2^b levels for normal weights (Max 1960, table 1). */
const SCALAR_ERROR: Readonly<Record<IndexBits, number>> = { 2: 0.1175, 3: 0.03454, 4: 0.009497 }

/**
 * What an index is expected to cost in precision, before any weight is looked at: that of the best scalar table for normal
 * weights, less the share that a scale fitted to a group takes back, one of its `size` dimensions. Other codings have
 * less; budgets compare widths and group sizes of one codebook, so the order is what counts.
 * @param size columns that share a scale, at least 1.
 */
export function expectedIndexError(bits: IndexBits, size: number): number {
  return SCALAR_ERROR[bits] * (1 - 1 / size)
}

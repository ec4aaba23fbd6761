/** @file Plans a layer whose weight is indices into tables: `indices` storage. */
import type { CodebookForm, IndexBits } from '../../quant/codebookWeight.ts'
import { type Bits, groupsPerRow } from '../../quant/quantizedWeight.ts'
import type { RepresentationName } from '../../report.ts'
import type { WeightedLayer } from '../layers.ts'
import { indicesPerBytes, looksUpBytes } from './codebookForm.ts'
import { balancedGroups, kernelBlockFor, kernelGroups } from './grouping.ts'
import { BLOCKED_DEQUANTIZE_OPSET, type LayerPlan, type Target } from './plan.ts'

/**
 * A table of at most this many weights is decoded at load and gathered as floats (256 kB): decoding the rows of every
 * lookup costs a small model a third of its time (char-lstm, one token: 81 µs, float 59 µs).
 */
const SMALL_TABLE = 65_536

interface CodebookChoice {
  readonly bits: Bits
  readonly groupSize: number | 'channel'
  readonly codebook: CodebookForm
}

/**
 * Plan a layer. Products read the levels through the 8-bit MatMulNBits (or a DequantizeLinear that becomes one), lookups
 * in large tables gather stored bytes and decode those, and anything else reads a float tensor that is folded at load.
 * @param served by use: a low-bit operator may take its place.
 * @throws RangeError for a form that is none: several tables of vectors or of a trellis, runs that are not of its rows.
 */
export function planCodebook(
  layer: WeightedLayer,
  { bits, groupSize, codebook }: CodebookChoice,
  target: Target,
  served: readonly boolean[],
): LayerPlan {
  if (codebook.tables < 1 || (codebook.tables > 1 && codebook.coding.kind !== 'scalar')) {
    throw new RangeError(`tables: want 1 for ${codebook.coding.kind} codes, got ${codebook.tables}`)
  }
  checkRuns(layer, codebook)
  const notes: string[] = []
  const cols = layer.view.reduction
  const standard = target.format === 'standard'
  const blocked = target.opset >= BLOCKED_DEQUANTIZE_OPSET
  const isSmall = layer.view.outer * layer.view.inner * cols <= (target.smallTable ?? SMALL_TABLE)
  const uses = layer.uses.map(({ kernel }, i): RepresentationName => {
    if (!served[i]) return 'folded'
    if (kernel === 'gather') return isSmall ? 'folded' : 'gather-rows'
    if (!standard) return 'MatMulNBits'
    return blocked ? 'DequantizeLinear' : 'folded'
  })
  if (standard && !blocked) {
    notes.push(`opset ${target.opset} has no blocked DequantizeLinear; decoded with Cast, Sub and Mul`)
  }
  const fields = indicesPerBytes(codebook, bits as IndexBits)
  const hasKernel = uses.includes('MatMulNBits') || uses.includes('DequantizeLinear')
  const grouping = hasKernel
    ? kernelGroups(layer, cols, groupSize, kernelBlockFor(cols, groupSize, 8))
    : balancedGroups(layer, cols, groupSize, fields)
  // A block is filled up at load; rows that are gathered in groups need it filled up already.
  const fillsGroups = uses.includes('gather-rows') && groupsPerRow(cols, grouping.groupSize) > 1
  return {
    ...grouping,
    paddedCols: fillsGroups ? grouping.paddedCols : Math.ceil(cols / fields) * fields,
    bits,
    symmetric: 'yes',
    codebook,
    storage: 'indices',
    uses,
    decodesTensor: uses.includes('folded') || layer.hasOtherReaders,
    notes,
  }
}

function checkRuns({ view, uses }: WeightedLayer, form: CodebookForm): void {
  const { runs, tables } = form
  if (!runs) return
  const rows = view.outer * view.inner
  const isWhole = runs.every((count) => count > 0) && runs.reduce((sum, count) => sum + count, 0) === rows
  const isGathered = uses.some(({ kernel }) => kernel === 'gather')
  if (!isWhole || runs.length !== tables || !looksUpBytes(form) || isGathered) {
    throw new RangeError(`runs: want ${tables} of ${rows} rows that are never gathered, got ${runs.join(', ')}`)
  }
}

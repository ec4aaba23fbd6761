/**
 * @file Nodes that turn the indices of a codebook into levels. All inputs are constants, so onnxruntime folds them at load:
 * the 8-bit kernel gets its levels, and a rebuilt float tensor its values.
 */
import { type IndexBits, lanesOf, type TrellisWindow } from '../../quant/codebookWeight.ts'
import { DataType } from '../proto.ts'
import { emitByteLookup, emitRowTables } from './byteLookup.ts'
import { LEVEL_ZERO, looksUpBytes, stepEnd, trellisStream } from './codebookForm.ts'
import { type Emitter, emitSlice } from './emitter.ts'
import type { LayerPlan } from './plan.ts'
import { rowsOf } from './stored.ts'
import { emitCodes, planeNames, type StoredNames } from './unpack.ts'

const INT32 = { attributes: { to: DataType.INT32 } }

/** Columns of {@link emitLevels}: whole blocks where a kernel or groups of columns need them. */
export function levelCols({ uses, layer, groupSize, kernelBlock, paddedCols }: LayerPlan): number {
  const { reduction } = layer.view
  const whole = uses.includes('MatMulNBits') || groupSize < reduction
  return whole ? Math.ceil(reduction / kernelBlock) * kernelBlock : paddedCols
}

/**
 * Emit the lookup of a whole layer.
 * @returns name of uint8 levels + 128, [rows, levelCols]; columns beyond the layer's hold anything.
 */
export function emitLevels(to: Emitter, plan: LayerPlan, names: StoredNames): string {
  const rows = rowsOf(plan)
  const levels = emitStoredLevels(to, plan, names, rows)
  const missing = levelCols(plan) - plan.paddedCols
  if (missing === 0) return levels
  const tail = to.node('tail', 'Tile', [to.uint8([1, 1], [LEVEL_ZERO]), to.int64([rows, missing])])
  return to.node('levels.blocks', 'Concat', [levels, tail], { attributes: { axis: 1 } })
}

function emitStoredLevels(to: Emitter, plan: LayerPlan, names: StoredNames, rows: number): string {
  const { coding } = plan.codebook!
  if (coding.kind === 'scalar') {
    if (looksUpBytes(plan.codebook!)) return emitByteLookup(to, plan, names, rows)
    const codes = emitCodes(to, plan, planeNames(plan, names), rows)
    return emitRowTables(to, codes, emitTablesOfRows(to, names))
  }
  const lanes = lanesOf(coding, rows)
  const [levels, steps] =
    coding.kind === 'vector' ? [emitVectors(to, names), coding.dim] : emitTrellis(to, plan, coding.window, names, rows)
  const all = to.node('levels', 'Reshape', [levels, to.int64([steps * lanes, plan.paddedCols])])
  return steps * lanes === rows ? all : emitSlice(to, 'rows', all, 0, rows)
}

/** One table a row, [rows, entries]: stored so, or the rows' tables put in their order. */
function emitTablesOfRows(to: Emitter, { tables, tableOf }: StoredNames): string {
  if (!tableOf) return tables!
  return to.node('tables.rows', 'Gather', [tables!, to.node('tableOf.int', 'Cast', [tableOf], INT32)])
}

/** Vectors [lanes, cols] → [dim, lanes, cols]: the table is stored [dim, 256], so that steps come out first. */
function emitVectors(to: Emitter, { codes, tables }: StoredNames): string {
  return to.node('vectors', 'Gather', [tables!, to.node('codes.int', 'Cast', [codes!], INT32)], {
    attributes: { axis: 1 },
  })
}

/**
 * Cut the index of every step out of words of two or three bytes. The table is repeated until any word, shifted down, is
 * an index into it, which saves masking the bits above.
 *
 * Steps that end in the same byte differ in the shift alone, by broadcasting; at 3 bits a word is gathered for each step.
 * @returns the name of levels [steps, lanes, cols] in some shape, and the number of steps; the last may not be there.
 */
function emitTrellis(
  to: Emitter,
  plan: LayerPlan,
  window: TrellisWindow,
  names: StoredNames,
  rows: number,
): [levels: string, steps: number] {
  const bits = plan.bits as IndexBits
  const { lanes, steps, bytes, stepsPerByte, wordBits } = trellisStream(rows, bits, window)
  const ones = stepsPerByte ? [1, 1, 1] : [1, 1]
  const own = plan.uses.includes('gather-rows')
    ? to.node('bytes', 'Reshape', [names.codes!, to.int64([bytes, ...ones.slice(2), lanes, plan.paddedCols])])
    : names.codes!
  /** Each byte replaced by the one `back` before it, times `factor`; zeros before the start. */
  const before = (back: number, factor: number, dropBits: number): string => {
    const from = Array.from({ length: bytes }, (_, j) => Math.max(0, j - back))
    let moved = to.node(`back${back}`, 'Gather', [own, to.int64(from)])
    if (dropBits > 0) {
      moved = to.node(`back${back}.low`, 'BitShift', [moved, to.uint8([1], [dropBits])], {
        attributes: { direction: 'LEFT' },
      })
    }
    const factors = from.map((_, j) => (j < back ? 0 : factor))
    const cast = to.node(`back${back}.int`, 'Cast', [moved], INT32)
    return to.node(`back${back}.up`, 'Mul', [cast, to.int32([bytes, ...ones], factors)])
  }
  let words = to.node('words2', 'Add', [to.node('bytes.int', 'Cast', [own], INT32), before(1, 256, 0)])
  if (wordBits > 16) {
    // Only as many low bits of the third byte as a window reaches: the higher ones leave the byte.
    const drop = 24 - wordBits
    words = to.node('words', 'Add', [words, before(2, 2 ** (16 - drop), drop)])
  }
  const ends = Array.from({ length: stepsPerByte ?? steps }, (_, step) => stepEnd(step, bits))
  if (!stepsPerByte) words = to.node('words.steps', 'Gather', [words, to.int64(ends.map(({ byte }) => byte))])
  const shifts = to.int32(
    [ends.length, 1, 1],
    ends.map(({ beyond }) => 2 ** beyond),
  )
  const index = to.node('indices', 'Div', [words, shifts])
  const table = to.node('table', 'Tile', [names.tables!, to.int64([2 ** (wordBits - window)])])
  return [to.node('looked', 'Gather', [table, index]), stepsPerByte ? stepsPerByte * bytes : steps]
}

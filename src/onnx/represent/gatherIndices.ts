/**
 * @file Lookup of a few rows of a codebook weight: the stored bytes that decide those rows are gathered and decoded, so
 * that the table stays packed in memory. The indices are not known at load, and may be negative as Gather allows.
 */
import { type CodebookForm, type IndexBits, lanesOf, type TrellisWindow } from '../../quant/codebookWeight.ts'
import { DataType } from '../proto.ts'
import { emitByteLookup, emitRowTables } from './byteLookup.ts'
import { looksUpBytes, stepEnd, trellisStream } from './codebookForm.ts'
import { type Emitter, emitSum } from './emitter.ts'
import { type LayerPlan, PLANES } from './plan.ts'
import { rowsOf, type StoredRole } from './stored.ts'
import { emitCodes, planeNames, type StoredNames } from './unpack.ts'

const INT32 = { attributes: { to: DataType.INT32 } }
const INT64 = { attributes: { to: DataType.INT64 } }

/**
 * Emit the levels of the rows that `indices` names.
 * @returns name of uint8 levels + 128, [number of indices, plan.paddedCols].
 */
export function emitGatheredLevels(to: Emitter, plan: LayerPlan, names: StoredNames, indices: string): string {
  const { coding } = plan.codebook!
  if (coding.kind === 'scalar') return emitScalar(to, plan, plan.codebook!, names, indices)
  const rows = to.int64([rowsOf(plan)])
  const lanes = to.int64([lanesOf(coding, rowsOf(plan))])
  const flat = to.node('index', 'Reshape', [to.node('index.long', 'Cast', [indices], INT64), to.int64([-1])])
  const row = to.node('row', 'Mod', [flat, rows])
  const lane = to.node('lane', 'Mod', [row, lanes])
  const step = to.node('step', 'Div', [row, lanes])
  return coding.kind === 'vector'
    ? emitVectors(to, names, lane, step)
    : emitTrellis(to, plan, coding.window, names, lane, step)
}

function emitScalar(to: Emitter, plan: LayerPlan, form: CodebookForm, names: StoredNames, indices: string): string {
  const gathered: Partial<Record<StoredRole, string>> = { tables: names.tables! }
  const gather = (role: StoredRole, dims: readonly number[]) => {
    const rows = to.node(role, 'Gather', [names[role]!, indices], { attributes: { axis: 0 } })
    gathered[role] = to.node(`${role}.flat`, 'Reshape', [rows, to.int64(dims)])
  }
  const bits = plan.bits as IndexBits
  const cols = plan.paddedCols
  if (looksUpBytes(form)) {
    if (names.tableOf) gather('tableOf', bits === 3 ? [-1, 1, 1] : [-1, 1])
    if (bits === 3) gather('high', [-1, 1, cols / 8])
    gather(bits === 3 ? 'low' : 'codes', bits === 3 ? [-1, 2, cols / 8] : [-1, (cols * bits) / 8])
    return emitByteLookup(to, plan, gathered, -1)
  }
  PLANES[bits].forEach((width, i) => {
    gather(i === 0 ? 'low' : 'high', [-1, 1, (cols * width) / 8])
  })
  const codes = emitCodes(to, plan, planeNames(plan, gathered), -1)
  if (!names.tableOf) {
    gather('tables', [-1, 2 ** bits])
    return emitRowTables(to, codes, gathered.tables!)
  }
  gather('tableOf', [-1])
  const tables = to.node('tables', 'Gather', [
    names.tables!,
    to.node('tableOf.int', 'Cast', [gathered.tableOf!], INT32),
  ])
  return emitRowTables(to, codes, tables)
}

/** The code of a row's lane and the part of the table that its step reads: one index into the flat table [dim · 256]. */
function emitVectors(to: Emitter, { codes, tables }: StoredNames, lane: string, step: string): string {
  const code = to.node('code', 'Cast', [to.node('codes', 'Gather', [codes!, lane])], INT64)
  const part = to.node('part', 'Reshape', [to.node('step.256', 'Mul', [step, to.int64([256])]), to.int64([-1, 1])])
  const flat = to.node('table', 'Reshape', [tables!, to.int64([-1])])
  return to.node('levels', 'Gather', [flat, to.node('indices', 'Add', [code, part])])
}

/** The two or three bytes that a row's window lies in, as one number; then the shift and the mask. */
function emitTrellis(
  to: Emitter,
  plan: LayerPlan,
  window: TrellisWindow,
  { codes, tables }: StoredNames,
  lane: string,
  step: string,
): string {
  const bits = plan.bits as IndexBits
  const { lanes, steps, wordBits } = trellisStream(rowsOf(plan), bits, window)
  const back = Array.from({ length: wordBits > 16 ? 3 : 2 }, (_, i) => i)
  const ends = Array.from({ length: steps }, (_, s) => stepEnd(s, bits))
  const ofStep = (name: string, table: string) => to.node(name, 'Gather', [table, step])
  const byteRows = ends.flatMap(({ byte }) => back.map((b) => Math.max(0, byte - b)))
  const factors = ends.flatMap(({ byte }) => back.map((b) => (byte < b ? 0 : 256 ** b)))
  const shifts = ends.map(({ beyond }) => 2 ** beyond)

  const byteRow = to.node('byte.long', 'Cast', [ofStep('byte', to.uint8([steps, back.length], byteRows))], INT64)
  const first = to.node('byte.first', 'Mul', [byteRow, to.int64([lanes])])
  const at = to.node('byte.at', 'Add', [first, to.node('lane.column', 'Reshape', [lane, to.int64([-1, 1])])])
  const bytes = to.node('bytes.int', 'Cast', [to.node('bytes', 'Gather', [codes!, at])], INT32)
  const factor = ofStep('factor', to.int32([steps, back.length, 1], factors))
  const parts = to.node('parts', 'Mul', [bytes, factor])
  const word = emitSum(to, 'word', parts, 1, 0)
  const shifted = to.node('shifted', 'Div', [word, ofStep('shift', to.int32([steps, 1], shifts))])
  const index = to.node('indices', 'Mod', [shifted, to.int32([1], [2 ** window])])
  return to.node('levels', 'Gather', [tables!, index])
}

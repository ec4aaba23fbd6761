/**
 * @file The bytes of a weight that is indices into tables. Tables hold level + 128, the codes of the 8-bit kernel; each
 * coding has the order of bytes that the shortest chain of nodes looks up.
 */
import { createHash } from 'node:crypto'
import {
  type CodebookWeight,
  type IndexBits,
  type TrellisWindow,
  tableLength,
  tablesOfRuns,
} from '../../quant/codebookWeight.ts'
import { type FieldWidth, packPlaneRows, packRows } from '../../quant/pack.ts'
import { LEVEL_ZERO, looksUpBytes, stepEnd, trellisStream } from './codebookForm.ts'
import type { PackedTensors } from './packLayer.ts'
import { packScales, packStep } from './packScales.ts'
import { padRows } from './padRows.ts'
import { type LayerPlan, PLANES } from './plan.ts'
import { type StoredRole, type StoredTensor, storedTensors } from './stored.ts'

/**
 * Pack a codebook weight as its plan says; not modified.
 * @throws RangeError when the weight does not have the form that was planned.
 */
export function packIndices(plan: LayerPlan, weight: CodebookWeight): PackedTensors {
  checkForm(plan, weight)
  const planned = storedTensors(plan, true, weight.scaleType)
  const bytes = planned.map(({ role }) => packTensor(plan, weight, role))
  const tensors = planned.map((tensor, i): StoredTensor => {
    const length = tensor.sharedAs === undefined ? tensor.bytes : tensor.dims.reduce((a, b) => a * b, 1)
    if (length !== bytes[i]!.length) {
      throw new RangeError(`${tensor.role} of ${plan.layer.name}: planned ${length} bytes, packed ${bytes[i]!.length}`)
    }
    if (tensor.sharedAs === undefined) return tensor
    // Two fixed tables of one form are two tensors.
    const digest = createHash('sha256').update(bytes[i]!).digest('hex')
    return { ...tensor, sharedAs: `${tensor.sharedAs} ${digest}` }
  })
  return { tensors, bytes }
}

function checkForm(plan: LayerPlan, { bits, coding, tables, tableOf, groupSize }: CodebookWeight): void {
  const form = plan.codebook
  const wanted = form && `${plan.bits} bits, ${JSON.stringify(form.coding)}, ${form.tables} tables, ${plan.groupSize}`
  const found = `${bits} bits, ${JSON.stringify(coding)}, ${tables.length / tableLength(coding, bits)} tables, ${groupSize}`
  if (wanted !== found) throw new RangeError(`codebook of ${plan.layer.name}: planned ${wanted}, got ${found}`)
  const runs = form?.runs && tablesOfRuns(form.runs)
  if (runs?.some((table, row) => table !== tableOf[row])) {
    throw new RangeError(`codebook of ${plan.layer.name}: the rows of a table do not lie in the run that was planned`)
  }
}

function packTensor(plan: LayerPlan, weight: CodebookWeight, role: StoredRole): Uint8Array {
  const { tableOf } = weight
  if (role === 'scales') return packScales(weight)
  if (role === 'step') return packStep(weight)
  if (role === 'tables') return packTables(plan, weight)
  if (role === 'tableOf') {
    return plan.codebook!.tables > 256 ? new Uint8Array(tableOf.slice().buffer) : Uint8Array.from(tableOf)
  }
  return packCodes(plan, weight, role)
}

/** Tables as they are; [dim, 256] for vectors; in the order of the rows where there is one for each. */
function packTables(plan: LayerPlan, { rows, bits, coding, tables, tableOf }: CodebookWeight): Uint8Array {
  const bytes = Uint8Array.from(tables, (level) => level + LEVEL_ZERO)
  const entries = tableLength(coding, bits)
  if (coding.kind === 'vector') {
    const { dim } = coding
    return bytes.map((_, i) => bytes[(i % 256) * dim + Math.floor(i / 256)]!)
  }
  if (plan.codebook!.tables !== rows || looksUpBytes(plan.codebook!)) return bytes
  return bytes.map((_, i) => bytes[tableOf[Math.floor(i / entries)]! * entries + (i % entries)]!)
}

function packCodes(plan: LayerPlan, weight: CodebookWeight, role: StoredRole): Uint8Array {
  const { rows, cols, bits, coding } = weight
  const { paddedCols } = plan
  if (coding.kind === 'trellis') return packStream(weight, coding.window, paddedCols)
  const codes = padRows(weight.codes, weight.codes.length / cols, cols, paddedCols)
  if (coding.kind === 'vector') return codes
  if (!looksUpBytes(plan.codebook!)) {
    const [low, high] = PLANES[bits]
    const plane = role === 'low' ? codes.map((c) => c & (2 ** low! - 1)) : codes.map((c) => c >> low!)
    return packPlaneRows(plane, rows, paddedCols, (role === 'low' ? low : high)!)
  }
  if (bits !== 3) return packRows(codes, rows, paddedCols, bits as FieldWidth)
  return role === 'low'
    ? packRows(
        codes.map((c) => c & 3),
        rows,
        paddedCols,
        2,
      )
    : packHighNibbles(codes, rows, paddedCols)
}

/** The high bits of 4 neighbours are a nibble; nibbles lie in strided planes: [rows, cols / 8]. */
function packHighNibbles(codes: Uint8Array, rows: number, cols: number): Uint8Array {
  const nibbles = new Uint8Array(codes.length / 4)
  codes.forEach((code, i) => {
    nibbles[i >> 2]! |= (code >> 2) << (i & 3)
  })
  return packPlaneRows(nibbles, rows, cols / 4, 4)
}

/** Bit streams of a trellis, see {@link trellisStream}: [bytes, lanes, paddedCols]. Rows that are not there are zeros. */
function packStream(
  { rows, cols, bits, codes }: CodebookWeight,
  window: TrellisWindow,
  paddedCols: number,
): Uint8Array {
  const { lanes, bytes } = trellisStream(rows, bits, window)
  const stream = new Uint8Array(bytes * lanes * paddedCols)
  for (let row = 0; row < rows; row++) {
    const { byte, beyond } = stepEnd(Math.floor(row / lanes), bits as IndexBits)
    const at = (byte * lanes + (row % lanes)) * paddedCols
    const straddles = beyond + bits > 8
    for (let k = 0; k < cols; k++) {
      const code = codes[row * cols + k]! << beyond
      stream[at + k]! |= code & 255
      if (straddles) stream[at - lanes * paddedCols + k]! |= code >> 8
    }
  }
  return stream
}

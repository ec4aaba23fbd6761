/**
 * @file Levels of scalar codebooks by whole bytes: a table is spelled out for all values of a byte, and one lookup gives
 * the levels of every index in it. Against unpacking one by one that saves the nodes that unpack, and most of the memory
 * at load, because Gather takes its indices as int32: 4 bytes for each stored byte, not for each weight.
 */
import type { IndexBits } from '../../quant/codebookWeight.ts'
import { DataType } from '../proto.ts'
import { type Emitter, emitSum } from './emitter.ts'
import type { LayerPlan } from './plan.ts'
import type { StoredNames } from './unpack.ts'

const INT32 = { attributes: { to: DataType.INT32 } }

/**
 * Look up stored bytes.
 * @param names `codes`, or `low` and `high` at 3 bits, and `tableOf` where there are several tables: of all rows, or of
 *   gathered ones.
 * @param n rows; −1 for a number that is not known.
 * @returns name of uint8 levels + 128, [n, plan.paddedCols].
 */
export function emitByteLookup(to: Emitter, plan: LayerPlan, names: StoredNames, n: number): string {
  const bits = plan.bits as IndexBits
  const count = plan.codebook!.tables
  let index = bits === 3 ? emitWords3(to, plan, names, n) : to.node('bytes', 'Cast', [names.codes!], INT32)
  const first = emitFirst(to, plan, names, bits === 3 ? 4096 : 256)
  if (first) index = to.node('indices', 'Add', [index, first])
  const levels = to.node('looked', 'Gather', [emitSpelled(to, names.tables!, bits, count), index])
  return to.node('levels', 'Reshape', [levels, to.int64([n, plan.paddedCols])])
}

/**
 * Where the table of each row begins when tables are spelled out in `step` entries: int32 [n, 1], or [n, 1, 1] at 3 bits;
 * undefined for one table. Of runs only their ends are stored: `step` at the first row of each run but the first, summed.
 */
function emitFirst(to: Emitter, plan: LayerPlan, { tableOf }: StoredNames, step: number): string | undefined {
  if (tableOf) {
    return to.node('tableOf.first', 'Mul', [to.node('tableOf.int', 'Cast', [tableOf], INT32), to.int32([], [step])])
  }
  const { runs } = plan.codebook!
  if (!runs || runs.length === 1) return undefined
  let end = 0
  const ends = runs.slice(0, -1).map((rows) => {
    end += rows
    return end
  })
  // [T − 1, 1] at 3 bits: the axis of rows comes first, those of the ends stay.
  const at = to.int64(ends, plan.bits === 3 ? [ends.length, 1] : [ends.length])
  const starts = to.node('starts', 'OneHot', [at, to.scalar(end + runs.at(-1)!), to.int32([2], [0, step])], {
    attributes: { axis: 0 },
  })
  const all = ends.length === 1 ? starts : emitSum(to, 'starts.all', starts, 1, 1)
  return to.node('tableOf.first', 'CumSum', [all, to.int64([0], [])])
}

/** The 2 low bits of 4 indices as a byte, their high bits above: int32 [n, 2, paddedCols / 8], 0 … 4095. */
function emitWords3(to: Emitter, plan: LayerPlan, names: StoredNames, n: number): string {
  const left = to.node('high.shl', 'BitShift', [names.high!, to.uint8([2, 1], [4, 0])], {
    attributes: { direction: 'LEFT' },
  })
  const nibbles = to.node('high.shr', 'BitShift', [left, to.uint8([1], [4])], { attributes: { direction: 'RIGHT' } })
  const above = to.node('high.up', 'Mul', [to.node('high.int', 'Cast', [nibbles], INT32), to.int32([], [256])])
  const low = n < 0 ? to.node('low.rows', 'Reshape', [names.low!, to.int64([n, 2, plan.paddedCols / 8])]) : names.low!
  return to.node('words', 'Add', [to.node('low.int', 'Cast', [low], INT32), above])
}

/** Tables [T, 2^bits] spelled out: uint8 [T · 256, indices in a byte], or [T · 4096, 4] at 3 bits. */
function emitSpelled(to: Emitter, tables: string, bits: IndexBits, count: number): string {
  const fields = bits === 4 ? 2 : 4
  const width = bits === 4 ? 4 : 2
  const mask = 2 ** width - 1
  const values = Array.from(
    { length: 256 * fields },
    (_, i) => (Math.floor(i / fields) >> (width * (i % fields))) & mask,
  )
  let index = to.node('spelling', 'Cast', [to.uint8([256, fields], values)], INT32)
  if (bits === 3) {
    const high = Array.from({ length: 64 }, (_, i) => 4 * (((i >> 2) >> (i & 3)) & 1))
    index = to.node('spelling3', 'Add', [index, to.int32([16, 1, 4], high)])
  }
  const many = count > 1
  const spelled = to.node('spelled', 'Gather', [tables, index], { attributes: { axis: many ? 1 : 0 } })
  return many || bits === 3 ? to.node('spelled.flat', 'Reshape', [spelled, to.int64([-1, fields])]) : spelled
}

/** Indices one by one, where every row has a table of its own: see {@link emitByteLookup}. */
export function emitRowTables(to: Emitter, codes: string, tables: string): string {
  return to.node('levels', 'GatherElements', [tables, to.node('codes.int', 'Cast', [codes], INT32)], {
    attributes: { axis: 1 },
  })
}

/**
 * @file Forms of codebooks in files: analyses and plans say them in the same words. What a file says holds for any model of
 * the same layers: where rows have been put in the order of their tables, it is the model that knows how many each has.
 */
import type { WeightedLayer } from '../onnx/layers.ts'
import type { CodebookForm, Coding } from '../quant/codebookWeight.ts'
import type { Field } from './field.ts'

/** Places of tables have 16 bits at most. */
const MOST_TABLES = 2 ** 16

/** The form as a file says it: properties in one order, without what the model knows itself. */
export function writtenForm({ coding, tables, mostTables, shared, permuted, runs }: CodebookForm): CodebookForm {
  return { coding, tables, ...(mostTables ? { mostTables } : {}), shared, permuted: permuted || runs !== undefined }
}

/**
 * Read a form.
 * @param bits the width of the same candidate.
 * @throws QtoolError `data`, naming the field, for what no codebook is.
 */
export function formOf(field: Field, bits: Field): CodebookForm {
  if (bits.value !== 2 && bits.value !== 3 && bits.value !== 4) throw bits.wrong('2, 3 or 4 with a codebook')
  const coding = codingOf(field.get('coding'), bits.value)
  const isScalar = coding.kind === 'scalar'
  const tables = field.get('tables')
  const shared = field.get('shared')
  const permuted = field.get('permuted')
  const most = field.isAbsent('mostTables') ? undefined : field.get('mostTables')
  if (most && most.value !== true) throw most.wrong('true, or nothing')
  if (tables.count() < 1 || tables.count() > MOST_TABLES) throw tables.wrong(`a whole number from 1 to ${MOST_TABLES}`)
  if (!isScalar && tables.value !== 1) throw tables.wrong(`1 for ${coding.kind} codes`)
  if (isBoolean(shared) && !isScalar && shared.value !== (coding.kind === 'trellis')) {
    throw shared.wrong(`${coding.kind === 'trellis'} for ${coding.kind} codes`)
  }
  if (shared.value && tables.value !== 1) throw tables.wrong('1 where the table is shared by layers')
  const mayMove = isScalar && !shared.value && (tables.count() > 1 || most !== undefined)
  if (isBoolean(permuted) && permuted.value && !mayMove) throw permuted.wrong('false where all rows have one table')
  if (most && !permuted.value) throw most.wrong('nothing where rows are not permuted')
  return {
    coding,
    tables: tables.count(),
    ...(most ? { mostTables: true as const } : {}),
    shared: shared.value as boolean,
    permuted: permuted.value as boolean,
  }
}

/**
 * A form that was read, in a layer: with the runs of its rows where it has some.
 * @returns undefined where the layer has too few rows for it.
 */
export function formIn(form: CodebookForm, { view, runs }: WeightedLayer): CodebookForm | undefined {
  const { coding, tables, shared, permuted } = form
  const rows = view.outer * view.inner
  if (permuted && runs) return { coding, tables: runs.length, shared, permuted: false, runs }
  // A table for each row, where they are neither shared by layers nor by rows.
  const isFit = tables === 1 || (permuted ? tables <= rows : tables === rows)
  return isFit ? form : undefined
}

/** A form of one layer as another layer has it, of which nothing was read. */
export function formLike(form: CodebookForm, { view, runs }: WeightedLayer): CodebookForm {
  const { coding, tables, shared, permuted } = form
  const rows = view.outer * view.inner
  if (tables === 1) return form
  if (!permuted && !form.runs) return { ...form, tables: rows }
  if (runs) return { coding, tables: runs.length, shared, permuted: false, runs }
  return { ...form, tables: Math.min(tables, rows), permuted: true, runs: undefined }
}

function codingOf(field: Field, bits: 2 | 3 | 4): Coding {
  const kind = field.get('kind').oneOf(['scalar', 'vector', 'trellis'])
  if (kind === 'scalar') return { kind }
  if (kind === 'trellis') return { kind, window: field.get('window').oneOf([8, 12]) }
  const dim = field.get('dim').oneOf([2, 4])
  if (dim * bits !== 8)
    throw field.get('dim').wrong(`${bits === 2 ? 4 : bits === 4 ? 2 : 'no vectors'} at ${bits} bits`)
  return { kind, dim }
}

/** @throws QtoolError `data`. */
function isBoolean(field: Field): boolean {
  if (typeof field.value !== 'boolean') throw field.wrong('true or false')
  return true
}

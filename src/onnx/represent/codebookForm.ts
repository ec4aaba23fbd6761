/** @file What a form of codebook asks of the file: opset, bytes a row, and the bit streams of a trellis. */
import { type CodebookForm, type IndexBits, lanesOf, type TrellisWindow } from '../../quant/codebookWeight.ts'
import type { Bits } from '../../quant/quantizedWeight.ts'

/** Levels are stored as unsigned bytes around this, the zero point of the 8-bit kernel. */
export const LEVEL_ZERO = 128

/**
 * Up to this many tables are spelled out for whole bytes at load, so that one lookup gives all levels of a byte
 * (256 · T entries, 4096 · T at 3 bits). Above it every row has a table of its own and indices are unpacked one by one.
 */
const MOST_SPELLED_TABLES = 16

/** True when the indices of a scalar codebook are looked up by whole bytes. */
export function looksUpBytes(form: CodebookForm): boolean {
  return form.tables <= MOST_SPELLED_TABLES
}

/** Lowest opset at which nodes can look the indices of a form up (BitShift, GatherElements and Mod 11, BitwiseOr 18). */
export function codebookOpset(form: CodebookForm, bits: Bits): number {
  return form.coding.kind === 'scalar' && bits === 3 && !looksUpBytes(form) ? 18 : 11
}

/** Why indices of a form cannot be written; undefined when they can. */
export function whyNoCodebook(form: CodebookForm, bits: Bits, opset: number): string | undefined {
  if (bits !== 2 && bits !== 3 && bits !== 4) return `indices have 2, 3 or 4 bits, not ${bits}`
  const { coding } = form
  if (coding.kind === 'vector' && bits * coding.dim !== 8) {
    return `indices of ${coding.dim} weights have ${8 / coding.dim} bits a weight, not ${bits}`
  }
  const needed = codebookOpset(form, bits)
  return opset < needed ? `opset ${opset} cannot look its indices up (needs ${needed})` : undefined
}

/** Indices of a row that fill whole bytes in every tensor that holds them. */
export function indicesPerBytes(form: CodebookForm, bits: IndexBits): number {
  return form.coding.kind === 'scalar' ? { 2: 4, 3: 8, 4: 2 }[bits] : 1
}

/**
 * The bit stream of the lanes of a trellis: the codes of one lane and column after each other in steps, the highest bit of
 * each first, from the highest bit of byte 0 on. The index of a step is in the word of the byte that its code ends in and
 * the one or two bytes before, `beyond` bits above the lowest.
 */
export interface TrellisStream {
  readonly lanes: number
  readonly steps: number
  /** Bytes of one lane and column. */
  readonly bytes: number
  /** Steps that end in each byte; undefined at 3 bits, where it varies. */
  readonly stepsPerByte: number | undefined
  /** Bits of a word: 16, or as many as the window can reach back from the byte that it ends in. */
  readonly wordBits: number
}

export function trellisStream(rows: number, bits: IndexBits, window: TrellisWindow): TrellisStream {
  const lanes = lanesOf({ kind: 'trellis', window }, rows)
  const steps = Math.ceil(rows / lanes)
  return {
    lanes,
    steps,
    bytes: Math.ceil((steps * bits) / 8),
    stepsPerByte: bits === 3 ? undefined : 8 / bits,
    wordBits: Math.max(16, window + (bits === 3 ? 7 : 8 - bits)),
  }
}

/** Where the code of a step ends. */
export function stepEnd(step: number, bits: IndexBits): { readonly byte: number; readonly beyond: number } {
  const end = (step + 1) * bits
  const byte = Math.ceil(end / 8) - 1
  return { byte, beyond: 8 * (byte + 1) - end }
}

/**
 * Bytes in the file that runs of rows take in place of an index for each row: nodes and constants that find the table of
 * each row, beyond those that an index needs (measured). Two tables do without a sum.
 * @param tables T ≥ 2.
 */
export function runsBytes(tables: number): number {
  return (tables > 2 ? 232 : 92) + 8 * (tables - 1)
}

/** True where runs take less than an index for each row: they are stored only there. */
export function runsPay(tables: number, rows: number): boolean {
  return tables > 1 && runsBytes(tables) < rows
}

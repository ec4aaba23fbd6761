/**
 * @file `--resume FILE`: what an interrupted calibrated run has solved so far, so that the next one continues there.
 *
 * The file begins with the run's fingerprint; each solved layer is appended as one record and brought to the disk
 * before the run goes on. What follows the last intact record is what a kill has torn; it is cut off. Codes and scales
 * stay on disk: memory holds names and `info` of the layers.
 */
import fs from 'node:fs'
import path from 'node:path'
import { QtoolError } from '../errors.ts'
import { OutputFile, outputError, syncDirectory } from '../onnx/outputFiles.ts'
import { Temporaries } from '../onnx/temporaries.ts'
import { type CodebookWeight, lanesOf, tableLength } from '../quant/codebookWeight.ts'
import { type GridWeight, groupsPerRow, isCodebook, type QuantizedWeight } from '../quant/quantizedWeight.ts'
import { differences, type Fingerprint } from './fingerprint.ts'
import {
  BodyReader,
  bytesOf,
  checkPrologue,
  damaged,
  onFile,
  PROLOGUE_BYTES,
  prologueOf,
  type RecordFormat,
  type RecordPlace,
  readHead,
  writeRecord,
} from './recordFile.ts'

/** A solved layer. */
export interface SolvedRecord {
  readonly layer: string
  /** Anything that is JSON; numbers may be NaN or infinite. */
  readonly info: unknown
  readonly weight: QuantizedWeight
  /** The corrected bias, where there is one. */
  readonly bias: Float32Array | undefined
}

/** An open checkpoint. One process at a time may have it. */
export interface Checkpoint {
  /** Names of the layers in the file, in the order in which they were solved. */
  readonly solved: ReadonlySet<string>
  /** Bytes that were cut off when it was opened: 0 unless the run before was killed while it wrote. */
  readonly cutOff: number
  /** Read a layer from disk. @throws QtoolError `usage` when it is damaged; RangeError for a layer not in `solved`. */
  read(layer: string): SolvedRecord
  /** Add a layer; it is on the disk when this returns. @throws QtoolError `output`; RangeError for a layer in `solved`. */
  append(record: SolvedRecord): void
  /** Close it and delete the file: the run is complete. */
  remove(): void
  /** Close it; the file stays. */
  close(): void
}

const FORMAT: RecordFormat = {
  magic: 'qtool-resume',
  version: 1,
  holds: 'a checkpoint',
  code: 'usage',
  hint: 'delete the file to begin anew',
}

/** Head of a layer's record; its body is scales, bias, zero points or tables and the rows' tables, and codes, one after another. */
interface LayerHead {
  readonly layer: string
  readonly info: unknown
  readonly weight: Facts
  readonly hasZeroPoints: boolean
  /** Levels in all tables; 0 for a grid. */
  readonly levels: number
  /** Length, −1 for none. */
  readonly bias: number
}

/**
 * Continue the checkpoint at `file`, or create it.
 * @param fingerprint of this run: everything that the solved layers depend on, by name.
 * @throws QtoolError `usage` when the file is something else or of a run with another fingerprint (it is left as it is),
 *   `output` when it cannot be written.
 */
export function openCheckpoint(file: string, fingerprint: Fingerprint): Checkpoint {
  if (isNew(file)) create(file, fingerprint)
  const fd = openToChange(file)
  try {
    checkPrologue(fd, file, FORMAT)
    const size = fs.fstatSync(fd).size
    const header = readHead(fd, size, PROLOGUE_BYTES)
    if (!header) throw damaged(file, FORMAT, PROLOGUE_BYTES)
    checkFingerprint(file, (header.head as { readonly fingerprint: Fingerprint }).fingerprint, fingerprint)
    const { places, end } = scan(fd, size, header.end)
    if (end < size) cutInPlace(fd, file, end)
    return new OpenCheckpoint(file, fd, places, end, size - end)
  } catch (error) {
    fs.closeSync(fd)
    throw error instanceof QtoolError ? error : outputError(file, error)
  }
}

/** An empty file counts as none: it is what `mktemp` makes. */
function isNew(file: string): boolean {
  return onFile(file, FORMAT, () => {
    const status = fs.statSync(file, { throwIfNoEntry: false })
    return !status || (status.isFile() && status.size === 0)
  })
}

/** The header appears whole or not at all, so that a file without one is never ours. */
function create(file: string, fingerprint: Fingerprint): void {
  const temporaries = new Temporaries()
  const temporary = temporaries.reserve(file)
  try {
    OutputFile.write(temporary, file, (out) => {
      out.append(prologueOf(FORMAT))
      writeRecord((bytes) => out.append(bytes), { fingerprint }, 0, [])
    })
    fs.renameSync(temporary, file)
    syncDirectory(path.dirname(file))
  } catch (error) {
    temporaries.removeAll()
    throw outputError(file, error)
  }
}

function openToChange(file: string): number {
  return onFile(file, FORMAT, () => {
    if (!fs.statSync(file).isFile()) throw new QtoolError('usage', `${file} is not a plain file, wanted a checkpoint`)
    return fs.openSync(file, 'r+')
  })
}

function checkFingerprint(file: string, there: Fingerprint, here: Fingerprint): void {
  const changed = differences(there, here)
  if (changed.length === 0) return
  throw new QtoolError('usage', `${file} is the checkpoint of another run; what differs: ${changed.join(', ')}`, {
    hint: 'repeat the run that was interrupted, or delete the file to begin anew',
  })
}

/** Every record up to the first that is not intact. */
function scan(fd: number, size: number, from: number): { places: Map<string, RecordPlace>; end: number } {
  const places = new Map<string, RecordPlace>()
  let end = from
  for (;;) {
    const place = readHead(fd, size, end)
    if (!place || !new BodyReader(fd, place).isIntact()) return { places, end }
    places.set((place.head as LayerHead).layer, place)
    end = place.end
  }
}

function cutInPlace(fd: number, file: string, end: number): void {
  try {
    fs.ftruncateSync(fd, end)
    fs.fsyncSync(fd)
  } catch (cause) {
    throw outputError(file, cause)
  }
}

class OpenCheckpoint implements Checkpoint {
  readonly cutOff: number
  readonly solved: Set<string>
  readonly #file: string
  readonly #places: Map<string, RecordPlace>
  #fd: number | undefined
  #end: number

  constructor(file: string, fd: number, places: Map<string, RecordPlace>, end: number, cutOff: number) {
    this.#file = file
    this.#fd = fd
    this.#places = places
    this.solved = new Set(places.keys())
    this.#end = end
    this.cutOff = cutOff
  }

  read(layer: string): SolvedRecord {
    const place = this.#places.get(layer)
    if (!place) throw new RangeError(`checkpoint: ${layer} is not in it`)
    return onFile(this.#file, FORMAT, () => {
      const body = new BodyReader(this.#descriptor, place)
      const record = readRecord(place.head as LayerHead, body)
      if (!body.isIntact()) throw damaged(this.#file, FORMAT, place.bodyAt)
      return record
    })
  }

  append(record: SolvedRecord): void {
    if (this.#places.has(record.layer)) throw new RangeError(`checkpoint: ${record.layer} is in it already`)
    const parts = partsOf(record)
    const bodyBytes = parts.reduce((sum, part) => sum + part.length, 0)
    const fd = this.#descriptor
    const from = this.#end
    let at = from
    try {
      const write = (bytes: Uint8Array) => {
        for (let done = 0; done < bytes.length; ) done += fs.writeSync(fd, bytes, done, bytes.length - done, at + done)
        at += bytes.length
      }
      writeRecord(write, headOf(record), bodyBytes, parts)
      fs.fdatasyncSync(fd)
    } catch (cause) {
      this.#cutBack(fd)
      throw cause instanceof RangeError ? cause : outputError(this.#file, cause)
    }
    this.#places.set(record.layer, readHead(fd, at, from)!)
    this.solved.add(record.layer)
    this.#end = at
  }

  /** The file ends with a whole record again; if that fails too, the next run cuts the rest off. */
  #cutBack(fd: number): void {
    try {
      fs.ftruncateSync(fd, this.#end)
    } catch {}
  }

  remove(): void {
    this.close()
    fs.rmSync(this.#file, { force: true })
  }

  close(): void {
    if (this.#fd !== undefined) fs.closeSync(this.#fd)
    this.#fd = undefined
  }

  get #descriptor(): number {
    if (this.#fd === undefined) throw new RangeError('checkpoint: it is closed')
    return this.#fd
  }
}

/** What is said of a weight beside its arrays. */
type Facts =
  | Pick<GridWeight, 'rows' | 'cols' | 'bits' | 'groupSize' | 'scaleType' | 'scaleStep'>
  | Pick<CodebookWeight, 'rows' | 'cols' | 'bits' | 'groupSize' | 'scaleType' | 'scaleStep' | 'coding'>

function headOf({ layer, info, weight, bias }: SolvedRecord): LayerHead {
  const { rows, cols, groupSize, scaleType, scaleStep } = weight
  const common = { rows, cols, groupSize, scaleType, ...(scaleStep === undefined ? {} : { scaleStep }) }
  const isTables = isCodebook(weight)
  return {
    layer,
    info,
    weight: isTables ? { ...common, bits: weight.bits, coding: weight.coding } : { ...common, bits: weight.bits },
    hasZeroPoints: !isTables && weight.zeroPoints !== undefined,
    levels: isTables ? weight.tables.length : 0,
    bias: bias ? bias.length : -1,
  }
}

function partsOf({ layer, weight, bias }: SolvedRecord): Uint8Array[] {
  const { rows, cols, groupSize, codes, scales } = weight
  const groups = rows * groupsPerRow(cols, groupSize)
  const [ownParts, areRight] = isCodebook(weight) ? tableParts(weight) : zeroPointParts(weight, groups)
  if (scales.length !== groups || codes.length !== codesOf(weight) || !areRight) {
    throw new RangeError(
      `checkpoint: ${layer} does not have the lengths of [${rows}, ${cols}] in groups of ${groupSize}`,
    )
  }
  return [bytesOf(scales), ...(bias ? [bytesOf(bias)] : []), ...ownParts, codes]
}

/** What only one kind of weight has, and whether its lengths are right. */
type OwnParts = readonly [parts: readonly Uint8Array[], areRight: boolean]

function zeroPointParts({ zeroPoints }: GridWeight, groups: number): OwnParts {
  return zeroPoints ? [[zeroPoints], zeroPoints.length === groups] : [[], true]
}

function tableParts({ rows, bits, coding, tables, tableOf }: CodebookWeight): OwnParts {
  const isWhole = tables.length > 0 && tables.length % tableLength(coding, bits) === 0
  return [[bytesOf(tables), bytesOf(tableOf)], isWhole && tableOf.length === rows]
}

/** One byte each: vectors share a code. */
function codesOf(facts: Facts): number {
  const { rows, cols } = facts
  return cols * ('coding' in facts && facts.coding.kind === 'vector' ? lanesOf(facts.coding, rows) : rows)
}

function readRecord(head: LayerHead, body: BodyReader): SolvedRecord {
  const { layer, info, weight: facts } = head
  const { rows, cols, groupSize } = facts
  const groups = rows * groupsPerRow(cols, groupSize)
  const read = <A extends Parameters<typeof bytesOf>[0]>(array: A): A => {
    body.read(bytesOf(array))
    return array
  }
  const scales = read(new Float32Array(groups))
  const bias = head.bias < 0 ? undefined : read(new Float32Array(head.bias))
  const readCodes = () => read(new Uint8Array(codesOf(facts)))
  if ('coding' in facts) {
    const tables = read(new Int8Array(head.levels))
    const tableOf = read(new Uint16Array(rows))
    return { layer, info, weight: { ...facts, scales, tables, tableOf, codes: readCodes() }, bias }
  }
  const zeroPoints = head.hasZeroPoints ? read(new Uint8Array(groups)) : undefined
  return { layer, info, weight: { ...facts, scales, zeroPoints, codes: readCodes() }, bias }
}

/** @file Reading `--stats FILE`: saved statistics, of several files added up. */
import fs from 'node:fs'
import { QtoolError } from '../errors.ts'
import { differences } from './fingerprint.ts'
import { BodyReader, damaged, onFile, openToRead, PROLOGUE_BYTES, type RecordPlace, readHead } from './recordFile.ts'
import {
  type Accumulator,
  addBlockInPlace,
  type BlockShape,
  bytesOfBlocks,
  completeInPlace,
  emptyBlock,
  Values,
} from './statsBlock.ts'
import { STATS_FORMAT as FORMAT, type StatisticsEntry, type StatsFingerprint } from './statsFile.ts'

/** Statistics on disk: the sum over one or more files. */
export interface OpenStatistics {
  /** Of the files, in the order given. */
  readonly fingerprints: readonly StatsFingerprint[]
  /** Of the taps, in the order in which the first file has them. */
  readonly keys: readonly string[]
  /** @throws QtoolError `data` when the entry is damaged; RangeError for a key that is not there. */
  read(key: string): StatisticsEntry
  close(): void
}

/** What files must have been made with; settings that are not known here are not compared. */
type Wanted = Pick<StatsFingerprint, 'model'> & Partial<Pick<StatsFingerprint, 'settings'>>

interface EntryPlace {
  readonly place: RecordPlace
  readonly fit: readonly BlockShape[]
  readonly held: readonly BlockShape[]
}

interface StatsFile {
  readonly path: string
  readonly fd: number
  readonly fingerprint: StatsFingerprint
  readonly entries: ReadonlyMap<string, EntryPlace>
}

/**
 * Open files of statistics and check that they can be added up; sums and weights add, in an order that does not depend
 * on the order of the paths. Only heads of records are read; the numbers are checked when they are.
 * @param wanted model and perhaps settings of this run, where they must be those of the files.
 * @throws QtoolError `data` when a file cannot be read, is something else, is truncated or damaged, is of another model
 *   or other settings or has other taps than `wanted` or the first file, or when two hold statistics of the same data.
 */
export function openStatistics(paths: readonly string[], wanted?: Wanted): OpenStatistics {
  const files: StatsFile[] = []
  const close = () => {
    for (const { fd } of files.splice(0)) fs.closeSync(fd)
  }
  try {
    for (const file of paths) files.push(openFile(file))
    const first = files[0]
    if (!first) throw new RangeError('files of statistics: want at least one')
    for (const [i, file] of files.entries()) {
      if (wanted) checkSame(file, wanted, 'this run')
      checkSame(file, first.fingerprint, first.path)
      checkTaps(file, first)
      checkNotTwice(file, files.slice(0, i))
    }
    const fingerprints = files.map(({ fingerprint }) => fingerprint)
    files.sort((a, b) => (a.fingerprint.data < b.fingerprint.data ? -1 : 1))
    return { fingerprints, keys: [...first.entries.keys()], read: (key) => readEntry(files, key), close }
  } catch (error) {
    close()
    throw error
  }
}

function openFile(file: string): StatsFile {
  const { fd, size } = openToRead(file, FORMAT)
  try {
    return onFile(file, FORMAT, () => ({ path: file, fd, ...scan(fd, size, file) }))
  } catch (error) {
    fs.closeSync(fd)
    throw error
  }
}

function scan(fd: number, size: number, file: string): Pick<StatsFile, 'fingerprint' | 'entries'> {
  const entries = new Map<string, EntryPlace>()
  let at = PROLOGUE_BYTES
  let fingerprint: StatsFingerprint | undefined
  for (;;) {
    const place = readHead(fd, size, at)
    if (!place) throw damaged(file, FORMAT, at)
    const head = place.head as {
      readonly fingerprint?: StatsFingerprint
      readonly entries?: number
      readonly key?: string
      readonly fit?: readonly BlockShape[]
      readonly held?: readonly BlockShape[]
    }
    const { key, fit, held } = head
    if (head.fingerprint) fingerprint = head.fingerprint
    else if (key !== undefined && fit && held && bytesOfBlocks([...fit, ...held]) === place.bodyBytes) {
      entries.set(key, { place, fit, held })
    } else if (fingerprint && head.entries === entries.size && place.end === size) {
      return { fingerprint, entries }
    } else throw damaged(file, FORMAT, at)
    at = place.end
  }
}

function checkSame(file: StatsFile, wanted: Wanted, whose: string): void {
  const { model, settings } = file.fingerprint
  if (model !== wanted.model) {
    throw new QtoolError('data', `${file.path}: statistics of another model than ${ofWhom(whose)}`, {
      hint: 'statistics belong to the model they were computed with; delete the file or name another',
    })
  }
  const changed = wanted.settings === undefined ? [] : differences({ settings }, { settings: wanted.settings })
  if (changed.length === 0) return
  throw new QtoolError(
    'data',
    `${file.path}: statistics with other settings than ${ofWhom(whose)}: ${changed.join(', ')}`,
    { hint: 'use the same settings, or delete the file and let qtool compute the statistics again' },
  )
}

function ofWhom(whose: string): string {
  return whose === 'this run' ? "this run's" : `those of ${whose}`
}

function checkTaps(file: StatsFile, first: StatsFile): void {
  const shapes = ({ fit, held }: EntryPlace) =>
    [fit, held].map((blocks) => blocks.map(({ cols }) => cols).join()).join(';')
  const missing = [...first.entries.keys()].find((key) => !file.entries.has(key))
  const added = [...file.entries.keys()].find((key) => !first.entries.has(key))
  if (missing !== undefined || added !== undefined) {
    const what =
      missing !== undefined ? `lacks ${missing}, which ${first.path} has` : `has ${added}, which ${first.path} lacks`
    throw new QtoolError('data', `${file.path}: ${what}, so they cannot be added up`, { hint: FORMAT.hint })
  }
  for (const [key, entry] of file.entries) {
    if (shapes(entry) === shapes(first.entries.get(key)!)) continue
    throw new QtoolError('data', `${file.path}: ${key} has other sizes than in ${first.path}`, { hint: FORMAT.hint })
  }
}

function checkNotTwice(file: StatsFile, before: readonly StatsFile[]): void {
  const twin = before.find(({ fingerprint }) => fingerprint.data === file.fingerprint.data)
  if (!twin) return
  throw new QtoolError(
    'data',
    `${file.path} and ${twin.path} hold statistics of the same data, which would count twice`,
    {
      hint: 'name one of them',
    },
  )
}

function readEntry(files: readonly StatsFile[], key: string): StatisticsEntry {
  const entries = files.flatMap((file) => file.entries.get(key) ?? [])
  const first = entries[0]
  if (!first) throw new RangeError(`statistics of ${key}: not in the file, or the file is closed`)
  const shapes = entries.map(({ fit, held }) => [...fit, ...held])
  const sums = shapes[0]!.map(({ cols }, b) =>
    emptyBlock(
      cols,
      shapes.every((all) => all[b]!.gram === 'triangle'),
    ),
  )
  for (const [f, file] of files.entries()) {
    onFile(file.path, FORMAT, () => addEntryInPlace(sums, file, entries[f]!.place, shapes[f]!))
  }
  const blocks = sums.map((block) => {
    completeInPlace(block)
    const { cols, weight, sum, gram } = block
    return { cols, weight, sum, gram, cross: undefined, crossSum: undefined }
  })
  return { fit: blocks.slice(0, first.fit.length), held: blocks.slice(first.fit.length) }
}

function addEntryInPlace(
  sums: readonly Accumulator[],
  file: StatsFile,
  place: RecordPlace,
  shapes: readonly BlockShape[],
): void {
  const body = new BodyReader(file.fd, place)
  const values = new Values(body)
  for (const [b, shape] of shapes.entries()) addBlockInPlace(sums[b]!, values, shape)
  if (!body.isIntact()) throw damaged(file.path, FORMAT, place.bodyAt)
}

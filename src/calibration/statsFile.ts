/**
 * @file Writing `--stats FILE`: statistics of what the layers of the float model read, on disk, so that several widths can be
 * tried, and several runs added up, without running data again.
 *
 * A record with the fingerprint, one per tap, and a last one, which a truncated file lacks. Sums are stored as the
 * float64 that they are: what is read is what was computed, so a run that uses saved statistics writes the same model
 * as the run that saved them, and a constant input still has a variance of exactly zero. Float32 means would take half
 * the space; they move no eigenvalue of H by more than 2^-24 · K · mean diag(H), far below the damping, but where a
 * mean is large beside its deviation, H − μμᵀ is not what it was.
 */
import fs from 'node:fs'
import path from 'node:path'
import type { InputStatistics } from '../hessian/statistics.ts'
import { OutputFile, outputError, syncDirectory } from '../onnx/outputFiles.ts'
import type { Temporaries } from '../onnx/temporaries.ts'
import { prologueOf, type RecordFormat, writeRecord } from './recordFile.ts'
import { bytesOfBlocks, partsOf, shapeOf } from './statsBlock.ts'

/** What statistics were computed from. */
export interface StatsFingerprint {
  readonly model: string
  readonly data: string
  /** Those that statistics depend on. */
  readonly settings: string
  /** Samples in `fit`, and in `held`. */
  readonly samples: number
  readonly heldOut: number
}

/** Of one tap: one element per block. Both empty or of equal length, or `held` empty where nothing is held out. */
export interface StatisticsEntry {
  readonly fit: readonly InputStatistics[]
  readonly held: readonly InputStatistics[]
}

export const STATS_FORMAT: RecordFormat = {
  magic: 'qtool-stats\n',
  version: 1,
  holds: 'calibration statistics',
  code: 'data',
  hint: 'delete it and let qtool compute the statistics again',
}

/** A file of statistics that is being written, under a temporary name beside its own. */
export interface StatisticsWriter {
  /** Write the statistics of a tap, which are not kept. @throws QtoolError `output`; RangeError for a key seen before. */
  append(key: string, entry: StatisticsEntry): void
  /** Complete the file and give it its name, replacing one of that name. @throws QtoolError `output`. */
  finish(): void
  /** Delete it, unless it is finished. */
  discard(): void
}

/**
 * Begin a file of statistics. Call `finish`, or `discard` when something fails.
 * @throws QtoolError `output` when it cannot be created.
 */
export function createStatistics(
  outPath: string,
  fingerprint: StatsFingerprint,
  temporaries: Temporaries,
): StatisticsWriter {
  const temporary = temporaries.reserve(outPath)
  const file = new OutputFile(temporary, outPath)
  const write = (bytes: Uint8Array) => file.append(bytes)
  const keys = new Set<string>()
  let isOpen = true
  const writer: StatisticsWriter = {
    append(key, { fit, held }) {
      if (keys.has(key)) throw new RangeError(`statistics of ${key}: written twice`)
      keys.add(key)
      const shapes = { fit: fit.map(shapeOf), held: held.map(shapeOf) }
      const all = [...shapes.fit, ...shapes.held]
      writeRecord(write, { key, ...shapes }, bytesOfBlocks(all), partsOf([...fit, ...held], all))
    },
    finish() {
      isOpen = false
      try {
        writeRecord(write, { entries: keys.size }, 0, [])
      } catch (error) {
        file.close()
        throw error
      }
      file.finish()
      try {
        fs.renameSync(temporary, outPath)
      } catch (cause) {
        throw outputError(outPath, cause)
      }
      syncDirectory(path.dirname(outPath))
      temporaries.forget(temporary)
    },
    discard() {
      if (isOpen) file.close()
      isOpen = false
      fs.rmSync(temporary, { force: true })
      temporaries.forget(temporary)
    },
  }
  try {
    write(prologueOf(STATS_FORMAT))
    writeRecord(write, { fingerprint }, 0, [])
  } catch (error) {
    writer.discard()
    throw error
  }
  return writer
}

/**
 * Write a file of statistics from entries as they come, holding one at a time. It appears whole or not at all.
 * @throws QtoolError `output`, and whatever the entries throw.
 */
export async function writeStatistics(
  outPath: string,
  fingerprint: StatsFingerprint,
  entries: Iterable<readonly [string, StatisticsEntry]> | AsyncIterable<readonly [string, StatisticsEntry]>,
  temporaries: Temporaries,
): Promise<void> {
  const writer = createStatistics(outPath, fingerprint, temporaries)
  try {
    for await (const [key, entry] of entries) writer.append(key, entry)
    writer.finish()
  } finally {
    writer.discard()
  }
}

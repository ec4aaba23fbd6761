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

/** Adds up the statistics of several taps whose blocks and columns are the same: those of a weight that several products read. */
export class StatisticsSum {
  #sum: StatisticsEntry | undefined
  #isOwn = false
  #positions = 0

  /** The entry is not changed, and may be kept. */
  add(entry: StatisticsEntry): void {
    this.#positions = Math.max(this.#positions, entry.fit[0]?.weight ?? 0)
    const sum = this.#sum
    if (!sum) {
      this.#sum = entry
      return
    }
    const plus = (one: readonly InputStatistics[], other: readonly InputStatistics[]) =>
      one.map((block, b) => plusBlock(block, other[b]!, this.#isOwn))
    this.#sum = { fit: plus(sum.fit, entry.fit), held: plus(sum.held, entry.held) }
    this.#isOwn = true
  }

  /** Undefined before anything is added. */
  get entry(): StatisticsEntry | undefined {
    return this.#sum
  }

  /** Most positions of one tap. */
  get positions(): number {
    return this.#positions
  }
}

/** @param inPlace the arrays of `one` may be changed. */
function plusBlock(one: InputStatistics, other: InputStatistics, inPlace: boolean): InputStatistics {
  if (one.cols !== other.cols) throw new RangeError(`statistics of ${one.cols} and ${other.cols} inputs`)
  const plus = (a: Float64Array, b: Float64Array) => {
    const result = inPlace ? a : a.slice()
    for (let i = 0; i < result.length; i++) result[i]! += b[i]!
    return result
  }
  return { ...one, weight: one.weight + other.weight, gram: plus(one.gram, other.gram), sum: plus(one.sum, other.sum) }
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

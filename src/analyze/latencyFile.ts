/**
 * @file `--latency FILE`: times of products as JSON, so that they are measured once, on the machine that matters. Or, written by
 * hand, the two peaks of a machine that is not here: `{ "kind": "roofline", "flopsPerSecond": 1e11, "bytesPerSecond": 2e10 }`.
 */
import fs from 'node:fs'
import { QtoolError } from '../errors.ts'
import { type Kernel, kernelName } from '../eval/kernelLatency.ts'
import type { LatencyEntry, LatencyTable } from '../eval/latencyTable.ts'
import type { Machine } from '../eval/roofline.ts'
import { checkOutput } from '../onnx/outputFiles.ts'
import { reasonOf } from '../onnx/readAt.ts'
import { writeTextFile } from '../onnx/textFile.ts'

/** How long a whole float model takes. */
export interface ModelTime {
  /** Digest of the graph and of the weights' shapes, not of their values. */
  readonly structure: string
  /** As asked for when it was measured. */
  readonly positions: number
  readonly seconds: number
}

/** What latencies are computed from. */
export type LatencyTimes =
  | { readonly kind: 'measured'; readonly table: LatencyTable; readonly models: readonly ModelTime[] }
  | { readonly kind: 'roofline'; readonly machine: Machine }

/** Raised whenever a field changes its meaning or goes away. */
const SCHEMA_VERSION = 1

/**
 * Read a file of times. Where there is none yet, one must be writable there: measuring takes a while.
 *
 * @returns undefined where there is no such file.
 * @throws QtoolError `usage` when it cannot be read or holds anything else, `output` when it could not be written either
 */
export function readLatencyFile(file: string): LatencyTimes | undefined {
  let text: string
  try {
    text = fs.readFileSync(file, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') {
      checkOutput([file], { force: false, sources: [] })
      return undefined
    }
    throw new QtoolError('usage', `cannot read ${file}: ${reasonOf(cause)}`, { hint: 'check the path', cause })
  }
  try {
    return parseTimes(JSON.parse(text))
  } catch (cause) {
    const reason = cause instanceof Damage ? cause.message : cause instanceof SyntaxError ? 'it is not JSON' : undefined
    if (reason === undefined) throw cause
    throw new QtoolError('usage', `${file} is no latency file: ${reason}`, {
      hint: 'correct it, or name a file that does not exist yet: it is measured and written',
      cause,
    })
  }
}

/**
 * Write a file of times, which appears only when it is complete, and replaces what was there.
 * @throws QtoolError `output`
 */
export function writeLatencyFile(file: string, times: LatencyTimes): void {
  writeTextFile(file, textOf(times))
}

/** One entry a line. */
function textOf(times: LatencyTimes): string {
  const head = { schemaVersion: SCHEMA_VERSION, kind: times.kind }
  if (times.kind === 'roofline') return `${JSON.stringify({ ...head, ...times.machine }, undefined, 2)}\n`
  const { machine, threads, entries } = times.table
  const fields = Object.entries({ ...head, machine, threads, models: times.models })
  const lines = fields.map(([key, value]) => `  ${JSON.stringify(key)}: ${JSON.stringify(value)},`)
  const rows = entries.map((entry) => `    ${JSON.stringify(entry)}`).join(',\n')
  return ['{', ...lines, '  "entries": [', rows, '  ]', '}', ''].join('\n')
}

/** What is wrong with a file, as the end of a sentence. */
class Damage extends Error {}

type Fields = Readonly<Record<string, unknown>>

function parseTimes(document: unknown): LatencyTimes {
  const fields = object('the document', document)
  const { schemaVersion, kind } = fields
  // The two peaks are written by hand, and the version can be left out there.
  const isKnown = schemaVersion === SCHEMA_VERSION || (kind === 'roofline' && schemaVersion === undefined)
  if (kind === 'roofline' || kind === 'measured') {
    if (!isKnown) throw new Damage(`schemaVersion is ${shown(schemaVersion)}, this program reads ${SCHEMA_VERSION}`)
    return kind === 'roofline' ? { kind, machine: parseMachine(fields) } : parseMeasured(fields)
  }
  throw new Damage(`kind is ${shown(kind)}, wanted "measured" or "roofline"`)
}

function parseMachine(fields: Fields): Machine {
  onlyKeys('the document', fields, ['schemaVersion', 'kind', 'flopsPerSecond', 'bytesPerSecond', 'speedup'])
  const peaks = {
    flopsPerSecond: positive('flopsPerSecond', fields.flopsPerSecond),
    bytesPerSecond: positive('bytesPerSecond', fields.bytesPerSecond),
  }
  if (fields.speedup === undefined) return peaks
  const given = object('speedup', fields.speedup)
  onlyKeys('speedup', given, ['2', '4', '8'])
  const speedup = Object.fromEntries(
    Object.entries(given).map(([bits, factor]) => [bits, positive(`speedup of ${bits}`, factor)]),
  )
  return { ...peaks, speedup }
}

function parseMeasured(fields: Fields): LatencyTimes {
  onlyKeys('the document', fields, ['schemaVersion', 'kind', 'machine', 'threads', 'models', 'entries'])
  const { machine } = fields
  if (typeof machine !== 'string') throw new Damage(`machine is ${shown(machine)}, wanted a text`)
  const threads = whole('threads', fields.threads, 0)
  const models = list('models', fields.models).map((value, i): ModelTime => {
    const at = `models[${i}]`
    const own = object(at, value)
    onlyKeys(at, own, ['structure', 'positions', 'seconds'])
    if (typeof own.structure !== 'string') throw new Damage(`${at}.structure is ${shown(own.structure)}, wanted a text`)
    const positions = whole(`${at}.positions`, own.positions, 1)
    return { structure: own.structure, positions, seconds: positive(`${at}.seconds`, own.seconds) }
  })
  const entries = list('entries', fields.entries).map(parseEntry)
  const seen = new Set<string>()
  entries.forEach(({ rows, cols, positions, kernel }, i) => {
    const key = `${rows} ${cols} ${positions} ${kernelName(kernel)}`
    if (seen.has(key)) throw new Damage(`entries[${i}] is there twice`)
    seen.add(key)
  })
  return { kind: 'measured', table: { machine, threads, source: 'measured', entries }, models }
}

function parseEntry(value: unknown, i: number): LatencyEntry {
  const at = `entries[${i}]`
  const own = object(at, value)
  onlyKeys(at, own, ['rows', 'cols', 'positions', 'kernel', 'seconds'])
  return {
    rows: whole(`${at}.rows`, own.rows, 1),
    cols: whole(`${at}.cols`, own.cols, 1),
    positions: whole(`${at}.positions`, own.positions, 1),
    kernel: parseKernel(`${at}.kernel`, own.kernel),
    seconds: positive(`${at}.seconds`, own.seconds),
  }
}

function parseKernel(at: string, value: unknown): Kernel {
  const own = object(at, value)
  const { form, bits, accuracyLevel } = own
  if (form === 'float') {
    onlyKeys(at, own, ['form'])
    return { form }
  }
  if (form !== 'MatMulNBits') throw new Damage(`${at}.form is ${shown(form)}, wanted "float" or "MatMulNBits"`)
  onlyKeys(at, own, ['form', 'bits', 'groupSize', 'accuracyLevel'])
  if (bits !== 2 && bits !== 4 && bits !== 8) throw new Damage(`${at}.bits is ${shown(bits)}, wanted 2, 4 or 8`)
  if (accuracyLevel !== 0 && accuracyLevel !== 4) {
    throw new Damage(`${at}.accuracyLevel is ${shown(accuracyLevel)}, wanted 0 or 4`)
  }
  return { form, bits, groupSize: whole(`${at}.groupSize`, own.groupSize, 1), accuracyLevel }
}

function object(at: string, value: unknown): Fields {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Fields
  throw new Damage(`${at} is ${shown(value)}, wanted an object`)
}

function list(at: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value
  throw new Damage(`${at} is ${shown(value)}, wanted a list`)
}

/** A misspelt key would have no effect, and nobody would know. */
function onlyKeys(at: string, fields: Fields, known: readonly string[]): void {
  const odd = Object.keys(fields).find((key) => !known.includes(key))
  if (odd !== undefined) throw new Damage(`${at} has ${odd}, wanted only ${known.join(', ')}`)
}

function positive(at: string, value: unknown): number {
  if (typeof value === 'number' && value > 0 && value < Number.POSITIVE_INFINITY) return value
  throw new Damage(`${at} is ${shown(value)}, wanted a number above 0`)
}

function whole(at: string, value: unknown, least: number): number {
  if (Number.isSafeInteger(value) && (value as number) >= least) return value as number
  throw new Damage(`${at} is ${shown(value)}, wanted a whole number from ${least} on`)
}

function shown(value: unknown): string {
  if (value === undefined) return 'missing'
  const text = JSON.stringify(value)
  return text.length > 40 ? `${text.slice(0, 40)}…` : text
}

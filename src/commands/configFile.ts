/**
 * @file Brings together the two sources of configuration: `--config FILE` and the flags, which win. Both pass the same
 * checks, each under the name that its user wrote.
 */
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parseBytes } from '../bitalloc/budget.ts'
import {
  ABOUT_ALLOCATION,
  ABOUT_CODEBOOK,
  ABOUT_RSQ,
  checkValues,
  type KeyNaming,
  LIMITS,
  NEEDS_DATA,
  NEEDS_RANDOM,
  NOT_FOR_CODEBOOKS,
  type Operation,
} from '../configRules.ts'
import { QtoolError } from '../errors.ts'
import { nearestName } from '../nearestName.ts'
import { readShare } from './values.ts'

type Values = Readonly<Record<string, unknown>>

const OPERATIONS: readonly Operation[] = ['quantize', 'eval', 'analyze']
/** Thresholds that may be written as percentages. */
const SHARES = ['minAgreement', 'minCosine', 'maxAccuracyDrop', 'maxPerplexityRise', 'maxLatencyRatio']
/** Keys that hold paths. */
const PATHS = [
  ...['data', 'stats', 'labels', 'resume', 'scratch'],
  ...['analysis', 'plan', 'latency', 'savePlan', 'pareto', 'output', 'merge'],
]
/** Keys whose flags are called otherwise. */
const FLAG_NAMES: Readonly<Record<string, string>> = { layers: 'layer', shapes: 'shape', imageSize: 'size' }
/** Keys whose entries from both sources count, the flags' last. */
const MERGED_OBJECTS = ['rename', 'set', 'shapes', 'thresholds', 'normalize']

/**
 * The values of a configuration file and of the flags as one, checked, without defaults.
 *
 * @param flags values by configuration key, as the flags gave them; absent keys were not given.
 * @throws QtoolError `usage` on an unreadable file, an unknown key, or a value out of range.
 */
export function gatherConfig(operation: Operation, flags: Values, configPath: string | undefined): Values {
  const given = withNumbers(flags, flagName)
  checkValues(operation, given, flagName)
  if (configPath === undefined) return given
  const nameOf: KeyNaming = (key) => (key === '' ? configPath : `${configPath}: ${key}`)
  const file = withNumbers(readSection(configPath, operation), nameOf)
  checkValues(operation, file, nameOf)
  return override(operation, anchored(file, dirname(configPath)), given)
}

/** `groupSize` → `--group-size`; `thresholds.maxKl` → `--max-kl`. */
function flagName(key: string): string {
  const name = FLAG_NAMES[key] ?? key.replace(/^(thresholds|normalize)\./, '')
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
}

/** The keys for one operation: a section of the file, or the file itself where it has no sections. */
function readSection(path: string, operation: Operation): Values {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    const reason = code === 'ENOENT' ? 'there is no such file' : code === 'EISDIR' ? 'it is a directory' : `${code}`
    throw new QtoolError('usage', `${path}: the configuration cannot be read: ${reason}`, { cause })
  }
  let document: unknown
  try {
    document = JSON.parse(text)
  } catch (cause) {
    throw new QtoolError('usage', `${path}: the configuration is not JSON (${(cause as Error).message})`, { cause })
  }
  if (typeof document !== 'object' || document === null || Array.isArray(document)) {
    throw new QtoolError('usage', `${path}: wanted a JSON object, found something else`, {
      hint: 'write for example { "quantize": { "budget": "4bit" } }',
    })
  }
  const values = document as Values
  if (!OPERATIONS.some((name) => Object.hasOwn(values, name))) return values
  for (const key of Object.keys(values)) {
    if ((OPERATIONS as readonly string[]).includes(key)) continue
    const nearest = nearestName(key, OPERATIONS)
    throw new QtoolError('usage', `${path}: there is no section ${key}`, {
      hint: nearest === undefined ? `the sections are ${OPERATIONS.join(', ')}` : `did you mean ${nearest}?`,
    })
  }
  return (values[operation] ?? {}) as Values
}

/** Percentages and sizes become numbers. */
function withNumbers(values: Values, nameOf: KeyNaming): Values {
  const { holdout, thresholds } = values
  if (typeof holdout === 'string') {
    return withNumbers({ ...values, holdout: readShare(nameOf('holdout'))(holdout, undefined) }, nameOf)
  }
  if (typeof thresholds !== 'object' || thresholds === null || Array.isArray(thresholds)) return values
  const limits: Record<string, unknown> = { ...thresholds }
  for (const [key, limit] of Object.entries(limits)) {
    if (typeof limit !== 'string') continue
    const name = nameOf(`thresholds.${key}`)
    if (key === 'maxSize' || key === 'maxMemory') limits[key] = parseBytes(limit, name)
    else if (SHARES.includes(key)) limits[key] = readShare(name)(limit, undefined)
  }
  return { ...values, thresholds: limits }
}

/** Paths in a file are relative to the file. */
function anchored(values: Values, folder: string): Values {
  const anchor = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(anchor)
    return typeof value === 'string' ? resolve(folder, value) : value
  }
  return Object.fromEntries(
    Object.entries(values).map(([key, value]) => [key, PATHS.includes(key) ? anchor(value) : value]),
  )
}

function override(operation: Operation, file: Values, flags: Values): Values {
  const merged: Record<string, unknown> = { ...file, ...flags }
  for (const key of MERGED_OBJECTS) {
    if (file[key] !== undefined && flags[key] !== undefined) {
      merged[key] = { ...(file[key] as Values), ...(flags[key] as Values) }
    }
  }
  if (file.layers !== undefined && flags.layers !== undefined) {
    merged.layers = [...(file.layers as unknown[]), ...(flags.layers as unknown[])]
  }
  // What excludes the flags' choice goes from the file: width, plan or budget, data or random samples, data or a method
  // that looks at the weights alone, a measurement or the joining of its parts.
  const drop = (...keys: string[]) => {
    for (const key of keys) if (flags[key] === undefined) delete merged[key]
  }
  if (operation === 'quantize') {
    const allocation = ['solver', 'maxLatency', 'latency', 'positions', ...ABOUT_ALLOCATION]
    if (flags.method === 'auto' || flags.method === 'rtn') {
      drop('data', 'stats', 'damping', 'maxKl', 'maxDrop', 'evaluations', ...NEEDS_DATA.quantize)
      if (merged.analysis === undefined) drop(...allocation)
    }
    if (flags.rotation === 'off') drop('onlineRotation')
    if (flags.method === 'codebook') drop(...NOT_FOR_CODEBOOKS)
    else if (flags.method !== undefined) drop(...ABOUT_CODEBOOK)
    if (flags.codebook !== undefined) drop('rowGroups', 'trellisWindow', 'mapping')
    if (flags.method === 'rsq') drop('stats', 'analysis')
    else if (flags.method !== undefined) drop(...ABOUT_RSQ)
    if ((flags.data ?? flags.stats) !== undefined && (file.method === 'auto' || file.method === 'rtn')) drop('method')
    if (LIMITS.some((limit) => flags[limit] !== undefined)) drop('bits', 'plan')
    if (flags.bits !== undefined || flags.plan !== undefined) drop(...LIMITS, ...allocation)
    if (flags.solver === 'uniform') drop('maxKl', 'maxDrop', 'maxLatency', 'latency', 'positions', ...ABOUT_ALLOCATION)
  }
  if (operation === 'eval') {
    if (flags.random !== undefined) drop('data', ...NEEDS_DATA.eval)
    if (flags.data !== undefined) drop('random', ...NEEDS_RANDOM)
  }
  if (operation === 'analyze') {
    if (flags.merge !== undefined) drop('data', 'groupSize', 'seed', ...NEEDS_DATA.analyze)
    if (flags.data !== undefined) drop('merge')
    if (flags.codebook !== undefined) drop('rowGroups', 'trellisWindow', 'mapping')
  }
  return merged
}

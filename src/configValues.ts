/**
 * @file What each key of a configuration may hold. Contradictions between keys are the matter of `configRules.ts`, which
 * sees all sources together.
 */
import { SENSITIVITIES } from './analyze/analysis.ts'
import { parseLatency } from './bitalloc/budget.ts'
import { GROUP_SIZES } from './bitalloc/candidates.ts'
import { compilePattern } from './bitalloc/overrides.ts'
import type { CodebookSettings } from './codebook/codebookForms.ts'
import { CODEBOOK_NAMES, MAPPINGS } from './codebook/codebookForms.ts'
import type { AnalyzeConfig, DataConfig, EvalConfig, Normalize, QuantizeConfig, Thresholds } from './config.ts'
import { QtoolError } from './errors.ts'
import { nearestName } from './nearestName.ts'
import { BITS } from './quant/quantizedWeight.ts'
import { IMPORTANCE_NAMES } from './rsq/importance.ts'

export type Operation = 'quantize' | 'eval' | 'analyze'

/** Says what was wanted when the value is not it, else nothing. */
type Rule = (value: unknown) => string | undefined
type Rules<T> = { readonly [K in keyof T]-?: Rule }
type Fields = Record<string, unknown>

const wanted =
  (text: string, accepts: (value: unknown) => boolean): Rule =>
  (value) =>
    accepts(value) ? undefined : text

const isObject = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value)
const isText = (value: unknown): value is string => typeof value === 'string' && value.length > 0
const isNumberList = (value: unknown): value is number[] =>
  Array.isArray(value) && value.length > 0 && value.every(isNumber)
const isRecordOf = (value: unknown, accepts: (entry: unknown) => boolean) =>
  isObject(value) && Object.values(value).every(accepts)

const text = wanted('a text', isText)
const texts = wanted('a list of texts', (value) => Array.isArray(value) && value.every(isText))
const flag = wanted('true or false', (value) => typeof value === 'boolean')
const oneOf = (...choices: readonly (string | number)[]) =>
  wanted(`one of ${choices.join(', ')}`, (value) => choices.includes(value as string | number))
const integer = (least: number, most: number) =>
  wanted(
    `an integer from ${least} to ${most}`,
    (value) => Number.isInteger(value) && (value as number) >= least && (value as number) <= most,
  )
const between = (least: number, most: number, hint = '') =>
  wanted(`a number from ${least} to ${most}${hint}`, (value) => isNumber(value) && value >= least && value <= most)
const atLeast = (least: number) => wanted(`a number of at least ${least}`, (value) => isNumber(value) && value >= least)
const above = (bound: number) => wanted(`a number above ${bound}`, (value) => isNumber(value) && value > bound)

const isPositiveShare = (value: unknown) => isNumber(value) && value > 0 && value <= 1
const positiveShare = wanted('a number above 0, at most 1', isPositiveShare)

const MAX_INTEGER = Number.MAX_SAFE_INTEGER
const MAX_ROW_GROUPS = 16
const groupSize = oneOf(...GROUP_SIZES, 'channel')
const threads = integer(0, 1024)
const seed = integer(0, MAX_INTEGER)
const shareHint = (share: string, percentage: string) => ` (${share}, or ${percentage} on the command line)`
const SHARE_HINT = shareHint('0.99', '99%')

const LAYERS: Rule = (value) => {
  const shape = `a list of { pattern, bits } with bits one of ${BITS.join(', ')} or "skip"`
  if (!Array.isArray(value)) return shape
  for (const entry of value) {
    if (!isObject(entry) || !isText(entry.pattern)) return shape
    if (Object.keys(entry).some((key) => key !== 'pattern' && key !== 'bits')) return shape
    if (entry.bits !== 'skip' && !BITS.includes(entry.bits as (typeof BITS)[number])) return shape
    compilePattern(entry.pattern)
  }
  return undefined
}

const SENSITIVITY: Rule = wanted(
  `a list of ${SENSITIVITIES.join(', ')}, each once`,
  (value) =>
    Array.isArray(value) &&
    value.every((name) => (SENSITIVITIES as readonly unknown[]).includes(name)) &&
    new Set(value).size === value.length,
)

const PATTERNS: Rule = (value) => {
  const wrong = texts(value)
  if (wrong === undefined) for (const pattern of value as string[]) compilePattern(pattern)
  return wrong
}

const LATENCY: Rule = (value) => {
  const wrong = text(value)
  if (wrong === undefined) parseLatency(value as string)
  return wrong
}

const isShard = (value: unknown): boolean => {
  const [, index, count] = (isText(value) && /^(\d{1,6})\/(\d{1,6})$/.exec(value)) || []
  return Number(index) >= 1 && Number(index) <= Number(count)
}

const isSizeList = (value: unknown): boolean =>
  Array.isArray(value) && value.every((size) => Number.isInteger(size) && size >= 1)

const DATA_RULES: Rules<DataConfig> = {
  data: texts,
  samples: integer(0, MAX_INTEGER),
  rename: wanted('an object from input names to array names', (value) => isRecordOf(value, isText)),
  set: wanted('an object from input names to numbers', (value) => isRecordOf(value, isNumber)),
  normalize: wanted('an object of scale, mean and std', isObject),
  imageSize: wanted('height and width in pixels', (value) => isSizeList(value) && (value as number[]).length === 2),
  layout: oneOf('nchw', 'nhwc'),
  seqLen: integer(1, MAX_INTEGER),
}

const CALIBRATION_RULES = {
  ...DATA_RULES,
  holdout: between(0, 0.5, shareHint('0.2', '20%')),
  select: oneOf('random', 'el2n', 'kl'),
  damping: positiveShare,
  labels: text,
  scratch: text,
}

const CODEBOOK_RULES: Rules<CodebookSettings> = {
  codebook: oneOf('auto', 'light', ...CODEBOOK_NAMES),
  rowGroups: wanted(
    '"auto" or an integer from 1 to 16',
    (value) => value === 'auto' || integer(1, MAX_ROW_GROUPS)(value) === undefined,
  ),
  trellisWindow: oneOf('auto', 8, 12),
  mapping: oneOf(...MAPPINGS),
}

const QUANTIZE_RULES: Rules<QuantizeConfig> = {
  budget: text,
  bits: oneOf(...BITS),
  groupSize,
  method: oneOf('auto', 'rtn', 'gptq', 'rsq', 'codebook'),
  symmetric: oneOf('auto', 'yes', 'no'),
  layers: LAYERS,
  format: oneOf('auto', 'contrib', 'standard'),
  accuracyLevel: oneOf(0, 4),
  scales: oneOf('auto', 'float'),
  externalData: oneOf('auto', 'always', 'never'),
  expand: flag,
  verify: flag,
  dryRun: flag,
  force: flag,
  strict: flag,
  ...CALIBRATION_RULES,
  stats: texts,
  resume: text,
  rotation: oneOf('auto', 'on', 'off'),
  rotationSeeds: integer(1, 1000),
  onlineRotation: flag,
  tokenImportance: oneOf('auto', 'none', ...IMPORTANCE_NAMES),
  importanceMin: positiveShare,
  importanceExponent: oneOf(1, 2),
  importanceLength: oneOf('none', 'linear', 'sqrt'),
  importanceQuantile: between(0.5, 1),
  roll: integer(1, 64),
  ...CODEBOOK_RULES,
  solver: oneOf('uniform', 'ilp', 'dp', 'bisection'),
  sensitivity: SENSITIVITY,
  analysis: text,
  plan: text,
  savePlan: text,
  pareto: text,
  tie: PATTERNS,
  maxKl: above(0),
  maxDrop: wanted('a share above 0, at most 1 (0.001, or 0.1% on the command line)', isPositiveShare),
  maxLatency: LATENCY,
  latency: text,
  positions: integer(1, 1e9),
  evaluations: integer(0, 1e6),
  threads,
  seed,
}

const ANALYZE_RULES: Rules<AnalyzeConfig> = {
  ...CALIBRATION_RULES,
  bits: oneOf(...BITS),
  groupSize,
  symmetric: oneOf('auto', 'yes', 'no'),
  layers: LAYERS,
  candidates: oneOf('widths', 'all'),
  ...CODEBOOK_RULES,
  sensitivity: SENSITIVITY,
  configurations: integer(0, 1e6),
  probes: integer(1, 1e6),
  output: text,
  shard: wanted('a part such as 2/8, from 1/8 to 8/8', isShard),
  merge: texts,
  force: flag,
  threads,
  seed,
}

const THRESHOLD_RULES: Rules<Thresholds> = {
  maxKl: atLeast(0),
  minAgreement: between(0, 1, SHARE_HINT),
  minSqnr: wanted('a number of decibels', isNumber),
  minCosine: between(-1, 1, SHARE_HINT),
  maxDifference: atLeast(0),
  maxAccuracyDrop: between(0, 1, shareHint('0.01', '1%')),
  maxPerplexityRise: atLeast(0),
  maxSize: above(0),
  maxMemory: above(0),
  maxLatencyRatio: above(0),
}

const NORMALIZE_RULES: Rules<Normalize> = {
  scale: wanted('a number other than 0', (value) => isNumber(value) && value !== 0),
  mean: wanted('a list of numbers', isNumberList),
  std: wanted('a list of numbers other than 0', (value) => isNumberList(value) && value.every((std) => std !== 0)),
}

const EVAL_RULES: Rules<EvalConfig> = {
  ...DATA_RULES,
  random: integer(0, 1e6),
  labels: text,
  batchSize: integer(1, 65536),
  shapes: wanted('an object from input names to lists of sizes', (value) => isRecordOf(value, isSizeList)),
  logits: (value) => (value === 'auto' ? undefined : texts(value) && '"auto" or a list of output names'),
  runs: integer(1, 100_000),
  thresholds: wanted('an object of limits', isObject),
  threads,
  seed,
}

const RULES: Record<Operation, Readonly<Record<string, Rule>>> = {
  quantize: QUANTIZE_RULES,
  eval: EVAL_RULES,
  analyze: ANALYZE_RULES,
}
/** Keys whose value is an object with rules of its own. */
const NESTED: Readonly<Record<string, Readonly<Record<string, Rule>>>> = {
  thresholds: THRESHOLD_RULES,
  normalize: NORMALIZE_RULES,
}

/** How a message names a key: `bits`, or `thresholds.maxKl` for a nested one. */
export type KeyNaming = (key: string) => string

/**
 * Check the keys and values of one source of configuration (a file, the flags, a caller's object). Undefined values
 * count as absent. Contradictions between keys are left to the resolve functions, which see all sources together.
 *
 * @param nameOf how messages name a key, for example `--group-size` for `groupSize`.
 * @throws QtoolError `usage` on an unknown key (with the nearest known one) or a value out of range.
 */
export function checkValues(
  operation: Operation,
  values: unknown,
  nameOf: KeyNaming = (key) => `${operation} configuration: ${key}`,
): void {
  checkAgainst(RULES[operation], values, '', nameOf)
}

function checkAgainst(rules: Readonly<Record<string, Rule>>, values: unknown, prefix: string, nameOf: KeyNaming) {
  if (!isObject(values)) throw new QtoolError('usage', `${nameOf(prefix)}: wanted an object, found ${show(values)}`)
  for (const [key, value] of Object.entries(values)) {
    const path = prefix + key
    const rule = Object.hasOwn(rules, key) ? rules[key] : undefined
    if (rule === undefined) {
      const nearest = nearestName(key, Object.keys(rules))
      const known = Object.keys(rules)
        .map((name) => prefix + name)
        .join(', ')
      throw new QtoolError('usage', `${nameOf(path)}: there is no such key`, {
        hint: nearest === undefined ? `known keys: ${known}` : `did you mean ${prefix}${nearest}?`,
      })
    }
    if (value === undefined) continue
    const want = rule(value)
    if (want !== undefined) throw new QtoolError('usage', `${nameOf(path)}: wanted ${want}, found ${show(value)}`)
    const nested = prefix === '' && Object.hasOwn(NESTED, key) ? NESTED[key] : undefined
    if (nested !== undefined) checkAgainst(nested, value, `${key}.`, nameOf)
  }
}

/** The value as JSON, cut to a readable length. */
function show(value: unknown): string {
  const json = typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? String(value))
  return json.length > 60 ? `${json.slice(0, 57)}...` : json
}

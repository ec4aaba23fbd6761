/**
 * @file Makes configurations complete: checked values over the defaults, with no two keys that contradict each other.
 * With `configValues.ts` the one validator of the library, of `qtool.json` and of the command line.
 */
import { parseBudgets } from './bitalloc/budget.ts'
import {
  ANALYZE_DEFAULTS,
  type AnalyzeConfig,
  type DataConfig,
  EVAL_DEFAULTS,
  type EvalConfig,
  isCalibrated,
  NORMALIZE_DEFAULTS,
  QUANTIZE_DEFAULTS,
  type QuantizeConfig,
} from './config.ts'
import { ABOUT_CODEBOOK, checkCodebook, checkMeasuredCodebook } from './configCodebook.ts'
import { firstGiven, usualValues, withDefaults } from './configGiven.ts'
import { checkMerge, LIMITS, settleAllocation, settleMeasurement } from './configMixed.ts'
import { checkValues } from './configValues.ts'
import { QtoolError } from './errors.ts'

export { ABOUT_CODEBOOK, NOT_FOR_CODEBOOKS } from './configCodebook.ts'
export { ABOUT_ALLOCATION, LIMITS } from './configMixed.ts'
export { checkValues, type KeyNaming, type Operation } from './configValues.ts'

const ABOUT_DATA = ['samples', 'rename', 'normalize', 'imageSize', 'layout', 'seqLen'] as const
const ABOUT_CALIBRATION = [...ABOUT_DATA, 'set', 'holdout', 'select', 'labels', 'scratch'] as const
/** Keys that mean nothing without data. An evaluation also fills inputs of random samples, so `set` is free there. */
export const NEEDS_DATA = {
  quantize: [...ABOUT_CALIBRATION, 'resume'],
  eval: [...ABOUT_DATA, 'labels'],
  analyze: [
    ...ABOUT_CALIBRATION,
    ...['damping', 'bits', 'symmetric', 'layers', 'candidates', 'sensitivity', 'configurations', 'probes', 'shard'],
    ...ABOUT_CODEBOOK,
  ],
} as const
/** Keys that mean nothing without method rsq. */
export const ABOUT_RSQ = [
  ...['rotation', 'rotationSeeds', 'onlineRotation', 'tokenImportance', 'roll'],
  ...['importanceMin', 'importanceExponent', 'importanceLength', 'importanceQuantile'],
] as const
/** Keys of an evaluation that mean nothing without random samples. */
export const NEEDS_RANDOM = ['shapes'] as const
/** What data are, for hints. */
const DATA_HINT =
  "--data PATH (.npy, .npz, .jsonl, text, images, a directory of them, or a pattern such as 'photos/*.jpg')"

/**
 * A complete configuration: checked values over {@link QUANTIZE_DEFAULTS}. The method is `codebook` where an allocation is measured on data, else `gptq` with data or statistics
 * and `auto` without, the solver `ilp` where there is a limit and something to measure on, unless they are given.
 * @throws QtoolError `usage` on unknown keys, values out of range, both a budget and a width, an unpacked output with a budget in bytes, a method that data would be
 *   ignored by or that lacks it, keys about data without data, an allocation without a limit or a measurement, or keys
 *   that do not go with the method.
 */
export function resolveQuantizeConfig(values: Partial<QuantizeConfig>): QuantizeConfig {
  checkValues('quantize', values)
  if (values.budget !== undefined && values.bits !== undefined) {
    throw new QtoolError('usage', `both a budget (${values.budget}) and a width (${values.bits} bits) are given`, {
      hint: 'give the budget to let qtool choose the width, or the width to choose it yourself',
    })
  }
  const config = withDefaults(QUANTIZE_DEFAULTS, values)
  const calibrated = config.data.length > 0 || config.stats.length > 0
  const own = calibrated ? usualMethod(config, values) : { method: 'auto' as const }
  const method = values.method === undefined ? own : { method: values.method }
  checkCalibration({ ...config, ...method }, values)
  checkExpand(config)
  return withNormalize({ ...config, ...method, ...settleAllocation(config, values) })
}

/**
 * Codebooks beside grids where each layer gets what loses least for its bytes, or what a plan says; keys that tables do not
 * have keep to grids, as does one width for all.
 */
function usualMethod(
  { data, holdout, plan, analysis, codebook }: QuantizeConfig,
  values: Partial<QuantizeConfig>,
): Pick<QuantizeConfig, 'method' | 'codebook'> {
  const isLimited = LIMITS.some((key) => values[key] !== undefined)
  const isMeasured = data.length > 0 && holdout > 0 && isLimited && values.solver !== 'uniform'
  const decides = plan !== undefined || analysis !== undefined || isMeasured
  const isOwn =
    firstGiven(['symmetric', ...ABOUT_CODEBOOK], values, usualValues(QUANTIZE_DEFAULTS, values)) !== undefined
  return decides && !isOwn ? { method: 'codebook', codebook: 'light' } : { method: 'gptq', codebook }
}

/** A budget in bytes or stored bits is about the compact form, and unpacked the output would not keep it. */
function checkExpand({ expand, budget }: QuantizeConfig): void {
  if (!expand || budget === undefined) return
  if (parseBudgets(budget).every(({ kind }) => kind === 'meanBits')) return
  throw new QtoolError('usage', `expand is given with budget ${budget}, which is about the compact form`, {
    hint: 'give a mean width such as 4bit, or a width with --bits; or leave out --expand',
  })
}

function checkCalibration(config: QuantizeConfig, values: Partial<QuantizeConfig>): void {
  const { data, stats, method } = config
  const source = data.length > 0 ? 'data' : stats.length > 0 ? 'stats' : undefined
  if (method === 'gptq' && source === undefined) {
    throw new QtoolError('usage', 'method gptq needs calibration data', {
      hint: `give ${DATA_HINT}, or --stats FILE with the statistics of an earlier run`,
    })
  }
  if (!isCalibrated(config) && source !== undefined) {
    throw new QtoolError('usage', `${source} is given, but method ${method} looks at the weights alone`, {
      hint: `leave out the method, or give gptq; or leave out ${source}`,
    })
  }
  const usual = usualValues(QUANTIZE_DEFAULTS, values)
  checkRsq(config, firstGiven(ABOUT_RSQ, values, usual))
  checkCodebook(config, values)
  const withoutData = data.length === 0 ? firstGiven(NEEDS_DATA.quantize, values, usual) : undefined
  if (withoutData !== undefined) {
    throw new QtoolError('usage', `${withoutData} is given without data`, { hint: `${withoutData} goes with --data` })
  }
  if (source === undefined && firstGiven(['damping'], values, usual) !== undefined) {
    throw new QtoolError('usage', 'damping is given without data', { hint: 'damping goes with --data or --stats' })
  }
  checkFiles(config)
}

/** @param key about rotations or importance that was given. */
function checkRsq({ method, data, stats, holdout, analysis, ...config }: QuantizeConfig, key: string | undefined) {
  if (method !== 'rsq') {
    if (key === undefined) return
    throw new QtoolError('usage', `${key} is given without method rsq`, { hint: `${key} goes with --method rsq` })
  }
  if (data.length === 0) {
    throw new QtoolError('usage', 'method rsq needs calibration data', { hint: `give ${DATA_HINT}` })
  }
  const other = analysis !== undefined ? 'an analysis is' : stats.length > 0 ? 'statistics are' : undefined
  if (other !== undefined) {
    throw new QtoolError('usage', `${other} given beside method rsq, which measures the model that it has rotated`, {
      hint: 'leave out one of the two',
    })
  }
  if (config.onlineRotation && config.rotation === 'off') {
    throw new QtoolError('usage', 'onlineRotation is given with rotation off', { hint: 'leave out one of the two' })
  }
  const gated = [config.rotation, config.tokenImportance].includes('auto')
  if (gated && holdout === 0) {
    throw new QtoolError('usage', 'method rsq has nothing held out to decide on', {
      hint: 'give a --holdout above 0, or say what to do with --rotation and --token-importance',
    })
  }
}

/** Files that are written, or that are of a kind, must not be the same. */
function checkFiles(config: QuantizeConfig): void {
  const { data, stats } = config
  const single = (['resume', 'analysis', 'plan', 'latency', 'savePlan', 'pareto'] as const).flatMap((key) => {
    const path = config[key]
    return path === undefined || (key === 'savePlan' && path === config.plan) ? [] : [{ path, key }]
  })
  const files = [
    ...data.map((path) => ({ path, key: 'data' })),
    ...stats.map((path) => ({ path, key: 'stats' })),
    ...single,
  ]
  for (const [i, { path, key }] of files.entries()) {
    const first = files.findIndex((file) => file.path === path)
    if (first === i || key === 'data') continue
    throw new QtoolError('usage', `${path} is given twice, as ${files[first]!.key} and as ${key}`, {
      hint: 'statistics, saved progress, analyses, plans and curves are files of their own',
    })
  }
}

/** Completes a normalization. @throws QtoolError `usage` when means and deviations are not equally many. */
function withNormalize<T extends DataConfig>(config: T): T {
  if (config.normalize === undefined) return config
  const normalize = withDefaults(NORMALIZE_DEFAULTS, config.normalize)
  const { mean, std } = normalize
  if (mean.length !== std.length && mean.length !== 1 && std.length !== 1) {
    throw new QtoolError(
      'usage',
      `normalize: wanted as many standard deviations as means, found ${std.length} and ${mean.length}`,
    )
  }
  return { ...config, normalize }
}

/**
 * A complete configuration: checked values over {@link ANALYZE_DEFAULTS}.
 * @throws QtoolError `usage` on unknown keys, values out of range, keys about a measurement without data, a shard of what
 *   takes all layers at once, or parts to join beside anything else.
 */
export function resolveAnalyzeConfig(values: Partial<AnalyzeConfig>): AnalyzeConfig {
  checkValues('analyze', values)
  const config = withDefaults(ANALYZE_DEFAULTS, values)
  const usual = usualValues(ANALYZE_DEFAULTS, values)
  if (config.merge.length > 0) {
    checkMerge(config, firstGiven(['data', 'groupSize', 'seed', ...NEEDS_DATA.analyze], values, usual))
    return config
  }
  if (config.data.length > 0) {
    checkMeasuredCodebook(config, firstGiven(ABOUT_CODEBOOK, values, usual))
    return withNormalize(settleMeasurement(config, values, usual))
  }
  const key = firstGiven([...NEEDS_DATA.analyze, 'output'], values, usual)
  if (key === undefined) return config
  throw new QtoolError('usage', `${key} is given without data`, { hint: `${key} goes with --data` })
}

/**
 * A complete configuration: checked values over {@link EVAL_DEFAULTS}.
 * @throws QtoolError `usage` on unknown keys, values out of range, no source of inputs or two of them, or a
 * key that goes with the other source.
 */
export function resolveEvalConfig(values: Partial<EvalConfig>): EvalConfig {
  checkValues('eval', values)
  const config = withDefaults(EVAL_DEFAULTS, values)
  if (config.data.length === 0 && config.random === 0) {
    throw new QtoolError('usage', 'there is nothing to run the models on', {
      hint: `give ${DATA_HINT}, or --random N for N made-up samples`,
    })
  }
  if (config.data.length > 0 && config.random > 0) {
    throw new QtoolError('usage', 'both data and random samples are given', { hint: 'give --data or --random N' })
  }
  const random = config.random > 0
  const key = firstGiven(random ? NEEDS_DATA.eval : NEEDS_RANDOM, config, EVAL_DEFAULTS)
  if (key !== undefined) {
    throw new QtoolError('usage', `${key} is given for ${random ? 'random samples' : 'data'}`, {
      hint: random ? `${key} goes with --data` : `${key} goes with --random`,
    })
  }
  return withNormalize(config)
}

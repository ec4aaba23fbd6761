/**
 * @file Makes configurations complete: checked values over the defaults, with no two keys that contradict each other.
 * With `configValues.ts` the one validator of the library, of `qtool.json` and of the command line.
 */
import {
  ANALYZE_DEFAULTS,
  type AnalyzeConfig,
  type DataConfig,
  EVAL_DEFAULTS,
  type EvalConfig,
  NORMALIZE_DEFAULTS,
  QUANTIZE_DEFAULTS,
  type QuantizeConfig,
} from './config.ts'
import { checkValues } from './configValues.ts'
import { QtoolError } from './errors.ts'

export { checkValues, type KeyNaming, type Operation } from './configValues.ts'

const ABOUT_DATA = ['samples', 'rename', 'normalize', 'imageSize', 'layout', 'seqLen'] as const
/** Keys that mean nothing without data. An evaluation also fills inputs of random samples, so `set` is free there. */
export const NEEDS_DATA = {
  quantize: [...ABOUT_DATA, 'set', 'holdout', 'select', 'resume', 'scratch'],
  eval: [...ABOUT_DATA, 'labels'],
} as const
/** Keys of an evaluation that mean nothing without random samples. */
export const NEEDS_RANDOM = ['shapes'] as const
/** What data are, for hints. */
const DATA_HINT =
  "--data PATH (.npy, .npz, .jsonl, text, images, a directory of them, or a pattern such as 'photos/*.jpg')"

/** Later values win; undefined ones do not. */
function withDefaults<T extends object>(defaults: T, values: Partial<T>): T {
  return { ...defaults, ...Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) }
}

/** The first of the keys that says something: not undefined, not an empty object, not the default. */
function firstGiven(keys: readonly string[], values: object, defaults: object): string | undefined {
  const given = new Map<string, unknown>(Object.entries(values))
  const usual = new Map<string, unknown>(Object.entries(defaults))
  return keys.find((key) => {
    const value = given.get(key)
    if (value === undefined || value === usual.get(key)) return false
    return typeof value !== 'object' || value === null || Object.keys(value).length > 0
  })
}

/**
 * A complete configuration: checked values over {@link QUANTIZE_DEFAULTS}. The method is `gptq` with data or statistics
 * and `auto` without, unless it is given.
 * @throws QtoolError `usage` on unknown keys, values out of range, both a budget and a width, a method that data would be
 *   ignored by or that lacks it, or keys about data without data.
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
  const method = values.method ?? (calibrated ? 'gptq' : 'auto')
  checkCalibration({ ...config, method }, values)
  return withNormalize({ ...config, method })
}

function checkCalibration(config: QuantizeConfig, values: Partial<QuantizeConfig>): void {
  const { data, stats, method, resume } = config
  const source = data.length > 0 ? 'data' : stats.length > 0 ? 'stats' : undefined
  if (method === 'gptq' && source === undefined) {
    throw new QtoolError('usage', 'method gptq needs calibration data', {
      hint: `give ${DATA_HINT}, or --stats FILE with the statistics of an earlier run`,
    })
  }
  if (method !== 'gptq' && source !== undefined) {
    throw new QtoolError('usage', `${source} is given, but method ${method} looks at the weights alone`, {
      hint: `leave out the method, or give gptq; or leave out ${source}`,
    })
  }
  // A complete configuration has been here before: its defaults were filled in, not given.
  const given = new Map(Object.entries(values).filter(([, value]) => value !== undefined))
  const isComplete = Object.keys(QUANTIZE_DEFAULTS).every((key) => given.has(key))
  const defaults = isComplete ? QUANTIZE_DEFAULTS : {}
  const withoutData = data.length === 0 ? firstGiven(NEEDS_DATA.quantize, values, defaults) : undefined
  if (withoutData !== undefined) {
    throw new QtoolError('usage', `${withoutData} is given without data`, { hint: `${withoutData} goes with --data` })
  }
  if (source === undefined && firstGiven(['damping'], values, defaults) !== undefined) {
    throw new QtoolError('usage', 'damping is given without data', { hint: 'damping goes with --data or --stats' })
  }
  const files = [
    ...data.map((path) => ({ path, key: 'data' })),
    ...stats.map((path) => ({ path, key: 'stats' })),
    ...(resume === undefined ? [] : [{ path: resume, key: 'resume' }]),
  ]
  for (const [i, { path, key }] of files.entries()) {
    const first = files.findIndex((file) => file.path === path)
    if (first === i || key === 'data') continue
    throw new QtoolError('usage', `${path} is given twice, as ${files[first]!.key} and as ${key}`, {
      hint: 'statistics and saved progress are files of their own',
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
 * @throws QtoolError `usage` on unknown keys or values out of range.
 */
export function resolveAnalyzeConfig(values: Partial<AnalyzeConfig>): AnalyzeConfig {
  checkValues('analyze', values)
  return withDefaults(ANALYZE_DEFAULTS, values)
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

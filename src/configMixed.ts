/**
 * @file Contradictions between the keys about mixed precision: what measures, what allocates, and what limits. The rest is in
 * `configRules.ts`.
 */
import { type AnalyzeConfig, QUANTIZE_DEFAULTS, type QuantizeConfig } from './config.ts'
import { firstGiven, usualValues } from './configGiven.ts'
import { QtoolError } from './errors.ts'

/** Keys that limit what an allocation may take or lose. */
export const LIMITS = ['budget', 'maxKl', 'maxDrop', 'maxLatency'] as const
/** Keys that mean nothing where all layers are alike. */
export const ABOUT_ALLOCATION = ['sensitivity', 'analysis', 'pareto', 'tie', 'evaluations', 'labels'] as const
/** Keys that layers which are all alike within one budget cannot heed. */
const BESIDE_BUDGETS = ['maxKl', 'maxDrop', 'maxLatency', ...ABOUT_ALLOCATION] as const
/** What each layer does to the others takes runs of the whole network. */
const OF_WHOLE_NETWORK = ['coverage', 'shapley', 'clado'] as const

const LIMIT_HINT = 'goes with --budget, --max-kl, --max-drop or --max-latency'
const LABELS_HINT = 'give --labels FILE, with the class of each sample of the data'
const SOURCE_HINT = 'give --data PATH to measure on, or --analysis FILE from `qtool analyze --data PATH -o FILE`'
const HOLDOUT_HINT = 'losses are measured on samples that no fit sees: leave out the share, or give --holdout 20%'

/**
 * Settle what allocates, and refuse what contradicts it.
 * @param config complete but for the three keys, whose defaults depend on the others.
 * @param values what was given of it.
 * @throws QtoolError `usage`.
 */
export function settleAllocation(
  config: QuantizeConfig,
  values: Partial<QuantizeConfig>,
): Pick<QuantizeConfig, 'solver' | 'sensitivity' | 'evaluations'> {
  const { analysis, plan, bits, sensitivity, maxLatency } = config
  const usual = usualValues(QUANTIZE_DEFAULTS, values)
  const limit = LIMITS.find((key) => config[key] !== undefined)
  if (limit !== undefined && bits !== undefined) {
    throw new QtoolError('usage', `both ${limit} (${config[limit]}) and a width (${bits} bits) are given`, {
      hint: `give ${limit} to let qtool choose the widths, or the width to choose it yourself`,
    })
  }
  const aboutLatency = maxLatency === undefined ? firstGiven(['positions', 'latency'], values, usual) : undefined
  if (aboutLatency !== undefined) {
    throw new QtoolError('usage', `${aboutLatency} is given without maxLatency`, {
      hint: `${aboutLatency} goes with --max-latency`,
    })
  }
  if (plan !== undefined) {
    checkPlan(config, values, usual)
    return { solver: 'uniform', sensitivity, evaluations: config.evaluations }
  }
  const measurable = analysis !== undefined || (config.data.length > 0 && config.holdout > 0)
  const solver = values.solver ?? (limit !== undefined && measurable ? 'ilp' : 'uniform')
  if (solver === 'uniform') checkUniform(config, values, usual)
  else checkMixed({ ...config, solver }, values, usual)
  return {
    solver,
    sensitivity: analysis !== undefined && values.sensitivity === undefined ? [] : sensitivity,
    // An analysis answers in seconds; what is run beside it takes solving its candidates again.
    evaluations: analysis !== undefined && values.evaluations === undefined ? 0 : config.evaluations,
  }
}

function checkPlan({ solver }: QuantizeConfig, values: Partial<QuantizeConfig>, usual: object): void {
  const key = solver === 'uniform' ? firstGiven([...LIMITS, ...ABOUT_ALLOCATION], values, usual) : 'solver'
  if (key === undefined) return
  throw new QtoolError('usage', `${key} is given beside a plan`, {
    hint: 'a plan says what every layer becomes: leave out one of the two; --layer edits a plan',
  })
}

function checkUniform(config: QuantizeConfig, values: Partial<QuantizeConfig>, usual: object): void {
  const { budget } = config
  const key = firstGiven(BESIDE_BUDGETS, values, usual)
  const several = budget?.includes(',') ? 'a combination of budgets' : undefined
  const asked = key ?? several
  if (asked === undefined) return
  if (values.solver === 'uniform') {
    throw new QtoolError('usage', `${asked} is given, but solver uniform makes all layers alike within one budget`, {
      hint: 'leave out the solver',
    })
  }
  if (LIMITS.every((limit) => config[limit] === undefined)) {
    throw new QtoolError('usage', `${asked} is given without a budget`, { hint: `${asked} ${LIMIT_HINT}` })
  }
  throw notMeasurable(`${asked} is given`, config)
}

function checkMixed(config: QuantizeConfig, values: Partial<QuantizeConfig>, usual: object): void {
  const { solver, data, holdout, analysis, maxKl, maxDrop, labels, sensitivity } = config
  if (LIMITS.every((limit) => config[limit] === undefined)) {
    throw new QtoolError('usage', `solver ${solver} is given without a budget`, { hint: `a solver ${LIMIT_HINT}` })
  }
  if (analysis === undefined && (data.length === 0 || holdout === 0)) {
    throw notMeasurable(`solver ${solver} is given`, config)
  }
  if (solver === 'bisection' && maxKl === undefined && maxDrop === undefined) {
    throw new QtoolError('usage', 'solver bisection is given without maxKl or maxDrop', {
      hint: 'it lowers layers as long as a bound is kept: give --max-kl or --max-drop, or another solver',
    })
  }
  const limits = (config.budget?.split(',').length ?? 0) + (config.maxLatency === undefined ? 0 : 1)
  if (solver === 'dp' && limits > 1) {
    throw new QtoolError('usage', `solver dp is given with ${limits} limits, and takes one`, {
      hint: 'ilp takes several: leave out --solver dp, or all limits but one',
    })
  }
  if (analysis === undefined && sensitivity.length === 0) throw noSensitivity()
  if (maxDrop !== undefined && labels === undefined) {
    throw new QtoolError('usage', 'maxDrop is given without labels', { hint: `accuracy needs them: ${LABELS_HINT}` })
  }
  if (analysis === undefined) checkLabelled(config)
  const bound = maxKl !== undefined ? 'maxKl' : maxDrop !== undefined ? 'maxDrop' : undefined
  const runs = bound ?? firstGiven(['labels', 'evaluations'], values, usual)
  if (runs === undefined || (data.length > 0 && holdout > 0) || (runs === 'evaluations' && config.evaluations === 0)) {
    return
  }
  throw new QtoolError('usage', `${runs} is given without ${data.length > 0 ? 'held-out samples' : 'data'}`, {
    hint: data.length > 0 ? HOLDOUT_HINT : `allocations are run on data, beside the analysis: ${runs} goes with --data`,
  })
}

function notMeasurable(asked: string, { data }: QuantizeConfig): QtoolError {
  return data.length > 0
    ? new QtoolError('usage', `${asked}, but nothing is held out`, { hint: HOLDOUT_HINT })
    : new QtoolError('usage', `${asked} without data or an analysis`, { hint: SOURCE_HINT })
}

/** A sensitivity by labels is measured on some. @throws QtoolError `usage`. */
function checkLabelled({ sensitivity, labels }: Pick<QuantizeConfig, 'sensitivity' | 'labels'>): void {
  if (labels !== undefined || !sensitivity.includes('labels')) return
  throw new QtoolError('usage', 'sensitivity labels is given without labels', { hint: LABELS_HINT })
}

function noSensitivity(): QtoolError {
  return new QtoolError('usage', 'sensitivity: wanted at least one, found none', { hint: 'give for example kl' })
}

/**
 * Refuse what contradicts itself in a measurement on data.
 * @param usual what `values` is compared with, see `usualValues`.
 * @returns the configuration, without drawn configurations for a shard.
 * @throws QtoolError `usage`.
 */
export function settleMeasurement(config: AnalyzeConfig, values: Partial<AnalyzeConfig>, usual: object): AnalyzeConfig {
  const { holdout, sensitivity, shard, output } = config
  if (holdout === 0) throw new QtoolError('usage', 'nothing is held out to measure on', { hint: HOLDOUT_HINT })
  if (sensitivity.length === 0) throw noSensitivity()
  checkLabelled(config)
  if (config.candidates === 'all' && firstGiven(['groupSize'], values, usual)) {
    throw new QtoolError('usage', 'groupSize is given with candidates all, which has several', {
      hint: 'leave out one of the two',
    })
  }
  if (shard === undefined) return config
  const whole = OF_WHOLE_NETWORK.find((name) => sensitivity.includes(name))
  const asked =
    whole !== undefined
      ? `sensitivity ${whole}`
      : config.configurations > 0 && firstGiven(['configurations'], values, usual)
  if (asked) {
    throw new QtoolError('usage', `${asked} is given with a shard, and needs all layers at once`, {
      hint: `measure ${asked} without --shard; kl, hessian, pairwise, mse, proxy, outputs and labels can be sharded`,
    })
  }
  if (output === undefined) {
    throw new QtoolError('usage', 'a shard is measured without an output', {
      hint: `say where to write it with -o analysis.${shard.replace('/', '-')}.json`,
    })
  }
  return { ...config, configurations: 0 }
}

/**
 * Refuse what contradicts the joining of parts.
 * @throws QtoolError `usage`.
 */
export function checkMerge({ merge, output }: AnalyzeConfig, key: string | undefined): void {
  if (key !== undefined) {
    throw new QtoolError('usage', `${key} is given beside merge`, {
      hint: 'the parts hold what they were measured with: --merge goes with -o and --force alone',
    })
  }
  if (output === undefined) {
    throw new QtoolError('usage', 'merge is given without an output', {
      hint: 'say where to write with -o analysis.json',
    })
  }
  const twice = [...merge, output].find((path, i, paths) => paths.indexOf(path) !== i)
  if (twice === undefined) return
  throw new QtoolError('usage', `${twice} is given twice`, { hint: 'each part once, and the output is another file' })
}

/** @file Bounds on what held-out samples may lose: on their loss, and with labels on their accuracy. Both are kept by real runs. */
import { QtoolError } from '../errors.ts'
import type { PairedAccuracy } from '../eval/labelLoss.ts'

/** Options per layer; undefined for a layer that stays as it is. */
type Options = readonly (number | undefined)[]

/** Accuracy of a configuration that was run; undefined where it was not, or there are no labels. */
export type AccuracyOf = (options: Options) => PairedAccuracy | undefined

export interface Bounds {
  /** Most that the loss may be, above 0. */
  readonly maxKl?: number | undefined
  /** Most that the accuracy may fall below that of the float model, as a share of the samples, in (0, 1]. */
  readonly maxDrop?: number | undefined
  readonly accuracyOf?: AccuracyOf | undefined
}

/** Rounding of shares: 0.29 · 100 is 28.999999999999996. */
const SLACK = 1e-9

/** Samples that may get wrong on balance: the largest whole number of at most `maxDrop` · `samples`. */
export function samplesToLose(maxDrop: number, samples: number): number {
  return Math.floor(maxDrop * samples + SLACK)
}

/** Are there bounds? */
export function hasBounds({ maxKl, maxDrop }: Bounds): boolean {
  return maxKl !== undefined || maxDrop !== undefined
}

/**
 * How much of the bounds a configuration takes, that of the bound that it takes most of: at most 1 where all are kept, and above 1
 * where one is not.
 * @param loss as measured.
 * @throws QtoolError `usage` for a bound on accuracy without labels.
 */
export function strainOf({ maxKl, maxDrop, accuracyOf }: Bounds, options: Options, loss: number): number {
  const strains = [0]
  if (maxKl !== undefined) strains.push(exceeding(loss <= maxKl, loss / maxKl))
  if (maxDrop !== undefined) {
    const { samples, floatRight, right } = accuracyOrThrow(accuracyOf, options)
    const allowed = samplesToLose(maxDrop, samples)
    const lost = floatRight - right
    strains.push(exceeding(lost <= allowed, lost / Math.max(1, allowed)))
  }
  return Math.max(...strains)
}

/** The quotient may round to 1, or be 1 where nothing is allowed. */
function exceeding(isKept: boolean, strain: number): number {
  if (isKept) return Math.min(1, strain)
  return strain > 1 ? strain : 1 + Number.EPSILON
}

function accuracyOrThrow(accuracyOf: AccuracyOf | undefined, options: Options): PairedAccuracy {
  const accuracy = accuracyOf?.(options)
  if (accuracy) return accuracy
  throw new QtoolError('usage', 'a bound on accuracy needs labels, and data to run allocations on', {
    hint: 'give --labels FILE with --data, with the analysis too',
  })
}

/** The error for bounds that cannot be kept. @param reached the nearest to them that was run. @param who comes to it. */
export function boundError(
  { maxKl, maxDrop, accuracyOf }: Bounds,
  reached: { readonly options: Options; readonly measured: number },
  who: string,
  hint: string,
): QtoolError {
  const { options, measured } = reached
  const parts: string[] = []
  if (maxKl !== undefined && !(measured <= maxKl)) {
    parts.push(`a loss of ${measured.toPrecision(3)}, more than ${maxKl}`)
  }
  if (maxDrop !== undefined) {
    const { samples, floatRight, right } = accuracyOrThrow(accuracyOf, options)
    if (floatRight - right > samplesToLose(maxDrop, samples)) {
      const fallen = percent((floatRight - right) / samples)
      const counts = `${right} of ${samples} samples right, the float model ${floatRight}`
      parts.push(`an accuracy ${fallen} below the float model's (${counts}), more than ${percent(maxDrop)}`)
    }
  }
  return new QtoolError('infeasible', `${who} to ${parts.join(', and to ')}`, { hint })
}

function percent(share: number): string {
  return `${Number((100 * share).toPrecision(3))} %`
}

/** What is to be said of a bound that is finer than the samples; undefined where nothing is. */
export function coarseWarning(maxDrop: number | undefined, samples: number): string | undefined {
  if (maxDrop === undefined || samples === 0 || samplesToLose(maxDrop, samples) >= 1) return undefined
  const needed = Math.ceil(1 / maxDrop - SLACK)
  return (
    `one of ${samples} held-out samples with a label is ${percent(1 / samples)} of accuracy, more than maxDrop ` +
    `(${percent(maxDrop)}): none may be lost on balance, and that is all the bound says; ${needed} would be needed`
  )
}

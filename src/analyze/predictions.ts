/** @file How well each sensitivity predicts the losses of configurations that were drawn and run for real. */
import { rSquared, spearman } from '../hessian/agreement.ts'
import { type Analysis, SENSITIVITIES, type Sensitivity } from './analysis.ts'
import { missingFor, predict } from './losses.ts'

export interface Agreement {
  readonly sensitivity: Sensitivity
  /**
   * Share of the variance that predictions explain as they stand, in (−∞, 1]. Undefined for sensitivities that are not
   * in units of loss, for fewer than two configurations of finite loss, and where one of those is predicted to be infinite.
   */
  readonly rSquared: number | undefined
  /** Rank correlation in [−1, 1]; undefined for fewer than two configurations, or values that are all equal. */
  readonly spearman: number | undefined
}

/** Sensitivities that order configurations only. */
const ORDERS: readonly Sensitivity[] = ['mse', 'proxy', 'outputs', 'labels', 'lim', 'zd']

/**
 * Agreement over `analysis.configurations` of every sensitivity that the analysis has the figures for: `kl` and `mse`
 * always, whatever was asked for, as what the others are compared with.
 * @returns in the order of {@link SENSITIVITIES}; empty where no configurations were run.
 */
export function agreements(analysis: Analysis): Agreement[] {
  const { configurations } = analysis
  if (configurations.length === 0) return []
  const available = SENSITIVITIES.filter((sensitivity) => missingFor(analysis, sensitivity) === undefined)
  return available.map((sensitivity) => {
    const points = configurations.map(({ choice, loss }) => ({
      predicted: predict(analysis, sensitivity, choice),
      measured: loss,
    }))
    const predicted = points.map((point) => point.predicted)
    const measured = points.map((point) => point.measured)
    return {
      sensitivity,
      rSquared: ORDERS.includes(sensitivity) ? undefined : finiteRSquared(points),
      spearman: spearman(predicted, measured),
    }
  })
}

function finiteRSquared(points: readonly { readonly predicted: number; readonly measured: number }[]) {
  const finite = points.filter(({ measured }) => Number.isFinite(measured))
  const value = rSquared(
    finite.map(({ predicted }) => predicted),
    finite.map(({ measured }) => measured),
  )
  return value !== undefined && Number.isFinite(value) ? value : undefined
}

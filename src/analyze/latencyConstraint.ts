/** @file `--max-latency` as a constraint of the allocation. */
import { QtoolError } from '../errors.ts'
import type { LayerLatencies } from './layerLatency.ts'

/** All in whole nanoseconds. */
export interface LatencyConstraint {
  /** [layer][option] */
  readonly costs: readonly (readonly number[])[]
  /** The most that the costs may add up to. */
  readonly limit: number
  /** What the limit was made of: the rest of the model, and the sum of its layers as float. */
  readonly rest: number
  readonly float: number
}

/**
 * Σ costs ≤ limit exactly when the rest and the layers together take at most `ratio` times what they take as float. Rounded per layer,
 * so that layers that all stay float have just the limit of ratio 1.
 *
 * @param ratio above 0
 * @throws QtoolError `infeasible` when even the fastest options take longer
 */
export function latencyConstraint(
  latencies: Pick<LayerLatencies, 'float' | 'options' | 'rest'>,
  ratio: number,
): LatencyConstraint {
  if (!(ratio > 0 && ratio < Number.POSITIVE_INFINITY)) throw new RangeError(`a latency ratio of ${ratio}`)
  const costs = latencies.options.map((own) => own.map(nanoseconds))
  const rest = nanoseconds(latencies.rest)
  const float = latencies.float.reduce((total, seconds) => total + nanoseconds(seconds), 0)
  const allowed = ratio * (rest + float)
  // 0.7 · 90 is a little less than 63.
  const limit = Math.floor(allowed * (1 + 1e-15)) - rest
  const least = costs.reduce((total, own) => total + Math.min(...own), 0)
  if (least > limit) throw tooSlow({ ratio, rest, float, least })
  return { costs, limit, rest, float }
}

function tooSlow(of: {
  readonly ratio: number
  readonly rest: number
  readonly float: number
  readonly least: number
}) {
  const { ratio, rest, float, least } = of
  const whole = rest + float
  const reached = Math.ceil((1e4 * (rest + least)) / whole) / 1e4
  const milliseconds = (value: number) => `${Number((value / 1e6).toPrecision(3))} ms`
  const reason =
    rest >= ratio * whole
      ? `what is no product of a quantized layer takes ${milliseconds(rest)} of ${milliseconds(whole)} by itself`
      : `with the fastest option of every layer it is ${milliseconds(rest + least)} of ${milliseconds(whole)}`
  const hint =
    whole > 0
      ? `the least that can be reached is ${reached}x; allow that, or faster candidates`
      : 'no time was measured'
  return new QtoolError('infeasible', `a latency of at most ${ratio}x cannot be reached: ${reason}`, { hint })
}

/** At least 0. */
function nanoseconds(seconds: number): number {
  return Math.round(seconds * 1e9)
}

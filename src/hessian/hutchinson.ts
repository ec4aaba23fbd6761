/**
 * @file Trace of a layer's Fisher matrix F by forward runs alone, and the HAWQ sensitivity made of it.
 *
 * KL(p_w ‖ p_{w+δ}) = ½·δᵀFδ + O(‖δ‖³). With δ = ±ε·z the cubic terms cancel, so
 *
 *   [KL(p_w ‖ p_{w+εz}) + KL(p_w ‖ p_{w−εz})] / ε² = zᵀFz + O(ε²),
 *
 * and for independent signs z its mean is tr F (Hutchinson, 1989). Signs and not normal numbers: their variance is
 * 2·Σ_{i≠j} F_ij² (i, j in either order), normal ones have 2·‖F‖². For outputs that are not distributions the relative
 * squared error takes the place of 2·KL.
 *
 * HAWQ-V2 (Dong et al., 2020) and PyHessian multiply by second derivatives, which the runtime does not have, and stop when
 * the running mean moves by less than 0.1 %, which it also does by chance. Here the standard error decides.
 */
import { QtoolError } from '../errors.ts'
import type { Random } from '../random.ts'

/** Share of the weights' root mean square that ε is, see {@link probeStep}. */
const RELATIVE_STEP = 0.01

export interface TraceOptions {
  /** Probes before the first look at the standard error, at least 2. Default 8: from fewer it is itself a guess. */
  readonly minProbes?: number
  /** Probes at most. Default 100. Equal to `minProbes`: a fixed number. */
  readonly maxProbes?: number
  /** Stop when standard error ≤ this share of |mean|; in [0, 1). Default 0.05. 0: only for equal probes. */
  readonly relativeError?: number
}

export interface TraceEstimate {
  readonly trace: number
  /**
   * s/√n of the probes. Stopping by it makes it a little too small, the more so the smaller `minProbes` and the more
   * probes differ.
   */
  readonly standardError: number
  readonly probes: number
  /** False: `maxProbes` were not enough for `relativeError`. */
  readonly converged: boolean
}

/**
 * Mean of probes with its standard error, until that is small enough.
 * @param probe gives zᵀFz, or its estimate from two runs, for the index-th independent z (0, 1, …). It is called for one
 * index after the other, never two at a time; what it throws ends the estimate.
 * @throws QtoolError `numeric` when a probe is not finite. RangeError for options out of range.
 */
export async function estimateTrace(
  probe: (index: number) => Promise<number>,
  options: TraceOptions = {},
): Promise<TraceEstimate> {
  const { minProbes = 8, maxProbes = 100, relativeError = 0.05 } = options
  if (!(minProbes >= 2 && maxProbes >= minProbes && relativeError >= 0 && relativeError < 1)) {
    throw new RangeError(`trace: no estimate from ${minProbes} to ${maxProbes} probes at ${relativeError}`)
  }
  // Welford's recurrence: probes of nearly equal value do not cancel.
  let mean = 0
  let squares = 0
  let standardError = Number.POSITIVE_INFINITY
  let probes = 0
  let converged = false
  while (probes < maxProbes && !converged) {
    const value = await probe(probes)
    if (!Number.isFinite(value)) {
      throw new QtoolError('numeric', `trace: probe ${probes + 1} gave ${value}, want a finite number`, {
        hint: 'the network overflows under small changes of this layer; measure it by another sensitivity',
      })
    }
    probes++
    const step = value - mean
    mean += step / probes
    squares += step * (value - mean)
    if (probes < 2) continue
    standardError = Math.sqrt(squares / (probes - 1) / probes)
    converged = probes >= minProbes && standardError <= relativeError * Math.abs(mean)
  }
  return { trace: mean, standardError, probes, converged }
}

/** Independent signs, +1 or −1 with equal chance: the z of a probe. 32 of them from each number of the generator. */
export function rademacher(random: Random, length: number): Int8Array<ArrayBuffer> {
  const signs = new Int8Array(length)
  let bits = 0
  for (let i = 0; i < length; i++) {
    if (i % 32 === 0) bits = random.uniform() * 4294967296
    signs[i] = 1 - 2 * ((bits >>> (i % 32)) & 1)
  }
  return signs
}

/**
 * ε of a layer: a hundredth of its weights' root mean square (1 where they are all 0). Between a thousandth and a tenth
 * of it the trace moves by less than half a percent on trained networks. Below, float32 outputs hardly move and the KL is
 * their rounding; above, the fourth order shows.
 */
export function probeStep(weights: ArrayLike<number>): number {
  let squares = 0
  for (let i = 0; i < weights.length; i++) squares += weights[i]! * weights[i]!
  return RELATIVE_STEP * (squares > 0 ? Math.sqrt(squares / weights.length) : 1)
}

/**
 * tr(F)/n·‖ΔW‖², HAWQ-V2's sensitivity of a layer. Half of it is the expected KL when the error ΔW has no direction;
 * orders and allocations are the same with or without the half.
 * @param weights      n, the number of weights, ≥ 1
 * @param squaredError ‖ΔW‖² = Σ (ŵ − w)²
 */
export function traceSensitivity(trace: number, weights: number, squaredError: number): number {
  return (trace / weights) * squaredError
}

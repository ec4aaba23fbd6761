/** @file Chooses a configuration that meets a budget. Tables in, choice out: knows neither model nor weights. */
import { QtoolError } from '../errors.ts'
import type { Budget } from './budget.ts'
import type { Configuration } from './candidates.ts'

/** One way to quantize the whole model, with its exact figures. */
export interface Candidate {
  readonly config: Configuration
  /** Mean width of the codes over the quantized weights, bits. */
  readonly meanBits: number
  /** Stored bits per weight over the same weights: codes, scales, zero points, padding. */
  readonly storedBits: number
  /** All output files. */
  readonly outputBytes: number
  /** Any figure that falls with quality. */
  readonly expectedError: number
}

export interface ModelBytes {
  /** All files of the source. */
  readonly sourceBytes: number
  /** Part of every output that no configuration changes: graph, tensors that stay as they are. */
  readonly fixedBytes: number
}

/** Slack for sums of many widths in floating point. */
const BITS_SLACK = 1e-9

/**
 * The candidate with the least expected error among those that fit; of equals the one with fewer bytes, then the first.
 *
 * @param candidates at least one.
 * @returns a candidate that does not exceed the budget.
 * @throws QtoolError `infeasible` when none fits: names the least that can be reached, and what binds.
 */
export function allocateUniform<C extends Candidate>(budget: Budget, candidates: readonly C[], model: ModelBytes): C {
  let best: C | undefined
  for (const candidate of candidates) {
    if (!(demand(budget, candidate) <= limit(budget, model))) continue
    if (best === undefined || isBetter(candidate, best)) best = candidate
  }
  if (best === undefined) throw infeasible(budget, candidates, model)
  return best
}

function isBetter(a: Candidate, b: Candidate): boolean {
  if (a.expectedError !== b.expectedError) return a.expectedError < b.expectedError
  return a.outputBytes < b.outputBytes
}

/** What a candidate takes, in the unit of {@link limit}. */
function demand(budget: Budget, candidate: Candidate): number {
  if (budget.kind === 'meanBits') return candidate.meanBits
  return budget.kind === 'bitsPerWeight' ? candidate.storedBits : candidate.outputBytes
}

/** Bits, or bytes for budgets on files. */
function limit(budget: Budget, model: ModelBytes): number {
  if (budget.kind === 'bytes') return budget.bytes
  return budget.kind === 'ratio' ? Math.floor(budget.ratio * model.sourceBytes) : budget.bits + BITS_SLACK
}

function infeasible(budget: Budget, candidates: readonly Candidate[], model: ModelBytes): QtoolError {
  const least = candidates.reduce((a, b) => (demand(budget, b) < demand(budget, a) ? b : a))
  const { bits, groupSize } = least.config
  const how = `${bits} bits, ${groupSize === 'channel' ? 'one scale per channel' : `groups of ${groupSize}`}`
  const { asked, reached, binds } = describe(budget, least, model)
  const larger = budget.kind === 'ratio' && least.outputBytes > model.sourceBytes
  return new QtoolError(
    'infeasible',
    `${asked} cannot be reached: the least is ${reached} (${how}; at most ${least.outputBytes} bytes of output files), bound by ${binds}`,
    {
      hint: larger
        ? 'no configuration makes this model smaller'
        : `raise the budget to ${reached.replace(' ', '')}; \`qtool analyze\` lists what stays as it is and why`,
    },
  )
}

/** What was asked, the least in the same terms (a budget that can be met), and what keeps it from falling. */
function describe(budget: Budget, least: Candidate, model: ModelBytes) {
  if (budget.kind === 'meanBits') {
    return {
      asked: `${budget.bits} bits of mean width`,
      reached: `${roundUp(least.meanBits)}bit`,
      binds: 'the smallest width that every layer can take, or is set to by hand',
    }
  }
  if (budget.kind === 'bitsPerWeight') {
    return {
      asked: `${budget.bits} stored bits per weight`,
      reached: `${roundUp(least.storedBits)}bpw`,
      binds: 'the smallest width that is allowed, and by the scales and zero points on top of the codes',
    }
  }
  const allowed = limit(budget, model)
  const quantized = least.outputBytes - model.fixedBytes
  const binds =
    model.fixedBytes > allowed
      ? `${model.fixedBytes} bytes of graph and tensors that stay as they are`
      : `${quantized} bytes of quantized weights beside ${model.fixedBytes} bytes that stay as they are`
  if (budget.kind === 'bytes') return { asked: `${allowed} bytes`, reached: `${least.outputBytes} B`, binds }
  return {
    asked: `${budget.ratio}x of the source (${allowed} bytes)`,
    reached: `${roundUp(least.outputBytes / model.sourceBytes)}x`,
    binds,
  }
}

/** Upwards to four decimals, so that the figure named is a budget that can be met. */
function roundUp(value: number): number {
  const rounded = Math.ceil(value * 1e4 - 1e-6) / 1e4
  return rounded >= value ? rounded : Math.ceil(value * 1e4) / 1e4
}

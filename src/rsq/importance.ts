/**
 * @file Scores of tokens → how much each token counts in the statistics of a layer.
 *
 * Source: RSQ (Sung et al. 2025, arXiv 2503.01820), r_t = r_min + (1 − r_min)·(s_t − min s)/(max s − min s) within a sequence.
 * Differences: where all scores of a sequence are equal all weights are 1 (the released code divides by zero), padding
 * weighs nothing, and the exponent belongs to r, which is never negative, so that it cannot lose the sign of a score.
 */

/** Strategies of the paper's code, and the divergence of a rounded student (`student-kl`). */
export const IMPORTANCE_NAMES = [
  'attention',
  'activation-norm',
  'activation-difference',
  'token-similarity',
  'token-frequency',
  'first',
  'first-last',
  'student-kl',
] as const

export type ImportanceName = (typeof IMPORTANCE_NAMES)[number]

export interface WeightOptions {
  /** Weight of the least important token over that of the most important, 0 … 1. The paper's script has .005. */
  readonly rMin: number
  /** Weights enter statistics as r (1, the released code) or r² (2, the paper's text). */
  readonly exponent: 1 | 2
  /**
   * Sums over queries are divided by the number of queries that can see the token in a causal network (`linear`), or by
   * its root. Only the scores of attention are such sums.
   */
  readonly lengthCorrection: 'none' | 'linear' | 'sqrt'
  /** Scores are clamped to this quantile and one minus it, .5 … 1; 1 for none. An attention sink then does not set the scale. */
  readonly quantile: number
}

/** Tokens of a batch of sequences of one length. */
export interface TokenBatch {
  readonly sequences: number
  /** Tokens in each, padding included. */
  readonly length: number
  /** [sequences · length], 0 for padding; undefined when all count. */
  readonly counts: Float32Array | undefined
}

/**
 * Weights of the tokens of a batch, for statistics that sum over tokens.
 * @param scores [sequences · length]; higher is more important. Those of padding may be anything.
 * @returns [sequences · length]: ≥ 0, of mean 1 over the tokens of each sequence that count, 0 for padding. All 1 in
 *   sequences of equal scores, and in those where one is NaN or infinite.
 * @throws RangeError when the options or the number of scores do not fit.
 */
export function importanceWeights(scores: Float64Array, batch: TokenBatch, options: WeightOptions): Float32Array {
  const { sequences, length } = batch
  const { rMin, exponent, lengthCorrection, quantile } = options
  if (scores.length !== sequences * length) throw new RangeError(`${scores.length} scores of ${sequences} × ${length}`)
  if (!(rMin >= 0 && rMin <= 1)) throw new RangeError(`least weight ${rMin}`)
  if (!(quantile >= 0.5 && quantile <= 1)) throw new RangeError(`quantile ${quantile}`)
  const weights = new Float32Array(scores.length)
  for (let sequence = 0; sequence < sequences; sequence++) {
    const places = countingPlaces(batch, sequence)
    const own = places.map((place, i) => scores[place]! / seenBy(places.length - i, lengthCorrection))
    const relative = minMax(own, quantile)?.map((share) => (rMin + (1 - rMin) * share) ** exponent)
    const mean = relative && relative.reduce((a, b) => a + b, 0) / relative.length
    for (const [i, place] of places.entries()) weights[place] = relative && mean ? relative[i]! / mean : 1
  }
  return weights
}

/** Places in the batch of the tokens of a sequence that count, in order. */
export function countingPlaces({ length, counts }: TokenBatch, sequence: number): number[] {
  const places: number[] = []
  for (let at = sequence * length; at < (sequence + 1) * length; at++) {
    if (counts === undefined || counts[at] !== 0) places.push(at)
  }
  return places
}

/** @param queries that can see a token: itself and those after it. */
function seenBy(queries: number, correction: WeightOptions['lengthCorrection']): number {
  if (correction === 'none') return 1
  return correction === 'linear' ? queries : Math.sqrt(queries)
}

/** Each number's place between the least (0) and the largest (1); undefined where there is no such place. */
function minMax(scores: readonly number[], quantile: number): number[] | undefined {
  if (!scores.every(Number.isFinite)) return undefined
  const sorted = [...scores].sort((a, b) => a - b)
  const [least, most] = [quantileOf(sorted, 1 - quantile), quantileOf(sorted, quantile)]
  if (!(most > least)) return undefined
  return scores.map((score) => (Math.min(Math.max(score, least), most) - least) / (most - least))
}

/** Linear between neighbours. @param sorted ascending; empty has none. */
function quantileOf(sorted: readonly number[], share: number): number {
  const at = share * (sorted.length - 1)
  const [below, above] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]]
  if (below === undefined || above === undefined) return Number.NaN
  return below + (above - below) * (at - Math.floor(at))
}

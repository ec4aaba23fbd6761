/**
 * @file Scores of tokens from what is known of them: their place, their ids, the residual stream before and after a block,
 * the attention that they get. Higher is more important; src/rsq/importance.ts makes weights of them.
 *
 * Source: RSQ (Sung et al. 2025, arXiv 2503.01820) and its code. Tokens of a sequence are those that count: padding
 * takes no part in means, counts and chunks, and its own scores mean nothing.
 */
import type { Numbers } from '../eval/numbers.ts'
import { countingPlaces, type TokenBatch } from './importance.ts'

/** Some of the equal parts of each sequence. */
export interface Chunks {
  /** Numbers of parts, from 0. */
  readonly keep: readonly number[]
  /** Parts in all. */
  readonly of: number
}

/** The first eighth, as in the paper. */
export const FIRST: Chunks = { keep: [0], of: 8 }
/** The first and the last of 32 parts, as in the paper. */
export const FIRST_AND_LAST: Chunks = { keep: [0, 31], of: 32 }

/**
 * 1 for tokens in the chunks that are kept, 0 for others. A chunk's bounds are rounded outwards, so that none is empty where a
 * sequence has fewer tokens than there are chunks.
 * @throws RangeError for a chunk that does not exist.
 */
export function chunkScores(batch: TokenBatch, { keep, of }: Chunks): Float64Array {
  if (!(Number.isInteger(of) && keep.every((chunk) => Number.isInteger(chunk) && chunk >= 0 && chunk < of))) {
    throw new RangeError(`chunks ${keep.join(', ')} of ${of}`)
  }
  return bySequence(batch, (places, scores) => {
    for (const chunk of keep) {
      const from = Math.floor((chunk * places.length) / of)
      const to = Math.ceil(((chunk + 1) * places.length) / of)
      for (const place of places.slice(from, to)) scores[place] = 1
    }
  })
}

/** How often each token id occurs. */
export class TokenCounts {
  readonly #counts = new Map<number, number>()

  /** @param ids [sequences · length] */
  add(ids: Numbers, batch: TokenBatch): void {
    bySequence(batch, (places) => {
      for (const place of places) this.#counts.set(ids[place]!, (this.#counts.get(ids[place]!) ?? 0) + 1)
    })
  }

  /** Minus the number of times that a token's id was added: rare ones are important. */
  scores(ids: Numbers, batch: TokenBatch): Float64Array {
    return bySequence(batch, (places, scores) => {
      for (const place of places) scores[place] = -(this.#counts.get(ids[place]!) ?? 0)
    })
  }
}

/** ‖x_t‖₂. @param x the stream before a block, [sequences · length, width]. */
export function normScores(x: Numbers, batch: TokenBatch): Float64Array {
  const width = widthOf(x, batch)
  return bySequence(batch, (places, scores) => {
    for (const place of places) scores[place] = Math.sqrt(squares(width, (k) => x[place * width + k]!))
  })
}

/** −‖x_t − y_t‖₂: tokens that a block changes little are important. @param y the stream after it, of the shape of x. */
export function differenceScores(x: Numbers, y: Numbers, batch: TokenBatch): Float64Array {
  const width = widthOf(x, batch)
  if (y.length !== x.length) throw new RangeError(`${x.length} numbers before, ${y.length} after`)
  return bySequence(batch, (places, scores) => {
    for (const place of places) {
      scores[place] = -Math.sqrt(squares(width, (k) => x[place * width + k]! - y[place * width + k]!))
    }
  })
}

/**
 * (1/T) Σ_u ‖x_t − x_u‖² over the tokens u of the sequence: dissimilar tokens are important. With the mean m of the
 * tokens it is ‖x_t − m‖² + (1/T) Σ_u ‖x_u − m‖², which takes O(T · width).
 */
export function similarityScores(x: Numbers, batch: TokenBatch): Float64Array {
  const width = widthOf(x, batch)
  return bySequence(batch, (places, scores) => {
    const mean = new Float64Array(width)
    for (const place of places) for (let k = 0; k < width; k++) mean[k]! += x[place * width + k]! / places.length
    let spread = 0
    for (const place of places) {
      scores[place] = squares(width, (k) => x[place * width + k]! - mean[k]!)
      spread += scores[place]! / places.length
    }
    for (const place of places) scores[place]! += spread
  })
}

/**
 * The attention that tokens get: Σ_heads Σ_queries A[query, t].
 * @param received one for each attention of the block: [sequences, length], summed over heads and queries, or
 *   [sequences, length, length], summed over heads alone; queries that do not count are then left out.
 * @returns undefined where a shape does not fit.
 */
export function attentionScores(
  received: readonly { readonly dims: readonly number[]; readonly data: Numbers }[],
  batch: TokenBatch,
): Float64Array | undefined {
  const { sequences, length } = batch
  const fits = received.every(({ dims }) => {
    const [first, ...others] = dims
    return first === sequences && others.length <= 2 && others.length > 0 && others.every((size) => size === length)
  })
  if (!fits) return undefined
  return bySequence(batch, (places, scores, sequence) => {
    for (const { dims, data } of received) {
      for (const place of places) {
        if (dims.length === 2) scores[place]! += data[place]!
        // The numbers of a query lie at its own place times the length.
        else for (const query of places) scores[place]! += data[query * length + place - sequence * length]!
      }
    }
  })
}

function bySequence(
  batch: TokenBatch,
  score: (places: readonly number[], scores: Float64Array, sequence: number) => void,
): Float64Array {
  const scores = new Float64Array(batch.sequences * batch.length)
  for (let sequence = 0; sequence < batch.sequences; sequence++)
    score(countingPlaces(batch, sequence), scores, sequence)
  return scores
}

function widthOf(x: Numbers, { sequences, length }: TokenBatch): number {
  const width = x.length / (sequences * length)
  if (!Number.isInteger(width)) throw new RangeError(`${x.length} numbers of ${sequences} × ${length} tokens`)
  return width
}

function squares(count: number, at: (k: number) => number): number {
  let sum = 0
  for (let k = 0; k < count; k++) sum += at(k) ** 2
  return sum
}

/** @file What the inputs say about sequences: which positions are padding, and whether the model predicts next tokens. */
import type { FeedTensor } from '../data/modelInput.ts'
import type { Session } from '../runtime/session.ts'
import { type Numbers, numbersOf } from './numbers.ts'

type Feeds = ReadonlyMap<string, FeedTensor>

/** Masks of the sequence that the outputs belong to, the decoder's first. */
const MASK_INPUTS = ['decoder_attention_mask', 'attention_mask', 'input_mask']
/** Token ids of the sequence that the outputs belong to, the decoder's first. */
const ID_INPUTS = ['decoder_input_ids', 'input_ids']

function firstOf(feeds: Feeds, names: readonly string[]): FeedTensor | undefined {
  for (const name of names) if (feeds.has(name)) return feeds.get(name)
  return undefined
}

/**
 * Which positions of an output count: those where the attention mask is not 0.
 *
 * Only for an output [samples, positions, features] whose two leading axes are the mask's. A mask that also covers past
 * positions ([samples, past + positions], with token ids [samples, positions]) is read from its end.
 *
 * @returns one 0 or 1 per position, or undefined when no mask applies
 */
export function keptPositions(feeds: Feeds, dims: readonly number[]): Uint8Array | undefined {
  const mask = firstOf(feeds, MASK_INPUTS)
  if (mask?.dims.length !== 2 || dims.length !== 3 || mask.dims[0] !== dims[0]) return undefined
  const [samples, positions] = dims as [number, number, number]
  const width = mask.dims[1]!
  const ids = firstOf(feeds, ID_INPUTS)
  if (width !== positions && !(width > positions && ids?.dims[1] === positions)) return undefined
  const values = numbersOf(mask)
  const keep = new Uint8Array(samples * positions)
  for (let s = 0; s < samples; s++) {
    for (let t = 0; t < positions; t++) {
      keep[s * positions + t] = values[s * width + width - positions + t] === 0 ? 0 : 1
    }
  }
  return keep
}

/** Token ids that the positions of an output [samples, positions, vocabulary] stand for, flat; undefined when there are none. */
export function tokenIds(feeds: Feeds, dims: readonly number[]): Numbers | undefined {
  const ids = firstOf(feeds, ID_INPUTS)
  if (!ids || dims.length !== 3 || ids.dims.length !== 2) return undefined
  if (ids.dims[0] !== dims[0] || ids.dims[1] !== dims[1]) return undefined
  const values = numbersOf(ids)
  return values.every((id) => id >= 0 && id < dims[2]!) ? values : undefined
}

/**
 * A change of the last token may move earlier scores by this share of what it moves its own by (int8 activations with
 * a scale for the whole tensor move everything a little); a model that sees the future moves them by far more.
 */
const LEAK = 0.02

/**
 * Find out whether a model predicts next tokens, by changing the last token of each sample: a causal model's scores
 * before it stay what they were. One more run of the model. False when no sample has two tokens.
 *
 * @param scores of the unchanged feeds, [samples, positions, vocabulary]
 */
export async function isCausal(session: Session, feeds: Feeds, output: string, scores: FeedTensor): Promise<boolean> {
  const name = ID_INPUTS.find((input) => feeds.has(input))!
  const ids = feeds.get(name)!
  const [samples, positions, vocabulary] = scores.dims as [number, number, number]
  const keep = keptPositions(feeds, scores.dims)
  const changed = ids.data.slice()
  const last = Array.from({ length: samples }, (_, s) => {
    for (let t = positions - 1; t > 0; t--) if (!keep || keep[s * positions + t]) return t
    return 0
  })
  if (last.every((t) => t === 0)) return false
  last.forEach((t, s) => {
    const at = s * positions + t
    const other = (Number(ids.data[at]!) + 1 + Math.floor(vocabulary / 2)) % vocabulary
    changed[at] = typeof changed[at] === 'bigint' ? BigInt(other) : other
  })
  const result = await session.run(new Map(feeds).set(name, { ...ids, data: changed }), [output])
  const before = numbersOf(scores)
  const after = numbersOf(result.get(output)!)
  let own = 0
  let earlier = 0
  last.forEach((t, s) => {
    for (let p = 0; p <= t; p++) {
      if (keep && !keep[s * positions + p]) continue
      for (let i = (s * positions + p) * vocabulary, end = i + vocabulary; i < end; i++) {
        const moved = before[i] === after[i] ? 0 : Math.abs(before[i]! - after[i]!)
        if (p < t) earlier = Math.max(earlier, moved)
        else own = Math.max(own, moved)
      }
    }
  })
  return own > 0 && earlier <= LEAK * own
}

/** @file How much each token of a batch counts: nothing where it is padding. */
import type { FeedBatch, FeedTensor } from './modelInput.ts'

const MASKS = ['attention_mask', 'input_mask', 'input_word_mask', 'encoder_attention_mask', 'decoder_attention_mask']
const TOKENS = ['input_ids', 'input_word_ids', 'inputs_embeds', 'decoder_input_ids']

/**
 * The attention mask of a batch as numbers.
 *
 * @returns [batch · sequence], 1 for a token and 0 for padding. Undefined when nothing is padded, when there is no mask of
 *   rank 2, or when there are several that differ (an encoder's and a decoder's), since none then holds for all layers. A mask that
 *   also covers a cache is read from its end.
 */
export function tokenWeights(batch: FeedBatch): Float32Array | undefined {
  const feeds = [...batch.feeds].map(([name, tensor]) => ({ name: name.replace(/:0$/, ''), tensor }))
  const tokens = feeds.find(({ name }) => TOKENS.includes(name))?.tensor
  const masks = feeds.filter(({ name, tensor }) => MASKS.includes(name) && tensor.dims.length === 2)
  const [first, ...others] = masks.map(({ tensor }) => weightsOf(tensor, tokens?.dims[1] ?? tensor.dims[1]!))
  if (!first || first.every((weight) => weight === 1)) {
    return undefined
  }
  const differ = others.some((other) => other.length !== first.length || other.some((weight, i) => weight !== first[i]))
  return differ ? undefined : first
}

/** The last `length` entries of each row, as 0 and 1. */
function weightsOf({ dims, data }: FeedTensor, length: number): Float32Array {
  const [rows, width] = dims as [number, number]
  const kept = Math.min(length, width)
  const weights = new Float32Array(rows * kept)
  for (let i = 0; i < weights.length; i++) {
    const at = Math.floor(i / kept) * width + width - kept + (i % kept)
    weights[i] = Number(data[at]) === 0 ? 0 : 1
  }
  return weights
}

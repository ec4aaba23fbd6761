/** @file Which input holds the ids of the tokens. */
import { MASKS, POSITIONS, TOKEN_TYPES } from './fillInputs.ts'
import type { FeedTensor } from './modelInput.ts'

const IDS = ['input_ids', 'input_word_ids', 'decoder_input_ids']
const OTHERS = [...Object.keys(MASKS), ...TOKEN_TYPES, POSITIONS]

type Shaped = Pick<FeedTensor, 'type' | 'dims'>

/** Name without TensorFlow's output number. */
export function bareInputName(name: string): string {
  return name.replace(/:0$/, '')
}

/**
 * The name of the input [sequences, tokens] of token ids: one that is called so, else the only one of integers of that
 * rank whose name means nothing else.
 */
export function tokenIdsInput(feeds: ReadonlyMap<string, Shaped>): string | undefined {
  const integers = [...feeds].filter(([, { type, dims }]) => /^u?int(8|16|32|64)$/.test(type) && dims.length === 2)
  for (const wanted of IDS) {
    const found = integers.find(([name]) => bareInputName(name) === wanted)
    if (found) return found[0]
  }
  const open = integers.filter(([name]) => !OTHERS.includes(bareInputName(name)))
  return open.length === 1 ? open[0]![0] : undefined
}

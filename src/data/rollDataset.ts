/**
 * @file More samples from the same sequences: each rolled circularly, so that its tokens visit other positions.
 *
 * Source: RSQ (Sung et al. 2025, arXiv 2503.01820), whose script takes eight copies. A padded sequence rolls within its
 * own tokens here.
 */
import { QtoolError } from '../errors.ts'
import type { Dataset } from './dataset.ts'
import { MASKS, TOKEN_TYPES } from './fillInputs.ts'
import type { FeedBatch, FeedTensor } from './modelInput.ts'
import { bareInputName, tokenIdsInput } from './tokenInputs.ts'

/** Inputs whose axis 1 counts tokens, besides the ids; not masks, which stay, and not positions. */
const ROLLED = ['input_ids', 'input_word_ids', 'decoder_input_ids', 'inputs_embeds', ...TOKEN_TYPES]

/** Samples of a dataset, all rolled by the same share of their length. */
interface Copy {
  readonly dataset: Dataset
  /** Of `copies`. */
  readonly number: number
}

/**
 * Each sequence of L tokens `copies` times, rolled to the right by ⌊k·L/copies⌋ tokens for k = 0, 1, …. Token ids,
 * embeddings and token types roll together; padding (mask 0), masks and position ids stay where they are. Special
 * tokens roll like others. Meant for samples that are fitted to, never for those that judge.
 *
 * @param copies at least 1.
 * @returns all samples as they are, then all rolled by the first share, and so on. Copies have the number in the data and the
 *   label of their sample. Nothing is copied until feeds are made.
 * @throws QtoolError `usage` when no input is known to hold tokens.
 */
export function rollDataset(dataset: Dataset, copies: number): Dataset {
  if (!(Number.isSafeInteger(copies) && copies >= 1)) throw new RangeError(`${copies} copies`)
  if (copies === 1) return dataset
  for (const { feeds } of dataset.batches(1)) {
    if (rolledInputs(feeds).length > 0) break
    throw new QtoolError(
      'usage',
      `no input is known to hold tokens, which could be rolled: ${[...feeds.keys()].join(', ')}`,
      {
        hint: 'leave the sequences as they are: --roll 1',
      },
    )
  }
  return joined(
    Array.from({ length: copies }, (_, number) => ({ dataset, number })),
    copies,
  )
}

function joined(parts: readonly Copy[], copies: number): Dataset {
  const { notes, filled, exactBatch } = parts[0]!.dataset
  const places = parts.flatMap((part) => Array.from(part.dataset.order, (_, place) => ({ part, place })))
  const labels = parts.map(({ dataset }) => dataset.labels)
  return {
    count: parts.reduce((sum, { dataset }) => sum + dataset.count, 0),
    notes: [...notes, `each sequence is taken ${copies} times, rolled by equal parts of its length`],
    filled,
    order: Int32Array.from(parts.flatMap(({ dataset }) => [...dataset.order])),
    labels: labels.every((own) => own !== undefined) ? Int32Array.from(labels.flatMap((own) => [...own])) : undefined,
    exactBatch,
    *batches(batchSize) {
      let before = 0
      for (const { dataset, number } of parts) {
        for (const batch of dataset.batches(batchSize)) {
          yield { ...rolledBatch(batch, number, copies), start: before + batch.start }
        }
        before += dataset.order.length
      }
    },
    subset(indices) {
      const chosen = Array.from(indices, (index) => {
        const found = places[index]
        if (!found) throw new RangeError(`sample ${index} of ${places.length}`)
        return found
      })
      // A copy of which nothing is taken stays, empty: there is always one to ask for notes.
      const taken = parts.map((part) => ({
        ...part,
        dataset: part.dataset.subset(chosen.filter((other) => other.part === part).map(({ place }) => place)),
      }))
      return joined(taken, copies)
    },
  }
}

function rolledBatch(batch: FeedBatch, number: number, copies: number): FeedBatch {
  if (number === 0) return batch
  const feeds = new Map(batch.feeds)
  for (const name of rolledInputs(batch.feeds)) {
    const tensor = batch.feeds.get(name)!
    feeds.set(name, rolledTensor(tensor, maskOf(name, tensor, batch.feeds), number / copies))
  }
  return { ...batch, feeds }
}

function rolledInputs(feeds: ReadonlyMap<string, FeedTensor>): string[] {
  const ids = tokenIdsInput(feeds)
  return [...feeds.keys()].filter(
    (name) => name === ids || (ROLLED.includes(bareInputName(name)) && feeds.get(name)!.dims.length >= 2),
  )
}

/** The mask of an input of tokens: its own by name, else the only one of its first two dimensions. */
function maskOf(name: string, { dims }: FeedTensor, feeds: ReadonlyMap<string, FeedTensor>): FeedTensor | undefined {
  const masks = [...feeds].filter(
    ([other, mask]) =>
      Object.hasOwn(MASKS, bareInputName(other)) && mask.dims.length === 2 && mask.dims.every((n, i) => n === dims[i]),
  )
  const own = masks.find(([other]) => MASKS[bareInputName(other)]!.includes(bareInputName(name)))
  return (own ?? (masks.length === 1 ? masks[0] : undefined))?.[1]
}

/** @param tensor [sequences, tokens, …] @param share of the tokens that count, by which they move to the right. */
function rolledTensor(tensor: FeedTensor, mask: FeedTensor | undefined, share: number): FeedTensor {
  const [sequences, length, ...rest] = tensor.dims as [number, number, ...number[]]
  const size = rest.reduce((a, b) => a * b, 1)
  const data = tensor.data.slice()
  for (let row = 0; row < sequences; row++) {
    const places: number[] = []
    for (let at = row * length; at < (row + 1) * length; at++) {
      if (mask === undefined || Number(mask.data[at]) !== 0) places.push(at)
    }
    const shift = Math.floor(share * places.length)
    for (const [i, from] of places.entries()) {
      const to = places[(i + shift) % places.length]!
      // One type on both sides; the cast spares a case per element type.
      data.set(tensor.data.subarray(from * size, (from + 1) * size) as never, to * size)
    }
  }
  return { ...tensor, data }
}

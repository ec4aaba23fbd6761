import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Dataset } from '../../src/data/dataset.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { rollDataset } from '../../src/data/rollDataset.ts'
import { datasetOf } from '../eval/models.ts'

const int64 = (dims: readonly number[], values: readonly number[]): FeedTensor => ({
  type: 'int64',
  dims,
  data: BigInt64Array.from(values, BigInt),
})
const LENGTH = 5
/** Sample s has ids 10 s + 1, 10 s + 2, …, as many as its length, then zeros. */
function padded(lengths: readonly number[], left = false) {
  const places = lengths.flatMap((length, s) =>
    Array.from({ length: LENGTH }, (_, t) => {
      const at = left ? t - (LENGTH - length) : t
      return at >= 0 && at < length ? 10 * s + at + 1 : 0
    }),
  )
  const dims = [lengths.length, LENGTH]
  return {
    input_ids: int64(dims, places),
    token_type_ids: int64(
      dims,
      places.map((id) => 2 * id),
    ),
    attention_mask: int64(
      dims,
      places.map((id) => (id === 0 ? 0 : 1)),
    ),
    position_ids: int64(
      dims,
      places.map((_, i) => i % LENGTH),
    ),
    pixels: {
      type: 'float',
      dims: [lengths.length, 2],
      data: Float32Array.from({ length: 2 * lengths.length }, (_, i) => i),
    },
  } as const satisfies Record<string, FeedTensor>
}

/** All samples as they are fed: the number in the data, and the rows of some inputs. */
function fed(dataset: Dataset, batchSize: number, names: readonly string[]) {
  const samples = [...dataset.batches(batchSize)].flatMap(({ feeds, count, start }) =>
    Array.from({ length: count }, (_, i) => ({
      number: dataset.order[start + i]!,
      rows: names.map((name) => {
        const { data } = feeds.get(name)!
        const size = data.length / count
        return Array.from(data.slice(i * size, (i + 1) * size), Number)
      }),
    })),
  )
  expect(samples.length).toBe(dataset.count)
  return samples
}

describe('rolled sequences', () => {
  it('come after those that are as they are, each by ⌊k·L/M⌋ of its own tokens', () => {
    const lengths = [5, 3, 1]
    const copies = 4
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), fc.boolean(), (batchSize, left) => {
        const feeds = padded(lengths, left)
        const rolled = rollDataset(datasetOf(feeds), copies)
        expect([...rolled.order]).toEqual([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
        const found = fed(rolled, batchSize, [
          'input_ids',
          'token_type_ids',
          'attention_mask',
          'position_ids',
          'pixels',
        ])
        found.forEach(({ number: s, rows: [ids, types, mask, positions, pixels] }, i) => {
          const k = Math.floor(i / lengths.length)
          const L = lengths[s]!
          const tokens = Array.from({ length: L }, (_, t) => 10 * s + 1 + ((t - Math.floor((k * L) / copies) + L) % L))
          const padding = Array<number>(LENGTH - L).fill(0)
          expect(ids).toEqual(left ? [...padding, ...tokens] : [...tokens, ...padding])
          expect(types).toEqual(ids!.map((id) => 2 * id))
          expect(mask).toEqual(ids!.map((id) => (id === 0 ? 0 : 1)))
          expect(positions).toEqual([0, 1, 2, 3, 4])
          expect(pixels).toEqual([2 * s, 2 * s + 1])
        })
      }),
    )
  })

  it('of embeddings roll by whole tokens; without a mask all positions are tokens', () => {
    const inputs_embeds: FeedTensor = { type: 'float', dims: [1, 4, 2], data: Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8) }
    const [, second] = fed(rollDataset(datasetOf({ inputs_embeds }), 2), 1, ['inputs_embeds'])
    expect(second!.rows).toEqual([[5, 6, 7, 8, 1, 2, 3, 4]])
  })

  it('can be chosen from, with numbers and labels of their samples', () => {
    const { input_ids } = padded([5, 5, 5])
    const rolled = rollDataset(datasetOf({ input_ids }, [7, 8, 9]), 2)
    const all = fed(rolled, 2, ['input_ids'])
    expect([...rolled.labels!]).toEqual([7, 8, 9, 7, 8, 9])
    const part = rolled.subset([5, 1, 3])
    expect([...part.order]).toEqual([1, 2, 0])
    expect([...part.labels!]).toEqual([8, 9, 7])
    expect(fed(part, 2, ['input_ids'])).toEqual([all[1], all[5], all[3]])
    expect(() => rolled.subset([6])).toThrow(RangeError)
    expect(rolled.notes.at(-1)).toMatch(/2 times, rolled/)
  })

  it('leave the data as it was; one copy is the data set itself; images are refused', () => {
    const feeds = padded([5, 4])
    const before = [...feeds.input_ids.data]
    const dataset = datasetOf(feeds)
    fed(rollDataset(dataset, 3), 2, ['input_ids'])
    expect([...feeds.input_ids.data]).toEqual(before)
    expect(rollDataset(dataset, 1)).toBe(dataset)
    expect(() => rollDataset(dataset, 0)).toThrow(RangeError)
    expect(() => rollDataset(datasetOf({ pixels: feeds.pixels }), 2)).toThrow(
      /no input is known to hold tokens.*pixels/,
    )
  })
})

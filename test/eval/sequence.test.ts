import { describe, expect, it } from 'vitest'
import { keptPositions, tokenIds } from '../../src/eval/sequence.ts'
import { tensor } from './models.ts'

const ids = (dims: number[], values: number[]) => tensor('int64', dims, BigInt64Array.from(values, BigInt))
const mask = ids([2, 3], [1, 1, 0, 0, 1, 1])

describe('keptPositions', () => {
  it('reads the mask of the sequence that the output belongs to', () => {
    expect(keptPositions(new Map([['attention_mask', mask]]), [2, 3, 7])).toEqual(Uint8Array.of(1, 1, 0, 0, 1, 1))
    const boolean = tensor('bool', [2, 3], Uint8Array.of(1, 1, 0, 0, 1, 1))
    expect(keptPositions(new Map([['input_mask', boolean]]), [2, 3, 7])).toEqual(Uint8Array.of(1, 1, 0, 0, 1, 1))
    const both = new Map([
      ['attention_mask', ids([2, 3], [0, 0, 0, 0, 0, 0])],
      ['decoder_attention_mask', mask],
    ])
    expect(keptPositions(both, [2, 3, 7])).toEqual(Uint8Array.of(1, 1, 0, 0, 1, 1))
  })

  it('takes the end of a mask that covers past positions, if the token ids say that there are some', () => {
    const past = ids([2, 5], [1, 1, 1, 1, 0, 1, 0, 0, 1, 1])
    const feeds = new Map([['attention_mask', past]])
    expect(keptPositions(feeds, [2, 3, 7])).toBeUndefined()
    feeds.set('input_ids', ids([2, 3], [1, 2, 3, 4, 5, 6]))
    expect(keptPositions(feeds, [2, 3, 7])).toEqual(Uint8Array.of(1, 1, 0, 0, 1, 1))
  })

  it.each([
    ['another sequence length', [2, 4, 7]],
    ['another number of samples', [1, 3, 7]],
    ['no features', [2, 3]],
    ['heads', [2, 3, 4, 7]],
  ])('says nothing about an output with %s', (_, dims) => {
    expect(keptPositions(new Map([['attention_mask', mask]]), dims)).toBeUndefined()
    expect(keptPositions(new Map(), [2, 3, 7])).toBeUndefined()
  })
})

describe('tokenIds', () => {
  it('gives ids that are classes of the output, and nothing otherwise', () => {
    const feeds = new Map([['input_ids', ids([1, 3], [0, 6, 3])]])
    expect([...tokenIds(feeds, [1, 3, 7])!]).toEqual([0, 6, 3])
    expect(tokenIds(feeds, [1, 3, 6])).toBeUndefined()
    expect(tokenIds(feeds, [1, 2, 7])).toBeUndefined()
    expect(tokenIds(feeds, [3, 7])).toBeUndefined()
    expect(tokenIds(new Map([['input_ids', ids([1, 3], [0, -1, 3])]]), [1, 3, 7])).toBeUndefined()
  })
})

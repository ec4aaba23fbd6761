import { describe, expect, it } from 'vitest'
import { gatherStatistics } from '../../src/calibration/gather.ts'
import type { Importance } from '../../src/calibration/positionWeights.ts'
import type { Dataset } from '../../src/data/dataset.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import type { InputStatistics } from '../../src/hessian/statistics.ts'
import { makeNode } from '../../src/onnx/proto.ts'
import { datasetOf } from '../eval/models.ts'
import { draw, drawn, expectClose, feed, slowStatistics, smallModel, tapIn, weight } from './tapRuns.ts'
import { walkThrough } from './walks.ts'

const TOKENS = 3
const COLS = 8
const dense = smallModel({
  nodes: [makeNode('MatMul', ['x', 'w'], ['y'])],
  weights: [weight('w', [COLS, COLS], draw([COLS, COLS], 1))],
  inputs: { x: [undefined, undefined, COLS] },
})
const x = drawn([5, TOKENS, COLS], 3)
const rowsOf = ({ data }: FeedTensor) =>
  Array.from({ length: data.length / COLS }, (_, row) => Array.from(data.slice(row * COLS, (row + 1) * COLS), Number))

async function gathered(data: Dataset, importance?: Importance, batchSize = 2): Promise<InputStatistics> {
  const walk = walkThrough(dense, { fit: data, held: data.subset([]), batchSize })
  const { tap } = tapIn(dense)
  const options = { first: 0, end: walk.batches.length, side: 'both', run: {} } as const
  try {
    return (await gatherStatistics(walk, tap, { ...options, importance }))[0]!
  } finally {
    walk.close()
  }
}

const mask = [1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0]
const padded = datasetOf({
  x,
  attention_mask: { type: 'int64', dims: [5, TOKENS], data: BigInt64Array.from(mask, BigInt) },
})
/** By sample and token. */
const importanceOf =
  (weights: readonly number[], batchSize = 2): Importance =>
  (batch) =>
    Float32Array.from(weights.slice(batch * batchSize * TOKENS, (batch + 1) * batchSize * TOKENS))

describe('the importance of tokens in statistics', () => {
  const uneven = Array.from({ length: 5 * TOKENS }, (_, i) => (i % 4) / 2)

  it('multiplies into them, in joined batches of any size, beside the mask', async () => {
    for (const [data, counts] of [
      [datasetOf({ x }), mask.map(() => 1)],
      [padded, mask],
    ] as const) {
      for (const batchSize of [1, 2, 5]) {
        const found = await gathered(data, importanceOf(uneven, batchSize), batchSize)
        const expected = slowStatistics(
          [rowsOf(x)],
          undefined,
          uneven.map((w, i) => w * counts[i]!),
        )
        expectClose(found.gram, expected.gram[0]!, 'gram')
        expectClose(found.sum, expected.sum[0]!, 'sum')
        expect(found.weight).toBeCloseTo(expected.count, 5)
      }
    }
  })

  it('of 1 for all tokens leaves every bit as it is, whatever padding is given', async () => {
    const ones = mask.map(() => 1)
    expect(await gathered(datasetOf({ x }), importanceOf(ones))).toEqual(await gathered(datasetOf({ x })))
    const without = await gathered(padded)
    expect(await gathered(padded, importanceOf(ones))).toEqual(without)
    expect(await gathered(padded, importanceOf(mask))).toEqual(without)
    expect(await gathered(padded, () => undefined)).toEqual(without)
  })

  it('of 2 is a token that occurs twice', async () => {
    const twice = feed(
      [1, 4, COLS],
      Float32Array.from([...x.data.slice(0, 3 * COLS), ...x.data.slice(COLS, 2 * COLS)] as number[]),
    )
    const once = datasetOf({ x: feed([1, 3, COLS], (x.data as Float32Array).slice(0, 3 * COLS)) })
    // As weights of mean 1, which is undone again.
    const found = await gathered(once, () => Float32Array.of(0.75, 1.5, 0.75))
    const repeated = await gathered(datasetOf({ x: twice }))
    for (const name of ['gram', 'sum'] as const) {
      expectClose(
        found[name].map((value) => (value * 4) / 3),
        repeated[name],
        name,
      )
    }
    expect((found.weight * 4) / 3).toBeCloseTo(repeated.weight, 5)
  })

  it('of some batches only, and of another number of tokens than the positions, counts nothing else', async () => {
    const second = await gathered(datasetOf({ x }), (batch) =>
      batch === 1 ? new Float32Array(2 * TOKENS).fill(3) : undefined,
    )
    const weights = mask.map((_, i) => (i >= 2 * TOKENS && i < 4 * TOKENS ? 3 : 1))
    expectClose(second.gram, slowStatistics([rowsOf(x)], undefined, weights).gram[0]!, 'gram')
    const other = await gathered(datasetOf({ x }), () => new Float32Array(4).fill(3))
    expect(other).toEqual(await gathered(datasetOf({ x })))
  })

  it('may be 0: such a token is not seen, even where it is not a number', async () => {
    const data = draw([5, TOKENS, COLS], 3)
    data.fill(Number.NaN, 4 * COLS, 5 * COLS)
    const weights = mask.map((_, i) => (i === 4 ? 0 : 1))
    const found = await gathered(datasetOf({ x: feed([5, TOKENS, COLS], data) }), importanceOf(weights))
    expectClose(found.gram, slowStatistics([rowsOf(x)], undefined, weights).gram[0]!, 'gram')
  })
})

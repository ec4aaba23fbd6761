import { describe, expect, it } from 'vitest'
import type { ModelInput } from '../../src/data/modelInput.ts'
import { type RandomOptions, randomDataset } from '../../src/data/randomInputs.ts'
import { expectError } from './expectError.ts'

function input(name: string, elementType: string, ...dims: ModelInput['dims']): ModelInput {
  return { name, elementType, dims }
}

function feeds(inputs: ModelInput[], count: number, batchSize: number, options: RandomOptions = {}, seed = 1) {
  return [...randomDataset(inputs, count, seed, options).batches(batchSize)].map((batch) =>
    Object.fromEntries(batch.feeds),
  )
}

const ids = input('input_ids', 'int64', 'batch', 'seq')

describe('randomDataset', () => {
  it('makes the numbers that each kind of input takes, and fills what is certain', () => {
    const mask = input('attention_mask', 'int64', 'batch', 'seq')
    const image = input('image', 'float', undefined, 3, undefined, undefined)
    const flag = input('flag', 'bool', 'batch')
    const photo = input('photo', 'uint8', 'batch', 8, 8, 3)
    const [feed] = feeds([ids, mask, image, flag, photo], 4, 4)
    expect(feed!.input_ids!.dims).toEqual([4, 32])
    const tokens = Array.from(feed!.input_ids!.data, Number)
    expect(Math.max(...tokens)).toBeLessThan(1000)
    expect(Math.max(...tokens)).toBeGreaterThan(900)
    expect(feed!.attention_mask!.data).toEqual(new BigInt64Array(128).fill(1n))
    expect(feed!.image!.dims).toEqual([4, 3, 224, 224])
    const values = feed!.image!.data as Float32Array
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length
    const square = values.reduce((sum, x) => sum + x * x, 0) / values.length
    // 602,112 standard normal numbers: the mean has a standard error of 0.0013, the square one of 0.0018.
    expect(Math.abs(mean)).toBeLessThan(0.01)
    expect(Math.abs(square - 1)).toBeLessThan(0.015)
    expect(feed!.flag).toMatchObject({ dims: [4], data: new Uint8Array(4) })
    expect(Math.max(...(feed!.photo!.data as Uint8Array))).toBeGreaterThan(245)
  })

  it('depends on the seed alone, not on the batch size', () => {
    const flat = (batchSize: number, seed: number) =>
      feeds([ids], 6, batchSize, {}, seed).flatMap((feed) => Array.from(feed.input_ids!.data, Number))
    expect(flat(6, 1)).toEqual(flat(1, 1))
    expect(flat(6, 1)).not.toEqual(flat(6, 2))
  })

  it('takes bounds, constants and shapes', () => {
    const sr = input('sr', 'int64')
    const [feed] = feeds([ids, sr], 50, 50, {
      bounds: { input_ids: 3 },
      constants: { sr: 16000 },
      shapes: { input_ids: [1, 7] },
    })
    expect(feed!.input_ids!.dims).toEqual([50, 7])
    expect([...new Set(feed!.input_ids!.data as BigInt64Array)].sort()).toEqual([0n, 1n, 2n])
    expect(feed!.sr).toMatchObject({ dims: [], data: BigInt64Array.of(16000n) })
    expectError(() => feeds([ids], 1, 1, { shapes: { input_ids: [7] } }), 'usage', 'input_ids', '[7]')
    expectError(() => feeds([input('x', 'float', 'n', 3)], 1, 1, { shapes: { x: [1, 4] } }), 'usage', 'x')
    expectError(() => feeds([ids], 1, 1, { bounds: { ids: 3 } }), 'usage', 'bounds', 'ids')
  })

  it('makes whole batches for a fixed batch size, and whole tensors without a batch axis', () => {
    const dataset = randomDataset([input('x', 'float', 4, 3)], 5, 1)
    expect(dataset.count).toBe(8)
    expect(dataset.notes.join()).toContain('8 random samples, not 5')
    expect(feeds([input('x', 'float', 512)], 3, 8).map((feed) => feed.x!.dims)).toEqual([[512], [512], [512]])
    expect(feeds([input('x', 'float')], 2, 8).map((feed) => feed.x!.dims)).toEqual([[], []])
  })

  it('makes nothing up whose meaning it does not know', () => {
    expectError(() => feeds([ids, input('sr', 'int64')], 1, 1), 'data', 'sr', '--set sr=')
  })
})

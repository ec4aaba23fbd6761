import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Dataset, type DatasetOptions, openDataset } from '../../src/data/dataset.ts'
import type { FeedBatch, FeedTensor, ModelInput } from '../../src/data/modelInput.ts'
import { randomDataset } from '../../src/data/randomInputs.ts'
import { splitDataset } from '../../src/data/split.ts'
import { tokenWeights } from '../../src/data/tokenWeights.ts'
import { writeNpy } from '../oracles/npy.ts'
import { expectRejection } from './expectError.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'qtool-split-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const target: ModelInput = { name: 'x', elementType: 'float', dims: ['batch', 'n'] }

/** Sample i is a row of `lengths[i]` times i: all in one array where they are of one length, else one array a sample. */
async function open(lengths: readonly number[], dims = target.dims, options: DatasetOptions = {}): Promise<Dataset> {
  if (new Set(lengths).size === 1) {
    const whole = join(folder, 'rows.npy')
    const values = lengths.flatMap((length, i) => Array<number>(length).fill(i))
    writeFileSync(whole, writeNpy('f4', [lengths.length, lengths[0]!], values))
    return openDataset([whole], [{ ...target, dims }], options)
  }
  const path = join(folder, 'rows.jsonl')
  writeFileSync(path, lengths.map((length, i) => JSON.stringify({ x: Array(length).fill(i) })).join('\n'))
  return openDataset([path], [{ ...target, dims }], options)
}

/** Numbers of the samples in the order in which they are fed; checks what batches say of themselves. */
function fed(dataset: Dataset, batchSize: number, lengths?: readonly number[]): number[] {
  const seen: number[] = []
  for (const { feeds, count, start } of dataset.batches(batchSize)) {
    const { dims, data } = feeds.get('x')!
    expect(dims[0]).toBe(count)
    for (let r = 0; r < count; r++) {
      const row = Array.from(data.slice(r * dims[1]!, (r + 1) * dims[1]!), Number)
      expect(new Set(row).size).toBe(1)
      if (lengths) expect(row.length).toBe(lengths[row[0]!])
      expect(row[0]).toBe(dataset.order[start + r])
      seen.push(row[0]!)
    }
  }
  expect(seen.length).toBe(dataset.count)
  return seen
}

const ascending = (values: ArrayLike<number>) => Array.from(values).sort((a, b) => a - b)
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i)

describe('subset', () => {
  it('feeds the samples in the order given, those of one shape together', async () => {
    const lengths = [1, 2, 1, 2, 3]
    const dataset = await open(lengths)
    expect(fed(dataset.subset([3, 0, 4, 1, 2]), 2, lengths)).toEqual([3, 1, 0, 2, 4])
    expect([...dataset.subset([3, 0, 4, 1, 2]).batches(2)].length).toBe(3)
    expect(fed(dataset.subset([2, 2, 0]), 8, lengths)).toEqual([2, 2, 0])
    // Of a subset: places in its own order.
    expect(fed(dataset.subset([3, 0, 4, 1, 2]).subset([1, 4]), 8, lengths)).toEqual([1, 4])
    expect(dataset.subset([])).toMatchObject({ count: 0, order: new Int32Array(0) })
    expect(() => dataset.subset([5])).toThrow(RangeError)
    expect(() => dataset.subset([-1])).toThrow(RangeError)
    expect(() => dataset.subset([0.5])).toThrow(RangeError)
  })

  it('has every sample once, in as few batches as shapes allow', async () => {
    const shapes = fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 16 })
    await fc.assert(
      fc.asyncProperty(shapes, fc.integer({ min: 1, max: 5 }), fc.nat(), async (lengths, batchSize, seed) => {
        const dataset = await open(lengths)
        const { fit } = splitDataset(dataset, { samples: 0, holdout: 0, seed })
        expect(ascending(fed(fit, batchSize, lengths))).toEqual(upTo(lengths.length))
        const counts = [1, 2, 3].map((shape) => lengths.filter((length) => length === shape).length)
        expect([...fit.batches(batchSize)].length).toBe(
          counts.reduce((sum, count) => sum + Math.ceil(count / batchSize), 0),
        )
      }),
      { numRuns: 40 },
    )
  })

  it('keeps labels in step', async () => {
    const labels = join(folder, 'labels.npy')
    writeFileSync(labels, writeNpy('i8', [4], [40, 41, 42, 43]))
    const dataset = await open([2, 1, 2, 1], target.dims, { labels })
    const part = dataset.subset([3, 2, 1])
    expect(fed(part, 8)).toEqual([3, 1, 2])
    expect([...part.labels!]).toEqual([43, 41, 42])
    const drawn = await open([1, 1, 1, 1], target.dims, { labels, samples: 2, pickSeed: 5 })
    expect(drawn.count).toBe(2)
    expect([...drawn.labels!]).toEqual(fed(drawn, 1).map((i) => 40 + i))
    await expectRejection(() => open([1, 1, 1], target.dims, { labels, samples: 2 }), 'data', '4 labels', '3 samples')
  })

  it('is had from random data too', () => {
    const random = randomDataset([{ ...target, dims: ['batch', 2] }], 4, 1)
    const whole = [...random.batches(4)][0]!.feeds.get('x')!.data
    const [one] = random.subset([2]).batches(1)
    expect(one!.feeds.get('x')!.data).toEqual(whole.slice(4, 6))
  })
})

describe('samples drawn at random', () => {
  it('are the same for the same seed, in the order of the data, and all are drawn in time', async () => {
    const lengths = Array(10).fill(1)
    const drawn = new Set<number>()
    for (let seed = 0; seed < 20; seed++) {
      const one = fed(await open(lengths, target.dims, { samples: 3, pickSeed: seed }), 8)
      expect(one).toEqual(fed(await open(lengths, target.dims, { samples: 3, pickSeed: seed }), 2))
      expect(one).toEqual(ascending([...new Set(one)]))
      expect(one.length).toBe(3)
      for (const sample of one) drawn.add(sample)
    }
    expect(drawn.size).toBe(10)
    expect(fed(await open(lengths, target.dims, { samples: 3 }), 8)).toEqual([0, 1, 2])
  })
})

describe('splitDataset', () => {
  it('makes parts that share no sample and together have as many as asked for', async () => {
    const numbers = { n: fc.integer({ min: 1, max: 30 }), samples: fc.nat(35), seed: fc.integer() }
    const holdouts = fc.constantFrom(0, 0.01, 0.2, 0.5, 0.99)
    await fc.assert(
      fc.asyncProperty(fc.record(numbers), holdouts, async ({ n, samples, seed }, holdout) => {
        const dataset = await open(Array(n).fill(1))
        const split = splitDataset(dataset, { samples, holdout, seed })
        const taken = samples > 0 ? Math.min(samples, n) : n
        const [fit, held] = [fed(split.fit, 4), fed(split.held, 4)]
        const all = [...fit, ...held]
        expect(all.length).toBe(taken)
        expect(new Set(all).size).toBe(taken)
        expect([...split.fitIndices]).toEqual(fit)
        expect([...split.heldIndices]).toEqual(held)
        const wanted = holdout === 0 || taken === 1 ? 0 : Math.round(holdout * taken)
        expect(held.length).toBe(holdout > 0 && taken > 1 ? Math.min(taken - 1, Math.max(1, wanted)) : 0)
        expect(split.notes.some((note) => note.includes('nothing is held out'))).toBe(holdout > 0 && taken === 1)
        expect(split.notes.some((note) => note.includes('there are no more'))).toBe(samples > n)
        const again = splitDataset(dataset, { samples, holdout, seed })
        expect([again.fitIndices, again.heldIndices]).toEqual([split.fitIndices, split.heldIndices])
      }),
      { numRuns: 60 },
    )
  })

  it('shuffles: another seed, other parts; each sample is as often held out', async () => {
    const dataset = await open(Array(10).fill(1))
    const counts = new Float64Array(10)
    for (let seed = 0; seed < 1000; seed++) {
      for (const sample of splitDataset(dataset, { samples: 0, holdout: 0.2, seed }).heldIndices) counts[sample]!++
    }
    // 200 expected, standard deviation 12.6.
    for (const count of counts) expect(Math.abs(count - 200)).toBeLessThan(65)
    expect(() => splitDataset(dataset, { samples: 0, holdout: 1, seed: 1 })).toThrow(RangeError)
  })

  it('keeps whole batches for a model that takes a fixed number', async () => {
    const dataset = await open(Array(11).fill(1), [4, 1])
    expect(dataset).toMatchObject({ count: 8, exactBatch: 4 })
    const { fit, held, notes } = splitDataset(dataset, { samples: 0, holdout: 0.1, seed: 1 })
    expect([fit.count, held.count]).toEqual([4, 4])
    expect(new Set([...fed(fit, 1), ...fed(held, 1)]).size).toBe(8)
    expect(notes).toEqual([])
    const few = splitDataset(dataset, { samples: 2, holdout: 0.5, seed: 1 })
    expect([few.fit.count, few.held.count]).toEqual([4, 0])
    expect(few.notes.join()).toMatch(/4 samples are used, not 2.*nothing is held out/)
  })
})

describe('tokenWeights', () => {
  const tensor = (dims: number[], values: number[]): FeedTensor => ({
    type: 'int64',
    dims,
    data: BigInt64Array.from(values, BigInt),
  })
  const batch = (feeds: Record<string, FeedTensor>): FeedBatch => ({
    feeds: new Map(Object.entries(feeds)),
    count: 2,
    start: 0,
  })
  const ids = tensor([2, 2], [5, 6, 7, 8])

  it('is the mask where something is masked', () => {
    expect(tokenWeights(batch({ input_ids: ids, attention_mask: tensor([2, 2], [0, 1, 5, 0]) }))).toEqual(
      Float32Array.of(0, 1, 1, 0),
    )
    const float: FeedTensor = { type: 'float', dims: [2, 2], data: Float32Array.of(1, 1, 1, 0) }
    expect(tokenWeights(batch({ 'input_mask:0': float }))).toEqual(Float32Array.of(1, 1, 1, 0))
    // A mask over a past of one token.
    const past = tensor([2, 3], [0, 1, 1, 0, 0, 1])
    expect(tokenWeights(batch({ input_ids: ids, attention_mask: past }))).toEqual(Float32Array.of(1, 1, 0, 1))
  })

  it('is undefined where all counts, or no one mask holds', () => {
    const ones = tensor([2, 2], [1, 1, 1, 1])
    const some = tensor([2, 2], [1, 0, 1, 1])
    expect(tokenWeights(batch({ input_ids: ids }))).toBeUndefined()
    expect(tokenWeights(batch({ input_ids: ids, attention_mask: ones }))).toBeUndefined()
    expect(tokenWeights(batch({ attention_mask: some, decoder_attention_mask: ones }))).toBeUndefined()
    expect(tokenWeights(batch({ attention_mask: some, decoder_attention_mask: some }))).toEqual(
      Float32Array.of(1, 0, 1, 1),
    )
    expect(tokenWeights(batch({ pixel_mask: some }))).toBeUndefined()
  })
})

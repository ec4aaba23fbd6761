/**
 * @file Samples → feeds. Consecutive samples of equal shape are stacked. Nothing is padded here: rows that the data has
 * padded are only cut to the longest of their batch.
 */
import { QtoolError } from '../errors.ts'
import { type ChannelTransform, convertElements } from './convert.ts'
import type { Fill, FillContext } from './fillInputs.ts'
import { type Block, type Column, sampleSize } from './layout.ts'
import { type FeedBatch, type FeedTensor, feedDtype, feedType, fixedDim } from './modelInput.ts'
import { type Dtype, makeData, type NdArray, type NdData } from './ndArray.ts'

/** Everything that batches are made of. */
export interface Samples {
  readonly blocks: readonly Block[]
  /** Numbers of the samples, counted over all blocks, in the order in which they are fed. */
  readonly order: Int32Array
  readonly fills: readonly Fill[]
  /** How the elements of a column are rescaled, if they are. */
  readonly transform: (column: Column) => ChannelTransform | undefined
}

/** Samples that follow one another in the order and in their block. */
interface Slice {
  readonly block: Block
  readonly from: number
  count: number
}

/** Samples that follow one another in the order and have equal shapes. */
interface Run {
  /** Place of the first sample in the order. */
  readonly start: number
  readonly parts: Slice[]
  count: number
  /** Samples that one feed must hold; undefined when any number will do. */
  readonly exact: number | undefined
}

/** Samples that can be fed, and how many cannot because they do not fill a batch of the model's fixed size. */
export interface BatchPlan {
  readonly count: number
  readonly leftOut: number
  /** The largest batch size that the model forces; undefined when it forces none. */
  readonly exact: number | undefined
  /** @param batchSize at least 1; the model's fixed batch size takes its place where there is one. */
  batches(batchSize: number): Iterable<FeedBatch>
}

/** @throws QtoolError `data` when fixed batch sizes contradict each other. */
export function planBatches(samples: Samples): BatchPlan {
  const runs = findRuns(samples)
  const usable = (run: Run) => run.count - (run.exact ? run.count % run.exact : 0)
  const total = runs.reduce((sum, run) => sum + run.count, 0)
  const count = runs.reduce((sum, run) => sum + usable(run), 0)
  const exact = Math.max(0, ...runs.map((run) => run.exact ?? 0)) || undefined
  return {
    count,
    leftOut: total - count,
    exact,
    *batches(batchSize) {
      for (const run of runs) {
        for (const { slices, at } of cut(run, run.exact ?? batchSize)) {
          const size = slices.reduce((sum, slice) => sum + slice.count, 0)
          if (run.exact && size < run.exact) continue
          yield { feeds: makeFeeds(slices, size, samples), count: size, start: run.start + at }
        }
      }
    },
  }
}

/** Samples in all blocks. */
export function countSamples(blocks: readonly Block[]): number {
  return blocks.reduce((sum, block) => sum + block.count, 0)
}

/**
 * The same samples with those of equal shape together, so that they fill batches. Shapes come in the order of their first
 * sample. Samples of one shape keep their order; padded ones are sorted by falling length, since a batch is as long as
 * its longest.
 */
export function groupByShape(blocks: readonly Block[], order: Int32Array): Int32Array {
  const { blockOf, rowOf } = locate(blocks)
  const keys = blocks.map(shapeKey)
  const groups = new Map<string, number[]>()
  for (const sample of order) {
    const key = keys[blockOf[sample]!]!
    const group = groups.get(key)
    if (group) group.push(sample)
    else groups.set(key, [sample])
  }
  const lengthOf = (sample: number) => blocks[blockOf[sample]!]!.lengths?.[rowOf[sample]!] ?? 0
  return Int32Array.from([...groups.values()].flatMap((group) => group.sort((a, b) => lengthOf(b) - lengthOf(a))))
}

/** Block of each sample, and its place in it. */
function locate(blocks: readonly Block[]): { readonly blockOf: Int32Array; readonly rowOf: Int32Array } {
  const total = countSamples(blocks)
  const [blockOf, rowOf] = [new Int32Array(total), new Int32Array(total)]
  let sample = 0
  for (const [b, { count }] of blocks.entries()) {
    for (let row = 0; row < count; row++, sample++) {
      blockOf[sample] = b
      rowOf[sample] = row
    }
  }
  return { blockOf, rowOf }
}

function findRuns({ blocks, order, fills }: Samples): Run[] {
  const { blockOf, rowOf } = locate(blocks)
  const runs: Run[] = []
  let last: { readonly block: Block; readonly key: string } | undefined
  for (const [at, sample] of order.entries()) {
    const block = blocks[blockOf[sample]!]!
    const row = rowOf[sample]!
    if (block !== last?.block) {
      const key = shapeKey(block)
      if (key !== last?.key) runs.push({ start: at, parts: [], count: 0, exact: exactBatch(block, fills) })
      last = { block, key }
    }
    const run = runs.at(-1)!
    const part = run.parts.at(-1)
    if (part?.block === block && part.from + part.count === row) part.count++
    else run.parts.push({ block, from: row, count: 1 })
    run.count++
  }
  return runs
}

/** Equal for blocks whose samples can be stacked. A shared value is part of it, for a feed can hold only one. */
function shapeKey(block: Block): string {
  return JSON.stringify(
    block.columns.map((column) => [
      column.input.name,
      column.perSample,
      column.dims,
      column.perSample === 'shared' ? String(column.array.data[0]) : '',
    ]),
  )
}

/** The number of samples that fixed dimensions of data and fills force into one feed. */
function exactBatch({ columns, place }: Block, fills: readonly Fill[]): number | undefined {
  const forced = new Map<number, string>()
  const tensor = columns.find((column) => column.perSample === 'tensor')
  if (tensor) forced.set(1, `samples of ${tensor.input.name} are whole tensors`)
  for (const { input, perSample } of columns) {
    const size = perSample === 'row' ? fixedDim(input, 0) : undefined
    if (size !== undefined) forced.set(size, `${input.name} takes ${size}`)
  }
  // A whole tensor has its own rows, and fills follow them.
  if (!tensor)
    for (const { input, batch } of fills) if (batch !== undefined) forced.set(batch, `${input.name} takes ${batch}`)
  if (forced.size > 1) {
    throw new QtoolError('data', `${place}: no batch size fits all inputs: ${[...forced.values()].join(', ')}`)
  }
  return [...forced.keys()][0]
}

/** Cut a run into feeds of `size` samples; the last may be smaller. `at` counts from the run's first sample. */
function* cut(run: Run, size: number): Generator<{ slices: Slice[]; at: number }> {
  let slices: Slice[] = []
  let room = size
  let at = 0
  for (const { block, from, count } of run.parts) {
    for (let done = 0; done < count; ) {
      const taken = Math.min(room, count - done)
      slices.push({ block, from: from + done, count: taken })
      done += taken
      room -= taken
      if (room === 0) {
        yield { slices, at }
        at += size
        slices = []
        room = size
      }
    }
  }
  if (slices.length > 0) yield { slices, at }
}

function makeFeeds(slices: readonly Slice[], count: number, samples: Samples): Map<string, FeedTensor> {
  const feeds = new Map<string, FeedTensor>()
  const symbols = new Map<string, number>()
  let tensorRows = 0
  const longest = longestOf(slices)
  for (const [i, { input, perSample, dims: wholeDims }] of slices[0]!.block.columns.entries()) {
    const dims = longest === undefined ? wholeDims : [longest, ...wholeDims.slice(1)]
    const dtype = feedDtype(input)
    const chunks = (perSample === 'shared' ? slices.slice(0, 1) : slices).map(({ block, ...slice }) => {
      const column = block.columns[i]!
      if (longest !== undefined) {
        const rows = cutRows(column, slice.from, slice.count, longest)
        return convertElements(rows, 0, rows.data.length, dtype)
      }
      const size = sampleSize(column)
      const [from, length] = perSample === 'shared' ? [0, 1] : [slice.from, slice.count]
      return convertElements(column.array, from * size, (from + length) * size, dtype, samples.transform(column))
    })
    const feedDims = perSample === 'row' ? [count, ...dims] : dims
    feeds.set(input.name, { type: feedType(input), dims: feedDims, data: concatenate(chunks, dtype) })
    for (const [axis, dim] of input.dims.entries()) {
      if (typeof dim === 'string' && dim !== '') symbols.set(dim, feedDims[axis]!)
    }
    if (perSample === 'tensor' && tensorRows === 0 && fixedDim(input, 0) === undefined) tensorRows = dims[0] ?? 0
  }
  const context: FillContext = { feeds: new Map(feeds), batch: tensorRows || count, symbols }
  for (const fill of samples.fills) feeds.set(fill.input.name, fill.make(context))
  return feeds
}

/** The longest of the samples; undefined where they are not padded. */
function longestOf(slices: readonly Slice[]): number | undefined {
  if (slices.some(({ block }) => !block.lengths)) return undefined
  return Math.max(
    ...slices.map(({ block, from, count }) =>
      block.lengths!.subarray(from, from + count).reduce((a, b) => Math.max(a, b), 0),
    ),
  )
}

/** The first `length` positions of some samples of a padded column. */
function cutRows({ array, dims }: Column, from: number, count: number, length: number): NdArray {
  const width = dims[0]!
  const data = makeData(array.dtype, count * length)
  for (let row = 0; row < count; row++) {
    const begin = (from + row) * width
    // One type on both sides; the cast spares a case per element type.
    ;(data as Float64Array).set((array.data as Float64Array).subarray(begin, begin + length), row * length)
  }
  return { ...array, shape: [count, length], data }
}

function concatenate(chunks: readonly NdData[], dtype: Dtype): NdData {
  if (chunks.length === 1) return chunks[0]!
  const whole = makeData(
    dtype,
    chunks.reduce((sum, chunk) => sum + chunk.length, 0),
  )
  let at = 0
  for (const chunk of chunks) {
    // All chunks have the type of `whole`; the cast spares a case per element type.
    ;(whole as Float64Array).set(chunk as Float64Array, at)
    at += chunk.length
  }
  return whole
}

/**
 * @file Samples → feeds. Consecutive samples of equal shape are stacked; nothing is padded, reordered or repeated.
 */
import { QtoolError } from '../errors.ts'
import { type ChannelTransform, convertElements } from './convert.ts'
import type { Fill, FillContext } from './fillInputs.ts'
import { type Block, type Column, sampleSize } from './layout.ts'
import { type FeedBatch, type FeedTensor, feedDtype, feedType, fixedDim } from './modelInput.ts'
import { type Dtype, makeData, type NdData } from './ndArray.ts'

/** Everything that batches are made of. */
export interface Samples {
  readonly blocks: readonly Block[]
  /** Use at most this many samples; 0 = all. */
  readonly limit: number
  readonly fills: readonly Fill[]
  /** How the elements of a column are rescaled, if they are. */
  readonly transform: (column: Column) => ChannelTransform | undefined
}

/** Consecutive samples, of one or more blocks, whose shapes are equal. */
interface Run {
  /** Number of the first sample in the data. */
  readonly start: number
  readonly parts: { readonly block: Block; readonly count: number }[]
  count: number
  /** Samples that one feed must hold; undefined when any number will do. */
  readonly exact: number | undefined
}

interface Slice {
  readonly block: Block
  readonly from: number
  readonly count: number
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

function findRuns({ blocks, limit, fills }: Samples): Run[] {
  const runs: Run[] = []
  let last: string | undefined
  let start = 0
  for (const block of blocks) {
    const count = limit > 0 ? Math.min(block.count, limit - start) : block.count
    if (count <= 0) continue
    const shape = shapeKey(block)
    if (shape !== last) runs.push({ start, parts: [], count: 0, exact: exactBatch(block, fills) })
    const run = runs.at(-1)!
    run.parts.push({ block, count })
    run.count += count
    last = shape
    start += count
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
  for (const { block, count } of run.parts) {
    for (let from = 0; from < count; ) {
      const taken = Math.min(room, count - from)
      slices.push({ block, from, count: taken })
      from += taken
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
  for (const [i, { input, perSample, dims }] of slices[0]!.block.columns.entries()) {
    const dtype = feedDtype(input)
    const chunks = (perSample === 'shared' ? slices.slice(0, 1) : slices).map(({ block, ...slice }) => {
      const column = block.columns[i]!
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

/**
 * @file The statistics of what a group of layers reads, over the calibration batches: computed inside onnxruntime as
 * K × K matrices in float32, summed here in float64.
 */
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import type { InputStatistics } from '../hessian/statistics.ts'
import { quoted } from '../onnx/names.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { openSession, type Session } from '../runtime/session.ts'
import type { Path } from './activations.ts'
import { gramModel } from './gramModel.ts'
import { joinBatches, RowJoiner } from './joinBatches.ts'
import { type Importance, positionWeights } from './positionWeights.ts'
import { dataTypeOf } from './stageModel.ts'
import type { Tap } from './taps.ts'
import { floatsOf, isFloatTensor, sliceFirstAxis } from './tensors.ts'
import { unfoldedElements } from './unfold.ts'
import { CALIBRATION_SESSION, type Walk } from './walk.ts'

/** The unfolded input of one run takes at most about this many floats (64 MB), if nothing else is said. */
const UNFOLDED_FLOATS = 1 << 24

/** Sums under construction. */
interface Sums {
  weight: number
  readonly gram: Float64Array
  readonly cross: Float64Array | undefined
  readonly sum: Float64Array
  readonly crossSum: Float64Array | undefined
}

export interface GatherOptions {
  /** Batches [first, end) of the walk. */
  readonly first: number
  readonly end: number
  /** Of which network the inputs are; 'both' adds the cross products, where the two differ. */
  readonly side: Path | 'both'
  /** How much tokens count besides the mask; a tap whose positions are not the tokens is gathered without. */
  readonly importance?: Importance | undefined
  /** Floats that the unfolded input of one run takes at most, unless one sample alone takes more. */
  readonly unfoldedFloats?: number
  readonly run: RunOptions
}

/**
 * Gather a tap's statistics at the walk's position.
 * @returns one per block of the tap; `weight` is the sum of the weights of its positions.
 * @throws QtoolError `data` naming node and sample where the network computes NaN or infinity.
 */
export async function gatherStatistics(walk: Walk, tap: Tap, options: GatherOptions): Promise<InputStatistics[]> {
  const { first, end, side, importance, unfoldedFloats = UNFOLDED_FLOATS, run } = options
  const cross = side === 'both' && tap.reads.some((name) => walk.isDrifted(name))
  const own: Path = side === 'float' ? 'float' : 'quantized'
  const blocks = Array.from({ length: tap.blocks }, () => emptySums(tap.cols, cross))
  const sessions = new Map<boolean, Session>()
  const joiner = new RowJoiner()
  try {
    for (const joined of joinBatches(walk, tap, first, end)) {
      await nextTurn()
      checkAborted(run.signal)
      const read = (side: Path) => joinedInputs(walk, tap, side, joined, joiner)
      const quantized = await read(own)
      const float = cross ? await read('float') : undefined
      const weights = positionWeights(walk, tap, joined, quantized[0]!, importance)
      const weighted = weights !== undefined
      let session = sessions.get(weighted)
      if (!session) {
        const types = quantized.map(({ type, dims }) => ({ dataType: dataTypeOf(type), rank: dims.length }))
        const bytes = gramModel(tap, walk.graph.index, types, { cross, weighted })
        session = await openSession({ bytes, path: walk.path }, CALIBRATION_SESSION)
        sessions.set(weighted, session)
      }
      for (const part of partsOf(walk, tap, quantized, weighted ? 0 : unfoldedFloats)) {
        const feeds = new Map<string, FeedTensor>()
        tap.reads.forEach((name, i) => {
          feeds.set(`quantized/${name}`, part(quantized[i]!, name))
          if (float) feeds.set(`float/${name}`, part(float[i]!, name))
        })
        if (weights) feeds.set('weights', { type: 'float', dims: [weights.length], data: weights })
        addResults(blocks, await session.run(feeds, undefined, 'gram'), tap.cols)
      }
      const damaged = blocks.some(({ sum, gram }) => !areFinite(sum) || !areFinite(diagonal(gram, tap.cols)))
      if (damaged) throw await notFiniteIn(walk, tap, joined)
    }
  } finally {
    for (const session of sessions.values()) await session.dispose()
  }
  return blocks.map((sums) => ({ cols: tap.cols, ...sums }))
}

function emptySums(cols: number, cross: boolean): Sums {
  return {
    weight: 0,
    gram: new Float64Array(cols * cols),
    cross: cross ? new Float64Array(cols * cols) : undefined,
    sum: new Float64Array(cols),
    crossSum: cross ? new Float64Array(cols) : undefined,
  }
}

async function inputsOf(walk: Walk, tap: Tap, side: Path, batch: number): Promise<FeedTensor[]> {
  const inputs: FeedTensor[] = []
  for (const name of tap.reads) {
    inputs.push(walk.isActivation(name) ? walk.get(side, batch, name) : await walk.batchless(side, name))
  }
  return inputs
}

/** What a tap reads in several batches, joined along the positions. */
async function joinedInputs(
  walk: Walk,
  tap: Tap,
  side: Path,
  joined: readonly number[],
  joiner: RowJoiner,
): Promise<FeedTensor[]> {
  if (joined.length === 1) return inputsOf(walk, tap, side, joined[0]!)
  const inputs: FeedTensor[] = []
  for (const name of tap.reads) {
    inputs.push(await joiner.join(`${side} ${name}`, joined.length, async (i) => walk.get(side, joined[i]!, name)))
  }
  return inputs
}

type Part = (tensor: FeedTensor, name: string) => FeedTensor

/** The samples of a batch in parts of at most so many unfolded floats; in one part where `limit` is 0. */
function partsOf(walk: Walk, tap: Tap, values: readonly FeedTensor[], limit: number): Part[] {
  const samples = values[0]!.dims[0] ?? 1
  const perSample = unfoldedElements(
    tap,
    values.map(({ dims }) => dims),
  )
  const size = Math.max(1, Math.floor(limit / Math.max(1, perSample)))
  if (perSample === 0 || size >= samples || limit === 0 || tap.reads.length > 1) return [(tensor) => tensor]
  return Array.from({ length: Math.ceil(samples / size) }, (_, i): Part => {
    return (tensor, name) =>
      walk.isActivation(name) ? sliceFirstAxis(tensor, i * size, Math.min(samples, (i + 1) * size)) : tensor
  })
}

function addResults(blocks: readonly Sums[], results: ReadonlyMap<string, FeedTensor>, cols: number): void {
  const of = (name: string) => results.get(name)?.data as Float32Array | undefined
  const count = of('count')![0]!
  blocks.forEach((sums, b) => {
    sums.weight += count
    addTo(sums.gram, of('gram')!, b * cols * cols)
    addTo(sums.sum, of('sum')!, b * cols)
    if (sums.cross) addTo(sums.cross, of('cross')!, b * cols * cols)
    if (sums.crossSum) addTo(sums.crossSum, of('crossSum')!, b * cols)
  })
}

function addTo(sums: Float64Array, values: Float32Array, from: number): void {
  for (let i = 0; i < sums.length; i++) sums[i]! += values[from + i]!
}

function diagonal(gram: Float64Array, cols: number): Float64Array {
  return Float64Array.from({ length: cols }, (_, j) => gram[j * cols + j]!)
}

function areFinite(values: Float64Array): boolean {
  return values.every(Number.isFinite)
}

/**
 * Check what a tap reads in batches that nothing is gathered from: candidates could not be judged by NaN. Positions that
 * do not count may hold anything.
 * @throws QtoolError `data` naming node and sample where the network computes NaN or infinity.
 */
export async function checkFinite(
  walk: Walk,
  tap: Tap,
  { first, end }: Pick<GatherOptions, 'first' | 'end'>,
): Promise<void> {
  for (let batch = first; batch < end; batch++) {
    const found = await findNotFinite(walk, tap, batch)
    if (found) throw found
  }
}

/** Which of several batches it was; where none, the products were too large. */
async function notFiniteIn(walk: Walk, tap: Tap, joined: readonly number[]): Promise<QtoolError> {
  for (const batch of joined) {
    const found = await findNotFinite(walk, tap, batch)
    if (found) return found
  }
  return new QtoolError('data', `the inputs of the layers that read ${quoted(tap.reads[0]!)} are too large for float32`)
}

/** Which node made a number that is not finite at a position that counts, and for which sample. */
async function findNotFinite(walk: Walk, tap: Tap, batch: number): Promise<QtoolError | undefined> {
  for (const [side, who] of [
    ['float', 'the model'],
    ['quantized', 'the quantized model'],
  ] as const) {
    const tensors = await inputsOf(walk, tap, side, batch)
    for (const [i, name] of tap.reads.entries()) {
      const tensor = tensors[i]!
      const at = notFiniteAt(tensor, i === 0 ? countingWeights(walk, tap, batch, tensors) : undefined)
      if (at < 0) continue
      const { count, numbers: samples } = walk.batches[batch]!
      const sample = samples[sampleAt(tap, tensor, at, count)]
      const node = walk.graph.scope.producers.get(name)
      const maker = node
        ? `node ${quoted(node.name || node.output[0] || '')} (${node.opType})`
        : `input ${quoted(name)}`
      return new QtoolError('data', `${who} computes ${floatsOf(tensor)[at]} at ${maker} for sample ${sample}`, {
        hint: 'leave the sample out, or check that the data is scaled as the model expects',
      })
    }
  }
  return undefined
}

/** 0 for positions of a batch that do not count: padding, or steps beyond a sequence's length. Undefined where all do. */
function countingWeights(
  walk: Walk,
  tap: Tap,
  batch: number,
  tensors: readonly FeedTensor[],
): Float32Array | undefined {
  const { source, reads } = tap
  const lengths = source.kind === 'steps' ? tensors[reads.indexOf(source.lengths)] : undefined
  if (!lengths) return positionWeights(walk, tap, [batch], tensors[0]!)
  const [steps = 0, sequences = 0] = tensors[0]!.dims
  return Float32Array.from({ length: steps * sequences }, (_, at) =>
    Math.floor(at / sequences) < Number(lengths.data[at % sequences]) ? 1 : 0,
  )
}

/** Place of the first number that is not finite at a position that counts; −1 where there is none. */
function notFiniteAt(tensor: FeedTensor, weights: Float32Array | undefined): number {
  if (!isFloatTensor(tensor)) return -1
  const numbers = floatsOf(tensor)
  const width = numbers.length / (weights?.length ?? 1)
  for (let from = 0, position = 0; from < numbers.length; from += width, position++) {
    if (weights?.[position] === 0) continue
    let sum = 0
    for (let i = from; i < from + width; i++) sum += numbers[i]! * 0
    if (sum !== 0) return from + numbers.subarray(from, from + width).findIndex((value) => !Number.isFinite(value))
  }
  return -1
}

/** Which sample of a batch an element belongs to: samples are axis 0, or axis 1 of what recurrent nodes read. */
function sampleAt(tap: Tap, { dims, data }: FeedTensor, at: number, count: number): number {
  const isRecurrent = tap.positions === 'other' && ['rows', 'steps', 'states'].includes(tap.source.kind)
  if (isRecurrent && dims[1] === count) return Math.floor(at / dims.slice(2).reduce((a, b) => a * b, 1)) % count
  return Math.floor(at / (data.length / count))
}

/** @file Two models over one data set: every output compared, and the task's figure of merit where there is one. */
import type { Dataset } from '../data/dataset.ts'
import type { FeedBatch, FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import type { OutputComparison, TaskMetric } from '../report.ts'
import type { Session } from '../runtime/session.ts'
import { OutputAccumulator, type OutputBatch, samplesOf } from './metrics.ts'
import { numbersOf } from './numbers.ts'
import { outputKind } from './outputKind.ts'
import { candidateFeeds, type Pairing, pairModels } from './pairing.ts'
import { isCausal, keptPositions, tokenIds } from './sequence.ts'
import { AccuracyAccumulator, PerplexityAccumulator } from './tasks.ts'

export interface CompareOptions {
  /** Samples per run of the models. Does not change the figures, but for models that mix samples. */
  readonly batchSize: number
  /** Names of the outputs that hold class scores; 'auto' lets {@link outputKind} decide. */
  readonly logits: 'auto' | readonly string[]
  /** Stop after the batch in which this many samples are reached; 0 or absent: all. */
  readonly samples?: number
  /** What progress says is being worked on. */
  readonly item?: string
}

export interface Comparison {
  readonly outputs: readonly OutputComparison[]
  readonly metrics: readonly TaskMetric[]
  /** Samples compared. */
  readonly samples: number
  readonly warnings: readonly string[]
}

/**
 * Run both models on the data and compare what they give.
 *
 * @param dataset its labels, if it has any, are classes: one per sample
 * @throws QtoolError `model` when the models do not belong together; `data` when data, labels and models do not fit, a model
 *   fails on the data, or the reference gives NaN; `usage` when `logits` names something else; `interrupted`
 */
export async function compareModels(
  reference: Session,
  candidate: Session,
  dataset: Pick<Dataset, 'count' | 'batches' | 'labels'>,
  options: CompareOptions,
  run: RunOptions = {},
): Promise<Comparison> {
  const pairing = pairModels(reference, candidate)
  checkNames(reference, options.logits)
  const { labels } = dataset
  const total = Math.min(options.samples || dataset.count, dataset.count)
  const event = {
    stage: 'evaluate' as const,
    total: Math.max(total, 1),
    ...(options.item ? { item: options.item } : {}),
  }
  const comparers = new Map<string, OutputComparer>()
  let samples = 0
  for (const batch of dataset.batches(Math.min(options.batchSize, total || 1))) {
    await nextTurn()
    checkAborted(run.signal)
    const pairs = await runBoth(reference, candidate, batch, pairing)
    for (const [name, pair] of pairs) {
      let comparer = comparers.get(name)
      if (!comparer) {
        comparer = await makeComparer(reference, name, batch, pair, labels, options.logits)
        comparers.set(name, comparer)
      }
      comparer.add(batch, pair)
    }
    samples += batch.count
    run.onProgress?.({ ...event, done: Math.min(samples, total) })
    if (samples >= total) break
  }
  if (samples === 0) throw new QtoolError('data', 'the data holds no sample to compare the models on')
  const all = [...comparers.values()]
  if (labels && !all.some((c) => c.accuracy)) {
    throw new QtoolError('data', `labels were given, but no output of ${reference.path} has class scores for them`, {
      hint: 'an output fits when it has one row of at least two floating-point scores per sample; name it as logits',
    })
  }
  return {
    outputs: all.map((c) => c.output.result()),
    metrics: all.flatMap((c) => [c.perplexity?.result(), c.accuracy?.result()]).filter((m) => m !== undefined),
    samples,
    warnings: [...pairing.warnings, ...all.flatMap((c) => c.output.warnings())],
  }
}

function checkNames(reference: Session, logits: 'auto' | readonly string[]): void {
  if (logits === 'auto') return
  const names = reference.outputs.map((o) => o.name)
  const unknown = logits.find((name) => !names.includes(name))
  if (unknown === undefined) return
  throw new QtoolError('usage', `output ${unknown} is said to be logits, but the model has no such output`, {
    hint: `its outputs are ${names.join(', ')}`,
  })
}

type Pair = Pick<OutputBatch, 'reference' | 'candidate'>

/** Outputs of both models for one batch, by the reference's name. */
async function runBoth(
  reference: Session,
  candidate: Session,
  batch: FeedBatch,
  pairing: Pairing,
): Promise<Map<string, Pair>> {
  const ours = await reference.run(batch.feeds)
  const theirs = await candidate.run(candidateFeeds(batch.feeds, pairing))
  const pairs = new Map<string, Pair>()
  for (const [name, tensor] of ours) {
    const other = theirs.get(pairing.outputs.get(name)!)!
    if (!sameShape(tensor, other)) {
      throw new QtoolError(
        'model',
        `${candidate.path}: output ${name} has shape [${other.dims.join(', ')}] where the reference's has ` +
          `[${tensor.dims.join(', ')}] (sample ${batch.start})`,
      )
    }
    pairs.set(name, { reference: tensor, candidate: other })
  }
  return pairs
}

function sameShape(a: FeedTensor, b: FeedTensor): boolean {
  return a.dims.length === b.dims.length && a.dims.every((dim, axis) => dim === b.dims[axis])
}

/** All accumulators of one output. */
interface OutputComparer {
  readonly output: OutputAccumulator
  readonly accuracy: AccuracyAccumulator | undefined
  readonly perplexity: PerplexityAccumulator | undefined
  add(batch: FeedBatch, pair: Pair): void
}

/** Decide from the first batch what an output holds and which figures it gets. */
async function makeComparer(
  reference: Session,
  name: string,
  batch: FeedBatch,
  pair: Pair,
  labels: Int32Array | undefined,
  logits: 'auto' | readonly string[],
): Promise<OutputComparer> {
  const { dims } = pair.reference
  const keep = keptPositions(batch.feeds, dims)
  const labelled = labels !== undefined && rowsPerSample(pair, batch) === 1
  const kind = outputKind({
    name,
    elementType: pair.reference.type,
    dims,
    values: numbersOf(pair.reference),
    rows: keep && [...keep.keys()].filter((row) => keep[row]),
    largestLabel: labelled ? labels.reduce((a, b) => Math.max(a, b), 0) : undefined,
    logits,
  })
  const isScores = kind === 'logits' || kind === 'probabilities'
  const output = new OutputAccumulator(name, kind)
  const accuracy = labelled && isScores ? new AccuracyAccumulator(name) : undefined
  const predictsTokens =
    isScores &&
    tokenIds(batch.feeds, dims) !== undefined &&
    (await isCausal(reference, batch.feeds, name, pair.reference))
  const perplexity = predictsTokens ? new PerplexityAccumulator(name, kind) : undefined
  return {
    output,
    accuracy,
    perplexity,
    add: (next, values) => {
      const shape = values.reference.dims
      const full: OutputBatch = {
        ...values,
        count: next.count,
        start: next.start,
        keep: keptPositions(next.feeds, shape),
      }
      output.add(full)
      if (accuracy && labels) accuracy.add(full, labels)
      if (!perplexity) return
      const ids = tokenIds(next.feeds, shape)
      if (!ids) {
        throw new QtoolError(
          'data',
          `sample ${next.start}: token ids do not fit output ${name} [${shape.join(', ')}]`,
          {
            hint: 'every id must be at least 0 and below the number of classes',
          },
        )
      }
      perplexity.add(full, ids)
    },
  }
}

/** Rows over the last axis that a sample has in an output; NaN for an output without a batch axis. */
function rowsPerSample(pair: Pair, batch: FeedBatch): number {
  const { dims, data } = pair.reference
  if (dims[0] !== batch.count || samplesOf({ ...pair, count: batch.count }) !== batch.count) return Number.NaN
  return data.length / dims.at(-1)! / batch.count
}

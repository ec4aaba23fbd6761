/**
 * @file Calibration and evaluation data as the model takes it: files → arrays by input → samples → batches of feeds.
 */
import { QtoolError } from '../errors.ts'
import { type BatchPlan, countSamples, groupByShape, planBatches, type Samples } from './batches.ts'
import { checkBlock, checkOptions, checkSameInputs, givenNames } from './checkData.ts'
import { planFills } from './fillInputs.ts'
import { readLabels } from './labels.ts'
import { loadData } from './loadData.ts'
import type { FeedBatch, ModelInput } from './modelInput.ts'
import { channelTransform, type Normalization } from './normalize.ts'
import { listFiles } from './paths.ts'
import { pickSamples } from './pickSamples.ts'

export interface DatasetOptions {
  /** Input name → name of its array in the data; for text, the name of the field of a JSON object that holds it. */
  readonly rename?: Readonly<Record<string, string>>
  /** Use at most this many samples; 0 (the default) = all. They are the first, unless `pickSeed` says otherwise. */
  readonly samples?: number
  /**
   * Take the `samples` at random, the same for the same seed. They stay in the order of the data. Images and text that are
   * not needed for it are not decoded and not tokenized; sequences of text are then numbered among those that are.
   */
  readonly pickSeed?: number
  /** Class labels; see {@link readLabels}. There must be one per sample of the data. */
  readonly labels?: string | undefined
  /** Input name → the number that fills it. Such an input must not be in the data. */
  readonly constants?: Readonly<Record<string, number>>
  /** Input name → how its values are rescaled; for images it replaces what preprocessor_config.json says. */
  readonly normalize?: Readonly<Record<string, Normalization>>
  /** Path of the model's file, beside which tokenizer.json, config.json and preprocessor_config.json are looked for. */
  readonly modelPath?: string | undefined
  /** Tokens in a sequence that text is cut into; see `textSource.ts` for the default. */
  readonly seqLen?: number | undefined
  /** Height and width that images are resized to; replaces what preprocessor_config.json says. */
  readonly size?: readonly [height: number, width: number] | undefined
  /** Order of the axes of the image input, where its shape does not show it. */
  readonly layout?: 'nchw' | 'nhwc' | undefined
}

export interface Dataset {
  /** Samples that `batches` yields. */
  readonly count: number
  /** Sentences for the user: choices made, conversions, samples left out. */
  readonly notes: readonly string[]
  /** Inputs that the data lacks and their values, for example 'attention_mask: ones'. */
  readonly filled: readonly string[]
  /**
   * Number in the data, from 0, of sample i, where i is `FeedBatch.start` + place in the batch. More than `count` when
   * samples are left out of the batches.
   */
  readonly order: Int32Array
  /** Label of sample i, counted as in `order`, when labels were asked for; there may be more than samples. */
  readonly labels: Int32Array | undefined
  /** Samples that the model takes at a time, where it forces a number. */
  readonly exactBatch: number | undefined
  /**
   * Feeds in the order of the samples, made as they are asked for; every call starts anew.
   * @param batchSize  at least 1. A batch is smaller at the end, or where the next sample has another shape; a model
   *   with a fixed batch size always gets exactly that.
   */
  batches(batchSize: number): Iterable<FeedBatch>
  /**
   * Some of the samples, in the order given except that samples of one shape are brought together (see `order`). May be
   * empty. Nothing is copied until feeds are made.
   * @param indices  places in `order`; each may occur any number of times.
   * @throws RangeError for a place that does not exist.
   */
  subset(indices: ArrayLike<number>): Dataset
}

/**
 * Open data. Files are read, checked and kept; feeds are made on demand. Images are decoded and text is tokenized now.
 *
 * @param paths        see `paths.ts` for what they may be.
 * @param modelInputs  all inputs of the model that are not initializers.
 * @throws QtoolError `data` when the data is unreadable or does not fit, `usage` when an option names no input.
 */
export async function openDataset(
  paths: readonly string[],
  modelInputs: readonly ModelInput[],
  options: DatasetOptions = {},
): Promise<Dataset> {
  const { rename = {}, constants = {}, samples = 0, pickSeed } = options
  checkOptions(modelInputs, { rename, constants, normalize: options.normalize ?? {} })
  const labels = options.labels === undefined ? undefined : readLabels(options.labels)
  const notes = new Set<string>()
  // With labels, all must be counted to see whether there is one for each; so must they for a random choice.
  const enough = labels || pickSeed !== undefined ? 0 : samples
  const loaded = await loadData(
    listFiles(paths),
    modelInputs,
    { ...options, rename, constants, samples },
    enough,
    notes,
  )
  const { blocks, part } = loaded
  const normalize = { ...loaded.normalize, ...options.normalize }
  const available = countSamples(blocks)
  if (available === 0) throw new QtoolError('data', `no samples in ${paths.join(', ') || 'no data files'}`)
  const total = part?.total ?? available
  if (labels && labels.length !== total) {
    throw new QtoolError(
      'data',
      `${labels.length} labels in ${options.labels}, but ${total} samples in ${paths.join(', ')}`,
    )
  }
  for (const block of blocks) {
    checkBlock(block, normalize, constants, notes)
    checkSameInputs(block, blocks[0]!)
  }
  const order = samples > 0 && samples < available ? pickSamples(available, samples, pickSeed) : upTo(available)
  return toDataset(
    {
      blocks,
      order,
      fills: planFills(modelInputs, givenNames(blocks[0]!), constants, blocks[0]!.place),
      transform: (column) => {
        const normalization = normalize[column.input.name]
        return normalization && channelTransform(normalization, column)
      },
    },
    notes,
    { labels, numbers: part?.numbers },
  )
}

/**
 * A dataset of samples that are known to fit.
 *
 * @param labels   of all samples of the blocks, or of all data when `numbers` is given.
 * @param numbers  number in the data of each sample of the blocks; undefined when they are all the data.
 * @throws QtoolError `data` when no batch can be made.
 */
export function toDataset(
  samples: Samples,
  notes: ReadonlySet<string>,
  { labels, numbers }: { labels?: Int32Array | undefined; numbers?: Int32Array | undefined } = {},
): Dataset {
  const plan = planBatches(samples)
  if (plan.count === 0) {
    throw new QtoolError(
      'data',
      `${plan.leftOut} samples of equal shape, but the model takes exactly ${plan.exact} at a time`,
    )
  }
  // What is wrong with a fill or a shape shows in the first batch; better here than in the middle of a run.
  for (const _ of plan.batches(1)) break
  return datasetOf(samples, plan, notes, { labels, numbers })
}

function datasetOf(
  samples: Samples,
  plan: BatchPlan,
  notes: ReadonlySet<string>,
  known: { readonly labels: Int32Array | undefined; readonly numbers: Int32Array | undefined },
): Dataset {
  const { labels, numbers } = known
  const { blocks, fills } = samples
  const order = numbers ? samples.order.map((sample) => numbers[sample]!) : samples.order
  const left = `${plan.leftOut} samples are left out: the model takes exactly ${plan.exact} of equal shape at a time`
  return {
    count: plan.count,
    notes: [...notes, ...(plan.leftOut > 0 ? [left] : [])],
    filled: fills.map((fill) => `${fill.input.name}: ${fill.value}`),
    order,
    labels: labels && (order.every((sample, i) => sample === i) ? labels : order.map((sample) => labels[sample]!)),
    exactBatch: plan.exact,
    batches(batchSize) {
      if (!Number.isSafeInteger(batchSize) || batchSize < 1) {
        throw new QtoolError('usage', `batch size: wanted a whole number from 1, found ${batchSize}`)
      }
      return plan.batches(batchSize)
    },
    subset(indices) {
      const chosen = Int32Array.from(Array.from(indices), (index) => {
        const sample = samples.order[index]
        if (sample === undefined) throw new RangeError(`sample ${index} of ${samples.order.length}`)
        return sample
      })
      const part = { ...samples, order: groupByShape(blocks, chosen) }
      return datasetOf(part, planBatches(part), notes, known)
    },
  }
}

/** 0, 1, 2, … below n. */
export function upTo(n: number): Int32Array {
  return Int32Array.from({ length: n }, (_, i) => i)
}

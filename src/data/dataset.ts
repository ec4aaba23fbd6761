/**
 * @file Evaluation data as the model takes it: files → arrays by input → samples → batches of feeds.
 */
import { QtoolError } from '../errors.ts'
import { type BatchPlan, planBatches } from './batches.ts'
import { checkConvertible, isIntegerDtype } from './convert.ts'
import { type Fill, planFills, requiredInputs } from './fillInputs.ts'
import { readLabels } from './labels.ts'
import { type Block, layOut } from './layout.ts'
import { arrayName, matchInputs } from './matchInputs.ts'
import { checkInputNames, type FeedBatch, feedDtype, feedType, type ModelInput } from './modelInput.ts'
import { channelTransform, checkNormalization, type Normalization } from './normalize.ts'
import { readSources } from './sources.ts'

export interface DatasetOptions {
  /** Input name → name of its array in the data. */
  readonly rename?: Readonly<Record<string, string>>
  /** Use at most this many samples, from the first; 0 (the default) = all. */
  readonly samples?: number
  /** Class labels; see {@link readLabels}. There must be one per sample of the data. */
  readonly labels?: string | undefined
  /** Input name → the number that fills it. Such an input must not be in the data. */
  readonly constants?: Readonly<Record<string, number>>
  /** Input name → how its values are rescaled. */
  readonly normalize?: Readonly<Record<string, Normalization>>
}

export interface Dataset {
  /** Samples that `batches` yields. */
  readonly count: number
  /** Sentences for the user: choices made, conversions, samples left out. */
  readonly notes: readonly string[]
  /** Inputs that the data lacks and their values, for example 'attention_mask: ones'. */
  readonly filled: readonly string[]
  /** Label of sample i of the data (`FeedBatch.start` + place in the batch), when labels were asked for. */
  readonly labels: Int32Array | undefined
  /**
   * Feeds in the order of the data, made as they are asked for; every call starts anew.
   * @param batchSize  at least 1. A batch is smaller at the end, or where the next sample has another shape; a model
   *   with a fixed batch size always gets exactly that.
   */
  batches(batchSize: number): Iterable<FeedBatch>
}

/**
 * Open evaluation data. Files are read, checked and kept; feeds are made on demand.
 *
 * @param paths        see `sources.ts` for what they may be.
 * @param modelInputs  all inputs of the model that are not initializers.
 * @throws QtoolError `data` when the data is unreadable or does not fit, `usage` when an option names no input.
 */
export function openDataset(
  paths: readonly string[],
  modelInputs: readonly ModelInput[],
  options: DatasetOptions = {},
): Dataset {
  const { rename = {}, constants = {}, normalize = {}, samples = 0 } = options
  checkOptions(modelInputs, { rename, constants, normalize })
  const wanted = { inputs: modelInputs, required: requiredInputs(modelInputs, constants), rename }
  const names = new Set(modelInputs.map((input) => arrayName(input, rename)))
  const labels = options.labels === undefined ? undefined : readLabels(options.labels)
  const notes = new Set<string>()
  const blocks: Block[] = []
  let fills: Fill[] = []
  let total = 0
  for (const record of readSources(paths, names)) {
    const block = layOut(matchInputs(record, wanted, notes), record.place)
    checkBlock(block, normalize, constants, notes)
    const given = givenNames(block)
    if (blocks.length === 0) fills = planFills(modelInputs, given, constants, record.place)
    else checkSameInputs(given, givenNames(blocks[0]!), block.place, blocks[0]!.place)
    blocks.push(block)
    total += block.count
    // With labels, all must be counted to see whether there is one for each.
    if (samples > 0 && total >= samples && !labels) break
  }
  if (total === 0) throw new QtoolError('data', `no samples in ${paths.join(', ') || 'no data files'}`)
  if (labels && labels.length !== total) {
    throw new QtoolError(
      'data',
      `${labels.length} labels in ${options.labels}, but ${total} samples in ${paths.join(', ')}`,
    )
  }
  const plan = planBatches({
    blocks,
    limit: samples,
    fills,
    transform: (column) => {
      const normalization = normalize[column.input.name]
      return normalization && channelTransform(normalization, column)
    },
  })
  return toDataset(plan, fills, notes, labels)
}

/**
 * A dataset from planned batches.
 * @throws QtoolError `data` when no batch can be made.
 */
export function toDataset(
  plan: BatchPlan,
  fills: readonly Fill[],
  notes: Set<string>,
  labels: Int32Array | undefined,
): Dataset {
  if (plan.count === 0) {
    throw new QtoolError(
      'data',
      `${plan.leftOut} samples of equal shape, but the model takes exactly ${plan.exact} at a time`,
    )
  }
  if (plan.leftOut > 0) {
    notes.add(`${plan.leftOut} samples are left out: the model takes exactly ${plan.exact} of equal shape at a time`)
  }
  // What is wrong with a fill or a shape shows in the first batch; better here than in the middle of a run.
  for (const _ of plan.batches(1)) break
  return {
    count: plan.count,
    notes: [...notes],
    filled: fills.map((fill) => `${fill.input.name}: ${fill.value}`),
    labels,
    batches(batchSize) {
      if (!Number.isSafeInteger(batchSize) || batchSize < 1) {
        throw new QtoolError('usage', `batch size: wanted a whole number from 1, found ${batchSize}`)
      }
      return plan.batches(batchSize)
    },
  }
}

function checkOptions(
  inputs: readonly ModelInput[],
  options: { rename: object; constants: object; normalize: Readonly<Record<string, Normalization>> },
): void {
  for (const input of inputs) feedType(input)
  for (const [option, values] of Object.entries(options)) checkInputNames(inputs, Object.keys(values), option)
  for (const input of inputs) {
    const normalization = options.normalize[input.name]
    if (normalization) checkNormalization(input, normalization)
  }
}

function givenNames(block: Block): Set<string> {
  return new Set(block.columns.map((column) => column.input.name))
}

function checkSameInputs(given: Set<string>, first: Set<string>, place: string, firstPlace: string): void {
  const odd = [...first].find((name) => !given.has(name)) ?? [...given].find((name) => !first.has(name))
  if (odd === undefined) return
  const [has, lacks] = given.has(odd) ? [place, firstPlace] : [firstPlace, place]
  throw new QtoolError('data', `input ${odd} is in ${has} but not in ${lacks}`, {
    hint: 'all samples need the same inputs',
  })
}

/** Values must exist in the type that the input takes; conversions that change a number's type are noted. */
function checkBlock(
  { columns, place }: Block,
  normalize: Readonly<Record<string, Normalization>>,
  constants: Readonly<Record<string, number>>,
  notes: Set<string>,
): void {
  for (const { input, array } of columns) {
    if (Object.hasOwn(constants, input.name)) {
      throw new QtoolError(
        'usage',
        `input ${input.name} has a constant (${constants[input.name]}) and data in ${place}`,
      )
    }
    if (normalize[input.name]) {
      notes.add(`${input.name}: rescaled with the given scale, mean and std`)
      continue
    }
    const dtype = feedDtype(input)
    checkConvertible(array, dtype, `${place}: input ${input.name}`)
    if (array.dtype === dtype) continue
    const isFloat = !isIntegerDtype(dtype)
    if (array.dtype === 'uint8' && isFloat) {
      notes.add(`${input.name}: uint8 data is fed as 0 … 255, NOT rescaled (--scale, --mean, --std rescale it)`)
    } else if (!array.fromText) {
      notes.add(`${input.name}: ${array.dtype} data is fed as ${dtype}`)
    }
  }
}

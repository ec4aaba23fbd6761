/** @file The calibration data that a configuration names, split into what fits may see and what only judges. */
import type { CalibrationConfig } from '../config.ts'
import { openConfiguredData } from '../data/configured.ts'
import type { Dataset } from '../data/dataset.ts'
import type { ModelInput } from '../data/modelInput.ts'
import { rollDataset } from '../data/rollDataset.ts'
import { splitDataset } from '../data/split.ts'
import { modelLayers } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { elementTypeName } from '../onnx/tensorData.ts'
import { selectSamples } from './selectSamples.ts'

export interface CalibrationData {
  readonly fit: Dataset
  /** Empty when nothing is held out. */
  readonly held: Dataset
  readonly batchSize: number
  /** Sentences for the user. */
  readonly notes: readonly string[]
  /** Where it came from, for the report. */
  readonly source: string
  /** Names the scratch directory for activations, which is not made yet. */
  readonly scratch: () => string
}

/** Tokens, or floating-point numbers, that a batch of inputs has at most; the tensors inside grow with them. */
const BATCH_TOKENS = 4096
const BATCH_FLOATS = 1 << 20
/** Numbers that the widest layer makes of a batch of tokens at most (64 MB): those of the vocabulary, as a rule. */
const WIDEST_FLOATS = 1 << 24
const LARGEST_BATCH = 64

/** Samples that are scored for each that is used. */
const POOL = 4

/**
 * Open and split the data.
 * @param score how informative each sample of a pool is; asked where the configuration selects by scores.
 * @throws QtoolError `data` when it is unreadable or does not fit the model.
 */
export async function openCalibration(
  config: CalibrationConfig & { readonly roll?: number },
  model: OnnxModel,
  scratch: () => string,
  score: (pool: Dataset, batchSize: number) => Promise<Float64Array>,
): Promise<CalibrationData> {
  const { samples, holdout, select, seed, labels, roll = 1 } = config
  const pooled = select === 'random' ? config : { ...config, samples: samples * POOL }
  const dataset = await openConfiguredData(pooled, declaredInputs(model), model.path, { pickSeed: seed, labels })
  const sizeOf = (data: Dataset) => batchSizeOf(data, widestOutput(model))
  const split =
    select === 'random'
      ? splitDataset(dataset, { samples, holdout, seed })
      : await selected(dataset, config, (pool) => score(pool, sizeOf(pool)))
  const { held, notes } = split
  const fit = rollDataset(split.fit, roll)
  return {
    fit,
    held,
    batchSize: sizeOf(fit),
    notes: [...dataset.notes, ...dataset.filled.map((filled) => `filled: ${filled}`), ...notes],
    source: config.data.join(', '),
    scratch,
  }
}

/** What is held out stays a random choice, to stand for all data; what is fitted to is selected from the rest. */
async function selected(
  dataset: Dataset,
  { samples, holdout, seed }: CalibrationConfig,
  score: (pool: Dataset) => Promise<Float64Array>,
): Promise<Pick<CalibrationData, 'fit' | 'held' | 'notes'>> {
  const available = dataset.order.length
  const wanted = samples > 0 ? Math.min(samples, available) : available
  const split = splitDataset(dataset, { samples: 0, holdout: (holdout * wanted) / available, seed })
  const { fit: pool, held, notes } = split
  const count = Math.min(pool.count, wanted - held.count)
  if (count === pool.count) {
    return {
      fit: pool,
      held,
      notes: [...notes, `all ${pool.count} samples are used: there are no more to select from`],
    }
  }
  const scores = await score(pool)
  return { fit: pool.subset(selectSamples(scores, count, seed)), held, notes }
}

/** The model's inputs as it declares them, without loading it into the runtime. */
export function declaredInputs(model: OnnxModel): ModelInput[] {
  const graph = model.proto.graph!
  const constants = new Set(graph.initializer.map((tensor) => tensor.name))
  const given = graph.input.filter((input) => !constants.has(input.name))
  return given.map(({ name, type }): ModelInput => {
    if (type?.value.case !== 'tensorType') return { name, elementType: 'other', dims: [] }
    const { elemType, shape } = type.value.value
    const dims = (shape?.dim ?? []).map(({ value }) => {
      if (value.case === 'dimValue') return value.value > 0n ? Number(value.value) : undefined
      return value.case === 'dimParam' && value.value !== '' ? value.value : undefined
    })
    return { name, elementType: elementTypeName(elemType), dims }
  })
}

/** Outputs of the matrix product that makes the most of a token. */
function widestOutput(model: OnnxModel): number {
  const products = modelLayers(model.proto).layers.filter(({ uses }) => uses.some(({ kernel }) => kernel === 'matmul'))
  return Math.max(0, ...products.map(({ view }) => view.outer * view.inner))
}

/** @param widest outputs of the layer that makes the most of a token. */
function batchSizeOf(dataset: Dataset, widest: number): number {
  const tokens = Math.min(BATCH_TOKENS, WIDEST_FLOATS / Math.max(1, widest))
  for (const { feeds, count } of dataset.batches(1)) {
    const sizes = [...feeds.values()].map(({ type, data }) => {
      const isFloat = type === 'float' || type === 'float16' || type === 'double' || type === 'uint8'
      return data.length / count / (isFloat ? BATCH_FLOATS : tokens)
    })
    return Math.min(LARGEST_BATCH, Math.max(1, Math.floor(1 / Math.max(...sizes))))
  }
  return 1
}

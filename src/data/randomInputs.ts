/**
 * @file Made-up samples, for when the user asks for them: they show that two models compute the same, not how well.
 *
 * | input | values |
 * |---|---|
 * | floats | standard normal |
 * | any with a bound, integers named …ids | uniform integers in [0, bound); bound 1000 unless given |
 * | uint8, int8 of rank 3 and more (images) | uniform over the type |
 * | bool | false |
 * | …mask | ones |
 * | other integers (sample rates, lengths) | not made up: a constant or a bound is needed |
 *
 * Inputs with a certain meaning (`fillInputs.ts`) get that instead. Sizes of open dimensions: axis 0 counts samples, one
 * each; 'batch' is 1; height and width (by name, or the last two of rank 4) are 224; all others, as sequence lengths, 32.
 */
import { QtoolError } from '../errors.ts'
import { makeRandom, type Random } from '../random.ts'
import { convertElements } from './convert.ts'
import { type Dataset, toDataset, upTo } from './dataset.ts'
import { planFills, requiredInputs } from './fillInputs.ts'
import { commonBatch, hasBatchAxis, layOut } from './layout.ts'
import { checkInputNames, feedDtype, fixedDim, type ModelInput } from './modelInput.ts'
import { elementCount, formatShape, type NdArray } from './ndArray.ts'

const DEFAULT_BOUND = 1000
const DEFAULT_LENGTH = 32
const DEFAULT_SIDE = 224

export interface RandomOptions {
  /** Input name → first integer that is too large, for example the rows of the embedding. */
  readonly bounds?: Readonly<Record<string, number>>
  /** Input name → the number that fills it. */
  readonly constants?: Readonly<Record<string, number>>
  /** Input name → shape of one feed, batch axis included; replaces the sizes above where those make no sense for a model. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>
}

/**
 * `count` random samples, the same for the same seed. A model with a fixed batch size gets as many more as fill its last batch.
 *
 * @param count  at least 1.
 * @param seed   any integer.
 * @throws QtoolError `data` for an input that random numbers would make nonsense of, `usage` when an option fits no input.
 */
export function randomDataset(
  modelInputs: readonly ModelInput[],
  count: number,
  seed: number,
  options: RandomOptions = {},
): Dataset {
  const { bounds = {}, constants = {}, shapes = {} } = options
  for (const [option, values] of Object.entries({ bounds, constants, shapes })) {
    checkInputNames(modelInputs, Object.keys(values), option)
  }
  const needed = requiredInputs(modelInputs, constants)
  const made = needed.length > 0 ? needed : modelInputs.filter((input) => !Object.hasOwn(constants, input.name))
  const batch = commonBatch(made)
  const samples = Math.ceil(count / (batch ?? 1)) * (batch ?? 1)
  const random = makeRandom(seed)
  const arrays = new Map(
    made.map((input) => {
      const sizes = feedShape(input, shapes[input.name])
      const shape = [samples, ...(hasBatchAxis(input, batch) ? sizes.slice(1) : sizes)]
      return [input, randomArray(input, shape, random, bounds[input.name])]
    }),
  )
  const fills = planFills(modelInputs, new Set(made.map((input) => input.name)), constants, 'the random data')
  const block = layOut(arrays, 'random data')
  const notes = new Set<string>()
  if (samples > count) notes.add(`${samples} random samples, not ${count}: the model takes exactly ${batch} at a time`)
  for (const { input, array } of block.columns) notes.add(`${input.name}: random, ${formatShape(array.shape)}`)
  return toDataset({ blocks: [block], order: upTo(block.count), fills, transform: () => undefined }, notes)
}

/** Numbers of `shape`, which is laid out as `layout.ts` expects it. */
function randomArray(input: ModelInput, shape: number[], random: Random, bound: number | undefined): NdArray {
  const dtype = feedDtype(input)
  const values = Float64Array.from({ length: elementCount(shape) }, makerOf(input, random, bound))
  const array = { dtype: 'float64', shape, data: values } as const
  return { dtype, shape, data: convertElements(array, 0, values.length, dtype) }
}

/** Sizes of all axes: as wanted, else fixed by the model, else the defaults. */
function feedShape(input: ModelInput, wanted: readonly number[] | undefined): readonly number[] {
  if (!wanted) return input.dims.map((dim, axis) => (typeof dim === 'number' ? dim : openSize(input, axis)))
  const fits = wanted.length === input.dims.length && wanted.every((size, i) => size === (fixedDim(input, i) ?? size))
  if (fits) return wanted
  throw new QtoolError(
    'usage',
    `shape ${formatShape(wanted)} does not fit input ${input.name}, ${formatShape(input.dims)}`,
  )
}

function openSize(input: ModelInput, axis: number): number {
  const name = String(input.dims[axis] ?? '')
  if (/batch/i.test(name)) return 1
  if (/height|width|^[hw]$/i.test(name)) return DEFAULT_SIDE
  const isLength = /seq|len|tok|time|frame|text/i.test(name)
  return input.dims.length === 4 && axis >= 2 && !isLength ? DEFAULT_SIDE : DEFAULT_LENGTH
}

/** Where the numbers of an input come from. */
function makerOf({ name, elementType, dims }: ModelInput, random: Random, bound: number | undefined): () => number {
  if (bound !== undefined) return () => random.below(bound)
  if (/mask(:0)?$/i.test(name)) return () => 1
  if (['float', 'float16', 'double'].includes(elementType)) return random.normal
  if (elementType === 'bool') return () => 0
  if (/ids(:0)?$/i.test(name)) return () => random.below(DEFAULT_BOUND)
  if (elementType === 'uint8' && dims.length >= 3) return () => random.below(256)
  if (elementType === 'int8' && dims.length >= 3) return () => random.below(256) - 128
  throw new QtoolError(
    'data',
    `input ${name} (${elementType} ${formatShape(dims)}): what its integers mean is not known, so none are made up`,
    { hint: `give a constant (--set ${name}=NUMBER), or data instead of --random` },
  )
}

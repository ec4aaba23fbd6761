/**
 * @file Which axis of an array counts samples. Decided by rank; R is the rank of the model's input.
 *
 * | rank of the array | meaning | accepted when |
 * |---|---|---|
 * | R | axis 0 is the batch axis: rows of samples | axis 0 of the input is its batch axis; else the array is one whole tensor (or several end to end) |
 * | R + 1 | axis 0 counts whole input tensors, each run by itself | always; tensors with one row are taken as rows |
 * | R − 1 | one sample | axis 0 of the input is its batch axis |
 *
 * Axis 0 of an input is its batch axis when it is symbolic, or 1, or the same fixed number in all inputs of rank 2 and
 * more (a model exported for batches of 8). A single number for an input of one element holds for every sample.
 */
import { QtoolError } from '../errors.ts'
import { fixedDim, type ModelInput } from './modelInput.ts'
import { elementCount, formatShape, type NdArray } from './ndArray.ts'

/** The samples that one array holds for one input. */
export interface Column {
  readonly input: ModelInput
  /** row: samples are stacked into batches. tensor: a sample is a whole feed. shared: one feed for all samples. */
  readonly perSample: 'row' | 'tensor' | 'shared'
  /** Samples; 1 for shared. */
  readonly count: number
  /** Of one sample: without the batch axis for a row, the whole feed else. */
  readonly dims: readonly number[]
  /** Holds count · ∏ dims elements. */
  readonly array: NdArray
}

/** Columns of equally many samples. */
export interface Block {
  readonly place: string
  readonly columns: readonly Column[]
  readonly count: number
  /**
   * Positions of each sample that are not padding. All columns are then rows [positions], padded to one length, and a
   * batch is cut to its longest sample.
   */
  readonly lengths?: Int32Array
}

/**
 * Split arrays that belong together into samples.
 *
 * @param arrays  the array of each input; at least one.
 * @throws QtoolError `data` when a shape does not fit its input, or inputs have different numbers of samples.
 */
export function layOut(arrays: ReadonlyMap<ModelInput, NdArray>, place: string): Block {
  const batch = commonBatch([...arrays.keys()])
  const columns = [...arrays].map(([input, array]) => layOutInput(input, array, batch, place))
  const counted = columns.filter((column) => column.perSample !== 'shared')
  const odd = counted.find((column) => column.count !== counted[0]!.count)
  if (odd) {
    const [a, b] = [counted[0]!, odd]
    throw new QtoolError(
      'data',
      `${place}: ${a.count} samples of ${a.input.name} (${formatShape(a.array.shape)}) but ${b.count} of ${b.input.name} (${formatShape(b.array.shape)})`,
      { hint: 'every input needs one entry per sample along axis 0' },
    )
  }
  return { place, columns, count: counted[0]?.count ?? 1 }
}

/** The batch size that a model was exported for: the fixed axis 0 that all its inputs of rank ≥ 2 share. */
export function commonBatch(inputs: readonly ModelInput[]): number | undefined {
  const sizes = new Set(inputs.filter((input) => input.dims.length >= 2).map((input) => fixedDim(input, 0)))
  return sizes.size === 1 ? [...sizes][0] : undefined
}

/** Whether axis 0 of the input counts samples. */
export function hasBatchAxis(input: ModelInput, batch: number | undefined): boolean {
  if (input.dims.length === 0) return false
  const size = fixedDim(input, 0)
  return size === undefined || size === 1 || (size === batch && input.dims.length >= 2)
}

function layOutInput(input: ModelInput, array: NdArray, batch: number | undefined, place: string): Column {
  const { shape } = array
  const rank = input.dims.length
  const isBatched = hasBatchAxis(input, batch)
  const column = (perSample: Column['perSample'], count: number, dims: readonly number[]): Column => {
    const wanted = perSample === 'row' ? input.dims.slice(1) : input.dims
    const fits = wanted.length === dims.length && wanted.every((dim, i) => typeof dim !== 'number' || dim === dims[i])
    if (!fits) throw shapeError(input, array, isBatched, place)
    return { input, perSample, count, dims, array }
  }
  if (array.data.length === 1 && input.dims.every((dim) => dim === 1)) {
    return column('shared', 1, input.dims as readonly number[])
  }
  if (shape.length === rank + 1) {
    if (isBatched && shape[1] === 1) return column('row', shape[0]!, shape.slice(2))
    return column('tensor', shape[0]!, shape.slice(1))
  }
  if (shape.length === rank && isBatched) return column('row', shape[0]!, shape.slice(1))
  if (shape.length === rank && shape[0]! % fixedDim(input, 0)! === 0) {
    const size = fixedDim(input, 0)!
    return column('tensor', shape[0]! / size, [size, ...shape.slice(1)])
  }
  if (shape.length === rank - 1 && isBatched) return column('row', 1, shape)
  throw shapeError(input, array, isBatched, place)
}

function shapeError(input: ModelInput, array: NdArray, isBatched: boolean, place: string): QtoolError {
  const rest = input.dims.slice(1)
  const accepted = isBatched
    ? [['samples', ...rest], ['samples', ...input.dims], rest]
    : [input.dims, ['samples', ...input.dims]]
  const unique = [...new Set(accepted.map(formatShape))]
  return new QtoolError(
    'data',
    `${place}: input ${input.name} is ${formatShape(input.dims)}, but its array is ${formatShape(array.shape)}`,
    { hint: `shapes that fit: ${unique.join(' or ')}` },
  )
}

/** Elements of one sample. */
export function sampleSize(column: Column): number {
  return elementCount(column.dims)
}

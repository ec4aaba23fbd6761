/** @file What a model asks for (its inputs) and what it is fed (tensors by name). */
import { QtoolError } from '../errors.ts'
import type { Dtype, NdData } from './ndArray.ts'

/** Types of numbers that can be fed, by ONNX's name in lower case ↔ the same in data files. */
const DTYPES = {
  float: 'float32',
  double: 'float64',
  float16: 'float16',
  int8: 'int8',
  uint8: 'uint8',
  int16: 'int16',
  uint16: 'uint16',
  int32: 'int32',
  uint32: 'uint32',
  int64: 'int64',
  uint64: 'uint64',
  bool: 'bool',
} as const satisfies Readonly<Record<string, Dtype>>

export type FeedType = keyof typeof DTYPES

/** An input of the model that is not an initializer. */
export interface ModelInput {
  readonly name: string
  /** ONNX element type in lower case: float, float16, double, int64, bool, string, … */
  readonly elementType: string
  /** A number is fixed, a string is a symbolic dimension, undefined (or '') is unknown. [] is a scalar. */
  readonly dims: readonly (number | string | undefined)[]
}

/** One tensor for the runtime, row-major. float16 as bits in a Uint16Array, bool as 0 and 1 in a Uint8Array. */
export interface FeedTensor {
  readonly type: FeedType
  readonly dims: readonly number[]
  /** May be a view of the loaded data: do not write to it. */
  readonly data: NdData
}

/** Inputs of one run. */
export interface FeedBatch {
  readonly feeds: ReadonlyMap<string, FeedTensor>
  /** Samples in it. */
  readonly count: number
  /** Number of its first sample in the data, from 0: what labels are indexed by. */
  readonly start: number
}

/** @throws QtoolError `data` for an input that takes no plain numbers (text, bfloat16, sequences). */
export function feedType(input: ModelInput): FeedType {
  if (Object.hasOwn(DTYPES, input.elementType)) return input.elementType as FeedType
  throw new QtoolError('data', `input ${input.name} takes ${input.elementType}, which cannot be fed`, {
    hint: `inputs of these types can be fed: ${Object.keys(DTYPES).join(', ')}`,
  })
}

/** How data files call the input's type. */
export function feedDtype(input: ModelInput): Dtype {
  return DTYPES[feedType(input)]
}

/** The fixed size of an axis, or undefined when it is symbolic or unknown. */
export function fixedDim(input: ModelInput, axis: number): number | undefined {
  const dim = input.dims[axis]
  return typeof dim === 'number' ? dim : undefined
}

/**
 * Options that name inputs must name inputs that exist.
 * @throws QtoolError `usage`
 */
export function checkInputNames(inputs: readonly ModelInput[], names: readonly string[], option: string): void {
  const odd = names.find((name) => !inputs.some((input) => input.name === name))
  if (odd === undefined) return
  const known = inputs.map((input) => input.name).join(', ')
  throw new QtoolError('usage', `${option}: the model has no input ${odd}; its inputs are ${known || 'none'}`)
}

/** @file Rescaling of image-like inputs: the user's scale, mean and std, laid along the channel axis of the data. */
import { QtoolError } from '../errors.ts'
import type { ChannelTransform } from './convert.ts'
import type { Column } from './layout.ts'
import type { ModelInput } from './modelInput.ts'
import { elementCount, formatShape } from './ndArray.ts'

/** x → (x · scale − mean[c]) / std[c] for channel c. Scale defaults to 1, mean to 0, std to 1; a single mean or std is for all. */
export interface Normalization {
  readonly scale?: number
  readonly mean?: readonly number[]
  readonly std?: readonly number[]
}

/** @throws QtoolError `usage`: the input takes no floats, or scale, mean and std make no sense together. */
export function checkNormalization(input: ModelInput, { scale = 1, mean = [0], std = [1] }: Normalization): void {
  const problem = (what: string) => new QtoolError('usage', `normalization of input ${input.name}: ${what}`)
  if (!['float', 'float16', 'double'].includes(input.elementType)) {
    throw problem(`wanted an input of floats, but it takes ${input.elementType}`)
  }
  if (![scale, ...mean, ...std].every(Number.isFinite)) throw problem('scale, mean and std must be finite numbers')
  if (scale === 0 || std.includes(0)) throw problem('scale and std must not be 0')
  if (mean.length === 0 || std.length === 0) throw problem('mean and std need at least one number')
  if (mean.length !== std.length && mean.length > 1 && std.length > 1) {
    throw problem(`mean has ${mean.length} numbers and std ${std.length}`)
  }
}

/**
 * The normalization for the elements of a column. Channels lie along axis 1 of the fed tensor, or along the last axis
 * when only that has as many entries as mean or std.
 *
 * @throws QtoolError `data` when neither axis has as many entries.
 */
export function channelTransform(
  { scale = 1, mean = [0], std = [1] }: Normalization,
  column: Column,
): ChannelTransform {
  const channels = Math.max(mean.length, std.length)
  const spread = (values: readonly number[]) => Array.from({ length: channels }, (_, c) => values[c] ?? values[0]!)
  const { dims, input } = column
  const first = column.perSample === 'row' ? 0 : 1
  const axis = [first, dims.length - 1].find((candidate) => candidate >= first && dims[candidate] === channels)
  if (channels > 1 && axis === undefined) {
    throw new QtoolError(
      'data',
      `input ${input.name}: mean and std have ${channels} numbers, but samples are ${formatShape(dims)}`,
      { hint: 'give one number, or one per channel (axis 1, or the last axis, of the batch)' },
    )
  }
  const inner = axis === undefined ? 1 : elementCount(dims.slice(axis + 1))
  return { scale, mean: spread(mean), std: spread(std), inner }
}

/** @file Elements of data files as the element type that a model input takes, with optional rescaling of each channel. */
import { QtoolError } from '../errors.ts'
import { floatToHalf, halfToFloat } from '../quant/float16.ts'
import { type Dtype, makeData, type NdArray, type NdData } from './ndArray.ts'

/** x → (x · scale − mean[c]) / std[c], where the channel of element i is c = ⌊i / inner⌋ mod mean.length. */
export interface ChannelTransform {
  readonly scale: number
  readonly mean: readonly number[]
  readonly std: readonly number[]
  readonly inner: number
}

/** Least value and first value above the range. */
const INTEGER_RANGES: Readonly<Partial<Record<Dtype, readonly [number, number]>>> = {
  bool: [0, 2],
  int8: [-128, 128],
  uint8: [0, 256],
  int16: [-32768, 32768],
  uint16: [0, 65536],
  int32: [-(2 ** 31), 2 ** 31],
  uint32: [0, 2 ** 32],
  int64: [-(2 ** 63), 2 ** 63],
  uint64: [0, 2 ** 64],
}

/** Magnitudes from here on round to infinity. */
const OVERFLOW: Readonly<Partial<Record<Dtype, number>>> = { float16: 65520, float32: 2 ** 128 - 2 ** 103 }

export function isIntegerDtype(dtype: Dtype): boolean {
  return INTEGER_RANGES[dtype] !== undefined
}

/**
 * Check that every value of an array exists in another type: integers must be integers in range, finite numbers must
 * stay finite. Rounding to a narrower float type is allowed.
 *
 * @param subject  what the array is, for messages.
 * @throws QtoolError `data` naming the first value that does not fit and its place.
 */
export function checkConvertible(array: NdArray, dtype: Dtype, subject: string): void {
  if (array.dtype === dtype) return
  const range = INTEGER_RANGES[dtype]
  const own = INTEGER_RANGES[array.dtype]
  const limit = OVERFLOW[dtype]
  if (range ? own && own[0] >= range[0] && own[1] <= range[1] : !limit || (own && own[1] < limit)) return
  const values = numericView(array.data, array.dtype)
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!
    const fits = range
      ? isExactInteger(value) && value >= range[0] && value < range[1]
      : !(Math.abs(Number(value)) >= limit!) || Math.abs(Number(value)) === Number.POSITIVE_INFINITY
    if (!fits) {
      throw new QtoolError('data', `${subject}: wanted ${dtype}, but element ${i} is ${value} (${array.dtype})`, {
        hint: 'save the array with the type and range that the model takes',
      })
    }
  }
}

/** Integers above 2^53 in a float or in JSON may already have lost their last digits. */
function isExactInteger(value: number | bigint): boolean {
  return typeof value === 'bigint' || Number.isSafeInteger(value)
}

/**
 * Elements [begin, end) of an array in another type.
 *
 * @param transform  applied in float64 before the one rounding to the new type; `begin` must be the first element of a sample.
 * @returns a view when there is nothing to change, else a copy.
 */
export function convertElements(
  array: NdArray,
  begin: number,
  end: number,
  dtype: Dtype,
  transform?: ChannelTransform,
): NdData {
  const part = array.data.subarray(begin, end)
  if (array.dtype === dtype && !transform) return part
  const values = numericView(part, array.dtype)
  return fromNumbers(transform ? applyTransform(values, transform) : values, dtype)
}

/** The values as numbers; 64-bit integers stay bigint. */
function numericView(data: NdData, dtype: Dtype): NdData {
  if (dtype !== 'float16') return data
  const values = new Float32Array(data.length)
  for (let i = 0; i < values.length; i++) values[i] = halfToFloat(data[i] as number)
  return values
}

function applyTransform(values: NdData, transform: ChannelTransform): Float64Array {
  const { scale, mean, std, inner } = transform
  const channels = mean.length
  const result = new Float64Array(values.length)
  for (let i = 0; i < result.length; i++) {
    const channel = channels === 1 ? 0 : Math.floor(i / inner) % channels
    result[i] = (Number(values[i]) * scale - mean[channel]!) / std[channel]!
  }
  return result
}

function fromNumbers(values: NdData, dtype: Dtype): NdData {
  const result = makeData(dtype, values.length)
  if (result instanceof BigInt64Array || result instanceof BigUint64Array) {
    for (let i = 0; i < result.length; i++) result[i] = BigInt(values[i]!)
  } else if (dtype === 'float16') {
    for (let i = 0; i < result.length; i++) result[i] = floatToHalf(Number(values[i]))
  } else if (values instanceof BigInt64Array || values instanceof BigUint64Array) {
    for (let i = 0; i < result.length; i++) result[i] = Number(values[i])
  } else {
    result.set(values as Float64Array)
  }
  return result
}

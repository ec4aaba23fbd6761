/** @file The numbers of a tensor as JavaScript numbers, whatever their element type. */

import type { FeedTensor } from '../data/modelInput.ts'
import { halfToFloat } from '../quant/float16.ts'

export type Numbers = Exclude<FeedTensor['data'], BigInt64Array | BigUint64Array>

let halves: Float32Array | undefined

/**
 * The tensor's values. float16 is decoded, 64-bit integers are rounded to float64 (exact up to 2^53); other types are
 * returned as they are, not copied.
 */
export function numbersOf(tensor: FeedTensor): Numbers {
  const { data } = tensor
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) return Float64Array.from(data, Number)
  if (tensor.type !== 'float16') return data
  halves ??= Float32Array.from({ length: 65536 }, (_, bits) => halfToFloat(bits))
  const table = halves
  return Float32Array.from(data, (bits) => table[bits]!)
}

/** True for the element types whose values are real numbers rather than integers or truth values. */
export function isFloatElement(type: string): boolean {
  return type === 'float' || type === 'float16' || type === 'double'
}

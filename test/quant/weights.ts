/** @file Seeded weights for the tests of the quantizer, and their stored forms. */
import { floatToBfloat16, floatToHalf } from '../../src/quant/float16.ts'
import type { StoredElement, StoredWeight } from '../../src/quant/storedWeight.ts'
import { makeRandom } from '../../src/random.ts'

/** Normal numbers of standard deviation 0.02; every `heavy`-th is ten times as large (0 = none). */
export function normalWeights(count: number, seed: number, heavy = 0): Float32Array {
  const random = makeRandom(seed)
  return Float32Array.from({ length: count }, (_, i) => 0.02 * random.normal() * (heavy && i % heavy === 0 ? 10 : 1))
}

/** Values as a stored tensor. Numbers that the element type cannot hold are rounded to it. */
export function store(
  values: ArrayLike<number>,
  shape: readonly [number, number, number],
  elementType: StoredElement = 'float32',
): StoredWeight {
  const size = { float32: 4, float64: 8, float16: 2, bfloat16: 2 }[elementType]
  const bytes = new SharedArrayBuffer(values.length * size)
  if (elementType === 'float32') new Float32Array(bytes).set(Array.from(values))
  else if (elementType === 'float64') new Float64Array(bytes).set(Array.from(values))
  else new Uint16Array(bytes).set(Array.from(values, elementType === 'float16' ? floatToHalf : floatToBfloat16))
  return { bytes, elementType, shape }
}

/** [outer, reduction, inner] → [outer · inner, reduction]. */
export function toRows(values: Float32Array, [outer, reduction, inner]: readonly [number, number, number]) {
  const rows = new Float32Array(values.length)
  for (let a = 0; a < outer; a++)
    for (let k = 0; k < reduction; k++)
      for (let c = 0; c < inner; c++) rows[(a * inner + c) * reduction + k] = values[(a * reduction + k) * inner + c]!
  return rows
}

/** @file What a quantized layer computes for one input: the yardstick for what the runtime computes. */
import { groupsPerRow, type QuantizedWeight, symmetricZeroPoint } from './quantizedWeight.ts'

/**
 * Ŵ·x in float64, with Ŵ as `dequantize` gives it (every weight rounded to float32 once).
 * @param x [cols]
 * @returns [rows]
 * @throws RangeError when x has another length.
 */
export function probeRows(weight: QuantizedWeight, x: Float64Array): Float64Array {
  const { rows, cols, groupSize, codes, scales, zeroPoints, bits } = weight
  if (x.length !== cols) throw new RangeError(`x: want ${cols} numbers, got ${x.length}`)
  const groups = groupsPerRow(cols, groupSize)
  const products = new Float64Array(rows)
  for (let r = 0; r < rows; r++) {
    let sum = 0
    for (let g = 0; g < groups; g++) {
      const scale = scales[r * groups + g]!
      const zero = zeroPoints ? zeroPoints[r * groups + g]! : symmetricZeroPoint(bits)
      const end = Math.min(cols, (g + 1) * groupSize)
      for (let k = g * groupSize; k < end; k++) sum += Math.fround((codes[r * cols + k]! - zero) * scale) * x[k]!
    }
    products[r] = sum
  }
  return products
}

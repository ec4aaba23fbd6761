/** @file The yardstick of a layer: how far quantized weights are from their target on the inputs that the layer sees. */
import { dequantizeRow, type QuantizedWeight } from '../quant/quantizedWeight.ts'
import type { Products } from '../runtime/products.ts'

/** Rows at a time: bounds the memory, and is high enough for efficient products. */
const ROWS = 256

/**
 * J = tr((W* − Ŵ)·H·(W* − Ŵ)ᵀ), Ŵ as the file decodes to; products in float32, summed in float64.
 *
 * @param target W*, [N, K]; not modified.
 * @param matrix H or H_d, symmetric [K, K].
 * @throws RangeError when shapes differ.
 */
export async function proxyLoss(
  target: Float32Array,
  weight: QuantizedWeight,
  matrix: Float32Array,
  products: Products,
): Promise<number> {
  const { rows, cols } = weight
  if (target.length !== rows * cols || matrix.length !== cols * cols) {
    throw new RangeError(
      `loss: [${rows}, ${cols}] weights, but ${target.length} targets and a Hessian of ${matrix.length}`,
    )
  }
  const errors = new Float32Array(Math.min(ROWS, rows) * cols)
  const real = new Float32Array(cols)
  let loss = 0
  for (let from = 0; from < rows; from += ROWS) {
    const count = Math.min(ROWS, rows - from)
    for (let r = 0; r < count; r++) {
      dequantizeRow(weight, from + r, real)
      for (let k = 0; k < cols; k++) errors[r * cols + k] = target[(from + r) * cols + k]! - real[k]!
    }
    const a = errors.subarray(0, count * cols)
    const residuals = await products.multiply({ a, aRows: count, aCols: cols, b: matrix, bRows: cols, bCols: cols })
    for (let i = 0; i < count * cols; i++) loss += a[i]! * residuals[i]!
  }
  return loss
}

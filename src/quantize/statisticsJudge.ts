/**
 * @file Judges candidates by statistics of held-out samples alone, where no network can be run: the relative error of the
 * layers' own outputs.
 */
import type { InputStatistics } from '../hessian/statistics.ts'
import { dequantize, type QuantizedWeight } from '../quant/quantizedWeight.ts'
import type { Products } from '../runtime/products.ts'
import type { Member } from './members.ts'

/**
 * Mean over the members of E‖W x − Ŵ x − δ‖² / E‖W x‖², x held out and δ what the bias takes back:
 * tr(E·H·Eᵀ) − 2 δᵀE μ + ‖δ‖² with E = W − Ŵ.
 * @param held one per block of the members' rows.
 */
export async function heldOutError(
  members: readonly Member[],
  weights: readonly QuantizedWeight[],
  corrections: readonly (Float64Array | undefined)[],
  held: readonly InputStatistics[],
  products: Products,
): Promise<number> {
  let sum = 0
  for (const [i, { rows }] of members.entries()) {
    const real = dequantize(weights[i]!)
    const errors = rows.map((value, at) => value - real[at]!)
    const { error } = await quadratic(errors, held, products, corrections[i])
    const { error: norm } = await quadratic(rows, held, products, undefined)
    sum += norm > 0 ? error / norm : 0
  }
  return sum / members.length
}

async function quadratic(
  rows: Float32Array,
  held: readonly InputStatistics[],
  products: Products,
  correction: Float64Array | undefined,
): Promise<{ error: number }> {
  const cols = held[0]!.cols
  const perBlock = rows.length / cols / held.length
  let error = 0
  for (const [block, { gram, sum, weight }] of held.entries()) {
    const own = rows.slice(block * perBlock * cols, (block + 1) * perBlock * cols)
    const shape = { aRows: perBlock, aCols: cols, bRows: cols, bCols: cols }
    const product = await products.multiply({ a: own, b: new Float32Array(gram), ...shape })
    for (let i = 0; i < own.length; i++) error += (own[i]! * product[i]!) / weight
    if (!correction) continue
    for (let row = 0; row < perBlock; row++) {
      const delta = correction[block * perBlock + row]!
      let mean = 0
      for (let k = 0; k < cols; k++) mean += (own[row * cols + k]! * sum[k]!) / weight
      error += delta * delta - 2 * delta * mean
    }
  }
  return { error }
}

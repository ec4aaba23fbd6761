/** @file Figures of a candidate that need no run of the network: errors of the weights, and of the layer's own outputs. */
import { dequantize, type QuantizedWeight } from '../quant/quantizedWeight.ts'
import type { GroupHessians } from '../quantize/solveMember.ts'
import type { Products } from '../runtime/products.ts'

/**
 * tr(E·H·Eᵀ) / tr(W·H·Wᵀ) with E = W − Ŵ: the layer's own relative output error on the samples that it was fitted to. H is
 * without damping; the mean error that a bias takes back is not left out.
 * @param rows W [N, K].
 */
export async function proxyError(
  rows: Float32Array,
  weight: QuantizedWeight,
  hessians: GroupHessians,
  products: Products,
): Promise<number> {
  const { cols } = weight
  const perBlock = weight.rows / hessians.blocks
  const real = dequantize(weight)
  let error = 0
  let norm = 0
  for (let block = 0; block < hessians.blocks; block++) {
    const { gram } = hessians.statistics(block)
    const b = new Float32Array(gram)
    const own = rows.slice(block * perBlock * cols, (block + 1) * perBlock * cols)
    const errors = own.map((value, i) => value - real[block * perBlock * cols + i]!)
    error += await quadratic(errors, b, cols, products)
    norm += await quadratic(own, b, cols, products)
  }
  return norm > 0 ? error / norm : 0
}

/** tr(A·B·Aᵀ), A [n, K] in ordinary memory. */
async function quadratic(a: Float32Array, b: Float32Array, cols: number, products: Products): Promise<number> {
  const plain = a.buffer instanceof SharedArrayBuffer ? new Float32Array(a) : a
  const product = await products.multiply({
    a: plain,
    aRows: a.length / cols,
    aCols: cols,
    b,
    bRows: cols,
    bCols: cols,
  })
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * product[i]!
  return sum
}

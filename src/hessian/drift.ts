/** @file How the drift between float and quantized inputs moves the weights that a layer should have. */
import { factorUpper } from '../linalg/factor.ts'
import { solveWithFactor } from '../linalg/solve.ts'
import type { Products } from '../runtime/products.ts'
import { damp, type PreparedHessian } from './prepare.ts'

/**
 * D = (G − H)·H_d⁻¹, so that W* = W + α·W·D: with α = 1 the weights that bring Ŵ·x_q nearest to W·x_f, with a ridge of λ
 * towards W. GPTAQ (Li et al., 2025) and Qronos (Zhang et al., 2025) reach for the same target column by column. A dead
 * input's column is 0: its weight stays.
 *
 * For λ = 0 and α = 1, E‖W x_f − Ŵ x_q‖² = tr((W* − Ŵ)·H·(W* − Ŵ)ᵀ) + a constant.
 *
 * @param hessian  H, [K, K]; not modified. It is factored again in float64: the prepared factor is rounded.
 * @param cross    G, [K, K]; not modified.
 * @param prepared from the same H: its λ and its dead inputs are used, its order does not matter.
 * @returns [K, K].
 * @throws RangeError when shapes differ.
 */
export async function driftOf(
  hessian: Float64Array,
  cross: Float64Array,
  prepared: PreparedHessian,
  products: Products,
): Promise<Float32Array> {
  const { cols, dead, damping } = prepared
  if (hessian.length !== cols * cols || cross.length !== cols * cols) {
    throw new RangeError(`drift: want ${cols} × ${cols} numbers, got ${hessian.length} and ${cross.length}`)
  }
  const factored = await factorUpper(damp(hessian, cols, dead, damping, 1), cols, products)
  if (!('factor' in factored)) throw new RangeError('drift: the Hessian is not the prepared one')
  const isDead = new Uint8Array(cols)
  for (const k of dead) isDead[k] = 1
  const difference = new Float64Array(cols * cols)
  for (let i = 0; i < cols; i++) {
    for (let j = 0; j < cols; j++) {
      // What the float model sees of an input that is dead in the quantized model still counts, so only columns go.
      const at = i * cols + j
      if (!isDead[j]) difference[at] = cross[at]! - (isDead[i] ? 0 : hessian[at]!)
    }
  }
  return new Float32Array(await solveWithFactor(factored.factor, cols, difference, cols, products))
}

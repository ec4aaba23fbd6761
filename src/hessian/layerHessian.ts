/** @file From sums over calibration positions to the second moments that a layer is fitted to. */
import type { InputStatistics } from './statistics.ts'

/** Second moments per unit of weight: what `prepareHessian` and `driftOf` take. */
export interface Moments {
  readonly cols: number
  /** H = E x_q x_qᵀ or the covariance, symmetric [K, K]. The row and column of a dead input are exactly 0. */
  readonly hessian: Float64Array
  /** G = E x_f x_qᵀ or the covariance, [K, K]; undefined where x_f = x_q. Columns of dead inputs are exactly 0. */
  readonly cross: Float64Array | undefined
}

/**
 * An input whose variance is below this part of its mean square is constant. The sums come from float32 products, where
 * the difference of two such near numbers means nothing.
 */
const CONSTANT = 1e-5

/**
 * H and, where there is drift, G.
 *
 * @param centred subtract the means, for a layer with a bias that will absorb the mean error: the bias that is best for
 *   given weights leaves tr(E·Cov·Eᵀ).
 * @throws RangeError when the arrays do not fit K or the weight is not above 0.
 */
export function layerHessian(statistics: InputStatistics, centred: boolean): Moments {
  const { cols, weight, gram, cross, sum, crossSum } = statistics
  const isComplete = (cross === undefined) === (crossSum === undefined)
  const areSquare = [gram, cross ?? gram].every((matrix) => matrix.length === cols * cols)
  const areVectors = [sum, crossSum ?? sum].every((vector) => vector.length === cols)
  if (!(isComplete && areSquare && areVectors && weight > 0)) {
    throw new RangeError(`statistics: want sums over ${cols} inputs with a weight above 0, got the weight ${weight}`)
  }
  const isDead = (k: number): boolean => {
    const square = gram[k * cols + k]! / weight
    const mean = sum[k]! / weight
    return centred ? !(square - mean * mean > CONSTANT * square) && Number.isFinite(square) : square === 0
  }
  const dead = Uint8Array.from({ length: cols }, (_, k) => (isDead(k) ? 1 : 0))
  const moments = (products: Float64Array, rowSums: Float64Array, rowIsDead: (k: number) => boolean): Float64Array => {
    const result = new Float64Array(cols * cols)
    for (let i = 0; i < cols; i++) {
      if (rowIsDead(i)) continue
      const mean = centred ? rowSums[i]! / weight : 0
      for (let j = 0; j < cols; j++) {
        if (!dead[j]) result[i * cols + j] = products[i * cols + j]! / weight - mean * (sum[j]! / weight)
      }
    }
    return result
  }
  return {
    cols,
    hessian: moments(gram, sum, (k) => dead[k] === 1),
    // What the float model sees where the quantized model's input is dead still drifts: it counts as a row.
    cross: cross && crossSum && moments(cross, crossSum, () => false),
  }
}

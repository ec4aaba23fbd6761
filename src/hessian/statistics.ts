/** @file What calibration hands to the solver. */

/**
 * Sums over calibration positions of what a group of layers reads; one for each block of inputs (a group of a Conv, a
 * direction of an LSTM). x_q is the input in the quantized model so far, x_f the same position's in the float model.
 */
export interface InputStatistics {
  /** K, the inputs of a position. */
  readonly cols: number
  /** Σ w, the weights of all positions; above 0. */
  readonly weight: number
  /** Σ w x_q x_qᵀ, [K, K]. */
  readonly gram: Float64Array
  /** Σ w x_f x_qᵀ, [K, K]: row = float input, column = quantized input. Undefined where x_f = x_q. */
  readonly cross: Float64Array | undefined
  /** Σ w x_q, [K]. */
  readonly sum: Float64Array
  /** Σ w x_f, [K]. Undefined where x_f = x_q. */
  readonly crossSum: Float64Array | undefined
}

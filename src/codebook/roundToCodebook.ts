/** @file A codebook from the weights alone: nearest values, with scales and tables refitted to the squared error. */
import type { Means } from '../gptq/recurrence.ts'
import type { PreparedHessian } from '../hessian/prepare.ts'
import type { CodebookWeight } from '../quant/codebookWeight.ts'
import { squaredErrors } from '../quant/quantizedWeight.ts'
import { checkNorm } from '../quant/quantizeTensor.ts'
import { readTile, rowsOf, type StoredWeight } from '../quant/storedWeight.ts'
import { openProducts } from '../runtime/products.ts'
import type { CodebookOptions } from './codebookOptions.ts'
import { solveCodebook } from './solveCodebook.ts'

export interface RoundedToCodebook {
  readonly weight: CodebookWeight
  /** ‖W − Ŵ‖² and ‖W‖². */
  readonly squaredError: number
  readonly squaredNorm: number
}

/**
 * Round a stored weight.
 * @throws NonFiniteWeightError when a weight is NaN or infinite.
 */
export async function roundToCodebook(
  stored: StoredWeight,
  options: CodebookOptions,
  { pool, signal }: Omit<Means, 'products'>,
): Promise<RoundedToCodebook> {
  const rows = rowsOf(stored)
  const cols = stored.shape[1]
  const target = new Float32Array(rows * cols)
  readTile(stored, 0, rows, 0, cols, target)
  const products = openProducts(pool.threads)
  try {
    checkNorm(
      stored,
      target.reduce((sum, value) => sum + value * value, 0),
    )
    const weight = await roundRows(target, rows, cols, options, { pool, products, signal })
    return { weight, ...squaredErrors(target, weight) }
  } finally {
    await products.dispose()
  }
}

/** Nothing feeds back here: a second round gains next to nothing. */
const ROUNDS = 1

/** Round rows W [N, K]: what the solver does where all inputs count the same and know nothing of each other. */
async function roundRows(
  target: Float32Array,
  rows: number,
  cols: number,
  options: CodebookOptions,
  means: Means,
): Promise<CodebookWeight> {
  const { weight } = await solveCodebook(
    { target, rows, cols, hessian: identity(cols) },
    { ...options, rounds: ROUNDS },
    means,
  )
  return weight
}

function identity(cols: number): PreparedHessian {
  const matrix = new Float32Array(cols * cols)
  for (let k = 0; k < cols; k++) matrix[k * (cols + 1)] = 1
  const permutation = Int32Array.from({ length: cols }, (_, k) => k)
  const dead = new Int32Array(0)
  return { cols, order: 'natural', permutation, damped: matrix, factor: matrix, damping: 0, dampingTries: 1, dead }
}

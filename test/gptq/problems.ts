/** @file Seeded layers with correlated inputs for the tests of Hessians and the solver. */
import type { LayerProblem, SolverOptions } from '../../src/gptq/startLayer.ts'
import { type Order, type PreparedHessian, prepareHessian } from '../../src/hessian/prepare.ts'
import { type GridWeight, groupsPerRow } from '../../src/quant/quantizedWeight.ts'
import { makeRandom } from '../../src/random.ts'
import { openProducts } from '../../src/runtime/products.ts'
import { createPool } from '../../src/threads/pool.ts'
import { type ColumnGrid, toMatrix } from '../oracles/gptqOracle.ts'

export const means = { pool: createPool(1), products: openProducts(1) }

export const OPTIONS: SolverOptions = {
  bits: 3,
  groupSize: 4,
  grid: { scheme: 'asymmetric', method: 'minmax' },
  scaleType: 'auto',
  descentSweeps: 0,
  refits: 0,
}

/** Factors that the inputs share. */
const FACTORS = 24

/** Σ x xᵀ / T of T positions whose inputs share factors and differ in size. */
export function correlated(cols: number, positions: number, seed: number): Float64Array {
  const random = makeRandom(seed)
  const mix = Float64Array.from({ length: FACTORS * cols }, () => random.normal())
  const size = Float64Array.from({ length: cols }, () => Math.exp(0.7 * random.normal()))
  const hessian = new Float64Array(cols * cols)
  const x = new Float64Array(cols)
  for (let t = 0; t < positions; t++) {
    for (let k = 0; k < cols; k++) x[k] = 0.1 * random.normal()
    for (let f = 0; f < FACTORS; f++) {
      const factor = random.normal() / (1 + f)
      for (let k = 0; k < cols; k++) x[k]! += factor * mix[f * cols + k]!
    }
    for (let i = 0; i < cols; i++) {
      const scaled = (size[i]! * x[i]!) / positions
      for (let j = 0; j < cols; j++) hessian[i * cols + j]! += scaled * (size[j]! * x[j]!)
    }
  }
  // One product rounds differently from the other.
  for (let i = 0; i < cols; i++) for (let j = 0; j < i; j++) hessian[i * cols + j] = hessian[j * cols + i]!
  return hessian
}

export function weights(count: number, seed: number): Float32Array {
  const random = makeRandom(seed)
  return Float32Array.from({ length: count }, () => 0.02 * random.normal() * Math.exp(0.4 * random.normal()))
}

export async function prepared(
  hessian: Float64Array,
  cols: number,
  order: Order = 'natural',
  damping = 0.01,
): Promise<PreparedHessian> {
  const result = await prepareHessian(hessian, cols, { damping, order }, means.products)
  if ('failed' in result) throw new Error(result.failed)
  return result
}

export async function problem(
  rows: number,
  cols: number,
  seed: number,
  order: Order = 'natural',
): Promise<LayerProblem> {
  const hessian = await prepared(correlated(cols, Math.min(4 * cols, 400), seed), cols, order)
  return { target: weights(rows * cols, seed + 1), rows, cols, hessian }
}

/** The grid of every column of a row. */
export function gridsOf(weight: GridWeight, row: number): ColumnGrid[] {
  const groups = groupsPerRow(weight.cols, weight.groupSize)
  return Array.from({ length: weight.cols }, (_, k) => {
    const at = row * groups + Math.floor(k / weight.groupSize)
    return { scale: weight.scales[at]!, zeroPoint: weight.zeroPoints?.[at] ?? 2 ** (weight.bits - 1) }
  })
}

export function rowOf(values: ArrayLike<number>, row: number, cols: number): number[] {
  return Array.from({ length: cols }, (_, k) => values[row * cols + k]!)
}

export const dampedMatrix = (hessian: PreparedHessian) => toMatrix(hessian.damped, hessian.cols, hessian.cols)

/**
 * @file The relaxed mapping of JLCM (Yvinec et al. 2023): each weight is a mixture of its table's levels, W̃ = s · Σ m_k c_k
 * with m = softmax(ω), and the layer objective tr((W* − W̃) H (W* − W̃)ᵀ) has gradients in ω and c.
 */
import { groupsPerRow } from '../quant/quantizedWeight.ts'
import type { Floats, Products } from '../runtime/products.ts'

/**
 * How the objective's slope along W̃ reaches the logits.
 *
 * - `plain`: ∂W̃/∂ω_k = m_k (c_k − W̃), which is larger the further away a level is.
 * - `proximal`: m_k φ(c_k − W̃) with φ(d) = sign(d) / (|d| + ε) instead, larger the nearer a level is, as a
 *   straight-through step would be. Normalized so that the coefficients of a weight add up to as much as the plain ones,
 *   in magnitude. The paper states the idea; ε and the normalization are ours.
 */
export type MappingFlavour = 'plain' | 'proximal'

export interface SoftProblem {
  /** W*, [N, K]. */
  readonly target: Floats
  /** H_d, [K, K] symmetric; of the kind of `target`. */
  readonly hessian: Floats
  readonly rows: number
  readonly cols: number
  /** Levels in a table. */
  readonly entries: number
  /** Table of each row, [N]. */
  readonly tableOf: Uint16Array
  /** Input columns that share a scale. */
  readonly groupSize: number
  /** Real weight of a level of 1, above 0, [N, groups]. */
  readonly scales: Float32Array
  /** Levels to start from, ascending in each table, [T, entries]. */
  readonly tables: Float64Array
}

export interface SoftState {
  /** ω, [N, K, entries]. */
  readonly logits: Float64Array
  /** c, [T, entries]. */
  readonly tables: Float64Array
  /** Factor on the logits: the larger, the closer each mixture is to one level. */
  readonly sharpness: number
}

export interface SoftGradient {
  /** The objective of the mixtures. */
  readonly loss: number
  /** What stands in for ∂loss/∂ω, [N, K, entries]; the true one for `plain`. */
  readonly logits: Float64Array
  /** ∂loss/∂c, [T, entries]. */
  readonly tables: Float64Array
}

/** ε, in mean gaps between levels. */
const NEAREST_GAP = 0.05

/** Loss and gradients of a state. One product [N, K] · [K, K]. */
export async function softGradient(
  problem: SoftProblem,
  state: SoftState,
  flavour: MappingFlavour,
  products: Products,
): Promise<SoftGradient> {
  const { target, rows, cols, entries, tableOf } = problem
  const { tables, sharpness } = state
  const mixtures = new Float64Array(state.logits.length)
  const levels = new Float64Array(rows * cols)
  const error = target.slice()
  for (let i = 0; i < levels.length; i++) {
    const row = Math.floor(i / cols)
    const mixture = mixtures.subarray(i * entries, (i + 1) * entries)
    softmax(state.logits.subarray(i * entries, (i + 1) * entries), sharpness, mixture)
    const table = tableOf[row]! * entries
    let level = 0
    for (let k = 0; k < entries; k++) level += mixture[k]! * tables[table + k]!
    levels[i] = level
    error[i] = target[i]! - scaleAt(problem, i) * level
  }
  const weighted = await timesHessian(problem, error, products)
  const logits = mixtures
  const tableGradient = new Float64Array(tables.length)
  const table = new Float64Array(entries)
  let loss = 0
  for (let i = 0; i < levels.length; i++) {
    const row = Math.floor(i / cols)
    const at = tableOf[row]! * entries
    loss += error[i]! * weighted[i]!
    /** ∂loss/∂level */
    const slope = -2 * weighted[i]! * scaleAt(problem, i)
    const mixture = mixtures.subarray(i * entries, (i + 1) * entries)
    for (let k = 0; k < entries; k++) {
      tableGradient[at + k] = tableGradient[at + k]! + slope * mixture[k]!
      table[k] = tables[at + k]!
    }
    mappingCoefficientsInPlace(mixture, table, levels[i]!, flavour)
    for (let k = 0; k < entries; k++) mixture[k] = slope * sharpness * mixture[k]!
  }
  return { loss, logits, tables: tableGradient }
}

/** The scale of a weight. @param i its place in [N, K]. */
export function scaleAt({ cols, groupSize, scales }: SoftProblem, i: number): number {
  const row = Math.floor(i / cols)
  return scales[row * groupsPerRow(cols, groupSize) + Math.floor((i % cols) / groupSize)]!
}

/** error · H. */
export function timesHessian({ hessian, rows, cols }: SoftProblem, error: Floats, products: Products): Promise<Floats> {
  return products.multiply({ a: error, aRows: rows, aCols: cols, b: hessian, bRows: cols, bCols: cols })
}

/**
 * What the slope along a mixture is multiplied by for each logit.
 * @param mixture m, replaced by the coefficients.
 * @param table c, ascending.
 * @param level Σ m_k c_k.
 */
export function mappingCoefficientsInPlace(
  mixture: Float64Array,
  table: Float64Array,
  level: number,
  flavour: MappingFlavour,
): void {
  const entries = table.length
  const nearest = (NEAREST_GAP * (table[entries - 1]! - table[0]!)) / Math.max(1, entries - 1)
  let plain = 0
  let proximal = 0
  for (let k = 0; k < entries; k++) {
    const m = mixture[k]!
    const d = table[k]! - level
    plain += m * Math.abs(d)
    const near = Math.abs(d) + nearest
    mixture[k] = flavour === 'plain' || near === 0 ? m * d : (m * Math.sign(d)) / near
    proximal += Math.abs(mixture[k]!)
  }
  if (flavour === 'plain' || proximal === 0) return
  for (let k = 0; k < entries; k++) mixture[k] = (mixture[k]! * plain) / proximal
}

function softmax(logits: Float64Array, sharpness: number, into: Float64Array): void {
  let largest = Number.NEGATIVE_INFINITY
  for (const logit of logits) largest = Math.max(largest, logit)
  let sum = 0
  for (let k = 0; k < logits.length; k++) {
    into[k] = Math.exp(sharpness * (logits[k]! - largest))
    sum += into[k]!
  }
  for (let k = 0; k < logits.length; k++) into[k] = into[k]! / sum
}

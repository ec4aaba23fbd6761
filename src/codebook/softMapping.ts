/**
 * @file Tables and mapping learned together by gradient descent on relaxed mappings: the paper's flavour of JLCM, beside
 * which the discrete moves of the solver can be measured. For layers of up to some 10⁶ weights times levels.
 */

import { checkAborted } from '../progress.ts'
import { groupsPerRow } from '../quant/quantizedWeight.ts'
import type { Products } from '../runtime/products.ts'
import {
  type MappingFlavour,
  type SoftProblem,
  type SoftState,
  scaleAt,
  softGradient,
  timesHessian,
} from './softGradient.ts'

export interface SoftSettings {
  readonly flavour: MappingFlavour
  /** Gradient steps, ≥ 1. */
  readonly steps: number
  /** How far the logits of a weight move in a step, root mean square; above 0. 0.1 to 0.3 are good. */
  readonly rate: number
  /** Levels to start near, [N, K]; those nearest to the weights where they are left out. */
  readonly codes?: Uint8Array | undefined
}

export interface SoftResult {
  /** Level of each weight in its table, [N, K]. */
  readonly codes: Uint8Array
  /** Learned levels, [T, entries]; no longer ascending perhaps. */
  readonly tables: Float64Array
  /** Objective of the mixtures before each step. */
  readonly losses: Float64Array
  /** Objective of the levels at the start, and of codes and tables returned. */
  readonly before: number
  readonly after: number
}

/** Decay of the mean of gradients, and of that of their squares. */
const MOMENTUM = 0.9
const SQUARES = 0.99
/** Levels move so many mean gaps where logits move 1. */
const TABLE_RATE = 0.02
/** The logit of a level one mean gap away from the weight, at the start. */
const GAP_LOGIT = -4
/** The same of a level one mean gap away from the one that is given: it is a choice, and no mixture. */
const GAP_FROM_CODE = -16
/** Mixtures become sharper by this factor over the steps, so that little is lost when each becomes its largest part. */
const SHARPER = 200
/** Steps from one look at the largest parts to the next. */
const LOOK = 8

/**
 * Learn levels and mapping of a layer on tr((W* − W̃) H (W* − W̃)ᵀ).
 *
 * The steps are Adam's (Kingma & Ba 2015), but all logits of a weight share one mean square: with one each, every logit
 * would move by the same amount, and nothing of the flavour would be left.
 *
 * Mixtures can be far better than their largest parts, so that these are looked at all the way.
 *
 * @returns the best codes of largest logits on the way, with the tables then; `after` can be above `before`, which the caller
 *   has to judge.
 * @throws RangeError when shapes do not fit together or settings are out of range.
 * @throws QtoolError `interrupted` when the signal aborts.
 */
export async function softMapping(
  problem: SoftProblem,
  settings: SoftSettings,
  means: { readonly products: Products; readonly signal?: AbortSignal | undefined },
): Promise<SoftResult> {
  check(problem, settings)
  const { entries } = problem
  const { flavour, steps, rate } = settings
  const logits = startLogits(problem, settings.codes)
  const tables = problem.tables.slice()
  const gap = meanGap(problem)
  const start = largestLogits(logits, entries)
  const before = await hardLoss(problem, start, tables, means.products)
  const moveLogits = makeAdam(logits, entries, rate)
  const moveTables = makeAdam(tables, 1, rate * TABLE_RATE * gap)
  const losses = new Float64Array(steps)
  let best: Pick<SoftResult, 'codes' | 'tables' | 'after'> | undefined
  for (let step = 0; step < steps; step++) {
    checkAborted(means.signal)
    const state: SoftState = { logits, tables, sharpness: SHARPER ** (step / steps) }
    const gradient = await softGradient(problem, state, flavour, means.products)
    losses[step] = gradient.loss
    moveLogits(gradient.logits)
    moveTables(gradient.tables)
    if ((steps - 1 - step) % LOOK > 0) continue
    const codes = largestLogits(logits, entries)
    const after = await hardLoss(problem, codes, tables, means.products)
    if (!best || after < best.after) best = { codes, tables: tables.slice(), after }
  }
  return { ...best!, losses, before }
}

function check(problem: SoftProblem, { steps, rate, codes }: SoftSettings): void {
  const { target, hessian, rows, cols, entries, tableOf, groupSize, scales, tables } = problem
  const count = tables.length / entries
  const fits =
    target.length === rows * cols &&
    hessian.length === cols * cols &&
    tableOf.length === rows &&
    scales.length === rows * groupsPerRow(cols, groupSize) &&
    (codes === undefined || codes.length === target.length) &&
    Number.isInteger(count) &&
    entries >= 2 &&
    entries <= 256 &&
    tableOf.every((table) => table < count)
  if (!fits) throw new RangeError(`soft mapping: arrays do not fit a layer of [${rows}, ${cols}]`)
  if (!(steps >= 1) || !(rate > 0)) throw new RangeError(`soft mapping: ${steps} steps at a rate of ${rate}`)
}

/** Mean distance of neighbours in the tables; 1 where all levels are equal. */
function meanGap({ tables, entries }: SoftProblem): number {
  let range = 0
  for (let at = 0; at < tables.length; at += entries) range += tables[at + entries - 1]! - tables[at]!
  return range / ((tables.length / entries) * (entries - 1)) || 1
}

/** −(distance in mean gaps)², so that mixtures start near their weights, or near the levels that are given. */
function startLogits(problem: SoftProblem, codes: Uint8Array | undefined): Float64Array {
  const { target, cols, entries, tableOf, tables } = problem
  const gap = meanGap(problem)
  return Float64Array.from({ length: target.length * entries }, (_, at) => {
    const i = Math.floor(at / entries)
    const table = tableOf[Math.floor(i / cols)]! * entries
    const from = codes ? tables[table + codes[i]!]! : target[i]! / scaleAt(problem, i)
    return (codes ? GAP_FROM_CODE : GAP_LOGIT) * ((from - tables[table + (at % entries)]!) / gap) ** 2
  })
}

/** The smallest index where several logits are the largest. */
function largestLogits(logits: Float64Array, entries: number): Uint8Array {
  return Uint8Array.from({ length: logits.length / entries }, (_, i) => {
    let largest = 0
    for (let k = 1; k < entries; k++) if (logits[i * entries + k]! > logits[i * entries + largest]!) largest = k
    return largest
  })
}

async function hardLoss(
  problem: SoftProblem,
  codes: Uint8Array,
  tables: Float64Array,
  products: Products,
): Promise<number> {
  const { target, cols, entries, tableOf } = problem
  const error = target.slice()
  for (let i = 0; i < error.length; i++) {
    const row = Math.floor(i / cols)
    error[i] = target[i]! - scaleAt(problem, i) * tables[tableOf[row]! * entries + codes[i]!]!
  }
  const weighted = await timesHessian(problem, error, products)
  let loss = 0
  for (let i = 0; i < error.length; i++) loss += error[i]! * weighted[i]!
  return loss
}

/** A step against a gradient, changing `values`; each `width` values that follow each other share a mean square. */
function makeAdam(values: Float64Array, width: number, rate: number): (gradient: Float64Array) => void {
  const mean = new Float64Array(values.length)
  const square = new Float64Array(values.length / width)
  let step = 0
  return (gradient) => {
    step++
    const bias = 1 - MOMENTUM ** step
    const squareBias = 1 - SQUARES ** step
    for (let group = 0; group < square.length; group++) {
      const end = (group + 1) * width
      let squares = 0
      for (let i = group * width; i < end; i++) squares += gradient[i]! ** 2
      square[group] = SQUARES * square[group]! + ((1 - SQUARES) * squares) / width
      const size = Math.sqrt(square[group]! / squareBias)
      for (let i = group * width; i < end; i++) {
        mean[i] = MOMENTUM * mean[i]! + (1 - MOMENTUM) * gradient[i]!
        if (size > 0) values[i] = values[i]! - (rate * mean[i]!) / (bias * size)
      }
    }
  }
}

/** @file The multiple-choice problem of a model: items of one layer or several tied ones, and what budgets make of each choice. */
import type { Budget } from '../bitalloc/budget.ts'
import { compilePattern } from '../bitalloc/overrides.ts'
import { type Choice, type Constraint, type Problem, tie } from '../bitalloc/problem.ts'
import { QtoolError } from '../errors.ts'
import { choiceKey } from './codebookCandidates.ts'
import type { LayerOptions } from './measuredLayers.ts'

/** A limit in whole units, and what each option of each layer takes of it. */
export interface Limit extends Constraint {
  /** [layer][option]. */
  readonly costs: readonly (readonly number[])[]
}

/** What decides about sizes that are known only for the whole model. */
export interface SizeLimits {
  /** Bytes of output files. */
  readonly byteLimit: number | undefined
  /** Output bytes besides the stored weights. */
  readonly otherBytes: number
}

/** The limits of budgets, over the layers of the items. Latency has its own, see layerLatency.ts. */
export function limitsOfBudgets(
  budgets: readonly Budget[],
  layers: readonly LayerOptions[],
  items: readonly Item[],
  { byteLimit, otherBytes }: SizeLimits,
): Limit[] {
  const weights = items.reduce((sum, item) => item.layers.reduce((all, l) => all + layers[l]!.layer.weights, sum), 0)
  const stored = layers.map(({ options }) => options.map(({ storedBytes }) => storedBytes))
  return budgets.map((budget): Limit => {
    switch (budget.kind) {
      case 'meanBits': {
        const costs = layers.map(({ layer, options }) => options.map(({ plan }) => plan.bits * layer.weights))
        return { name: 'bits of codes', limit: wholePart(budget.bits * weights), costs }
      }
      case 'bitsPerWeight':
        return {
          name: 'stored bits',
          limit: wholePart(budget.bits * weights),
          costs: stored.map((own) => own.map((bytes) => 8 * bytes)),
        }
      default:
        return { name: 'bytes', limit: byteLimit! - otherBytes, costs: stored }
    }
  })
}

/** Down to a whole number, but 2.9999999999 from 0.3 · 10 is 3. */
function wholePart(value: number): number {
  return Math.floor(value + 1e-6)
}

/** What is chosen together, and from what. */
export interface Item {
  /** Places of its layers. */
  readonly layers: readonly number[]
  /** Places of the options that may be chosen, the same for all its layers. */
  readonly allowed: readonly number[]
}

/**
 * Items: each layer by itself, but those that match one pattern together. Layers without an allowed option are in none.
 * @param allowed places of the options that may be chosen, per layer.
 * @throws QtoolError `usage` where tied layers have different choices, as with a width that is fixed for one of them.
 */
export function itemsOf(
  layers: readonly LayerOptions[],
  allowed: readonly (readonly number[])[],
  patterns: readonly string[],
): Item[] {
  const itemOf = layers.map((_, i) => i)
  const keyOf = (i: number) => allowed[i]!.map((k) => `${k} ${choiceKey(layers[i]!.options[k]!.choice)}`).join()
  for (const pattern of patterns) {
    const matches = compilePattern(pattern)
    const matched = layers.flatMap(({ layer }, i) =>
      allowed[i]!.length > 0 && (matches(layer.name) || matches(layer.constant.name)) ? [i] : [],
    )
    const items = new Set(matched.map((i) => itemOf[i]!))
    const together = Math.min(...items)
    for (let i = 0; i < itemOf.length; i++) if (items.has(itemOf[i]!)) itemOf[i] = together
    const [first] = matched
    const different = matched.find((i) => keyOf(i) !== keyOf(first!))
    if (different === undefined) continue
    const names = `${layers[first!]!.layer.name} and ${layers[different]!.layer.name}`
    throw new QtoolError('usage', `--tie ${pattern}: ${names} cannot be tied, they have different choices`, {
      hint: 'set the width of all of them with --layer, or of none',
    })
  }
  const items = [...new Set(itemOf)].map((item) => layers.flatMap((_, i) => (itemOf[i] === item ? [i] : [])))
  return items.flatMap((own) => (allowed[own[0]!]!.length > 0 ? [{ layers: own, allowed: allowed[own[0]!]! }] : []))
}

/** @param losses [layer][option]. */
export function problemOf(
  items: readonly Item[],
  limits: readonly Limit[],
  losses: readonly (readonly number[])[],
): Problem {
  const choicesOf = (layer: number, allowed: readonly number[]): Choice[] =>
    allowed.map((k) => ({ loss: losses[layer]![k]!, costs: limits.map(({ costs }) => costs[layer]![k]!) }))
  return {
    items: items.map(({ layers, allowed }) => tie(...layers.map((layer) => choicesOf(layer, allowed)))),
    constraints: limits.map(({ name, limit }) => ({ name, limit })),
  }
}

/** Per layer, the option that a choice per item means; undefined for layers in no item. */
export function spread(items: readonly Item[], choice: readonly number[], layers: number): (number | undefined)[] {
  const options = new Array<number | undefined>(layers).fill(undefined)
  items.forEach(({ layers: own, allowed }, item) => {
    for (const layer of own) options[layer] = allowed[choice[item]!]!
  })
  return options
}

/**
 * Terms between pairs of options, of layers → of items.
 * @param gram   [n, n] over the flattened (layer, option) pairs.
 * @param counts options of each layer.
 */
export function gramOfItems(items: readonly Item[], gram: ArrayLike<number>, counts: readonly number[]): Float64Array {
  const starts = startsOf(counts)
  const n = counts.reduce((a, b) => a + b, 0)
  const flat = items.flatMap(({ layers, allowed }) => allowed.map((k) => layers.map((layer) => starts[layer]! + k)))
  const result = new Float64Array(flat.length ** 2)
  flat.forEach((rows, a) => {
    flat.forEach((cols, b) => {
      for (const row of rows) for (const col of cols) result[a * flat.length + b]! += gram[row * n + col]!
    })
  })
  return result
}

function startsOf(counts: readonly number[]): number[] {
  let at = 0
  return counts.map((count) => {
    at += count
    return at - count
  })
}

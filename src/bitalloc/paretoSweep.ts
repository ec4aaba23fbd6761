/** @file The lists of the exact dynamic programme: item by item, all sums of cost and loss that may still be best. */
import type { Prices } from './lagrangian.ts'
import type { Option, Presolved } from './presolve.ts'

/** States after an item, by ascending cost and falling loss. */
interface Layer {
  readonly size: number
  readonly costs: Float64Array
  readonly losses: Float64Array
  /** The option taken, and the state of the items before it in the sweep. */
  readonly options: Int32Array
  readonly parents: Int32Array
}

interface SweepResult {
  /** Per item, an index into its options; undefined when every state was ruled out. */
  readonly taken: readonly number[] | undefined
  /** Units; Infinity without a choice. */
  readonly loss: number
  /** The least bound among states that were dropped for want of room; Infinity when none was: the sweep is exact. */
  readonly dropped: number
}

/**
 * Sweep over the items with more than one option, last to first, so that of states with equal cost and loss the one with the lowest index of the
 * item at hand is lexicographically first in all.
 *
 * A state goes when it costs more than the limit, when another costs and loses no more, or when the bound of what can
 * become of it exceeds `ceiling`.
 *
 * @param presolved one constraint.
 * @param ceiling units; solutions of at most this loss are kept.
 * @param room states kept per item; beyond, those with the least bounds stay, and `dropped` says what was given up.
 */
export function sweep(presolved: Presolved, bounds: Prices, ceiling: number, room: number): SweepResult {
  const price = bounds.prices[0]!
  const limit = presolved.limits[0]!
  const rest = restsOf(presolved)
  const open = presolved.items.flatMap((options, i) => (options.length > 1 ? [i] : []))
  const layers: Layer[] = []
  let dropped = Number.POSITIVE_INFINITY
  let layer: Layer = layerOf(1)
  presolved.items.forEach((options) => {
    if (options.length > 1) return
    layer.costs[0]! += options[0]!.costs[0]!
    layer.losses[0]! += options[0]!.loss
  })
  // What the state's own items would give at least; the bound of a state is bounds.bound + loss + price·cost − own.
  let own = bounds.least.reduce((sum, least, i) => sum + (presolved.items[i]!.length > 1 ? 0 : least), 0)
  for (const i of open.toReversed()) {
    own += bounds.least[i]!
    const excess = ceiling - bounds.bound + own
    layer = extended(layer, presolved.items[i]!, limit - rest[i]!, price, excess)
    if (layer.size > room) {
      const cut = trimmed(layer, price, room)
      layer = cut.layer
      dropped = Math.min(dropped, bounds.bound + cut.least - own)
    }
    layers.push(layer)
  }
  if (layer.size === 0) return { taken: undefined, loss: Number.POSITIVE_INFINITY, dropped }
  let state = layer.size - 1
  const loss = layer.losses[state]!
  const taken = presolved.items.map(() => 0)
  for (let l = layers.length - 1; l >= 0; l--) {
    taken[open[layers.length - 1 - l]!] = layers[l]!.options[state]!
    state = layers[l]!.parents[state]!
  }
  return { taken, loss, dropped }
}

/** `rests[i]`: the least that the open items before i cost. */
function restsOf(presolved: Presolved): number[] {
  let sum = 0
  return presolved.items.map((options) => {
    const before = sum
    if (options.length > 1) sum += options[0]!.costs[0]!
    return before
  })
}

function layerOf(size: number, room = size): Layer {
  return {
    size,
    costs: new Float64Array(room),
    losses: new Float64Array(room),
    options: new Int32Array(room),
    parents: new Int32Array(room),
  }
}

/** All states of the layer with all options, of which no other costs and loses no more. */
function extended(layer: Layer, options: readonly Option[], limit: number, price: number, excess: number): Layer {
  let result = layerOf(0)
  options.forEach((option, k) => {
    result = merged(result, layer, option, k, options, { limit, price, excess })
  })
  return result
}

interface Rules {
  readonly limit: number
  readonly price: number
  readonly excess: number
}

/** Two lists by ascending cost, `a` and the layer moved by an option, as one without dominated states. */
function merged(a: Layer, layer: Layer, option: Option, k: number, options: readonly Option[], rules: Rules): Layer {
  const { limit, price, excess } = rules
  const cost = option.costs[0]!
  const loss = option.loss
  const room = a.size + layer.size
  const out = layerOf(0, room)
  const { costs, losses, options: taken, parents } = out
  let size = 0
  let least = Number.POSITIVE_INFINITY
  let s = 0
  let t = 0
  while (s < a.size || t < layer.size) {
    const costB = t < layer.size ? layer.costs[t]! + cost : Number.POSITIVE_INFINITY
    const lossB = t < layer.size ? layer.losses[t]! + loss : 0
    const costA = s < a.size ? a.costs[s]! : Number.POSITIVE_INFINITY
    const lossA = s < a.size ? a.losses[s]! : 0
    const tie = costA === costB && lossA === lossB && option.index < options[a.options[s]!]!.index
    if (!tie && (costA < costB || (costA === costB && lossA <= lossB))) {
      if (lossA < least) {
        costs[size] = costA
        losses[size] = least = lossA
        taken[size] = a.options[s]!
        parents[size++] = a.parents[s]!
      }
      s++
      continue
    }
    // The layer's costs only rise: nothing after this one keeps the limit.
    if (costB > limit) t = layer.size
    else {
      if (lossB < least && lossB + price * costB <= excess) {
        costs[size] = costB
        losses[size] = least = lossB
        taken[size] = k
        parents[size++] = t
      }
      t++
    }
  }
  return { ...out, size }
}

/**
 * At most `room` states: half those with the least bounds, half the best at costs spread evenly, of which some will fill
 * the limit. Also the least bound (loss + price·cost) of the others.
 */
function trimmed(layer: Layer, price: number, room: number): { readonly layer: Layer; readonly least: number } {
  const bounds = Float64Array.from({ length: layer.size }, (_, s) => layer.losses[s]! + price * layer.costs[s]!)
  const buckets = Math.ceil(room / 2)
  const threshold = bounds.slice().sort()[room - buckets]!
  const first = layer.costs[0]!
  const width = (layer.costs[layer.size - 1]! - first) / buckets
  const kept = layerOf(0, room)
  let size = 0
  let least = Number.POSITIVE_INFINITY
  const keep = (s: number) => {
    kept.costs[size] = layer.costs[s]!
    kept.losses[size] = layer.losses[s]!
    kept.options[size] = layer.options[s]!
    kept.parents[size++] = layer.parents[s]!
  }
  for (let from = 0; from < layer.size; ) {
    const bucket = Math.min(buckets - 1, Math.floor((layer.costs[from]! - first) / width))
    let to = from
    let best = from
    for (; to < layer.size; to++) {
      if (Math.min(buckets - 1, Math.floor((layer.costs[to]! - first) / width)) !== bucket) break
      if (bounds[to]! < bounds[best]!) best = to
    }
    for (let s = from; s < to; s++) {
      if (s === best || bounds[s]! < threshold) keep(s)
      else least = Math.min(least, bounds[s]!)
    }
    from = to
  }
  return { layer: { ...kept, size }, least }
}

/** @file Bytes of whole configurations, and what of them lies around the weights. */
import type { Item } from './allocationProblem.ts'
import type { LayerOptions } from './measuredLayers.ts'
import { sharedBytes } from './sharedTables.ts'

/** Options per layer; undefined for a layer that stays as it is. */
type Options = readonly (number | undefined)[]

/** Widths on grids and widths of indices have other nodes around them. */
const keyOf = ({ plan }: LayerOptions['options'][number]) => `${plan.bits}${plan.codebook ? ' in tables' : ''}`

/**
 * About how many bytes the nodes and names around a layer take at each option more than at the width that has the fewest:
 * what the whole file has besides weights and tables that layers share, with all layers at one width, shared among them.
 * @returns [layer][option], whole and ≥ 0.
 */
export function bytesAround(
  layers: readonly LayerOptions[],
  items: readonly Item[],
  bytes: (options: Options) => number,
): number[][] {
  const widths = [...new Set(layers.flatMap(({ options }) => options.map(keyOf)))]
  const free = items.flatMap((item) => (item.allowed.length > 1 ? item.layers : []))
  const least = leastOptions(layers, items)
  const others = widths.map((width) => {
    const all = least.map((own, l) => {
      const option = free.includes(l) ? layers[l]!.options.findIndex((own) => keyOf(own) === width) : -1
      return option < 0 ? own : option
    })
    return bytes(all) - storedBytes(layers, all) - sharedBytes(layers, all)
  })
  const fewest = Math.min(...others)
  const each = others.map((other) => Math.floor((other - fewest) / Math.max(1, free.length)))
  return layers.map(({ options }) => options.map((own) => each[widths.indexOf(keyOf(own))]!))
}

/** The smallest option of each item. */
export function leastOptions(layers: readonly LayerOptions[], items: readonly Item[]): (number | undefined)[] {
  const least = new Array<number | undefined>(layers.length).fill(undefined)
  for (const { layers: own, allowed } of items) {
    for (const layer of own) {
      const { options } = layers[layer]!
      least[layer] = allowed.reduce((a, b) => (options[b]!.storedBytes < options[a]!.storedBytes ? b : a))
    }
  }
  return least
}

/** Of the weights alone. */
export function storedBytes(layers: readonly LayerOptions[], options: readonly (number | undefined)[]): number {
  return layers.reduce((sum, layer, i) => {
    const option = options[i]
    return option === undefined ? sum : sum + layer.options[option]!.storedBytes
  }, 0)
}

/**
 * @file The blocks of a network that measures of whole blocks speak of: parts with their own input and output on the
 * residual stream. Where the branches of a chain repeat (attention, feed-forward, attention, …), one repetition is a block.
 *
 * Source: Dumitru et al., 2024 (layer-wise quantization), which ranks transformer blocks. They know the architecture; here
 * the graph says what repeats.
 */

import type { WeightedLayer } from '../onnx/layers.ts'
import { layersByPlace } from './graphPaths.ts'
import type { MainGraph } from './mainGraph.ts'
import { type Branch, residualChains } from './residualStream.ts'

export interface Block {
  /** The path that the names of its layers have in common, and no other layer; else the name of its output. */
  readonly name: string
  /** Name of the tensor on the stream before the block. */
  readonly input: string
  /** After it; of the same width, as far as the graph says. */
  readonly output: string
  /** In the order of their nodes, at least one. A layer that several blocks share is in each of them. */
  readonly layers: readonly WeightedLayer[]
}

/**
 * Find the blocks, in the order of the graph.
 *
 * A chain's blocks are the repetitions in its longest stretch that repeats at least twice; the shortest pattern counts.
 * Branches are alike when their layers have the same operators and shapes. Branches outside of that stretch are blocks
 * of their own, as all are where nothing repeats.
 * @param layers of the model; those in no branch (embeddings, output layers, layers that change the width of the stream)
 *   are in no block, and branches whose layers are all missing here are none.
 * @returns empty where there is no residual stream.
 */
export function findBlocks(graph: MainGraph, layers: readonly WeightedLayer[]): Block[] {
  const chains = residualChains(graph, layersByPlace(graph, layers))
  const parts = chains.flatMap((chain) => repetitions(chain.map(signature)).map((size) => chain.splice(0, size)))
  return parts.map((branches) => {
    const own = [...new Set(branches.flatMap((branch) => branch.layers))]
    const output = branches.at(-1)!.output
    return { name: nameOf(own, layers) ?? output, input: branches[0]!.input, output, layers: own }
  })
}

function signature({ layers }: Branch): string {
  return layers
    .map(({ uses, dims }) => `${uses[0]!.node.opType} ${dims.join('×')}`)
    .sort()
    .join(', ')
}

/** How many items each part has when a sequence is cut where it repeats. */
function repetitions(items: readonly string[]): number[] {
  let best = { start: 0, period: 1, length: 0 }
  for (let period = 1; 2 * period <= items.length; period++) {
    let equal = 0
    for (let i = 0; i + period < items.length; i++) {
      equal = items[i] === items[i + period] ? equal + 1 : 0
      const length = equal + period
      if (equal >= period && length > best.length) best = { start: i + 1 - equal, period, length }
    }
  }
  const { start, period, length } = best
  const whole = Math.floor(length / period)
  const single = (count: number) => new Array<number>(count).fill(1)
  const rest = items.length - start - whole * period
  return [...single(start), ...new Array<number>(whole).fill(period), ...single(rest)]
}

/** A path of the layers' names, or else of their weights' names, that these layers share and no others. */
function nameOf(own: readonly WeightedLayer[], all: readonly WeightedLayer[]): string | undefined {
  const others = all.filter((layer) => !own.includes(layer))
  const kinds = [(layer: WeightedLayer) => layer.name, ({ constant }: WeightedLayer) => constant.name]
  for (const kind of kinds) {
    const path = commonPath(own.map(kind))
    const isShared = others.some((layer) => commonPath([kind(layer), path]) === path)
    if (path !== '' && !isShared) return path
  }
  return undefined
}

/** The parts of paths (`/encoder/layer.0/…`, `model.layers.0.…`) that all begin with, without the last separator. */
function commonPath(paths: readonly string[]): string {
  const split = paths.map((path) => path.match(/[/.:]*[^/.:]+/g) ?? [])
  const first = split[0]!
  const end = first.findIndex((part, i) => split.some((parts) => parts[i] !== part))
  return first.slice(0, end < 0 ? first.length : end).join('')
}

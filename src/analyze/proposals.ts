/** @file What is proposed for an allocation besides the solutions, and which proposal is trusted and taken first. */
import { comparedLimits, evaluateChoice, type Problem } from '../bitalloc/problem.ts'
import type { Item } from './allocationProblem.ts'
import type { Analysis, Sensitivity } from './analysis.ts'
import type { LayerOptions } from './measuredLayers.ts'

/** Losses whose standard error is more than this share of them are not trusted first. */
const NOISY = 0.1

/**
 * The cost vectors, the most reliable first: where held-out samples are few for their loss, as for a classifier, a handful of
 * them decides KL, while every sample says how far its outputs moved.
 */
export function byReliability({
  analysis,
  sensitivities,
}: {
  readonly analysis: Analysis
  readonly sensitivities: readonly Sensitivity[]
}): readonly Sensitivity[] {
  if (!sensitivities.includes('outputs') || relativeNoise(analysis) <= NOISY) return sensitivities
  return ['outputs', ...sensitivities.filter((name) => name !== 'outputs')]
}

/** Median over all candidates of the standard error of the loss, relative to it. */
function relativeNoise({ layers }: Analysis): number {
  const shares = layers.flatMap(({ candidates }) =>
    candidates.flatMap(({ loss }) =>
      loss.mean > 0 && loss.standardError !== null ? [loss.standardError / loss.mean] : [],
    ),
  )
  return shares.sort((a, b) => a - b)[shares.length >> 1] ?? 0
}

/**
 * The first proposal, unless another is clearly better. The best uniform configuration need not be clearly better: what is
 * worse than uniform, if only by chance, is not worth its trouble. Where some keep the bounds, only they count.
 */
export function preferred(
  { losses }: { readonly losses: readonly number[] },
  proposals: readonly { readonly from: Sensitivity | 'uniform'; readonly choice: readonly number[] }[],
  isClear: (one: readonly number[], other: readonly number[], difference: number) => boolean,
  keeps: (choice: readonly number[]) => boolean,
): { readonly index: number; readonly choice: readonly number[]; readonly loss: number } {
  const kept = proposals.map(({ choice }) => keeps(choice))
  const isOpen = (i: number) => kept[i]! || !kept.includes(true)
  let index = proposals.findIndex((_, i) => isOpen(i))
  for (let i = index + 1; i < proposals.length; i++) {
    if (!isOpen(i)) continue
    const difference = losses[index]! - losses[i]!
    const enough =
      proposals[i]!.from === 'uniform' || isClear(proposals[i]!.choice, proposals[index]!.choice, difference)
    if (difference > 0 && enough) index = i
  }
  return { index, choice: proposals[index]!.choice, loss: losses[index]! }
}

/**
 * The best allocation with equal choices for all layers that fits, by the model of the loss; a layer with one choice keeps
 * it. Undefined when there is none.
 */
export function uniformChoice(
  problem: Problem,
  { items, layers }: { readonly items: readonly Item[]; readonly layers: readonly LayerOptions[] },
): number[] | undefined {
  const limits = comparedLimits(problem)
  const keyOf = (item: Item, k: number) => JSON.stringify(layers[item.layers[0]!]!.options[item.allowed[k]!]!.choice)
  const keys = new Set(items.flatMap((item) => item.allowed.map((_, k) => keyOf(item, k))))
  let best: { readonly choice: number[]; readonly loss: number } | undefined
  for (const key of keys) {
    const choice = items.map((item) =>
      item.allowed.length === 1 ? 0 : item.allowed.findIndex((_, k) => keyOf(item, k) === key),
    )
    if (choice.includes(-1)) continue
    const { loss, costs } = evaluateChoice(problem, choice)
    if (costs.some((cost, c) => cost > limits[c]!)) continue
    if (!best || loss < best.loss) best = { choice, loss }
  }
  return best?.choice
}

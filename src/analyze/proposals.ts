/** @file What is proposed for an allocation besides the solutions, and which proposal is trusted and taken first. */
import { comparedLimits, evaluateChoice, type Problem } from '../bitalloc/problem.ts'
import type { LayerChoice } from '../onnx/represent/plan.ts'
import type { Item } from './allocationProblem.ts'
import type { Analysis, Sensitivity } from './analysis.ts'
import { choiceKey } from './codebookCandidates.ts'
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
 * it, and one that cannot have a codebook has a grid of the same width. Undefined when there is none.
 */
export function uniformChoice(
  problem: Problem,
  { items, layers }: { readonly items: readonly Item[]; readonly layers: readonly LayerOptions[] },
): number[] | undefined {
  const limits = comparedLimits(problem)
  const choiceOf = (item: Item, k: number) => layers[item.layers[0]!]!.options[item.allowed[k]!]!.choice
  const uniform = new Map(
    items.flatMap((item) => item.allowed.map((_, k) => [choiceKey(choiceOf(item, k)), choiceOf(item, k)] as const)),
  )
  const placeOf = (item: Item, key: string, { bits, codebook }: LayerChoice) => {
    const same = item.allowed.findIndex((_, k) => choiceKey(choiceOf(item, k)) === key)
    if (same >= 0 || !codebook) return same
    return item.allowed.findIndex((_, k) => choiceOf(item, k).bits === bits && !choiceOf(item, k).codebook)
  }
  let best: { readonly choice: number[]; readonly loss: number } | undefined
  for (const [key, own] of uniform) {
    const choice = items.map((item) => (item.allowed.length === 1 ? 0 : placeOf(item, key, own)))
    if (choice.includes(-1)) continue
    const { loss, costs } = evaluateChoice(problem, choice)
    if (costs.some((cost, c) => cost > limits[c]!)) continue
    if (!best || loss < best.loss) best = { choice, loss }
  }
  return best?.choice
}

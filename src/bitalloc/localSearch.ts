/**
 * @file The last word has the network: whole allocations are evaluated for real, and the best one is changed a little as
 * long as that helps. The model of the loss only says what to try first.
 */
import { optionStarts, symmetricPairs } from './convexForm.ts'
import { descendingMoves, type Move } from './moves.ts'
import { comparedLimits, evaluateChoice, type Problem } from './problem.ts'

/** The real loss of a choice per item. */
export type Evaluate = (choice: readonly number[]) => Promise<number>

export interface EvaluatedChoice {
  readonly choice: readonly number[]
  /** As evaluated. */
  readonly loss: number
  readonly evaluations: number
}

/**
 * Evaluate each distinct choice once; of equal losses the first wins.
 *
 * @param candidates at least one.
 * @returns also `losses`, one per candidate.
 */
export async function evaluateBest(
  candidates: readonly (readonly number[])[],
  evaluate: Evaluate,
): Promise<EvaluatedChoice & { readonly index: number; readonly losses: readonly number[] }> {
  const known = new Map<string, number>()
  const losses: number[] = []
  for (const choice of candidates) {
    const key = choice.join()
    const loss = known.get(key) ?? (await evaluate(choice))
    known.set(key, loss)
    losses.push(loss)
  }
  const index = losses.reduce((best, loss, i) => (loss < losses[best]! ? i : best), 0)
  const choice = candidates[index]
  if (choice === undefined) throw new RangeError('no candidates')
  return { choice, loss: losses[index]!, evaluations: known.size, index, losses }
}

export interface LocalSearch {
  /** The limits to keep, and the losses by which moves are ordered. */
  readonly problem: Problem
  /** Terms between pairs of the model, as for `solveQuadratic`; none by default. */
  readonly gram?: ArrayLike<number>
  /** A choice that keeps the limits, and its real loss. */
  readonly start: readonly number[]
  readonly startLoss: number
  readonly evaluate: Evaluate
  /** Evaluations at most. */
  readonly most: number
  /** A move is taken when the real loss falls by more than this, ≥ 0. */
  readonly noise: number
  /** And when this is true of it: that the difference is more than chance. Default: always. */
  readonly isClear?: (tried: readonly number[], than: readonly number[]) => boolean
}

/**
 * Single changes and swaps of two items that keep all limits, in the order of what the model says they gain. The first
 * that really helps is taken, and the order is made anew. No choice is evaluated twice.
 *
 * @returns a choice that keeps the limits; its loss is that of the start or lower by more than the noise; `accepted`,
 * how many moves were taken.
 */
export async function localSearch(search: LocalSearch): Promise<EvaluatedChoice & { readonly accepted: number }> {
  const { problem, evaluate, most, noise } = search
  if (!(noise >= 0)) throw new RangeError(`noise of ${noise}`)
  const limits = comparedLimits(problem)
  if (evaluateChoice(problem, search.start).costs.some((cost, c) => cost > limits[c]!)) {
    throw new RangeError('the start does not keep the limits')
  }
  const starts = optionStarts(problem)
  const pairs = search.gram && symmetricPairs(search.gram, starts)
  let choice = search.start
  let loss = search.startLoss
  let evaluations = 0
  let accepted = 0
  const seen = new Set([choice.join()])
  for (let moved = true; moved; ) {
    moved = false
    // What was seen takes places in the list, too.
    for (const move of descendingMoves(problem, limits, starts, pairs, choice, most + seen.size)) {
      if (evaluations >= most) break
      const tried = applied(choice, move)
      const key = tried.join()
      if (seen.has(key)) continue
      seen.add(key)
      const measured = await evaluate(tried)
      evaluations++
      if (!(measured < loss - noise && (search.isClear?.(tried, choice) ?? true))) continue
      choice = tried
      loss = measured
      accepted++
      moved = true
      break
    }
  }
  return { choice, loss, evaluations, accepted }
}

function applied(choice: readonly number[], { changes }: Move): number[] {
  const result = [...choice]
  for (const { item, to } of changes) result[item] = to
  return result
}

/** @file Allocation by trying every combination. */
import type { Problem } from '../../src/bitalloc/problem.ts'

interface Best {
  readonly choice: readonly number[]
  readonly loss: number
  readonly costs: readonly number[]
}

/**
 * The best of all combinations in lexicographic order: least loss, then least first cost, then the first. Undefined when
 * none keeps the limits.
 *
 * @param extra a loss of the whole choice on top of the items' own.
 */
export function enumerate(problem: Problem, extra: (choice: readonly number[]) => number = () => 0): Best | undefined {
  let best: Best | undefined
  for (const choice of combinations(problem.items.map((choices) => choices.length))) {
    const taken = choice.map((k, i) => problem.items[i]![k]!)
    const loss = taken.reduce((sum, option) => sum + option.loss, 0) + extra(choice)
    const costs = problem.constraints.map((_, c) => taken.reduce((sum, option) => sum + option.costs[c]!, 0))
    if (problem.constraints.some(({ limit }, c) => costs[c]! > limit)) continue
    if (!best || loss < best.loss || (loss === best.loss && (costs[0] ?? 0) < (best.costs[0] ?? 0))) {
      best = { choice, loss, costs }
    }
  }
  return best
}

function* combinations(sizes: readonly number[]): Generator<number[]> {
  const [size, ...others] = sizes
  if (size === undefined) yield []
  else for (let k = 0; k < size; k++) for (const rest of combinations(others)) yield [k, ...rest]
}

/** ½ Σ over pairs of different items of G[option of one][option of the other], both orders, on flattened options. */
export function pairwiseLoss(problem: Problem, gram: ArrayLike<number>): (choice: readonly number[]) => number {
  const starts = problem.items.map((_, i) =>
    problem.items.slice(0, i).reduce((sum, choices) => sum + choices.length, 0),
  )
  const size = problem.items.reduce((sum, choices) => sum + choices.length, 0)
  return (choice) => {
    let sum = 0
    for (let i = 0; i < choice.length; i++) {
      for (let j = 0; j < choice.length; j++) {
        if (i !== j) sum += gram[(starts[i]! + choice[i]!) * size + starts[j]! + choice[j]!]! / 2
      }
    }
    return sum
  }
}

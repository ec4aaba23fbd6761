/** @file Changes of an allocation in the order of what a model of the loss says they gain. */
import type { Problem } from './problem.ts'

export interface Move {
  /** One change, or two of different items. */
  readonly changes: readonly { readonly item: number; readonly to: number }[]
  /** By how much the modelled loss falls. */
  readonly gain: number
}

interface Single {
  readonly item: number
  readonly to: number
  readonly gain: number
  /** What it adds to the costs. */
  readonly costs: readonly number[]
}

/**
 * The `most` moves that gain most and keep all limits: single changes, and swaps, in which one change takes less and the
 * other more of some constraint. Equal gains: single changes first, then by items and choices.
 *
 * @param starts first flat option of each item.
 * @param pairs [options, options], symmetric, zero within items; undefined for an additive model.
 */
export function descendingMoves(
  problem: Problem,
  limits: readonly number[],
  starts: readonly number[],
  pairs: Float64Array | undefined,
  choice: readonly number[],
  most: number,
): Move[] {
  const size = starts[starts.length - 1]!
  const taken = choice.map((k, i) => starts[i]! + k)
  const totals = problem.constraints.map((_, c) =>
    choice.reduce((sum, k, i) => sum + problem.items[i]![k]!.costs[c]!, 0),
  )
  const between = (a: number, b: number) => pairs?.[a * size + b] ?? 0
  const fits = (...singles: readonly Single[]) =>
    limits.every((limit, c) => singles.reduce((sum, single) => sum + single.costs[c]!, totals[c]!) <= limit)
  const field = (a: number) => taken.reduce((sum, b) => sum + between(a, b), 0)

  const singles: Single[] = problem.items.flatMap((choices, item) => {
    const now = choices[choice[item]!]!
    const here = now.loss + field(taken[item]!)
    return choices.flatMap((other, to) => {
      if (to === choice[item]) return []
      const gain = here - other.loss - field(starts[item]! + to)
      return [{ item, to, gain, costs: other.costs.map((cost, c) => cost - now.costs[c]!) }]
    })
  })
  const best = new Best(most)
  for (const single of singles) {
    if (best.takes(single.gain) && fits(single)) best.add({ changes: [single], gain: single.gain })
  }
  for (let s = 0; s < singles.length; s++) {
    const a = singles[s]!
    for (let t = s + 1; t < singles.length; t++) {
      const b = singles[t]!
      if (a.item === b.item) continue
      const [x, y] = [taken[a.item]!, taken[b.item]!]
      const [u, v] = [starts[a.item]! + a.to, starts[b.item]! + b.to]
      const gain = a.gain + b.gain - between(u, v) + between(u, y) + between(x, v) - between(x, y)
      if (best.takes(gain) && isSwap(a, b) && fits(a, b)) best.add({ changes: [a, b], gain })
    }
  }
  return best.sorted()
}

/** One gives where the other takes. */
function isSwap(a: Single, b: Single): boolean {
  return a.costs.some((cost, c) => cost * b.costs[c]! < 0)
}

/** The moves with the largest gains, at most so many. */
class Best {
  readonly #most: number
  #moves: Move[] = []
  #threshold = Number.NEGATIVE_INFINITY

  constructor(most: number) {
    this.#most = most
  }

  takes(gain: number): boolean {
    return gain > this.#threshold
  }

  add({ changes, gain }: Move): void {
    this.#moves.push({ changes: changes.map(({ item, to }) => ({ item, to })), gain })
    if (this.#moves.length >= 4 * this.#most + 16) this.#cut()
  }

  sorted(): Move[] {
    this.#cut()
    return this.#moves
  }

  /** The sort is stable, so that what came first stays first among equal gains. */
  #cut(): void {
    this.#moves.sort((a, b) => b.gain - a.gain)
    if (this.#moves.length <= this.#most) return
    this.#moves.length = this.#most
    this.#threshold = this.#moves[this.#most - 1]?.gain ?? Number.POSITIVE_INFINITY
  }
}

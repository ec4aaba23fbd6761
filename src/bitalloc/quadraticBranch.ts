/** @file Branch and bound over pairwise losses: the region with the least bound is split, at the item that hides most. */
import {
  type Limited,
  type PriceSearch,
  pricedTangent,
  type Region,
  type Tangent,
  tangentAt,
} from './quadraticBound.ts'
import { cheapenInPlace, descendPairsInPlace, type PairProblem, pairLoss } from './quadraticSearch.ts'

const REGION_PRICES = { factor: 1.2, steps: 4 }

/** When a search may end. */
export interface Ends {
  /** Relative to the loss. */
  readonly gap: number
  readonly regions: number
  /** Milliseconds of `performance.now`. */
  readonly end: number
}

/** Below this no region needs to be looked at. */
export function enoughFor(flat: PairProblem, loss: number, gap: number): number {
  return loss - Math.max(gap * Math.abs(loss), precisionOf(flat))
}

/** The best tangent over all that is allowed; undefined when the limits leave nothing. Changes the region. */
export function look(
  form: Limited,
  flat: PairProblem,
  region: Region,
  enough: number,
  search: Omit<PriceSearch, 'scale'>,
): Tangent | undefined {
  if (!fitInPlace(flat, region.allowed)) return undefined
  spreadInPlace(form, region)
  const precision = precisionOf(flat)
  const scale = form.linear.reduce((sum, value) => sum + Math.abs(value), precision)
  return pricedTangent(form, tangentAt(form, region, enough, precision), enough, precision, { ...search, scale })
}

/**
 * Best region first; stops when no region can hold a choice that is better by more than the gap.
 *
 * @param root the tangent of everything.
 * @param first flat options that keep the limits.
 * @param descend makes a choice better, in place, and gives its loss.
 */
export function branch(
  form: Limited,
  flat: PairProblem,
  root: Tangent,
  first: readonly number[],
  { gap, regions, end }: Ends,
  descend = descendPairsInPlace,
): { readonly taken: readonly number[]; readonly bound: number } {
  let taken = first
  let loss = pairLoss(flat, taken)
  const enough = () => enoughFor(flat, loss, gap)
  let settled = Number.POSITIVE_INFINITY
  const open = new Heap()
  const offer = (tangent: Tangent) => {
    const rounded = roundedPoint(form, tangent)
    if (cheapenInPlace(flat, rounded)) {
      const reached = descend(flat, rounded)
      if (reached < loss) [taken, loss] = [rounded, reached]
    }
    if (tangent.bound < enough()) open.push(tangent)
    else settled = Math.min(settled, tangent.bound)
  }
  const size = flat.losses.length
  offer(root)
  for (let count = 0; open.size > 0; count++) {
    const tangent = open.pop()
    if (tangent.bound >= enough() || count >= regions || performance.now() > end) {
      // The others' bounds are no lower.
      settled = Math.min(settled, tangent.bound)
      break
    }
    const { allowed, point, prices } = tangent.region
    for (let a = 0; a < size; a++) {
      if (!allowed[a] || tangent.bound + tangent.reduced[a]! < enough()) continue
      allowed[a] = 0
      settled = Math.min(settled, tangent.bound + tangent.reduced[a]!)
    }
    const split = splitOption(form, tangent)
    if (split === undefined) continue
    for (const inside of [true, false]) {
      const narrowed = allowed.slice()
      for (let a = form.starts[split.item]!; a < form.starts[split.item + 1]!; a++) {
        if ((a === split.option) !== inside) narrowed[a] = 0
      }
      const inner = look(form, flat, { allowed: narrowed, point: point.slice(), prices }, enough(), REGION_PRICES)
      if (inner) offer(inner)
    }
  }
  return { taken, bound: Math.min(settled, loss) }
}

/** Forbids options with which the limits cannot be kept; false when an item has none left. */
function fitInPlace({ starts, costs, limits }: PairProblem, allowed: Uint8Array): boolean {
  for (let c = 0; c < limits.length; c++) {
    const least = starts.slice(1).map((to, i) => {
      let value = Number.POSITIVE_INFINITY
      for (let a = starts[i]!; a < to; a++) if (allowed[a]) value = Math.min(value, costs[c]![a]!)
      return value
    })
    const total = least.reduce((sum, value) => sum + value, 0)
    if (!(total <= limits[c]!)) return false
    // Sums in another order may round differently: nothing is forbidden by a hair.
    const room = limits[c]! - total + 1e-9 * Math.abs(total)
    least.forEach((value, i) => {
      for (let a = starts[i]!; a < starts[i + 1]!; a++) if (costs[c]![a]! - value > room) allowed[a] = 0
    })
  }
  return starts.slice(1).every((to, i) => allowed.subarray(starts[i]!, to).includes(1))
}

/** Weight on forbidden options goes to the first allowed one; an item without weight gets some. */
function spreadInPlace({ starts }: Limited, { allowed, point }: Region): void {
  for (let i = 0; i + 1 < starts.length; i++) {
    let lost = 1
    for (let a = starts[i]!; a < starts[i + 1]!; a++) {
      if (!allowed[a]) point[a] = 0
      lost -= point[a]!
    }
    if (lost > 0) point[starts[i]! + allowed.subarray(starts[i]!, starts[i + 1]!).indexOf(1)]! += lost
  }
}

function roundedPoint({ starts }: Limited, { region }: Tangent): number[] {
  return starts.slice(1).map((to, i) => {
    let best = starts[i]!
    for (let a = best; a < to; a++) if (region.point[a]! > region.point[best]!) best = a
    return best
  })
}

/** The item whose mixture hides most of the loss, and its option with most weight; undefined when all have one option. */
function splitOption({ starts, matrix }: Limited, { region }: Tangent) {
  const size = region.point.length
  let best: { item: number; option: number; hidden: number } | undefined
  for (let i = 0; i + 1 < starts.length; i++) {
    let hidden = 0
    let option = -1
    let count = 0
    for (let a = starts[i]!; a < starts[i + 1]!; a++) {
      if (!region.allowed[a]) continue
      count++
      if (option < 0 || region.point[a]! > region.point[option]!) option = a
      hidden += (region.point[a]! * matrix[a * size + a]!) / 2
      for (let b = starts[i]!; b < starts[i + 1]!; b++) {
        hidden -= (region.point[a]! * region.point[b]! * matrix[a * size + b]!) / 2
      }
      hidden += 1e-12 * region.point[a]! * (1 - region.point[a]!)
    }
    if (count > 1 && (best === undefined || hidden > best.hidden)) best = { item: i, option, hidden }
  }
  return best
}

/** Differences below it are rounding. */
function precisionOf({ starts, losses }: PairProblem): number {
  const sum = losses.reduce((total, loss) => total + Math.abs(loss), 0)
  return (1e-9 * sum) / starts.length + Number.MIN_VALUE
}

/** Tangents by ascending bound. */
class Heap {
  readonly #items: Tangent[] = []

  get size(): number {
    return this.#items.length
  }

  push(tangent: Tangent): void {
    const items = this.#items
    let at = items.push(tangent) - 1
    while (at > 0) {
      const above = (at - 1) >> 1
      if (items[above]!.bound <= tangent.bound) break
      items[at] = items[above]!
      at = above
    }
    items[at] = tangent
  }

  pop(): Tangent {
    const items = this.#items
    const top = items[0]!
    const last = items.pop()!
    if (items.length === 0) return top
    let at = 0
    for (;;) {
      let below = 2 * at + 1
      if (below >= items.length) break
      if (below + 1 < items.length && items[below + 1]!.bound < items[below]!.bound) below++
      if (items[below]!.bound >= last.bound) break
      items[at] = items[below]!
      at = below
    }
    items[at] = last
    return top
  }
}

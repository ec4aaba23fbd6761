/**
 * @file Bounds by Lagrange multipliers: prices of the constraints under which each item chooses for itself.
 *
 * For prices μ ≥ 0 no choice loses less than Σ_i min_k (loss + μ·costs) − μ·limits (weak duality), and a choice that is
 * dearer than the least of its item by more than what separates this bound from a known solution is in no better one.
 */
import type { Option, Presolved } from './presolve.ts'

export interface Prices {
  /** Per constraint, units of loss per unit of cost, ≥ 0. */
  readonly prices: readonly number[]
  /** No feasible choice loses less, units. */
  readonly bound: number
  /** Per item, the least of loss + prices·costs. */
  readonly least: readonly number[]
}

/** A choice by options: per item an index into its options of the presolved problem. */
interface Incumbent {
  readonly taken: readonly number[]
  /** Units. */
  readonly loss: number
}

/** Rounding of bounds: they are sums of products, unlike losses, which are whole. */
const ROUNDING = 1e-12

/** What an option loses when costs are paid for. */
export function priced(option: Option, prices: readonly number[]): number {
  let value = option.loss
  for (let c = 0; c < prices.length; c++) value += prices[c]! * option.costs[c]!
  return value
}

/** The bound that prices give. */
export function boundOf(presolved: Presolved, prices: readonly number[]): Prices {
  const least = presolved.items.map((options) => Math.min(...options.map((o) => priced(o, prices))))
  const bound = prices.reduce((sum, price, c) => sum - price * presolved.limits[c]!, 0)
  return { prices, least, bound: least.reduce((sum, value) => sum + value, bound) }
}

/** How far beyond a difference of bounds something must lie to be ruled out, units. */
export function slackOf(presolved: Presolved): number {
  const largest = presolved.items.reduce((sum, options) => sum + Math.max(...options.map((o) => o.loss)), 0)
  return 1 + ROUNDING * largest
}

/**
 * The presolved problem without the options that no solution as good as the incumbent takes. Solutions of equal loss
 * stay, so that ties can still be told apart.
 */
export function fixOptions(presolved: Presolved, { prices, least, bound }: Prices, incumbent: number): Presolved {
  const margin = incumbent - bound + slackOf(presolved)
  const items = presolved.items.map((options, i) => options.filter((o) => priced(o, prices) - least[i]! <= margin))
  return { ...presolved, items }
}

/**
 * The linear relaxation of a problem with one constraint, solved exactly (Zemel 1980; Sinha & Zoltners 1979): from the
 * cheapest options, the steps along the items' convex hulls are taken by falling loss per cost until one does not fit;
 * its slope is the price. The incumbent goes on with all later steps that fit.
 */
export function relaxOne(presolved: Presolved): { readonly prices: Prices; readonly incumbent: Incumbent } {
  const hulls = presolved.items.map(hullOf)
  const steps = hulls.flatMap((hull, item) =>
    hull.slice(1).map((to, s) => {
      const [a, b] = [presolved.items[item]![hull[s]!]!, presolved.items[item]![to]!]
      return { item, from: hull[s]!, to, cost: b.costs[0]! - a.costs[0]!, slope: slopeOf(a, b) }
    }),
  )
  steps.sort((a, b) => b.slope - a.slope || a.item - b.item || a.from - b.from)
  const taken = hulls.map((hull) => hull[0]!)
  let left = taken.reduce((rest, k, i) => rest - presolved.items[i]![k]!.costs[0]!, presolved.limits[0]!)
  let price: number | undefined
  for (const { item, from, to, cost, slope } of steps) {
    if (cost > left) price ??= slope
    else if (taken[item] === from) {
      taken[item] = to
      left -= cost
    }
  }
  const loss = taken.reduce((sum, k, i) => sum + presolved.items[i]![k]!.loss, 0)
  return { prices: boundOf(presolved, [price ?? 0]), incumbent: { taken, loss } }
}

/** Loss saved per cost added. */
function slopeOf(a: Option, b: Option): number {
  return (a.loss - b.loss) / (b.costs[0]! - a.costs[0]!)
}

/** Indices of the options on the lower convex hull of (cost, loss), ascending in cost. */
function hullOf(options: readonly Option[]): number[] {
  const hull: number[] = []
  options.forEach((option, k) => {
    while (hull.length > 1) {
      const [before, last] = [options[hull[hull.length - 2]!]!, options[hull[hull.length - 1]!]!]
      if (slopeOf(before, last) > slopeOf(last, option)) break
      hull.pop()
    }
    hull.push(k)
  })
  return hull
}

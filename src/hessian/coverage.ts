/**
 * @file The coverage model of what layers do to each other: losses saturate (or build up) alike for all layers, so L + 1
 * runs of the network, each layer alone and all together, predict the loss of any set of layers.
 *
 *   f(S) = c·(1 − Π_{i∈S} (1 − a_i)),   a_i = u·s_i,   u = 1/c
 *
 * s_i is the loss with layer i alone. u > 0: later errors find less left to spoil, up to c. u < 0: errors make each other
 * worse. u = 0: losses add up. In the costs t_i = −ln(1 − u·s_i)/u the model is additive, f(S) = (1 − e^{−u·Σ t_i})/u, so
 * that a knapsack on t minimises it.
 *
 * Source: saturation-aware allocation (Hill, arXiv 2607.12266), which attributes f(all) by gradients. Here u is solved
 * from forward runs alone. Costs there are b_i = u·t_i; t_i has the sign and the unit of a loss for every u.
 */

/** Largest a_i that a fit reaches, and up to which a cost is a logarithm; beyond it goes on along the tangent. */
const MOST_COVERED = 1 - 1e-6
/** Relative difference between f(all) and Σ s_i below which losses are called additive: their rounding, times a few. */
const ADDITIVE = 1e-12
/** |u·s| whose logarithm changes nothing in float64. The formulas are 0/0 where the product vanishes, not only at u = 0. */
const NEGLIGIBLE = 1e-17
/** Values of u that the shared fit tries before it refines the best. */
const GRID = 200
/** Golden sections of two steps of that grid; more would move u by less than its rounding shows in the residual. */
const SECTIONS = 60
const GOLDEN = (Math.sqrt(5) - 1) / 2

export interface CoverageFit {
  /** 1/c, in units of 1/loss. Positive: saturating; negative: building up; 0: additive. */
  readonly u: number
  /** u is 0: losses add up to rounding, or the runs say nothing about u (fewer than two singles, or f(all), above 0). */
  readonly additive: boolean
  /**
   * Whether the model with this u gives f(all) as measured. It cannot where f(all) is below the largest single (then u
   * is as large as it can be) or not above 0.
   */
  readonly attained: boolean
}

/**
 * u from the losses of single layers and of all layers together. Singles that are not above 0 are noise, and count as 0
 * here and in {@link predictCoverage}.
 * @param singles one per layer, at one candidate
 * @param full    loss with all of these layers at that candidate
 * @throws RangeError for losses that are not finite.
 */
export function fitCoverage(singles: ArrayLike<number>, full: number): CoverageFit {
  const losses = positives(singles)
  if (!Number.isFinite(full)) throw new RangeError(`coverage: want a finite loss of all layers, got ${full}`)
  const sum = losses.reduce((a, b) => a + b, 0)
  const additive = Math.abs(sum - full) <= ADDITIVE * sum
  if (additive || losses.length < 2 || full <= 0) return { u: 0, additive: true, attained: additive }
  const [, most] = extremes(losses)
  // f falls as u rises. `low` has f ≥ full, `high` has f < full.
  let low = 0
  let high = MOST_COVERED / most
  if (full < sum) {
    const least = covered(losses, high)
    if (least >= full) return { u: high, additive: false, attained: least - full <= 2 * (1 - MOST_COVERED) * full }
  } else {
    high = 0
    low = -1 / most
    while (covered(losses, low) < full) {
      high = low
      low *= 2
    }
  }
  // Until no number lies between the two.
  for (let middle = (low + high) / 2; middle !== low && middle !== high; middle = (low + high) / 2) {
    if (covered(losses, middle) >= full) low = middle
    else high = middle
  }
  return { u: low, additive: false, attained: true }
}

/**
 * Cost t of a layer in units of loss; costs of a configuration add up, and less is better. Strictly increasing in the
 * single for every u, with t ≈ s for small s. Singles not above 0 stay as they are, so that an order by cost still tells
 * them apart; singles beyond saturation (u·s ≥ 1, at candidates that the fit did not see) go on along the tangent.
 */
export function coverageCost(single: number, u: number): number {
  if (single <= 0 || Math.abs(u * single) < NEGLIGIBLE) return single
  if (u * single <= MOST_COVERED) return -Math.log1p(-u * single) / u
  const limit = MOST_COVERED / u
  return -Math.log1p(-MOST_COVERED) / u + (single - limit) / (1 - MOST_COVERED)
}

/**
 * Loss of a configuration.
 * @param singles of its layers at their candidates; layers that stay float are left out
 * @returns in the unit of the singles, ≥ 0; at most 1/u where u > 0, and possibly infinite where u < 0.
 */
export function predictCoverage(singles: ArrayLike<number>, u: number): number {
  return covered(positives(singles), u)
}

/** Fits over several candidates. */
export interface SharedCoverage {
  /** One fit per candidate, each from its own run of all layers: for configurations of one candidate. */
  readonly perCandidate: readonly CoverageFit[]
  /** One u for all of them: for configurations that mix candidates. 0 where no candidate tells anything. */
  readonly u: number
}

/**
 * u per candidate, and one for all that fits their full runs best: least Σ_k (ln f_u(k) − ln full_k)². Logarithms,
 * because losses at 2 and at 8 bits differ by orders of magnitude, and an error of 10 % matters alike in both.
 *
 * Mixed configurations and the trade-off between several candidates of a layer need the shared u. With u_k of its own each
 * candidate has its own scale of costs; f is a function of a sum of costs only if all are on one, and a layer could
 * otherwise cost less at 2 bits than at 3. A u_k is the better prediction where all layers are at candidate k. Candidates
 * of low loss are nearly additive at any u in question, so that the shared u is decided by those that saturate.
 *
 * @param singles [layer][candidate]
 * @param fulls   [candidate]: loss with every layer at it
 * @throws RangeError for losses that are not finite, and for rows of another length than `fulls`.
 */
export function fitShared(singles: readonly ArrayLike<number>[], fulls: ArrayLike<number>): SharedCoverage {
  for (const row of singles) {
    if (row.length !== fulls.length) throw new RangeError(`coverage: want ${fulls.length} singles, got ${row.length}`)
  }
  const columns = Array.from(fulls, (_, k) => positives(singles.map((row) => row[k]!)))
  const perCandidate = columns.map((losses, k) => fitCoverage(losses, fulls[k]!))
  const telling = columns.flatMap((losses, k) => (losses.length > 1 && fulls[k]! > 0 ? [k] : []))
  if (telling.length === 0) return { perCandidate, u: 0 }

  const most = Math.max(...columns.map((losses) => extremes(losses)[1]))
  const own = telling.map((k) => perCandidate[k]!.u)
  // Outside of the own fits every residual grows. No candidate may be past its saturation.
  const [least, greatest] = extremes(own.map((u) => Math.min(u * most, MOST_COVERED)))
  // Even steps around 0, and even ratios far below, where the fit of a candidate of low loss may lie.
  const scaled = (v: number) => Math.sinh(v) / most
  const residual = (v: number): number => {
    let total = 0
    for (const k of telling) total += Math.log(covered(columns[k]!, scaled(v)) / fulls[k]!) ** 2
    return total
  }
  return { perCandidate, u: scaled(leastPoint(residual, Math.asinh(least), Math.asinh(greatest))) }
}

/** Where a function is least in an interval: the best of a grid, refined by golden sections between its neighbours. */
function leastPoint(value: (at: number) => number, from: number, to: number): number {
  const step = (to - from) / GRID
  if (!(step > 0)) return from
  let best = 0
  let bestValue = Number.POSITIVE_INFINITY
  for (let i = 0; i <= GRID; i++) {
    const found = value(from + i * step)
    if (found < bestValue) {
      best = i
      bestValue = found
    }
  }
  let low = from + Math.max(0, best - 1) * step
  let high = Math.min(to, from + (best + 1) * step)
  let left = high - GOLDEN * (high - low)
  let right = low + GOLDEN * (high - low)
  let atLeft = value(left)
  let atRight = value(right)
  for (let i = 0; i < SECTIONS; i++) {
    if (atLeft <= atRight) {
      high = right
      right = left
      atRight = atLeft
      left = high - GOLDEN * (high - low)
      atLeft = value(left)
    } else {
      low = left
      left = right
      atLeft = atRight
      right = low + GOLDEN * (high - low)
      atRight = value(right)
    }
  }
  const middle = (low + high) / 2
  // At an end of the interval the grid's point is exact.
  return value(middle) < bestValue ? middle : from + best * step
}

/** f of layers with these singles, all above 0. */
function covered(losses: readonly number[], u: number): number {
  let sum = 0
  for (const loss of losses) sum += coverageCost(loss, u)
  return Math.abs(u * sum) < NEGLIGIBLE ? sum : -Math.expm1(-u * sum) / u
}

function positives(singles: ArrayLike<number>): number[] {
  const kept: number[] = []
  for (let i = 0; i < singles.length; i++) {
    const single = singles[i]!
    if (!Number.isFinite(single)) throw new RangeError(`coverage: want finite losses, got ${single}`)
    if (single > 0) kept.push(single)
  }
  return kept
}

/** Of any number of values: spreading a million of them into Math.max would overflow the stack. */
function extremes(values: readonly number[]): [least: number, greatest: number] {
  let least = Number.POSITIVE_INFINITY
  let greatest = Number.NEGATIVE_INFINITY
  for (const value of values) {
    if (value < least) least = value
    if (value > greatest) greatest = value
  }
  return [least, greatest]
}

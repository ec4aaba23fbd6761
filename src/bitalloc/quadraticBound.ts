/**
 * @file Lower bounds of a convex quadratic over one choice per item within limits: its tangent plane at a point between
 * the choices, which is nowhere above it, minimised under prices of the constraints.
 */
import type { ConvexForm } from './convexForm.ts'

export interface Limited extends ConvexForm {
  /** Per constraint, the costs of all options in shares of the limit. */
  readonly shares: readonly Float64Array[]
}

/** A part of the search space, with the best tangent found. */
export interface Region {
  /** Per option, 1 where it may be taken. */
  readonly allowed: Uint8Array
  /** Between the choices: ≥ 0, one per item; where the tangent touches. */
  readonly point: Float64Array
  /** Per constraint, ≥ 0. */
  readonly prices: Float64Array
}

export interface Tangent {
  /** Nothing in the region loses less. */
  readonly bound: number
  readonly region: Region
  /** Per option, what taking it adds to the bound beyond the best of its item. */
  readonly reduced: Float64Array
}

/** Sweeps of the descent at one set of prices. */
const SWEEPS = 60

/** The tangent at the best point found for the prices of the region; stops early above `enough`. */
export function tangentAt(form: Limited, region: Region, enough: number, precision: number): Tangent {
  const { starts, matrix } = form
  const size = starts[starts.length - 1]!
  const { allowed, prices } = region
  const linear = form.linear.slice()
  let constant = form.constant
  form.shares.forEach((shares, c) => {
    constant -= prices[c]!
    for (let a = 0; a < size; a++) linear[a]! += prices[c]! * shares[a]!
  })
  const point = region.point.slice()
  const gradient = linear.slice()
  for (let b = 0; b < size; b++) {
    if (point[b] === 0) continue
    for (let a = 0; a < size; a++) gradient[a]! += point[b]! * matrix[b * size + a]!
  }
  let bound = Number.NEGATIVE_INFINITY
  for (let sweep = 0; ; sweep++) {
    let value = constant
    let gap = 0
    for (let i = 0; i + 1 < starts.length; i++) {
      let least = Number.POSITIVE_INFINITY
      let mean = 0
      for (let a = starts[i]!; a < starts[i + 1]!; a++) {
        value += (point[a]! * (linear[a]! + gradient[a]!)) / 2
        mean += point[a]! * gradient[a]!
        if (allowed[a] && gradient[a]! < least) least = gradient[a]!
      }
      gap += mean - least
    }
    bound = value - gap
    if (sweep === SWEEPS || bound >= enough || gap <= precision + 0.02 * Math.max(0, enough - value)) break
    for (let i = 0; i + 1 < starts.length; i++)
      descendInPlace(form, allowed, point, gradient, starts[i]!, starts[i + 1]!)
  }
  return { bound, region: { allowed, point, prices }, reduced: reducedOf(starts, allowed, gradient) }
}

/** Moves weight of one item from its dearest to its cheapest option, as far as the quadratic falls. */
function descendInPlace(
  form: Limited,
  allowed: Uint8Array,
  point: Float64Array,
  gradient: Float64Array,
  from: number,
  to: number,
): void {
  const size = gradient.length
  for (let step = from; step < to; step++) {
    let best = -1
    let worst = -1
    for (let a = from; a < to; a++) {
      if (allowed[a] && (best < 0 || gradient[a]! < gradient[best]!)) best = a
      if (point[a]! > 0 && (worst < 0 || gradient[a]! > gradient[worst]!)) worst = a
    }
    const slope = gradient[worst]! - gradient[best]!
    if (!(slope > 0)) return
    const m = form.matrix
    const curvature = m[best * size + best]! + m[worst * size + worst]! - 2 * m[best * size + worst]!
    const whole = !(curvature * point[worst]! > slope)
    const moved = whole ? point[worst]! : slope / curvature
    point[worst] = whole ? 0 : point[worst]! - moved
    point[best]! += moved
    for (let a = 0; a < size; a++) gradient[a]! += moved * (m[best * size + a]! - m[worst * size + a]!)
  }
}

function reducedOf(starts: readonly number[], allowed: Uint8Array, gradient: Float64Array): Float64Array {
  const reduced = new Float64Array(gradient.length)
  for (let i = 0; i + 1 < starts.length; i++) {
    let least = Number.POSITIVE_INFINITY
    for (let a = starts[i]!; a < starts[i + 1]!; a++) if (allowed[a]) least = Math.min(least, gradient[a]!)
    for (let a = starts[i]!; a < starts[i + 1]!; a++) reduced[a] = gradient[a]! - least
  }
  return reduced
}

/** How far the point of a tangent exceeds limit c, in shares of it. */
function excessAt(form: Limited, { region }: Tangent, c: number): number {
  return form.shares[c]!.reduce((sum, share, a) => sum + share * region.point[a]!, -1)
}

/** How the prices of a tangent are searched. */
export interface PriceSearch {
  /** A price to start from where there is none: the loss that the whole limit may be worth. */
  readonly scale: number
  /** Factor between prices until the best lies between two; then bisection. */
  readonly factor: number
  /** Tangents per constraint and round. */
  readonly steps: number
}

/**
 * The best tangent over prices, constraint after constraint: what exceeds a limit falls as its price rises, and the
 * bound is best where nothing does.
 */
export function pricedTangent(
  form: Limited,
  start: Tangent,
  enough: number,
  precision: number,
  { scale, factor, steps }: PriceSearch,
): Tangent {
  let best = start
  const rounds = form.shares.length > 1 ? 3 : 1
  for (let round = 0; round < rounds; round++) {
    for (let c = 0; c < form.shares.length; c++) {
      let current = best
      let low: number | undefined
      let high: number | undefined
      for (let step = 0; step < steps && best.bound < enough; step++) {
        const price = current.region.prices[c]!
        const excess = excessAt(form, current, c)
        if (Math.abs(excess) < 1e-9 || (excess < 0 && price === 0)) break
        if (excess > 0) low = price
        else high = price
        let next = scale
        if (low !== undefined && high !== undefined) next = (low + high) / 2
        else if (price > 0) next = excess > 0 ? price * factor : price / factor
        const prices = current.region.prices.slice()
        prices[c] = next < scale * 1e-9 ? 0 : next
        current = tangentAt(form, { ...current.region, prices }, enough, precision)
        if (current.bound > best.bound) best = current
      }
    }
  }
  return best
}

/**
 * @file Solves a problem whose loss also has terms between pairs of items, with a proved gap: branch and bound, the
 * bounds by tangents of a convex quadratic that equals the loss at every choice.
 *
 * CLADO hands its matrix, with eigenvalues clipped, to a commercial solver. Tangents of the convex form give the bounds
 * of outer approximation (Duran & Grossmann 1986); each region of the search has its own, at its own best point, which
 * keeps them close and needs no solver for programs with many dense cuts.
 */
import { makeRandom } from '../random.ts'
import { convexForm, optionStarts, symmetricPairs } from './convexForm.ts'
import { solveIlp } from './integerProgram.ts'
import { evaluateChoice, type Problem, type Solution } from './problem.ts'
import type { Limited, Tangent } from './quadraticBound.ts'
import { branch, type Ends, enoughFor, look } from './quadraticBranch.ts'
import { type PairProblem, pairLoss, pairProblem, searchPairs } from './quadraticSearch.ts'

export interface QuadraticOptions {
  /** The search ends when the bound is this near to the loss, relative to it; 1e-4 by default, 0 for a full proof. */
  readonly gap?: number
  /** Regions looked at; 20,000 by default. */
  readonly regions?: number
  /** The longest it may take; 25 by default. Ends on it depend on the machine; ends on `regions` do not. */
  readonly seconds?: number
}

/** Disturbed restarts of the search for a first solution. */
const RESTARTS = 24
const ROOT_PRICES = { factor: 4, steps: 40 }
/** The form is made anew while more than this share of the options could be left out. */
const WORTHWHILE = 0.1

/**
 * The choice with the least Σ loss + ½ xᵀ G x, x the indicator of the options taken.
 *
 * @param gram [options, options] over the flattened (item, choice) options, items in order; taken as symmetric (the mean
 * of both orders), any eigenvalues; what stands within an item is not used.
 * @returns `bound` says how near to the least the loss is proved to be, also when a limit of `options` ended the search.
 * @throws QtoolError `infeasible`, as the other solvers.
 */
export async function solveQuadratic(
  problem: Problem,
  gram: ArrayLike<number>,
  options: QuadraticOptions = {},
): Promise<Solution> {
  const end = performance.now() + 1000 * (options.seconds ?? 25)
  const starts = optionStarts(problem)
  const pairs = symmetricPairs(gram, starts)
  const additive = await solveIlp(problem)
  const flat = pairProblem(problem, starts, pairs)
  const first = searchPairs(
    flat,
    additive.choice.map((k, i) => starts[i]! + k),
    makeRandom(1),
    RESTARTS,
  )
  const { taken, bound } = prove(flat, first, { gap: options.gap ?? 1e-4, regions: options.regions ?? 20_000, end })
  const choice = taken.map((a, i) => a - starts[i]!)
  const loss = pairLoss(flat, taken)
  return {
    choice,
    loss,
    costs: evaluateChoice(problem, choice).costs,
    bound: Math.min(loss, bound),
    solver: 'quadratic',
  }
}

/**
 * Leave out options that no better choice takes, and make the form of the rest, whose bounds are closer, until little
 * goes; then search what is left.
 */
function prove(flat: PairProblem, first: readonly number[], ends: Ends) {
  let known = first
  let problem = flat
  let settled = Number.POSITIVE_INFINITY
  // The options that are left, by their index in the whole problem.
  let left = Array.from({ length: flat.losses.length }, (_, a) => a)
  for (;;) {
    const form: Limited = { ...convexForm(problem.starts, problem.losses, problem.pairs), shares: sharesOf(problem) }
    const size = left.length
    const everything = {
      allowed: new Uint8Array(size).fill(1),
      point: new Float64Array(size),
      prices: new Float64Array(form.shares.length),
    }
    const enough = enoughFor(problem, pairLoss(problem, known), ends.gap)
    const root = look(form, problem, everything, enough, ROOT_PRICES)
    // The known solution keeps the limits, so something does.
    if (root === undefined) throw new RangeError('limits leave nothing beside a solution')
    const kept = keptOptions(root, known, enough)
    if (kept.length > (1 - WORTHWHILE) * size || kept.length === known.length) {
      const { taken, bound } = branch(form, problem, root, known, ends)
      return { taken: taken.map((a) => left[a]!), bound: Math.min(settled, bound) }
    }
    const stays = new Set(kept)
    for (let a = 0; a < size; a++) {
      if (root.region.allowed[a] && !stays.has(a)) settled = Math.min(settled, root.bound + root.reduced[a]!)
    }
    problem = restricted(problem, kept)
    known = known.map((a) => kept.indexOf(a))
    left = kept.map((a) => left[a]!)
  }
}

/** Options that a choice better than `enough` may take, and those of the known one. */
function keptOptions({ bound, reduced, region }: Tangent, known: readonly number[], enough: number): number[] {
  const own = new Set(known)
  return Array.from(reduced, (_, a) => a).filter(
    (a) => own.has(a) || (region.allowed[a] === 1 && bound + reduced[a]! < enough),
  )
}

/** The problem with these options only. */
function restricted({ starts, losses, pairs, costs, limits }: PairProblem, kept: readonly number[]): PairProblem {
  const size = losses.length
  return {
    starts: starts.map((start) => kept.filter((a) => a < start).length),
    losses: Float64Array.from(kept, (a) => losses[a]!),
    pairs: Float64Array.from(kept.flatMap((a) => kept.map((b) => pairs[a * size + b]!))),
    costs: costs.map((column) => Float64Array.from(kept, (a) => column[a]!)),
    limits,
  }
}

/** Costs in shares of the limits. */
function sharesOf({ costs, limits }: PairProblem): Float64Array[] {
  return costs.map((column, c) => column.map((cost) => (limits[c]! > 0 ? cost / limits[c]! : 0)))
}

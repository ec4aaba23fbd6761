/**
 * @file A group of layers that read the same tensor: candidates are solved for all of them, and the one with the least error
 * on held-out samples is kept. Plain rounding is always a candidate.
 */
import { codebookOptions, draftOf, levelsCompared } from '../codebook/codebookOptions.ts'
import type { Order } from '../hessian/prepare.ts'
import type { GridCandidate } from '../quant/candidates.ts'
import type { QuantizedWeight } from '../quant/quantizedWeight.ts'
import type { Member } from './members.ts'
import { type Candidate, type GroupHessians, meanError, type SolverTools, solveMember } from './solveMember.ts'

/** A candidate's outcome for all members. */
export interface GroupSolution {
  readonly name: string
  /** Undefined for plain rounding. */
  readonly candidate: Candidate | undefined
  /** One per member. */
  readonly weights: readonly QuantizedWeight[]
  /** Mean output error that the bias takes back, per member; undefined where there is no bias or it is left alone. */
  readonly corrections: readonly (Float64Array | undefined)[]
  readonly heldOutError: number
}

/** The error of a candidate on held-out samples; weights and corrections one per member. */
export type Judge = (
  weights: readonly QuantizedWeight[],
  corrections: readonly (Float64Array | undefined)[],
) => Promise<number>

export interface GroupOutcome {
  readonly best: GroupSolution
  readonly rounding: GroupSolution
  readonly rejected: readonly { readonly name: string; readonly heldOutError: number }[]
  /** No damping made a Hessian positive definite. */
  readonly failed: boolean
}

/** All candidates are tried where one costs less than this many operations, whatever the statistics cost. */
const CHEAP_FLOPS = 2 ** 32
/** Restarts are tried where all of them together cost less. */
const RESTART_FLOPS = 2 ** 33
/** Operations of one solution per N·K²: recurrence, sweeps and refits, each 2. */
const FLOPS_PER_UNIT = 14

/**
 * Solutions of large layers may take this part of the statistics' operations, and one is always made: an operation of the
 * solver takes several times as long as one of a large product.
 */
const SOLVER_SHARE = 16

/** Operations of one comparison with a level of a codebook, over all sweeps. */
const FLOPS_PER_LEVEL = 40

/** @param levels that a codebook compares for each weight; 0 for grids. */
function solutionFlops(rows: number, cols: number, levels: number): number {
  return rows * cols * (FLOPS_PER_UNIT * cols + FLOPS_PER_LEVEL * levels)
}

/** How many candidates are worth their time beside the statistics, which take 4·T·K². */
function candidateLimit(own: number, cols: number, positions: number): number {
  const statistics = 4 * positions * cols * cols
  return own <= CHEAP_FLOPS ? MOST : Math.max(1, Math.min(MOST, Math.floor(statistics / SOLVER_SHARE / own)))
}

const MOST = 8
/**
 * Orders of which each row takes the best where the layer is small. The solver ends in a local optimum: with few columns
 * the next start is often far better, and rows are independent of each other.
 */
const RESTARTS: readonly Order[] = [
  'activation',
  'greedy',
  'natural',
  'mixed 1',
  'mixed 2',
  'mixed 3',
  'mixed 4',
  'mixed 5',
]

/**
 * A candidate takes the place of an earlier one of the solver only with this share of its error. Smaller differences do
 * not carry over to the model's output (bench/RESULTS.md), and the first answers are those that are best on average.
 */
const CLEARLY_LESS = 0.985

/** The other damping: with few samples, or at few bits, more of it generalizes better. */
const STRONGER = 8

/** Solve a group. */
export async function solveGroup(
  members: readonly Member[],
  hessians: GroupHessians,
  grids: readonly GridCandidate[],
  judge: Judge,
  { damping, mapping, ...tools }: SolverTools & Pick<Candidate, 'damping' | 'mapping'>,
): Promise<GroupOutcome> {
  const cols = hessians.statistics(0).cols
  const rows = members.reduce((sum, { rows: weight }) => sum + weight.length / cols, 0) / hessians.blocks
  const books = members.flatMap(({ plan }) => codebookOptions(plan, mapping) ?? [])
  const own = solutionFlops(rows, cols, Math.max(0, ...books.map((book) => levelsCompared(draftOf(book)))))
  let left = candidateLimit(own, cols, hessians.statistics(0).weight)
  const isDraft = books.some((book) => draftOf(book) !== book)
  let failed = false
  const tried = new Map<string, number>()
  const judged = async (name: string, candidate: Candidate | undefined, weights: readonly QuantizedWeight[]) => {
    const corrections = members.map(({ rows: weight, site }, i) =>
      site && (candidate?.centred ?? true) ? meanError(weight, weights[i]!, hessians) : undefined,
    )
    const heldOutError = await judge(weights, corrections)
    tried.set(name, heldOutError)
    return { name, candidate, weights, corrections, heldOutError }
  }
  const rounding = await judged(
    'round to nearest',
    undefined,
    members.map(({ rounded }) => rounded),
  )
  let best: GroupSolution = rounding
  const solve = async (candidate: Candidate, draft: boolean): Promise<GroupSolution | undefined> => {
    const weights: QuantizedWeight[] = []
    for (const member of members) {
      const weight = await solveMember(member, hessians, candidate, tools, draft)
      if (!weight) return undefined
      weights.push(weight)
    }
    return judged(nameOf(candidate), candidate, weights)
  }
  const attempt = async (candidate: Candidate, wanted = CLEARLY_LESS) => {
    if (left <= 0 || failed) return
    left--
    const solution = await solve(candidate, isDraft)
    if (!solution) {
      failed = true
      return
    }
    const bar = best === rounding ? 1 : wanted
    if (solution.heldOutError < bar * best.heldOutError) best = solution
  }
  const hasSite = members.some(({ site }) => site !== undefined)
  const alpha = hessians.hasDrift ? 1 : 0
  const start: Candidate = { alpha, orders: ['activation'], grids: [], centred: hasSite, damping, mapping }
  await attempt(start)
  // One question after the other, each with the answers so far.
  const now = () => best.candidate ?? start
  if (hessians.hasDrift) for (const share of [0.5, 0.25, 0]) await attempt({ ...now(), alpha: share })
  await attempt({ ...now(), damping: damping * STRONGER })
  if (hasSite) await attempt({ ...now(), centred: false })
  const restarts = RESTART_FLOPS / own / (1 + grids.length)
  if (books.length === 0 && restarts >= RESTARTS.length) await attempt({ ...now(), orders: RESTARTS, grids }, 1)
  else {
    await attempt({ ...now(), orders: ['greedy'] })
    if (grids.length > 0) await attempt({ ...now(), grids })
  }
  if (isDraft && best.candidate) {
    const full = await solve(best.candidate, false)
    best = full && full.heldOutError < rounding.heldOutError ? full : rounding
  }
  tried.delete(best.name)
  const rejected = [...tried].map(([name, heldOutError]) => ({ name, heldOutError }))
  return { best, rounding, rejected, failed }
}

function nameOf({ alpha, orders, grids, centred, damping }: Candidate): string {
  const order =
    orders.length > 1
      ? 'best order and grid by row'
      : `${orders[0]} order${grids.length > 0 ? ', best grid by row' : ''}`
  return [order, `α ${alpha}`, `damping ${Number(damping.toPrecision(3))}`, ...(centred ? ['bias'] : [])].join(', ')
}

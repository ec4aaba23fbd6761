/** @file From a group's Hessians and a judge to one decision per layer, with what the report says of it. */
import type { BiasSite } from '../calibration/biasSites.ts'
import type { QuantizeConfig } from '../config.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { summarize } from '../eval/outputLoss.ts'
import { quoted } from '../onnx/names.ts'
import type { LayerCalibration } from '../report.ts'
import { biasValue } from './biasEdits.ts'
import { type Member, otherGrids, withPlan } from './members.ts'
import type { Decision } from './solvedLayers.ts'
import { type GroupOutcome, type GroupSolution, type Judge, solveGroup } from './solveGroup.ts'
import type { Candidate, GroupHessians, SolverTools } from './solveMember.ts'

export interface DecidedGroup {
  /** One per member. */
  readonly decisions: readonly Decision[]
  /** For the progress display. */
  readonly detail: string
  readonly warning: string | undefined
}

export interface GroupMeans {
  readonly config: Pick<QuantizeConfig, 'strict' | 'damping' | 'mapping'>
  readonly tools: SolverTools
  /** The bias as it is so far. */
  readonly biasAt: (site: BiasSite) => FeedTensor
}

/** Members as they are solved, and what came of it. */
interface Attempt {
  readonly members: readonly Member[]
  readonly outcome: GroupOutcome
}

/** The members with grids for tables; undefined where one of them has no grid that may take their place. */
async function onGrids(members: readonly Member[], { pool, signal }: SolverTools): Promise<Member[] | undefined> {
  const inTables = members.filter(({ plan }) => plan.codebook)
  if (inTables.length === 0 || inTables.some(({ plan }) => !plan.onGrid)) return undefined
  const others: Member[] = []
  for (const member of members) {
    const grid = member.plan.onGrid
    others.push(grid ? await withPlan({ pool }, member, grid, signal) : member)
  }
  return others
}

/** Losses of solutions that differ in how codes are written: of each held-out sample, in the same order. */
export type FormJudge = (solutions: readonly GroupSolution[]) => Promise<readonly (readonly number[])[]>

/** Tables and grids where both were solved; `forms` is what the model loses with each. */
interface Kept extends Attempt {
  readonly forms: LayerCalibration['forms']
}

/** What the judge of the outputs says counts from this many standard errors on. */
const CLEAR = 2

/**
 * The attempt that loses less: by the model's outputs where the difference is clear of the samples' spread, else by the error
 * that candidates of the solver are judged by, which varies less.
 */
async function better(tables: Attempt, grids: Attempt, judge: FormJudge | undefined): Promise<Kept> {
  const solutions = [tables, grids].map(({ outcome }) => outcome.best)
  const errors = solutions.map(({ heldOutError }) => heldOutError)
  const [inTables, onGrid] = judge ? await judge(solutions) : errors.map((error) => [error])
  const { mean, standardError } = summarize(onGrid!.map((loss, sample) => loss - inTables![sample]!))
  const isClear = Math.abs(mean) >= CLEAR * standardError
  const isGrid = isClear ? mean < 0 : errors[1]! < errors[0]!
  const forms = { tables: summarize(inTables!).mean, grid: summarize(onGrid!).mean, isClear }
  return { ...(isGrid ? grids : tables), forms }
}

/**
 * Decide a group. Where grids may take the place of tables, both are solved, and what loses less on held-out samples is kept.
 * @param formJudge decides between tables and grids; the error of `judge` does when undefined.
 * @throws QtoolError `numeric` with `strict` where no damping makes a Hessian positive definite.
 */
export async function decideGroup(
  members: readonly Member[],
  hessians: GroupHessians,
  judge: Judge,
  { config, tools, biasAt }: GroupMeans,
  formJudge?: FormJudge | undefined,
): Promise<DecidedGroup> {
  const solve = (own: readonly Member[]) =>
    solveGroup(own, hessians, otherGrids(own), judge, { ...tools, damping: config.damping, mapping: config.mapping })
  const first: Kept = { members, outcome: await solve(members), forms: undefined }
  const others = await onGrids(members, tools)
  const kept = others ? await better(first, { members: others, outcome: await solve(others) }, formJudge) : first
  const { outcome, forms } = kept
  const { best, rounding, rejected, failed } = outcome
  const message = `layer ${quoted(members[0]!.plan.layer.name)}: no damping makes the Hessian of its inputs positive definite`
  if (failed && config.strict) {
    throw new QtoolError('numeric', message, { hint: 'give more or other calibration data, or leave out --strict' })
  }
  const calibration = (i: number): LayerCalibration => ({
    solver: best.candidate ? 'gptq' : 'round-to-nearest',
    order: best.candidate && orderOf(best.candidate),
    alpha: best.candidate?.alpha ?? 0,
    biasCorrected: best.corrections[i] !== undefined,
    heldOutError: best.heldOutError,
    heldOutErrorOfRounding: rounding.heldOutError,
    damping: best.candidate ? hessians.dampingOf({ ...best.candidate, order: best.candidate.orders[0]! }) : 0,
    deadInputs: hessians.deadInputs,
    rejected,
    ...(forms ? { forms } : {}),
  })
  const figures = [best, rounding].map(({ heldOutError }) => heldOutError.toExponential(1))
  return {
    decisions: kept.members.map((member, i) => ({
      weight: best.weights[i]!,
      grid: member.grid,
      calibration: calibration(i),
      bias: correctedBias(member, best, i, biasAt),
    })),
    detail: `held-out error ${figures[0]}, rounding ${figures[1]}`,
    warning: failed ? `${message}; kept: ${best.name}` : undefined,
  }
}

function orderOf({ orders }: Candidate): LayerCalibration['order'] {
  const [first, ...others] = orders
  return others.length === 0 && (first === 'natural' || first === 'activation' || first === 'greedy') ? first : 'by row'
}

function correctedBias(
  { site }: Member,
  best: GroupSolution,
  i: number,
  biasAt: GroupMeans['biasAt'],
): FeedTensor | undefined {
  const correction = best.corrections[i]
  return site && correction ? biasValue(site, biasAt(site), correction) : undefined
}

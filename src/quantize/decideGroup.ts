/** @file From a group's Hessians and a judge to one decision per layer, with what the report says of it. */
import type { BiasSite } from '../calibration/biasSites.ts'
import type { QuantizeConfig } from '../config.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { quoted } from '../onnx/names.ts'
import type { LayerCalibration } from '../report.ts'
import { biasValue } from './biasEdits.ts'
import { type Member, otherGrids } from './members.ts'
import type { Decision } from './solvedLayers.ts'
import { type GroupSolution, type Judge, solveGroup } from './solveGroup.ts'
import type { Candidate, GroupHessians, SolverTools } from './solveMember.ts'
import { type FormJudge, solveForms } from './tablesOrGrid.ts'

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
  const { members: kept, outcome, forms } = await solveForms(members, solve, tools, formJudge)
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
    decisions: kept.map((member, i) => ({
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

/** @file Tables or grids for the layers of a group: both are solved, and one is kept. */
import { summarize } from '../eval/outputLoss.ts'
import type { LayerCalibration } from '../report.ts'
import { type Member, withPlan } from './members.ts'
import type { GroupOutcome, GroupSolution } from './solveGroup.ts'
import type { SolverTools } from './solveMember.ts'

/** Losses of solutions that differ in how codes are written: of each sample, in the same order. */
export type FormJudge = (solutions: readonly GroupSolution[]) => Promise<readonly (readonly number[])[]>

/** Members as they were solved, and what came of it. */
interface SolvedForm {
  readonly members: readonly Member[]
  readonly outcome: GroupOutcome
  /** Where both forms were solved. */
  readonly forms: LayerCalibration['forms']
}

/**
 * Solve the members as planned, and where grids may take the place of tables on grids too.
 * @param formJudge decides between the two; undefined where there is no network to run.
 */
export async function solveForms(
  members: readonly Member[],
  solve: (members: readonly Member[]) => Promise<GroupOutcome>,
  tools: Pick<SolverTools, 'pool' | 'signal'>,
  formJudge: FormJudge | undefined,
): Promise<SolvedForm> {
  const outcome = await solve(members)
  const others = await onGrids(members, tools)
  if (!others) return { members, outcome, forms: undefined }
  const onGrid = await solve(others)
  const solutions = [outcome.best, onGrid.best]
  const [tables, grid] = solutions.map(({ heldOutError }) => heldOutError) as [number, number]
  const losses = formJudge ? await formJudge(solutions) : [[tables], [grid]]
  const isClear = clearDifference(losses[1]!, losses[0]!) !== 0
  const forms = { tables: summarize(losses[0]!).mean, grid: summarize(losses[1]!).mean, isClear }
  return (isClear ? forms.grid < forms.tables : grid < tables)
    ? { members: others, outcome: onGrid, forms }
    : { members, outcome, forms }
}

/** The members with grids for tables; undefined where one of them has no grid that may take their place. */
async function onGrids(
  members: readonly Member[],
  { pool, signal }: Pick<SolverTools, 'pool' | 'signal'>,
): Promise<Member[] | undefined> {
  const inTables = members.filter(({ plan }) => plan.codebook)
  if (inTables.length === 0 || inTables.some(({ plan }) => !plan.onGrid)) return undefined
  const others: Member[] = []
  for (const member of members) {
    const grid = member.plan.onGrid
    others.push(grid ? await withPlan({ pool }, member, grid, signal) : member)
  }
  return others
}

/** A mean over samples is clear of their spread from this many standard errors on. */
const CLEAR = 2

/**
 * The mean of a − b over samples, or 0 where it may be chance: outputs vary much from sample to sample, and the error that
 * candidates of the solver are judged by varies less.
 */
export function clearDifference(a: readonly number[], b: readonly number[]): number {
  const { mean, standardError } = summarize(a.map((loss, sample) => loss - b[sample]!))
  return Math.abs(mean) > CLEAR * standardError ? mean : 0
}

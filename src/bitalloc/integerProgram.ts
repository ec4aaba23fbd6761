/**
 * @file Solves a problem with any number of constraints by integer programming: prices from the linear relaxation fix
 * most options, HiGHS decides the rest (one constraint: the exact lists, where they suffice), and every figure is
 * recomputed in whole numbers. The only importer of HiGHS.
 */
import type { Highs } from 'highs'
import { excessOf, lossOfTaken, polishInPlace, repairInPlace } from './incumbent.ts'
import { boundOf, fixOptions, type Prices } from './lagrangian.ts'
import { approach, solvePareto } from './pareto.ts'
import { leavesNothing, type Presolved, presolve } from './presolve.ts'
import { checkFeasible, evaluateChoice, jointlyInfeasible, type Problem, type Solution } from './problem.ts'

/** A bound this near to the loss, relative to the losses that were still open, is what HiGHS's tolerances can tell. */
const TOLERANCE = 1e-9

/** Largest coefficient of a row or of the objective: HiGHS's tolerances are absolute. */
const SCALE = 1000

/** Loaded when first needed: the module is large. The declarations describe its CommonJS form, so the type is stated. */
async function loadHighs(): Promise<Highs> {
  const load = (await import('highs')).default as unknown as () => Promise<Highs>
  loaded ??= load()
  return loaded
}

let loaded: Promise<Highs> | undefined

interface Answer {
  readonly status: 'optimal' | 'infeasible' | 'stopped'
  /** Per option, items in order; undefined when there is no solution. */
  readonly values: readonly number[] | undefined
  /** No solution has a lower objective, within tolerance. */
  readonly bound: number
  /** Per constraint, what a unit of it is worth, ≥ 0; of linear programs. */
  readonly prices: readonly number[]
}

/**
 * The choice with the least total loss that keeps all limits. Ties: no single change lowers the first cost, or an
 * index, at equal loss.
 *
 * @param options `seconds`: the longest that HiGHS may take (60 by default); the solution is then the best one known,
 * and `bound` tells how far it may be from the least.
 * @throws QtoolError `infeasible`: the constraint that binds and its least, also when constraints bind together only.
 */
export async function solveIlp(problem: Problem, options: { readonly seconds?: number } = {}): Promise<Solution> {
  checkFeasible(problem)
  if (problem.constraints.length === 1) {
    // The program of one constraint is what the lists of the dynamic programme prove fastest, if they have room enough.
    const listed = solvePareto(problem)
    if (listed.bound === listed.loss) return { ...listed, solver: 'ilp' }
  }
  const presolved = presolve(problem)
  if (leavesNothing(presolved)) throw await jointError(problem)
  const seconds = options.seconds ?? 60
  const { prices, taken } = await relax(presolved)
  let best = taken
  const core = best ? fixOptions(presolved, prices, lossOfTaken(presolved, best)) : presolved
  let bound = prices.bound
  if (!best || core.items.some((left) => left.length > 1)) {
    const solved = await minimiseWithin(core, seconds)
    if (solved === 'infeasible' && !best) throw await jointError(problem)
    if (solved !== 'infeasible') {
      bound = Math.max(bound, solved.bound)
      const found = solved.taken && toIndices(presolved, core, solved.taken)
      if (found) polishInPlace(presolved, found)
      if (found && (!best || lossOfTaken(presolved, found) < lossOfTaken(presolved, best))) best = found
    }
  } else bound = lossOfTaken(presolved, best)
  if (!best) throw new RangeError(`no solution in ${seconds} s, nor a proof that there is none`)
  const choice = best.map((k, i) => presolved.items[i]![k]!.index)
  const { loss, costs } = evaluateChoice(problem, choice)
  const open = core.items.reduce((sum, left) => sum + Math.max(...left.map((o) => o.loss)), 0)
  const proved = lossOfTaken(presolved, best) - bound <= TOLERANCE * open + 1
  return { choice, loss, costs, solver: 'ilp', bound: proved ? loss : (bound + presolved.offset) * presolved.unit }
}

/** Prices and their bound, and a solution near the relaxed one where the repair finds any. */
async function relax(presolved: Presolved): Promise<{ readonly prices: Prices; readonly taken: number[] | undefined }> {
  if (presolved.limits.length === 1) {
    const { prices, taken: known, left } = approach(presolved)
    const taken = toIndices(presolved, left, known)
    polishInPlace(presolved, taken)
    return { prices, taken }
  }
  const losses = presolved.items.map((options) => options.map((o) => o.loss))
  const answer = await minimise(presolved, losses, presolved.limits, { integer: false, seconds: 60 })
  const prices = boundOf(presolved, answer.prices)
  const taken = answer.values ? largest(presolved, answer.values) : presolved.items.map(() => 0)
  if (!repairInPlace(presolved, taken)) return { prices, taken: undefined }
  polishInPlace(presolved, taken)
  return { prices, taken }
}

/** HiGHS may overshoot a limit by its tolerances: then the limit is lowered by as much, and it solves again. */
async function minimiseWithin(
  core: Presolved,
  seconds: number,
): Promise<{ readonly taken: number[] | undefined; readonly bound: number } | 'infeasible'> {
  const losses = core.items.map((options) => options.map((o) => o.loss))
  let limits = core.limits
  let bound: number | undefined
  for (;;) {
    const answer = await minimise(core, losses, limits, { integer: true, seconds })
    if (answer.status === 'infeasible') return bound === undefined ? 'infeasible' : { taken: undefined, bound }
    bound ??= answer.bound
    const taken = answer.values && largest(core, answer.values)
    const excess = taken && excessOf(core, taken)
    if (!excess?.some((value) => value > 0)) return { taken, bound }
    limits = limits.map((limit, c) => limit - Math.max(0, excess[c]!))
  }
}

/** What each constraint can be brought down to while the others are kept. */
async function jointError(problem: Problem): Promise<Error> {
  const least: (number | undefined)[] = []
  for (let c = 0; c < problem.constraints.length; c++) {
    const others = problem.constraints.map((constraint, d) =>
      d === c ? { ...constraint, limit: Number.POSITIVE_INFINITY } : constraint,
    )
    const items = problem.items.map((choices) => choices.map(({ costs }) => ({ costs, loss: costs[c]! })))
    const relaxed = presolve({ items, constraints: others })
    const answer = leavesNothing(relaxed) ? ('infeasible' as const) : await minimiseWithin(relaxed, 10)
    const taken = answer === 'infeasible' ? undefined : answer.taken
    least.push(
      taken &&
        evaluateChoice(
          problem,
          taken.map((k, i) => relaxed.items[i]![k]!.index),
        ).costs[c],
    )
  }
  return jointlyInfeasible(problem, least)
}

/** One option per item, the total of `losses` least, costs within the limits; integer, or relaxed to fractions. */
async function minimise(
  presolved: Presolved,
  losses: readonly (readonly number[])[],
  limits: readonly number[],
  { integer, seconds }: { readonly integer: boolean; readonly seconds: number },
): Promise<Answer> {
  const { items } = presolved
  const columns = items.flat()
  const colCost = losses.flat()
  const objectiveScale = SCALE / Math.max(1, ...colCost)
  const rowScales = limits.map((_, c) => SCALE / Math.max(1, ...columns.map((o) => o.costs[c]!)))
  const starts = [0]
  const indices: number[] = []
  const values: number[] = []
  let column = 0
  for (const options of items) {
    for (let k = 0; k < options.length; k++) indices.push(column++)
    for (let k = 0; k < options.length; k++) values.push(1)
    starts.push(indices.length)
  }
  limits.forEach((_, c) => {
    columns.forEach((option, j) => {
      if (option.costs[c] === 0) return
      indices.push(j)
      values.push(option.costs[c]! * rowScales[c]!)
    })
    starts.push(indices.length)
  })
  const numRows = items.length + limits.length
  const highs = await loadHighs()
  const { modelStatus, variableType } = highs.constants
  const data = {
    numCols: columns.length,
    numRows,
    colCost: colCost.map((loss) => loss * objectiveScale),
    colLower: columns.map(() => 0),
    colUpper: columns.map(() => 1),
    rowLower: [...items.map(() => 1), ...limits.map(() => Number.NEGATIVE_INFINITY)],
    rowUpper: [...items.map(() => 1), ...limits.map((limit, c) => limit * rowScales[c]!)],
    matrix: { format: 'csr' as const, numRows, numCols: columns.length, starts, indices, values },
    ...(integer ? { integrality: columns.map(() => variableType.integer) } : {}),
  }
  return highs.withModel(data, (model): Answer => {
    model.options.set({ output_flag: false, random_seed: 0, time_limit: seconds, mip_rel_gap: 0, mip_abs_gap: 0 })
    model.options.set({ mip_feasibility_tolerance: TOLERANCE, primal_feasibility_tolerance: TOLERANCE })
    model.options.set({ dual_feasibility_tolerance: TOLERANCE })
    model.run()
    const status = model.getModelStatus()
    if (status === modelStatus.infeasible || status === modelStatus.unboundedOrInfeasible) {
      return { status: 'infeasible', values: undefined, bound: Number.POSITIVE_INFINITY, prices: limits.map(() => 0) }
    }
    const found = model.info.get('primal_solution_status') === highs.constants.solutionStatus.feasible
    const solution = found ? model.getSolution() : undefined
    const duals = limits.map((_, c) => solution?.rowDual[items.length + c] ?? 0)
    const dualBound = Number(model.info.get('mip_dual_bound'))
    return {
      status: status === modelStatus.optimal ? 'optimal' : 'stopped',
      values: solution && [...solution.colValue],
      bound: integer && Number.isFinite(dualBound) ? dualBound / objectiveScale : Number.NEGATIVE_INFINITY,
      prices: duals.map((dual, c) => (integer ? 0 : (Math.max(0, -dual) * rowScales[c]!) / objectiveScale)),
    }
  })
}

/** Per item the option with the largest value. */
function largest({ items }: Presolved, values: readonly number[]): number[] {
  let column = 0
  return items.map((options) => {
    const own = values.slice(column, column + options.length)
    column += options.length
    return own.indexOf(Math.max(...own))
  })
}

/** Indices into the options of the core as indices into those of the whole. */
function toIndices(presolved: Presolved, core: Presolved, taken: readonly number[]): number[] {
  return taken.map((k, i) => presolved.items[i]!.findIndex((o) => o.index === core.items[i]![k]!.index))
}

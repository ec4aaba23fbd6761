/** @file `--pareto FILE`: the curve of loss over stored bits, around the budget and beyond. */
import { writeTextFile } from '../onnx/textFile.ts'
import { planFigures } from '../quantize/planFigures.ts'
import type { ParetoPoint } from '../report.ts'
import { type Allocation, allocate } from './allocate.ts'
import { allocationTask, type MixedTask, planOfOptions } from './mixedPlan.ts'

/** Points between the least and the most that candidates take. */
const POINTS = 12

/**
 * The best allocations for budgets in stored bits per weight, each run for real where there is data.
 * @param asked the allocation of the run itself, which is a point too.
 */
export async function paretoCurve(task: MixedTask, asked: Allocation): Promise<ParetoPoint[]> {
  const base = allocationTask(task)
  const { items, layers } = base
  const weights = items.reduce((sum, item) => item.layers.reduce((all, l) => all + layers[l]!.layer.weights, sum), 0)
  const costs = layers.map(({ options }) => options.map(({ storedBytes }) => 8 * storedBytes))
  const ends = items.map((item) => {
    const own = item.allowed.map((k) => item.layers.reduce((sum, l) => sum + costs[l]![k]!, 0))
    return { least: Math.min(...own), most: Math.max(...own) }
  })
  const least = ends.reduce((sum, end) => sum + end.least, 0)
  const most = ends.reduce((sum, end) => sum + end.most, 0)
  const points: ParetoPoint[] = []
  for (let i = 0; i < POINTS; i++) {
    const limit = Math.floor(least + ((most - least) * i) / (POINTS - 1))
    const allocation = await allocate({
      ...base,
      limits: [{ name: 'stored bits', limit, costs }, ...(task.latency ? [task.latency] : [])],
      evaluations: 0,
    }).catch((error: Error & { code?: string }) => {
      if (error.code === 'infeasible') return undefined
      throw error
    })
    if (allocation) points.push(pointOf(task, `${(limit / weights).toFixed(3)}bpw`, allocation))
  }
  points.push(pointOf(task, task.config.budget ?? 'this run', asked))
  return points.sort((a, b) => a.bytes - b.bytes)
}

function pointOf(task: MixedTask, budget: string, { options, proposals, chosen, measured }: Allocation): ParetoPoint {
  const plan = planOfOptions(task, options)
  const { outputBytes } = planFigures(task.model, task.found, plan, plan.settled)
  const predicted = proposals[chosen]!.predicted ?? proposals[0]!.predicted ?? 0
  return { budget, bytes: outputBytes, predicted, measured }
}

/** Write the curve. @throws QtoolError `output`. */
export function writeCurve(file: string, points: readonly ParetoPoint[]): void {
  writeTextFile(file, `${JSON.stringify({ kind: 'pareto', points }, null, 2)}\n`)
}

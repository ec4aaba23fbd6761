/** @file The tables of `mixed.ts`: mixed widths beside uniform ones, and what each sensitivity is worth on its own. */
import { type MixedRow, ORDER_BUDGETS } from './mixedModels.ts'
import { type LoweredBlocks, MOST_FALL, type OrderedAllocation, type Orders } from './mixedOrders.ts'
import type { Arm } from './mixedRun.ts'
import { formatBytes, machineLine, markdownTable } from './results.ts'

/** A budget on a model, measured. */
export interface MeasuredBudget {
  /** Of the source. */
  readonly state: string
  readonly model: string
  readonly row: MixedRow
  readonly groupSize: number | 'channel'
  readonly loss: 'KL' | 'relative error'
  readonly task: string
  readonly float: number
  readonly uniform: Arm
  readonly mixed: Arm
}

export interface MeasuredOrders {
  readonly model: string
  readonly loss: 'KL' | 'relative error'
  readonly task: string
  readonly orders: Orders
}

type Success = Exclude<Arm, { readonly failure: string }>

const NONE = '–'
const STALE = '*'

const ok = (arm: Arm): Success | undefined => ('failure' in arm ? undefined : arm)
const formatTask = (value: number): string => value.toFixed(value < 1 ? 4 : 3)
const formatLoss = (value: number | undefined): string => value?.toPrecision(4) ?? NONE
const cell = (arm: Arm, show: (success: Success) => string): string => ('failure' in arm ? 'failed' : show(arm))

function ratioOf({ uniform, mixed }: MeasuredBudget): number | undefined {
  const [ours, theirs] = [ok(mixed)?.loss, ok(uniform)?.loss]
  return ours === undefined || theirs === undefined ? undefined : ours / theirs
}

function budgetTable(rows: readonly MeasuredBudget[], state: string): string {
  const header = ['model', 'group', 'uniform', 'mixed', 'loss', 'loss uniform', 'loss mixed', 'ratio', 'wanted', 'met']
  return markdownTable(
    [...header, 'metric', 'float', 'metric uniform', 'metric mixed'],
    rows.map((measured) => {
      const { model, groupSize, row, loss, task, float, uniform, mixed } = measured
      const ratio = ratioOf(measured)
      return [
        ...[model + (measured.state === state ? '' : STALE), String(groupSize), `${row.uniform}bit`, row.budget, loss],
        ...[uniform, mixed].map((arm) => cell(arm, (success) => formatLoss(success.loss))),
        ...[
          ratio?.toFixed(3) ?? NONE,
          `≤ ${row.limit}`,
          ratio === undefined ? NONE : ratio <= row.limit ? 'yes' : 'no',
        ],
        ...[task, formatTask(float)],
        ...[uniform, mixed].map((arm) => cell(arm, (success) => formatTask(success.task))),
      ]
    }),
  )
}

/** How the winner came about; after the exchanges nothing predicts it any more. */
function allocationCells({ mixed }: MeasuredBudget): string[] {
  const allocation = ok(mixed)?.allocation
  if (!allocation) return new Array<string>(7).fill(NONE)
  const { candidates, measured, uniform, evaluations, accepted, widths } = allocation
  const winner = candidates.find(({ chosen }) => chosen)
  return [
    winner?.from ?? 'uniform',
    formatLoss(winner?.predicted),
    ...[winner ? winner.measured : uniform?.measured, measured, uniform?.measured].map(formatLoss),
    `${accepted} of ${evaluations}`,
    ...[widthCounts(widths)],
  ]
}

/** '2×5, 4×12': layers of each width. */
function widthCounts(widths: readonly number[]): string {
  const counts = new Map<number, number>()
  for (const width of widths) counts.set(width, (counts.get(width) ?? 0) + 1)
  return [...counts]
    .sort(([a], [b]) => a - b)
    .map(([width, count]) => `${count} × ${width}`)
    .join(', ')
}

function costTable(rows: readonly MeasuredBudget[]): string {
  const header = [
    'model',
    'budget',
    'bits uniform',
    'bits mixed',
    'stored uniform',
    'stored mixed',
    's uniform',
    's mixed',
  ]
  return markdownTable(
    [
      ...header,
      'from',
      'predicted',
      'held out',
      'after exchanges',
      'held out uniform',
      'kept of runs',
      'layers × bits',
    ],
    rows.map((measured) => {
      const arms = [measured.uniform, measured.mixed]
      return [
        ...[measured.model, measured.row.budget],
        ...arms.map((arm) => cell(arm, ({ meanBits }) => meanBits.toFixed(3))),
        ...arms.map((arm) => cell(arm, ({ storedBytes }) => formatBytes(storedBytes))),
        ...arms.map((arm) => cell(arm, ({ seconds }) => seconds.toFixed(0))),
        ...allocationCells(measured),
      ]
    }),
  )
}

/** Losses of all draws of an order, sorted; one unless it is random. */
function lossesAt(allocations: readonly OrderedAllocation[], budget: string): number[] {
  return allocations
    .filter((allocation) => allocation.budget === budget)
    .flatMap(({ arm }) => ok(arm)?.loss ?? [])
    .sort((a, b) => a - b)
}

const median = (sorted: readonly number[]): number | undefined => sorted[Math.floor(sorted.length / 2)]

/** Draws of a random order count as one. */
const orderName = (order: string): string => order.replace(/ \d+$/, '')

function ordersTable({ agreements, allocations, budgets }: Orders): string {
  const names = [...new Set(allocations.map(({ order }) => orderName(order)))]
  const known = ORDER_BUDGETS.filter((budget) => budgets.includes(budget))
  const own = (name: string) => allocations.filter(({ order }) => orderName(order) === name)
  const best = known.map((budget) => Math.min(...names.flatMap((name) => median(lossesAt(own(name), budget)) ?? [])))
  const header = ['sensitivity', 'R²', 'Spearman', ...known, 'mean ratio to the best']
  return markdownTable(
    header,
    names.map((name) => {
      const agreement = agreements.find(({ sensitivity }) => sensitivity === name)
      const losses = known.map((budget) => lossesAt(own(name), budget))
      const ratios = losses.flatMap((sorted, b) => (sorted.length > 0 ? [median(sorted)! / best[b]!] : []))
      const isComplete = ratios.length === known.length
      return [
        ...[name, agreement?.rSquared?.toFixed(3) ?? NONE, agreement?.spearman?.toFixed(3) ?? NONE],
        ...losses.map((sorted, b) => lossCell(sorted, best[b]!)),
        isComplete
          ? Math.exp(ratios.reduce((sum, ratio) => sum + Math.log(ratio), 0) / ratios.length).toFixed(3)
          : NONE,
      ]
    }),
  )
}

/** The smallest of a budget in bold, the range of several draws behind their median. */
function lossCell(sorted: readonly number[], best: number): string {
  const middle = median(sorted)
  if (middle === undefined) return NONE
  const text = formatLoss(middle)
  const range = sorted.length > 1 ? ` (${formatLoss(sorted[0])} – ${formatLoss(sorted.at(-1))})` : ''
  return `${middle === best ? `**${text}**` : text}${range}`
}

function blocksTable(lowered: readonly LoweredBlocks[], blocks: number): string {
  return markdownTable(
    ['order', 'blocks at 2 bits', 'metric with none, one, two, …'],
    lowered.map(({ order, tasks, kept }) => [order, `${kept} of ${blocks}`, tasks.map(formatTask).join(', ')]),
  )
}

function ordersSection({ model, loss, task, orders }: MeasuredOrders, state: string): string[] {
  const failures = orders.allocations.flatMap(({ budget, order, arm }) =>
    'failure' in arm ? [`- ${budget} by ${order}: ${arm.failure}`] : [],
  )
  return [
    `### ${model}${orders.state === state ? '' : STALE}`,
    `R² and rank correlation over drawn configurations on held-out calibration samples; then ${loss} on unseen data.`,
    ordersTable(orders),
    ...(failures.length > 0 ? [failures.join('\n')] : []),
    ...(orders.lowered.length > 0
      ? [
          `Blocks that go from 4 to 2 bits before ${task} falls by ${100 * MOST_FALL} %:`,
          blocksTable(orders.lowered, orders.blocks),
        ]
      : ['No blocks: there is no residual stream.']),
  ]
}

/** The section of RESULTS.md. @param state of the source now; rows of another one are marked. */
export function renderMixed(rows: readonly MeasuredBudget[], orders: readonly MeasuredOrders[], state: string): string {
  const failures = rows.flatMap(({ model, row, uniform, mixed }) =>
    Object.entries({ uniform, mixed }).flatMap(([name, arm]) =>
      'failure' in arm ? [`- ${model}, ${row.budget}, ${name}: ${arm.failure}`] : [],
    ),
  )
  const isStale = [...rows, ...orders.map((measured) => measured.orders)].some((measured) => measured.state !== state)
  return [
    '## Mixed widths beside uniform ones',
    'Both calibrated on the same samples by the same solver with the same groups and asymmetric grids; weights only, ' +
      'activations stay float; the written file, run by onnxruntime on evaluation data that calibration never saw. ' +
      'KL: mean over positions of KL(float ‖ quantized), nats. Relative error: squared, over the squared outputs of the ' +
      `float model. ${machineLine()}.${isStale ? ` ${STALE}: measured with another state of the source.` : ''}`,
    ...(rows.length > 0
      ? [
          budgetTable(rows, state),
          'Bytes are those of codes, scales and zero points. Seconds are of the whole run, with measuring. Predicted is by ' +
            'the cost vector that won (from); held out is the loss of the same allocation on held-out calibration samples, beside ' +
            'that of the result after exchanges and of the uniform width that the budget allows. Kept of runs: exchanges kept, of all real runs.',
          costTable(rows),
        ]
      : []),
    ...(failures.length > 0 ? [failures.join('\n')] : []),
    ...(orders.length > 0
      ? [
          '## What each sensitivity is worth on its own',
          'Each alone allocates, by the same solver, without trying allocations and without exchanges. The smallest of a ' +
            'budget is bold; random orders: median and range of three draws. The mean ratio is geometric, over budgets.',
          ...orders.flatMap((measured) => ordersSection(measured, state)),
        ]
      : []),
  ].join('\n\n')
}

/**
 * @file What mixed widths are worth: a budget that is solved beside one width for all layers, of the same solver, groups and
 * data, judged on data that calibration never saw. With `--orders`, what each sensitivity is worth on its own.
 *
 * `npx tsx bench/mixed.ts [--only NAME,NAME] [--budgets 4bit,3bit] [--orders] [--keep] [--render]`
 *
 * Figures are kept in bench/out/mixed. `--keep` does not measure again what is there; `--render` writes all that is there
 * into RESULTS.md, after measuring.
 */
import { parseArgs } from 'node:util'
import type { QuantizeConfig } from '../src/config.ts'
import { openMixedJudge } from './mixedJudge.ts'
import { MIXED_MODELS, type MixedModel, type MixedRow, ORDER_BUDGETS } from './mixedModels.ts'
import { measureOrders } from './mixedOrders.ts'
import { keep, measureArm, readKept, type Subject, sourceState } from './mixedRun.ts'
import { type MeasuredBudget, type MeasuredOrders, renderMixed } from './mixedTables.ts'
import { findModels } from './modelList.ts'
import { requireSharedModels, runBenchmark } from './paths.ts'
import { writeSection } from './results.ts'

const ORDERS = 'orders'

async function measureRow(subject: Subject, row: MixedRow, state: string): Promise<MeasuredBudget> {
  const { model, judge } = subject
  const { groupSize } = model
  const arm = (label: string, config: Partial<QuantizeConfig>) => measureArm(subject, label, { groupSize, ...config })
  const uniform = await arm(`uniform ${row.uniform}bit`, { bits: row.uniform })
  const mixed = await arm(`mixed ${row.budget}`, { budget: row.budget })
  const { loss, task, float } = judge
  return { state, model: model.name, row, groupSize, loss, task, float, uniform, mixed }
}

async function measureModel(model: MixedModel, rows: readonly MixedRow[], orders: readonly string[], state: string) {
  const [bench] = findModels([model.name])
  if (!bench) return
  const judge = await openMixedJudge(bench, model.batch)
  console.error(`${model.name} float: ${judge.task} ${judge.float.toFixed(4)}`)
  const subject = { model, bench, judge }
  for (const row of rows) keep(model, row.budget, await measureRow(subject, row, state))
  if (orders.length === 0) return
  const { loss, task } = judge
  const measured: MeasuredOrders = {
    ...{ model: model.name, loss, task },
    orders: await measureOrders(subject, orders, state),
  }
  keep(model, ORDERS, measured)
}

function readNames(text: string | undefined, known: readonly string[], option: string): readonly string[] {
  const names = text?.split(',') ?? known
  const unknown = names.find((name) => !known.includes(name))
  if (unknown !== undefined) throw new Error(`--${option}: ${unknown} is none of ${known.join(', ')}`)
  return names
}

/** What bench/out/mixed has of these models and budgets. */
function keptFigures(models: readonly MixedModel[], budgets: readonly string[]) {
  return {
    rows: models.flatMap((model) =>
      model.rows
        .filter(({ budget }) => budgets.includes(budget))
        .flatMap(({ budget }) => readKept<MeasuredBudget>(model, budget) ?? []),
    ),
    orders: models.flatMap((model) => readKept<MeasuredOrders>(model, ORDERS) ?? []),
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string' },
      budgets: { type: 'string' },
      orders: { type: 'boolean', default: false },
      keep: { type: 'boolean', default: false },
      render: { type: 'boolean', default: false },
    },
  })
  requireSharedModels()
  const all = MIXED_MODELS.map(({ name }) => name)
  const names = readNames(values.only, all, 'only')
  const models = MIXED_MODELS.filter(({ name }) => names.includes(name))
  const budgets = readNames(values.budgets, ORDER_BUDGETS, 'budgets')
  const state = sourceState()
  for (const model of models) {
    const isOpen = (name: string) => !values.keep || readKept(model, name) === undefined
    const rows = model.rows.filter(({ budget }) => budgets.includes(budget) && isOpen(budget))
    const wanted = values.orders && model.orders && isOpen(ORDERS)
    const orders = wanted ? ORDER_BUDGETS.filter((budget) => budgets.includes(budget)) : []
    if (rows.length + orders.length > 0) await measureModel(model, rows, orders, state)
  }
  const here = keptFigures(models, budgets)
  console.log(renderMixed(here.rows, values.orders ? here.orders : [], state))
  if (!values.render) return
  const kept = keptFigures(MIXED_MODELS, ORDER_BUDGETS)
  writeSection('mixed', renderMixed(kept.rows, kept.orders, state))
}

await runBenchmark(main)

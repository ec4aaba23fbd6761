/**
 * @file What rotations and token importance are worth: the solver alone, rotation alone, each strategy of importance alone,
 * and what `--method rsq` makes of them, on the same widths and data, judged on data that calibration never saw.
 *
 * `npx tsx bench/rsq.ts [--only NAME,NAME] [--arms solver,rotation,importance,rsq] [--seeds N] [--keep | --fresh] [--render]`
 *
 * NAME is a model or the beginning of a row's name: `lm-3m`, `lm-3m/3b`. An arm is `solver`, `rotation`, `rsq`, a strategy, or
 * `importance` for all strategies. Each result goes to bench/out/rsq at once: a run goes on where it stopped, as long as the
 * source is the same; `--keep` takes results of another state too, `--fresh` none. `--render` writes all that is there into
 * RESULTS.md, after measuring.
 */
import { parseArgs } from 'node:util'
import { type MixedJudge, openMixedJudge } from './mixedJudge.ts'
import { sourceState } from './mixedRun.ts'
import { requireSharedModels, runBenchmark } from './paths.ts'
import { writeSection } from './results.ts'
import { findRsqModel, RSQ_MODELS, type RsqModel, type RsqRow, readArms, rsqRowName } from './rsqModels.ts'
import { keepRsq, type MeasuredRsq, measureRsq, readRsq } from './rsqRun.ts'
import { type KnownRow, renderRsq } from './rsqTables.ts'

interface Wanted {
  readonly arms: readonly string[] | undefined
  readonly seeds: number | undefined
  readonly only: readonly string[] | undefined
  readonly reuse: 'state' | 'any' | 'none'
}

interface Job {
  readonly row: RsqRow
  readonly arm: string
  readonly seed: number
}

const isWanted = (name: string, only: Wanted['only']): boolean =>
  only === undefined || only.some((wanted) => name === wanted || name.startsWith(`${wanted}/`))

const rowsOf = ({ name, rows }: RsqModel, only: Wanted['only']): readonly RsqRow[] =>
  rows.filter((row) => isWanted(rsqRowName(name, row), only))

function isKept(measured: MeasuredRsq | undefined, { arm, seed }: Job, { reuse }: Wanted, state: string): boolean {
  const result = measured?.arms[arm]?.[seed]
  return result !== undefined && (reuse === 'any' || (reuse === 'state' && result.state === state))
}

/** Seed by seed, so that a run that is cut short has whole comparisons. */
function openJobs(model: RsqModel, wanted: Wanted, state: string): Job[] {
  const arms = wanted.arms ?? model.arms
  const seeds = Array.from({ length: wanted.seeds ?? model.seeds }, (_, seed) => seed)
  return rowsOf(model, wanted.only).flatMap((row) => {
    const kept = readRsq(model.name, row)
    const jobs = seeds.flatMap((seed) => arms.map((arm) => ({ row, arm, seed })))
    return jobs.filter((job) => !isKept(kept, job, wanted, state))
  })
}

async function measureModel(model: RsqModel, wanted: Wanted, state: string): Promise<void> {
  const jobs = openJobs(model, wanted, state)
  const bench = jobs.length > 0 ? findRsqModel(model.name) : undefined
  if (!bench) return
  const judge: MixedJudge = await openMixedJudge(bench, model.batch)
  console.error(`${model.name} float: ${judge.task} ${judge.float.toFixed(4)}; ${jobs.length} to measure`)
  for (const { row, arm, seed } of jobs) {
    const result = await measureRsq({ bench, model, row, judge }, arm, seed)
    keepRsq(model.name, row, judge, { arm, seed, result: { state, ...result } })
  }
}

/** What bench/out/rsq has. */
function knownRows(only: Wanted['only']): KnownRow[] {
  return RSQ_MODELS.flatMap((model) =>
    rowsOf(model, only).flatMap((row) => {
      const measured = readRsq(model.name, row)
      const original = RSQ_MODELS.find(({ name }) => name === model.original)
      const sameRow = original?.rows.find((other) => rsqRowName('', other) === rsqRowName('', row))
      const onOriginal = original && sameRow ? readRsq(original.name, sameRow) : undefined
      return measured ? { model: model.name, row, measured, onOriginal } : []
    }),
  )
}

function readSeeds(text: string | undefined): number | undefined {
  const seeds = text === undefined ? undefined : Number(text)
  if (seeds !== undefined && !(Number.isInteger(seeds) && seeds > 0))
    throw new Error(`--seeds: ${text} is no number from 1`)
  return seeds
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string' },
      arms: { type: 'string' },
      seeds: { type: 'string' },
      keep: { type: 'boolean', default: false },
      fresh: { type: 'boolean', default: false },
      render: { type: 'boolean', default: false },
    },
  })
  if (values.keep && values.fresh) throw new Error('--keep and --fresh exclude each other')
  requireSharedModels()
  const wanted: Wanted = {
    only: values.only?.split(','),
    arms: values.arms === undefined ? undefined : readArms(values.arms),
    seeds: readSeeds(values.seeds),
    reuse: values.keep ? 'any' : values.fresh ? 'none' : 'state',
  }
  if (RSQ_MODELS.every((model) => rowsOf(model, wanted.only).length === 0)) {
    throw new Error('--only names no row; rows are called like lm-3m/3b/channel/MatMul')
  }
  const state = sourceState()
  for (const model of RSQ_MODELS) await measureModel(model, wanted, state)
  console.log(renderRsq(knownRows(wanted.only), state))
  if (values.render) writeSection('rsq', renderRsq(knownRows(undefined), state))
}

await runBenchmark(main)

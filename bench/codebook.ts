/**
 * @file What codebooks are worth: indices into tables beside the best grid of the solver whose file is not larger, on the
 * same calibration data, judged on data that calibration never saw; JLCM's groups of rows one by one; the smallest file that
 * keeps the metric; and how long the files run.
 *
 * `npx tsx bench/codebook.ts [--only NAME,NAME] [--bits 2,3,4] [--arms trellis8,jlcm1,grid/128] [--fitting] [--keep | --fresh] [--speed] [--render]`
 *
 * NAME is a model. An arm is a codebook of codebookModels.ts or `grid`, `grid/SIZE`, `grid/SIZE/yes` (symmetric) or `no`.
 * `--fitting` leaves out grids whose file would be larger than every codebook's of its width or a higher one. `--speed` measures time and
 * nothing else, on an idle machine. Each result goes to bench/out/codebook at once: a run goes on where it stopped, as long as the
 * source is the same; `--keep` takes results of another state too, `--fresh` none. `--render` writes all that is there
 * into RESULTS.md, after measuring; with `--arms none` or `--bits none` it does only that.
 */
import { statSync } from 'node:fs'
import { parseArgs } from 'node:util'
import {
  armsOf,
  CODEBOOK_MODELS,
  type CodebookArm,
  type CodebookBits,
  type CodebookModel,
  isArmWanted,
  readCodebookArms,
  readCodebookBits,
} from './codebookModels.ts'
import {
  expectedGridBytes,
  keepCodebook,
  keepTimes,
  type MeasuredCodebooks,
  measureCodebook,
  readCodebooks,
  readTimes,
  resultName,
} from './codebookRun.ts'
import { measureTimes } from './codebookSpeed.ts'
import { BYTES_SLACK, type KnownModel, renderCodebooks } from './codebookTables.ts'
import { openMixedJudge } from './mixedJudge.ts'
import { sourceState } from './mixedRun.ts'
import { type BenchModel, findModels } from './modelList.ts'
import { requireSharedModels, runBenchmark } from './paths.ts'
import { writeSection } from './results.ts'

interface Wanted {
  readonly only: readonly string[] | undefined
  readonly bits: readonly CodebookBits[]
  readonly arms: readonly string[] | undefined
  readonly fitting: boolean
  readonly reuse: 'state' | 'any' | 'none'
}

function isKept(measured: MeasuredCodebooks | undefined, arm: CodebookArm, { reuse }: Wanted): boolean {
  const result = measured?.results[resultName(arm)]
  return result !== undefined && (reuse === 'any' || (reuse === 'state' && result.state === sourceState()))
}

const wantedArms = (wanted: Wanted): CodebookArm[] =>
  wanted.bits.flatMap(armsOf).filter((arm) => isArmWanted(arm, wanted.arms))

/** Whether a grid can be the best one beside some codebook that is measured. */
async function canFit(bench: BenchModel, arm: CodebookArm): Promise<boolean> {
  const results = Object.entries(readCodebooks(bench.name)?.results ?? {})
  const limits = results.flatMap(([name, result]) =>
    name.includes('grid') || Number(name[0]) < arm.bits || 'failure' in result ? [] : [result.fileBytes],
  )
  const bytes = await expectedGridBytes(bench, arm)
  const fits = bytes === undefined || bytes <= BYTES_SLACK * Math.max(...limits)
  if (!fits) console.error(`${bench.name} ${resultName(arm)}: left out, ${bytes} bytes are more than any codebook's`)
  return fits
}

async function measureModel(model: CodebookModel, wanted: Wanted): Promise<void> {
  const kept = readCodebooks(model.name)
  const jobs = wantedArms(wanted).filter((arm) => !isKept(kept, arm, wanted))
  const [bench] = jobs.length > 0 ? findModels([model.name]) : []
  if (!bench) return
  const judge = await openMixedJudge(bench, model.batch)
  console.error(`${model.name} float: ${judge.task} ${judge.float.toFixed(4)}; ${jobs.length} to measure`)
  for (const arm of jobs) {
    if (arm.isGrid && wanted.fitting && !(await canFit(bench, arm))) continue
    const state = sourceState()
    keepCodebook(model.name, judge, arm, { ...(await measureCodebook({ bench, model, judge }, arm)), state })
  }
}

async function timeModel(model: CodebookModel, wanted: Wanted): Promise<void> {
  const results = readCodebooks(model.name)?.results ?? {}
  const arms = wantedArms(wanted).filter((arm) => !arm.isGrid && results[resultName(arm)] !== undefined)
  const [bench] = arms.length > 0 ? findModels([model.name]) : []
  if (!bench) return
  const state = sourceState()
  if (wanted.reuse !== 'none' && readTimes(model.name)?.state === state) return
  keepTimes(model.name, { state, files: await measureTimes(bench, model, arms) })
}

/** What bench/out/codebook has. */
function knownModels(only: Wanted['only']): KnownModel[] {
  return CODEBOOK_MODELS.filter(({ name }) => only?.includes(name) ?? true).flatMap((model) => {
    const measured = readCodebooks(model.name)
    const [bench] = measured ? findModels([model.name]) : []
    if (!(measured && bench)) return []
    return { model, measured, times: readTimes(model.name), floatBytes: statSync(bench.path).size }
  })
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string' },
      bits: { type: 'string' },
      arms: { type: 'string' },
      fitting: { type: 'boolean', default: false },
      speed: { type: 'boolean', default: false },
      keep: { type: 'boolean', default: false },
      fresh: { type: 'boolean', default: false },
      render: { type: 'boolean', default: false },
    },
  })
  if (values.keep && values.fresh) throw new Error('--keep and --fresh exclude each other')
  requireSharedModels()
  const wanted: Wanted = {
    only: values.only?.split(','),
    bits: values.bits === 'none' ? [] : readCodebookBits(values.bits),
    arms: values.arms === 'none' ? [] : readCodebookArms(values.arms),
    fitting: values.fitting,
    reuse: values.keep ? 'any' : values.fresh ? 'none' : 'state',
  }
  const models = CODEBOOK_MODELS.filter(({ name }) => wanted.only?.includes(name) ?? true)
  if (models.length === 0) throw new Error(`--only: models are ${CODEBOOK_MODELS.map(({ name }) => name).join(', ')}`)
  for (const model of models) await (values.speed ? timeModel : measureModel)(model, wanted)
  console.log(renderCodebooks(knownModels(wanted.only), sourceState()))
  if (values.render) writeSection('codebook', renderCodebooks(knownModels(undefined), sourceState()))
}

await runBenchmark(main)

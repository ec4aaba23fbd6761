/**
 * @file The table of real models: size, quality and speed of each at every width in both formats.
 *
 * `npx tsx bench/models.ts [--models A,B] [--bits 8,4] [--formats auto,standard] [--minutes 25] [--fresh] [--render]`
 *
 * Results go to bench/out/models.jsonl, one line a job. A job that is there for the same build of the tool is not run
 * again, so an interrupted or time-limited run is continued by the next. --render writes the tables into RESULTS.md
 * from what is there, and with --minutes 0 does only that.
 */
import { parseArgs } from 'node:util'
import type { Format } from '../src/config.ts'
import { BITS, type Bits } from '../src/quant/quantizedWeight.ts'
import { buildDigest, forgetResults, isSameJob, type Job, type JobResult, readResults, runJob } from './modelJobs.ts'
import { findModels } from './modelList.ts'
import { renderModels } from './modelTables.ts'
import { requireCli, runBenchmark } from './paths.ts'
import { writeSection } from './results.ts'

const JOB_LIMIT_SECONDS = 120

function parseList<T extends string | number>(text: string, allowed: readonly T[], option: string): T[] {
  return text.split(',').map((word) => {
    const found = allowed.find((value) => String(value) === word)
    if (found === undefined) throw new Error(`--${option}: ${word} is none of ${allowed.join(', ')}`)
    return found
  })
}

function describe({ failure, evaluated, quantized, seconds }: JobResult): string {
  if (failure !== undefined) return failure
  const { task, outputs } = evaluated!
  const quality = task ? `${task.name} ${task.candidate.toFixed(4)}` : `SQNR ${outputs[0]?.sqnr?.toFixed(1)} dB`
  return `${(quantized!.totals.ratio * 100).toFixed(1)} % of the size, ${quality}, ${seconds.toFixed(1)} s`
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      models: { type: 'string' },
      bits: { type: 'string', default: BITS.join(',') },
      formats: { type: 'string', default: 'auto,standard' },
      minutes: { type: 'string', default: '25' },
      fresh: { type: 'boolean', default: false },
      render: { type: 'boolean', default: false },
    },
  })
  requireCli()
  const bits = parseList<Bits>(values.bits, BITS, 'bits')
  const formats = parseList<Format>(values.formats, ['auto', 'contrib', 'standard'], 'formats')
  const models = findModels(values.models?.split(','))
  if (values.fresh) forgetResults()

  const jobs: Job[] = models.flatMap((model) => [
    ...(model.task ? [{ model, bits: 8 as const, format: 'auto' as const, pass: 'fp32' as const }] : []),
    ...bits.flatMap((width) => formats.map((format) => ({ model, bits: width, format, pass: 'table' as const }))),
  ])
  const build = buildDigest()
  const known = readResults().filter((result) => result.build === build)
  const open = jobs.filter((job) => !known.some((result) => isSameJob(result, job)))
  console.error(`${jobs.length} jobs, ${jobs.length - open.length} of them done before by this build (${build})`)

  const deadline = performance.now() + Number(values.minutes) * 60_000
  for (const [i, job] of open.entries()) {
    if (performance.now() > deadline) {
      console.error(`${open.length - i} jobs left: the ${values.minutes} minutes are over; run it again to go on`)
      break
    }
    if (buildDigest() !== build) throw new Error('the tool was rebuilt meanwhile; run it again')
    const result = await runJob(job, build, JOB_LIMIT_SECONDS)
    console.error(
      `${i + 1}/${open.length} ${job.model.name} ${job.bits} bits ${job.format}${job.pass === 'fp32' ? ' (all samples)' : ''}: ${describe(result)}`,
    )
  }
  if (values.render) writeSection('models', renderModels(findModels(undefined), readResults(), build))
}

await runBenchmark(main)

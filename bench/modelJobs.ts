/** @file One entry of the table of real models: quantize, evaluate, and keep what the table shows. */
import { createHash } from 'node:crypto'
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Format } from '../src/config.ts'
import type { Bits } from '../src/quant/quantizedWeight.ts'
import type { EvalReport, QuantizeReport } from '../src/report.ts'
import { prepareData } from './data.ts'
import type { BenchModel } from './modelList.ts'
import { OUT, ROOT } from './paths.ts'
import { evaluate, QtoolFailure, quantize } from './qtool.ts'
import { stsPearson } from './sts.ts'

const GROUP_SIZE = 32
const LATENCY_RUNS = 11

export interface Job {
  readonly model: BenchModel
  readonly bits: Bits
  readonly format: Format
  /** table: the model's number of samples. fp32: all samples, to reproduce the published figure. */
  readonly pass: 'table' | 'fp32'
}

/** A task metric of reference and candidate. */
interface TaskFigure {
  readonly name: string
  readonly reference: number
  readonly candidate: number
  readonly count: number
}

/** A line of models.jsonl. */
export interface JobResult {
  readonly build: string
  readonly model: string
  readonly bits: Bits
  readonly format: Format
  readonly pass: Job['pass']
  readonly seconds: number
  /** What qtool said when it refused; the fields below are then missing. */
  readonly failure?: string
  readonly quantized?: Pick<QuantizeReport, 'totals' | 'warnings'> & {
    readonly sourceBytes: number
    readonly outputBytes: number
    /** Representation → layers that use it. */
    readonly representations: Readonly<Record<string, number>>
    readonly leftAloneBytes: number
    readonly seconds: number
  }
  readonly evaluated?: Pick<EvalReport, 'outputs' | 'loadMilliseconds' | 'latencyMilliseconds' | 'warnings'> & {
    readonly samples: number
    /** What the runtime did → nodes. */
    readonly execution: Readonly<Record<string, number>>
    readonly task: TaskFigure | undefined
  }
}

const RESULTS_FILE = join(OUT, 'models.jsonl')

/** A digest of the built tool: results of another build are not comparable. */
export function buildDigest(): string {
  const hash = createHash('sha256')
  const dist = join(ROOT, 'dist')
  const files = readdirSync(dist, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.js'))
  for (const file of files.sort()) hash.update(file).update(readFileSync(join(dist, file)))
  return hash.digest('hex').slice(0, 12)
}

/** All results so far, of any build, oldest first. */
export function readResults(): JobResult[] {
  if (!existsSync(RESULTS_FILE)) return []
  const lines = readFileSync(RESULTS_FILE, 'utf8').split('\n')
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as JobResult)
}

export function forgetResults(): void {
  rmSync(RESULTS_FILE, { force: true })
}

export function isSameJob(result: JobResult, job: Job): boolean {
  return (
    result.model === job.model.name &&
    result.bits === job.bits &&
    result.format === job.format &&
    result.pass === job.pass
  )
}

function countBy<T>(items: readonly T[], key: (item: T) => string): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const item of items) counts[key(item)] = (counts[key(item)] ?? 0) + 1
  return counts
}

/** The reference is the same for all jobs of a model. */
const referenceFigures = new Map<string, Promise<{ pearson: number; pairs: number }>>()

/** STS-B is no metric of `qtool eval`: it needs pairs of rows. */
async function stsFigure(reference: string, candidate: string, pairs: number | undefined): Promise<TaskFigure> {
  const key = `${reference} ${pairs}`
  if (!referenceFigures.has(key)) referenceFigures.set(key, stsPearson(reference, pairs))
  const original = await referenceFigures.get(key)!
  const quantized = await stsPearson(candidate, pairs)
  return { name: 'STS-B Pearson', reference: original.pearson, candidate: quantized.pearson, count: original.pairs }
}

async function measure({ model, bits, format, pass }: Job, limitSeconds: number) {
  const folder = join(OUT, 'models')
  mkdirSync(folder, { recursive: true })
  const output = join(folder, 'candidate.onnx')
  const flags = ['--bits', String(bits), '--group-size', String(GROUP_SIZE), '--format', format, '--force']
  const made = await quantize([model.path, '-o', output, ...flags], limitSeconds)
  const data = prepareData(model.data)
  const samples = pass === 'fp32' ? 0 : model.samples
  const report = await evaluate(
    [model.path, output, '--data', data.inputs]
      .concat(data.labels ? ['--labels', data.labels] : [])
      .concat(samples > 0 ? ['--samples', String(samples)] : [])
      .concat(['--runs', String(LATENCY_RUNS), ...model.options]),
    limitSeconds,
  )
  const task =
    model.task?.name === 'STS-B Pearson'
      ? await stsFigure(model.path, output, samples > 0 ? samples / 2 : undefined)
      : (report.metrics[0] as TaskFigure | undefined)
  return {
    quantized: {
      totals: made.totals,
      warnings: made.warnings,
      sourceBytes: made.source.totalBytes,
      outputBytes: made.output.totalBytes,
      representations: countBy(
        made.layers.flatMap((layer) => layer.representations),
        (representation) => representation,
      ),
      leftAloneBytes: made.leftAlone.reduce((sum, item) => sum + item.bytes, 0),
      seconds: made.seconds,
    },
    evaluated: {
      outputs: report.outputs,
      loadMilliseconds: report.loadMilliseconds,
      latencyMilliseconds: report.latencyMilliseconds,
      warnings: report.warnings,
      samples: report.data.samples,
      execution: countBy(report.execution, (node) => node.status),
      task,
    },
  }
}

/** Run a job and append its result to models.jsonl; a refusal by qtool is a result too. */
export async function runJob(job: Job, build: string, limitSeconds: number): Promise<JobResult> {
  const started = performance.now()
  const { model, bits, format, pass } = job
  let outcome: Pick<JobResult, 'failure' | 'quantized' | 'evaluated'>
  try {
    outcome = await measure(job, limitSeconds)
  } catch (error) {
    if (!(error instanceof QtoolFailure)) throw error
    outcome = { failure: error.message }
  }
  const seconds = (performance.now() - started) / 1000
  const result: JobResult = { build, model: model.name, bits, format, pass, seconds, ...outcome }
  appendFileSync(RESULTS_FILE, `${JSON.stringify(result)}\n`)
  return result
}

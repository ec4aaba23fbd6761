/** @file The tables of real models in RESULTS.md, from the lines of models.jsonl. */
import { BITS } from '../src/quant/quantizedWeight.ts'
import type { OutputComparison } from '../src/report.ts'
import type { JobResult } from './modelJobs.ts'
import type { BenchModel } from './modelList.ts'
import { formatBytes, machineLine, markdownTable } from './results.ts'

const FORMATS = ['auto', 'standard'] as const

/** JSON has no Infinity: a model that changes nothing has an SQNR of null. */
const decibels = (sqnr: number | null): string => (sqnr === null ? '∞' : sqnr.toFixed(1))
const percent = (share: number): string => `${(share * 100).toFixed(1)} %`

function figure(name: string, value: number): string {
  return name === 'accuracy' ? percent(value) : name === 'perplexity' ? value.toFixed(3) : value.toFixed(4)
}

/** The output that a model is judged by: the one with classes or tokens, else the first. */
function mainOutput({ evaluated }: JobResult): OutputComparison | undefined {
  return evaluated?.outputs.find((output) => output.kl) ?? evaluated?.outputs[0]
}

/** The newest result of each job; of other builds too, which the caption says. */
function latest(results: readonly JobResult[]): JobResult[] {
  const newest = new Map(results.map((r) => [[r.model, r.bits, r.format, r.pass].join('\n'), r]))
  return [...newest.values()]
}

function fp32Table(models: readonly BenchModel[], results: readonly JobResult[]): string {
  const rows = models.flatMap((model) => {
    const task = results.find((r) => r.model === model.name && r.pass === 'fp32')?.evaluated?.task
    if (!model.task || !task) return []
    const { name, fp32 } = model.task
    return [
      [
        model.name,
        name,
        figure(name, fp32),
        figure(name, task.reference),
        figure(name, task.candidate),
        String(task.count),
      ],
    ]
  })
  return markdownTable(['model', 'metric', 'published fp32', 'fp32 here', '8 bits here', 'samples or tokens'], rows)
}

function overviewTable(models: readonly BenchModel[], results: readonly JobResult[], format: string): string {
  const rows = models.flatMap((model) => {
    const own = results.filter((r) => r.model === model.name && r.format === format && r.pass === 'table')
    if (own.length === 0) return []
    const task = own.find((r) => r.evaluated?.task)?.evaluated?.task
    const cells = BITS.map((bits) => {
      const result = own.find((r) => r.bits === bits)
      if (!result) return ''
      if (!result.evaluated) return 'refused'
      const { task: measured } = result.evaluated
      return measured ? figure(measured.name, measured.candidate) : `${decibels(mainOutput(result)!.sqnr)} dB`
    })
    return [[model.name, task?.name ?? 'SQNR', task ? figure(task.name, task.reference) : '–', ...cells]]
  })
  return markdownTable(['model', 'figure', 'fp32', ...BITS.map((bits) => `${bits} bits`)], rows)
}

function detailRow(result: JobResult): string[] {
  const head = [String(result.bits), result.format]
  if (!result.quantized || !result.evaluated) return [...head, result.failure ?? '', ...Array<string>(9).fill('')]
  const { quantized, evaluated } = result
  const output = mainOutput(result)
  const { latencyMilliseconds: latency, loadMilliseconds: load, task } = evaluated
  const counts = (of: Readonly<Record<string, number>>) =>
    Object.entries(of)
      .map(([what, count]) => `${count} ${what}`)
      .join(', ')
  return [
    ...head,
    formatBytes(quantized.outputBytes),
    percent(quantized.totals.ratio),
    quantized.totals.bitsPerWeight.toFixed(2),
    output ? decibels(output.sqnr) : '–',
    output?.kl ? `${output.kl.mean.toPrecision(2)} ± ${output.kl.standardError.toPrecision(1)}` : '–',
    output?.top1Agreement === undefined ? '–' : percent(output.top1Agreement),
    task ? figure(task.name, task.candidate) : '–',
    (latency.candidate / latency.reference).toFixed(2),
    `${load.candidate.toFixed(0)} / ${load.reference.toFixed(0)}`,
    counts(evaluated.execution) || counts(quantized.representations),
  ]
}

function detailTable(model: BenchModel, results: readonly JobResult[]): string {
  const own = results.filter((r) => r.model === model.name && r.pass === 'table')
  const rows = FORMATS.flatMap((format) =>
    BITS.flatMap((bits) => own.filter((r) => r.format === format && r.bits === bits).map(detailRow)),
  )
  if (rows.length === 0) return ''
  const first = own.find((r) => r.evaluated)
  const caption = first
    ? `${formatBytes(first.quantized!.sourceBytes)}, ${first.evaluated!.samples} samples${model.task ? '' : ', made up'}; fp32 ${first.evaluated!.task ? figure(first.evaluated!.task.name, first.evaluated!.task.reference) : 'figure: none'}.`
    : ''
  const header = ['bits', 'format', 'bytes', 'ratio', 'bits/weight', 'SQNR dB', 'KL nats', 'top-1 same']
  const table = markdownTable(
    [...header, first?.evaluated?.task?.name ?? 'task', 'time ratio', 'load ms', 'nodes'],
    rows,
  )
  return `### ${model.name}\n\n${caption}\n\n${table}`
}

/** All tables. `build` is the tool's present build; results of older ones are shown, and counted in the caption. */
export function renderModels(models: readonly BenchModel[], all: readonly JobResult[], build: string): string {
  const results = latest(all)
  const older = results.filter((r) => r.build !== build).length
  const seconds = results.reduce((sum, r) => sum + r.seconds, 0)
  return [
    '## Real models',
    `Groups of 32, no data used for quantizing. ${results.length} jobs in ${(seconds / 60).toFixed(1)} minutes; ${older} of them by an older build. ${machineLine()}.`,
    'Time ratio: median latency of the quantized model over that of the original (below 1 is faster). Load ms: quantized / original.',
    '### fp32 figures on the whole evaluation sets',
    fp32Table(models, results),
    ...FORMATS.flatMap((format) => [`### Format ${format}`, overviewTable(models, results, format)]),
    ...models.map((model) => detailTable(model, results)),
  ]
    .filter((part) => part !== '')
    .join('\n\n')
}

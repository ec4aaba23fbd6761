/** @file The table of `codebook.ts --speed`: load and run times beside float32 and the 4-bit grid. */
import type { MeasuredTimes } from './codebookRun.ts'
import { FLOAT, GRID } from './codebookSpeed.ts'
import { markdownTable } from './results.ts'

interface TimedModel {
  readonly model: { readonly name: string }
  readonly times: MeasuredTimes | undefined
}

const NONE = '–'
const INPUTS = ['one', 'calibration'] as const

const milliseconds = (value: number | undefined): string => value?.toFixed(value < 1 ? 3 : 2) ?? NONE

const ratio = (value: number | undefined, to: number | undefined): string =>
  value === undefined || to === undefined ? NONE : (value / to).toFixed(2)

/** With what it shows, as Markdown; empty when nothing was timed. */
export function timesTable(models: readonly TimedModel[]): string {
  const rows = models.flatMap(({ model, times }) => {
    const files = times?.files ?? {}
    return Object.entries(files).map(([name, { load, runs }]) => [
      ...[model.name, name, milliseconds(load)],
      ...INPUTS.flatMap((input) => [
        milliseconds(runs[input]),
        ...[FLOAT, GRID].map((other) => ratio(runs[input], files[other]?.runs[input])),
      ]),
    ])
  })
  if (rows.length === 0) return ''
  const header = ['model', 'file', 'load']
  const each = (input: string): string[] => [input, `${input} / float32`, `${input} / 4-bit grid`]
  return [
    'Milliseconds, medians of runs in turns in one process, all files of a model together; the tool’s usual accuracy level. Load: with ' +
      'the look-up of tables. Token: one token; sample: one sample as evaluation data have it.',
    markdownTable([...header, ...each('token'), ...each('sample')], rows),
  ].join('\n\n')
}

/** @file The tables of `rsq.ts`: losses and targets, every strategy of importance, metrics, and what it cost. */
import { IMPORTANCE_NAMES } from '../src/config.ts'
import { formatBytes, machineLine, markdownTable } from './results.ts'
import { type RsqRow, rsqRowName } from './rsqModels.ts'
import type { MeasuredRsq, RsqResult } from './rsqRun.ts'

export interface KnownRow {
  readonly model: string
  readonly row: RsqRow
  readonly measured: MeasuredRsq
  /** The same row of the model that this one is a change of basis of. */
  readonly onOriginal: MeasuredRsq | undefined
}

type Success = Extract<RsqResult, { loss: number }>

/** What differs from seed to seed. */
interface Spread {
  readonly mean: number
  /** Standard deviation; undefined for a single seed. */
  readonly deviation: number | undefined
  readonly least: number
  readonly most: number
}

const NONE = '–'
const STALE = '*'
const MAIN = ['solver', 'rotation', 'rsq']

/** Results by seed, refusals left out. */
function successes({ arms }: MeasuredRsq, arm: string): ReadonlyMap<string, Success> {
  const entries = Object.entries(arms[arm] ?? {})
  return new Map(entries.flatMap(([seed, result]) => ('failure' in result ? [] : [[seed, result] as const])))
}

function spreadOf(values: readonly number[]): Spread | undefined {
  if (values.length === 0) return undefined
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  const deviation = values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : undefined
  return { mean, deviation, least: Math.min(...values), most: Math.max(...values) }
}

const spread = (measured: MeasuredRsq, arm: string, of: (success: Success) => number): Spread | undefined =>
  spreadOf([...successes(measured, arm).values()].map(of))

/** Loss over loss at equal seeds. */
function ratio(
  [ours, arm]: readonly [MeasuredRsq, string],
  [theirs, other]: readonly [MeasuredRsq, string],
): Spread | undefined {
  const base = successes(theirs, other)
  const pairs = [...successes(ours, arm)].flatMap(([seed, { loss }]) => {
    const under = base.get(seed)
    return under ? [loss / under.loss] : []
  })
  return spreadOf(pairs)
}

function format(value: Spread | undefined, digits: (n: number) => string): string {
  if (!value) return NONE
  return value.deviation === undefined
    ? digits(value.mean)
    : `${digits(value.mean)} ± ${value.deviation.toPrecision(1)}`
}

/** Figures, or that the tool refused. */
function cell({ arms }: MeasuredRsq, arm: string, text: string): string {
  return text === NONE && Object.keys(arms[arm] ?? {}).length > 0 ? 'failed' : text
}

const ratioText = (value: Spread | undefined): string => {
  if (!value) return NONE
  const range = value.deviation === undefined ? '' : ` (${value.least.toFixed(3)} … ${value.most.toFixed(3)})`
  return value.mean.toFixed(3) + range
}

const lossText = (measured: MeasuredRsq, arm: string): string =>
  cell(
    measured,
    arm,
    format(
      spread(measured, arm, ({ loss }) => loss),
      (n) => n.toPrecision(4),
    ),
  )

const taskDigits = (n: number): string => n.toFixed(n < 1 ? 4 : 3)

/** STS-B and accuracy grow with quality, perplexity falls. */
function isMetricKept(measured: MeasuredRsq): boolean | undefined {
  const [own, solver] = ['rsq', 'solver'].map((arm) => spread(measured, arm, ({ task }) => task)?.mean)
  if (own === undefined || solver === undefined) return undefined
  return measured.task === 'perplexity' ? own <= solver : own >= solver
}

/** Each demand in words, and whether it is met: undefined where something was not measured. */
function demands({ row: { wanted }, measured, onOriginal }: KnownRow): (readonly [string, boolean | undefined])[] {
  const atMost = (value: Spread | undefined, limit: number) => (value ? value.mean <= limit : undefined)
  const toSolver = ratio([measured, 'rsq'], [measured, 'solver'])
  const toOriginal = onOriginal && ratio([measured, 'rsq'], [onOriginal, 'rsq'])
  return [
    ...(wanted.ratio === undefined ? [] : [[`≤ ${wanted.ratio}`, atMost(toSolver, wanted.ratio)] as const]),
    ...(wanted.ofOriginal === undefined
      ? []
      : [[`≤ ${wanted.ofOriginal} of the original`, atMost(toOriginal, wanted.ofOriginal)] as const]),
    ...(wanted.metric ? [[`${measured.task} not worse`, isMetricKept(measured)] as const] : []),
  ]
}

const verdict = (met: boolean | undefined): string => (met === undefined ? NONE : met ? 'yes' : 'no')

function isStale({ measured }: KnownRow, state: string): boolean {
  return Object.values(measured.arms).some((seeds) => Object.values(seeds).some((result) => result.state !== state))
}

function mainTable(rows: readonly KnownRow[], state: string): string {
  const header = ['row', 'grids', 'seeds', 'loss', 'solver', 'rotation', 'RSQ', 'rotation / solver', 'RSQ / solver']
  return markdownTable(
    [...header, 'RSQ / RSQ on the original', 'wanted', 'met'],
    rows.map((known) => {
      const { model, row, measured, onOriginal } = known
      const wanted = demands(known)
      return [
        rsqRowName(model, row) + (isStale(known, state) ? STALE : ''),
        row.symmetric === 'yes' ? 'symmetric' : 'asymmetric',
        String(successes(measured, 'rsq').size),
        measured.loss,
        ...MAIN.map((arm) => lossText(measured, arm)),
        ...['rotation', 'rsq'].map((arm) => ratioText(ratio([measured, arm], [measured, 'solver']))),
        ratioText(onOriginal && ratio([measured, 'rsq'], [onOriginal, 'rsq'])),
        wanted.map(([text]) => text).join(', '),
        wanted.map(([, met]) => verdict(met)).join(', '),
      ]
    }),
  )
}

/** Loss of each strategy alone over that of the solver. */
function strategyTable(rows: readonly KnownRow[]): string {
  const measuredOn = rows.filter(({ measured }) => IMPORTANCE_NAMES.some((name) => measured.arms[name] !== undefined))
  if (measuredOn.length === 0) return ''
  return markdownTable(
    ['row', ...IMPORTANCE_NAMES],
    measuredOn.map(({ model, row, measured }) => [
      rsqRowName(model, row),
      ...IMPORTANCE_NAMES.map((name) => {
        const value = ratio([measured, name], [measured, 'solver'])
        return cell(
          measured,
          name,
          format(value, (n) => n.toFixed(3)),
        )
      }),
    ]),
  )
}

function costTable(rows: readonly KnownRow[]): string {
  const seconds = (measured: MeasuredRsq, arm: string) => spread(measured, arm, (success) => success.seconds)
  const bytes = (measured: MeasuredRsq, arm: string) => spread(measured, arm, ({ fileBytes }) => fileBytes)?.mean
  return markdownTable(
    [
      'row',
      'metric',
      'float',
      'solver',
      'rotation',
      'RSQ',
      'bytes solver',
      'bytes RSQ',
      'seconds solver',
      'seconds RSQ',
    ],
    rows.map(({ model, row, measured }) => [
      ...[rsqRowName(model, row), measured.task, taskDigits(measured.float)],
      ...MAIN.map((arm) =>
        cell(
          measured,
          arm,
          format(
            spread(measured, arm, ({ task }) => task),
            taskDigits,
          ),
        ),
      ),
      ...['solver', 'rsq'].map((arm) => {
        const mean = bytes(measured, arm)
        return mean === undefined ? NONE : formatBytes(mean)
      }),
      ...['solver', 'rsq'].map((arm) => seconds(measured, arm)?.mean.toFixed(1) ?? NONE),
    ]),
  )
}

/** What the tool decided with each seed, equal decisions together; and what it refused. */
function remarks(rows: readonly KnownRow[]): string[] {
  return rows.flatMap(({ model, row, measured }) =>
    Object.entries(measured.arms).flatMap(([arm, seeds]) => {
      const texts = new Map<string, string[]>()
      for (const [seed, result] of Object.entries(seeds)) {
        const sentences = 'failure' in result ? [`refused: ${result.failure}`] : arm === 'rsq' ? result.decisions : []
        for (const sentence of sentences) texts.set(sentence, [...(texts.get(sentence) ?? []), seed])
      }
      return [...texts].map(([text, of]) => `- ${rsqRowName(model, row)}, ${arm}, seed ${of.join(', ')}: ${text}`)
    }),
  )
}

/** The section of RESULTS.md. @param state of the source, results of others are marked. */
export function renderRsq(rows: readonly KnownRow[], state: string): string {
  const strategies = strategyTable(rows)
  const said = remarks(rows)
  return [
    '## What rotations and token importance are worth',
    'Solver: `--method gptq`. Rotation: kept in any case, uniform importance. RSQ: `--method rsq`, which keeps what helps on held-out ' +
      'calibration samples. The same widths, groups and grids in a row; MatMul leaves embeddings float; weights only, ' +
      'activations stay float; judged on evaluation data that calibration never saw. Loss: KL(float ‖ quantized) per position in nats, or relative squared error. ' +
      'Seeds choose samples, held-out part and signs; means ± standard deviation, ratios of equal seeds with their range. ' +
      `lm-3m-principal: lm-3m with its residual stream turned into its principal axes. ${STALE}: of another state of the source, in part. ${machineLine()}.`,
    mainTable(rows, state),
    ...(strategies ? ['Importance alone, without rotation: loss over that of the solver.', strategies] : []),
    'The task, and what it costs. Bytes are those of the output.',
    costTable(rows),
    ...(said.length > 0 ? [said.join('\n')] : []),
  ].join('\n\n')
}

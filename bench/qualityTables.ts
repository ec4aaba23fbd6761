/** @file The tables of `quality.ts`: figures beside their targets, bytes, and what calibration cost. */
import type { CalibrationReport } from '../src/report.ts'
import type { Figures } from './qualityJudge.ts'
import type { QualityRow } from './qualityModels.ts'
import { formatBytes, machineLine, markdownTable } from './results.ts'

/** One way of quantizing a row, or what the tool said when it refused. */
export type ArmResult =
  | {
      readonly figures: Figures
      /** Codes, scales and zero points of all quantized layers. */
      readonly storedBytes: number
      readonly bitsPerWeight: number
      /** Of the whole quantization. */
      readonly seconds: number
      readonly calibration: CalibrationReport | undefined
      /** Layers for which plain rounding was better on held-out samples, of how many. */
      readonly rounded: number
      readonly layers: number
    }
  | { readonly failure: string }

type Success = Exclude<ArmResult, { readonly failure: string }>

export interface MeasuredRow {
  readonly name: string
  readonly metric: string
  readonly row: QualityRow
  readonly float: Figures
  readonly rtn?: ArmResult
  readonly auto?: ArmResult
  readonly gptq?: ArmResult
}

const NONE = '–'

const ok = (result: ArmResult | undefined): Success | undefined =>
  result === undefined || 'failure' in result ? undefined : result

function cell(result: ArmResult | undefined, show: (success: Success) => string): string {
  if (result === undefined) return NONE
  return 'failure' in result ? 'failed' : show(result)
}

const formatTask = (value: number): string => value.toFixed(value < 1 ? 4 : 3)
const formatKl = ({ figures }: Success): string => figures.kl?.toPrecision(4) ?? NONE

/** KL of the calibrated model over that of round-to-nearest. */
function klRatio({ rtn, gptq }: MeasuredRow): number | undefined {
  const [ours, theirs] = [ok(gptq)?.figures.kl, ok(rtn)?.figures.kl]
  return ours === undefined || theirs === undefined ? undefined : ours / theirs
}

/** The target in words, and whether it is met. */
function judgement(measured: MeasuredRow): readonly [target: string, met: string] {
  const { target } = measured.row
  if (target === undefined) return ['', '']
  const isRatio = target.kind === 'ratio at most'
  const limit = target.kind === 'no loss' ? measured.float.task : target.limit
  const value = isRatio ? klRatio(measured) : ok(measured.gptq)?.figures.task
  const sign = isRatio || target.kind === 'at most' ? '≤' : '≥'
  const text = `${isRatio ? 'KL ratio ' : ''}${sign} ${isRatio ? limit : formatTask(limit)}`
  if (value === undefined) return [text, NONE]
  return [text, (sign === '≤' ? value <= limit : value >= limit) ? 'yes' : 'no']
}

function qualityTable(rows: readonly MeasuredRow[]): string {
  const header = ['model', 'bits', 'group', 'layers', 'metric', 'float', 'RTN', 'auto', 'GPTQ', 'target', 'met']
  return markdownTable(
    [...header, 'KL RTN', 'KL auto', 'KL GPTQ', 'ratio to RTN'],
    rows.map((measured) => {
      const { name, metric, row, float, rtn, auto, gptq } = measured
      const arms = [rtn, auto, gptq]
      return [
        name.split('/')[0]!,
        String(row.bits),
        String(row.groupSize),
        row.scope,
        metric,
        formatTask(float.task),
        ...arms.map((arm) => cell(arm, ({ figures }) => formatTask(figures.task))),
        ...judgement(measured),
        ...arms.map((arm) => cell(arm, formatKl)),
        klRatio(measured)?.toFixed(3) ?? NONE,
      ]
    }),
  )
}

function heldOutKl({ calibration }: Success): string {
  return calibration?.outputs.find(({ kl }) => kl !== undefined)?.kl?.toPrecision(4) ?? NONE
}

/** Equal bytes are what makes the arms comparable, so they are checked and not assumed. */
function bytesAgree({ rtn, gptq }: MeasuredRow): string {
  const [theirs, ours] = [ok(rtn)?.storedBytes, ok(gptq)?.storedBytes]
  if (theirs === undefined || ours === undefined) return NONE
  return theirs === ours ? 'equal' : `${ours > theirs ? '+' : ''}${(100 * (ours / theirs - 1)).toFixed(2)} %`
}

function costTable(rows: readonly MeasuredRow[]): string {
  const header = ['row', 'stored RTN', 'stored auto', 'stored GPTQ', 'GPTQ − RTN', 'bits/weight']
  return markdownTable(
    [...header, 'seconds RTN', 'seconds GPTQ', 'samples (held out)', 'held-out KL', 'kept rounding'],
    rows.map((measured) => {
      const { name, rtn, auto, gptq } = measured
      return [
        name,
        ...[rtn, auto, gptq].map((arm) => cell(arm, ({ storedBytes }) => formatBytes(storedBytes))),
        bytesAgree(measured),
        ok(rtn)?.bitsPerWeight.toFixed(3) ?? NONE,
        ...[rtn, gptq].map((arm) => cell(arm, ({ seconds }) => seconds.toFixed(1))),
        cell(gptq, ({ calibration }) => (calibration ? `${calibration.samples} (${calibration.heldOut})` : NONE)),
        cell(gptq, heldOutKl),
        cell(gptq, ({ rounded, layers }) => `${rounded} of ${layers}`),
      ]
    }),
  )
}

/** The section of RESULTS.md. @param seconds of the whole benchmark. */
export function renderQuality(rows: readonly MeasuredRow[], seconds: number): string {
  const failures = rows.flatMap(({ name, ...arms }) =>
    (['rtn', 'auto', 'gptq'] as const).flatMap((arm) => {
      const result = arms[arm]
      return result && 'failure' in result ? [`- ${name}, ${arm}: ${result.failure}`] : []
    }),
  )
  return [
    '## What calibration is worth',
    'RTN: asymmetric min-max, no data. auto: the best grid without data. GPTQ: calibrated, asymmetric grids. The same ' +
      'widths and groups in a row; weights only, activations stay float; the written file, run by onnxruntime on the whole ' +
      'evaluation set, which calibration never saw. Layers: MatMul or Conv leaves all others float. KL: mean over positions ' +
      `of KL(float ‖ quantized), nats. ${rows.length} rows in ${(seconds / 60).toFixed(1)} minutes. ${machineLine()}.`,
    qualityTable(rows),
    'Stored bytes are those of codes, scales and zero points. Held-out KL is what the report of the run itself says, on ' +
      'calibration samples that no fit saw. Kept rounding: layers where plain rounding won.',
    costTable(rows),
    ...(failures.length > 0 ? [failures.join('\n')] : []),
  ].join('\n\n')
}

/** @file The human form of a comparison of two models. */
import type { Distribution, EvalReport, OutputComparison, TaskMetric, Threshold } from '../report.ts'
import { printable, styled } from './terminal.ts'
import { bytesText, figureText, percentText, textTable } from './textTable.ts'

/** @returns both models side by side, the outputs compared, what the runtime did, and the thresholds. */
export function evalText(report: EvalReport): string {
  const { data, outputs, accuracyLevels, thresholds } = report
  const filled = data.filledInputs.length > 0 ? `; filled in: ${data.filledInputs.join(', ')}` : ''
  const parts = [
    printable(`${data.random ? data.source : `${data.samples} samples from ${data.source}`}${filled}`),
    sideBySide(report),
    outputsText(outputs),
  ]
  for (const { level, outputs: atLevel, metrics } of accuracyLevels) {
    const tasks = metrics.map((metric) => `\n${taskName(metric)} ${taskValue(metric, metric.candidate)}`).join('')
    parts.push(`with MatMulNBits at accuracy level ${level}\n${outputsText(atLevel)}${tasks}`)
  }
  const execution = executionText(report)
  if (execution !== '') parts.push(execution)
  if (thresholds.length > 0) parts.push(thresholdsText(thresholds))
  return parts.join('\n\n')
}

function sideBySide(report: EvalReport): string {
  const { reference, candidate, loadMilliseconds: load, latencyMilliseconds: latency, metrics } = report
  const rows = [
    [
      'size',
      bytesText(reference.totalBytes),
      bytesText(candidate.totalBytes),
      times(reference.totalBytes, candidate.totalBytes),
    ],
    ['load, ms', figureText(load.reference), figureText(load.candidate), times(load.reference, load.candidate)],
    [
      `latency, ms (median of ${latency.runs})`,
      figureText(latency.reference),
      figureText(latency.candidate),
      times(latency.reference, latency.candidate),
    ],
    ...memoryRows(report),
    ...metrics.map((metric) => [
      taskName(metric),
      taskValue(metric, metric.reference),
      taskValue(metric, metric.candidate),
      `${metric.change >= 0 ? '+' : ''}${percentText(metric.change, 2)} ±${percentText(metric.standardError, 2)}`,
    ]),
  ]
  return textTable(['', 'reference', 'candidate', 'change'], rows)
}

function memoryRows({ memoryBytes }: EvalReport): string[][] {
  if (!memoryBytes) return []
  const { reference, candidate } = memoryBytes
  const row = (label: string, a: number, b: number) => [label, bytesText(a), bytesText(b), times(a, b)]
  return [row('memory', reference.loaded, candidate.loaded), row('memory, at most', reference.peak, candidate.peak)]
}

function times(a: number, b: number): string {
  return a > 0 ? `${(b / a).toFixed(3)}x` : '-'
}

function taskName(metric: TaskMetric): string {
  return `${metric.name} of ${metric.output} (${metric.count})`
}

function taskValue(metric: TaskMetric, value: number): string {
  return metric.name === 'accuracy' ? percentText(value, 2) : figureText(value)
}

function outputsText(outputs: readonly OutputComparison[]): string {
  const main = textTable(
    ['output', 'values', 'SQNR dB', 'cosine', 'largest diff', 'top-1 same'],
    outputs.map((output) => [
      output.output,
      String(output.values),
      Number.isFinite(output.sqnr) ? output.sqnr.toFixed(2) : figureText(output.sqnr),
      output.cosine.toFixed(6),
      figureText(output.maxAbsoluteDifference),
      output.top1Agreement === undefined ? '-' : percentText(output.top1Agreement, 2),
    ]),
  )
  const withKl = outputs.filter((output): output is OutputComparison & { kl: Distribution } => output.kl !== undefined)
  if (withKl.length === 0) return main
  const kl = textTable(
    ['KL, nats', 'mean', 'std. error', 'median', '95%', '99%', 'largest'],
    withKl.map(({ output, kl }) => [
      output,
      ...[kl.mean, kl.standardError, kl.median, kl.p95, kl.p99, kl.max].map(figureText),
    ]),
  )
  return `${main}\n\n${kl}`
}

function executionText(report: EvalReport): string {
  const { execution } = report
  if (execution.length === 0) return ''
  const counts = new Map<string, number>()
  for (const { status } of execution) counts.set(status, (counts.get(status) ?? 0) + 1)
  const summary = [...counts].map(([status, count]) => `${count} ${status}`).join(', ')
  const slow = execution.filter(({ status }) => status === 'dequantized every run' || status === 'not executed')
  const line = `quantized nodes in onnxruntime: ${summary}`
  if (slow.length === 0) return line
  const rows = slow.map(({ node, operator, status }) => [node, operator, status])
  return `${line}\n${textTable(['node', '<operator', '<status'], rows)}`
}

function thresholdsText(thresholds: readonly Threshold[]): string {
  const missed = thresholds.filter(({ passed }) => !passed).length
  const table = textTable(
    ['threshold', 'limit', 'measured', '<'],
    thresholds.map(({ name, limit, measured, passed }) => [
      name,
      ...[limit, measured].map(/size|memory/i.test(name) ? bytesText : figureText),
      passed ? 'met' : 'MISSED',
    ]),
  )
  const verdict =
    missed === 0
      ? styled('green', 'all thresholds met')
      : styled('red', `${missed} of ${thresholds.length} thresholds missed`)
  return `${table}\n${verdict}`
}

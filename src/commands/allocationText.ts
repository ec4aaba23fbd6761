/** @file How widths were given to layers, as text. */
import type { AllocationReport } from '../report.ts'
import { printable } from './terminal.ts'
import { bytesText, figureText, percentText, textTable } from './textTable.ts'

const LOSSES = { kl: 'KL, nats', relative: 'relative error' } as const

/** @returns what was allocated, what each cost vector promised and kept, the limits, and the curve where there is one. */
export function allocationText(allocation: AllocationReport): string {
  const { candidates, uniform, metric, measured, accepted, pareto } = allocation
  const rows = candidates.map((candidate) => [
    candidate.from,
    figureText(candidate.predicted),
    figureText(candidate.measured),
    candidate.chosen ? 'chosen' : '',
  ])
  if (uniform !== undefined) rows.push([`uniform ${uniform.bits} bit`, '-', figureText(uniform.measured), ''])
  if (accepted > 0) rows.push(['after exchanges', '-', figureText(measured), 'kept'])
  const parts = [
    textTable([`allocation, ${LOSSES[metric]}`, 'predicted', 'measured', '<'], rows),
    allocationLines(allocation)
      .map((line) => printable(line))
      .join('\n'),
  ]
  if (pareto !== undefined && pareto.length > 0) {
    parts.push(
      textTable(
        ['budget', 'bytes', 'predicted', 'measured'],
        pareto.map((point) => [
          point.budget,
          bytesText(point.bytes),
          figureText(point.predicted),
          figureText(point.measured),
        ]),
      ),
    )
  }
  return parts.join('\n\n')
}

function allocationLines(allocation: AllocationReport): string[] {
  const { solver, sensitivities, constraints, layers, bound, gap, evaluations, accepted, accuracy } = allocation
  const lines = [
    `allocated by ${solver} from ${sensitivities.join(', ')}: ${counts(
      layers.map(({ bits }) => bits),
      (bits, count) => `${count} ${count === 1 ? 'layer' : 'layers'} at ${bits} bits`,
    )}`,
  ]
  if (new Set(layers.map(({ groupSize }) => groupSize)).size > 1) {
    const sizes = layers.map(({ groupSize }) => (groupSize === 'channel' ? Number.POSITIVE_INFINITY : groupSize))
    lines.push(
      counts(
        sizes,
        (size, count) => `${Number.isFinite(size) ? `groups of ${size}` : 'one scale per channel'} in ${count}`,
      ),
    )
  }
  const inTables = layers.filter(({ codebook }) => codebook).length
  if (inTables > 0) lines.push(`tables of levels in ${inTables}, grids in ${layers.length - inTables}`)
  for (const { name, limit, used } of constraints) {
    lines.push(`${name}: ${amountText(used)} of ${amountText(limit)} (${percentText(used / limit, 2)})`)
  }
  if (bound !== undefined && gap !== undefined) {
    lines.push(
      gap === 0
        ? 'no allocation has a smaller predicted loss: proved'
        : `no allocation has a predicted loss below ${figureText(bound)}: proved; the gap is ${percentText(gap)}`,
    )
  }
  if (accuracy !== undefined) lines.push(accuracyLine(accuracy))
  lines.push(
    evaluations === 0
      ? 'no allocation was run: what is predicted decided'
      : `${evaluations} allocations were run on held-out samples; ${accepted} ${accepted === 1 ? 'exchange' : 'exchanges'} kept`,
  )
  return lines
}

function accuracyLine({
  samples,
  floatRight,
  right,
  change,
  standardError,
  maxDrop,
}: NonNullable<AllocationReport['accuracy']>): string {
  const points = (share: number) => (100 * share).toFixed(2)
  const error = standardError === undefined ? '' : ` ± ${points(standardError)}`
  const limit = maxDrop === undefined ? '' : `; it was to fall by at most ${Number((100 * maxDrop).toPrecision(5))}`
  return (
    `accuracy on ${samples} held-out samples with a label: ${right} right (${percentText(right / samples, 2)}), the original ` +
    `${floatRight} (${percentText(floatRight / samples, 2)}): ${points(change)}${error} points${limit}`
  )
}

/** How often each value occurs, the largest value first. */
function counts(values: readonly number[], text: (value: number, count: number) => string): string {
  return [...new Set(values)]
    .sort((a, b) => b - a)
    .map((value) => text(value, values.filter((other) => other === value).length))
    .join(', ')
}

/** Bytes in full, fractions in five digits. */
function amountText(value: number): string {
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)))
}

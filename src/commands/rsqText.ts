/** @file The human form of what method rsq tried and kept. */
import type { RsqReport } from '../report.ts'
import { printable } from './terminal.ts'
import { figureText, textTable } from './textTable.ts'

/** The table of trials, what could not be rotated, and notes. */
export function rsqText({ trials, refused, notes }: RsqReport): string {
  const rows = trials.map(({ name, difference, loss, change, standardError, kept }) => [
    name,
    difference === undefined ? '-' : difference.toExponential(1),
    loss === undefined ? '-' : figureText(loss),
    change === undefined ? '-' : `${percent(change)} ± ${percent(standardError ?? Number.NaN)}`,
    kept ? 'yes' : 'no',
  ])
  const heads = ['tried on held-out samples', 'exact to', 'loss', 'change', '<kept']
  const parts = rows.length > 0 ? [textTable(heads, rows)] : []
  const lines = [...refused.map((why) => `not rotated: ${why}`), ...notes.map((note) => `note: ${note}`)]
  if (lines.length > 0) parts.push(lines.map((line) => printable(line)).join('\n'))
  return parts.join('\n')
}

function percent(share: number): string {
  return Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : '-'
}

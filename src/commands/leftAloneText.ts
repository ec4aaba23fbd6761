/** @file The weights that stay as they are, under the reason why. */
import type { LeftAlone } from '../report.ts'
import { printable } from './terminal.ts'
import { bytesText, textTable } from './textTable.ts'

/** @returns one table for each reason, in order of first appearance. */
export function leftAloneText(leftAlone: readonly LeftAlone[]): string {
  const byReason = new Map<string, LeftAlone[]>()
  for (const entry of leftAlone) byReason.set(entry.reason, [...(byReason.get(entry.reason) ?? []), entry])
  const sections = [...byReason].map(([reason, entries]) => {
    const bytes = entries.reduce((sum, entry) => sum + entry.bytes, 0)
    const rows = entries.map((entry) => [entry.name, entry.operator, bytesText(entry.bytes)])
    const table = textTable(['node', '<operator', 'bytes'], rows)
    return `left alone (${entries.length}, ${bytesText(bytes)}): ${printable(reason)}\n${table}`
  })
  return sections.join('\n\n')
}

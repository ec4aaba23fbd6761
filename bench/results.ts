/** @file RESULTS.md: each benchmark owns the text between its two markers, and nothing else. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { RESULTS, ROOT } from './paths.ts'

/** Replace the text between `<!-- NAME -->` and `<!-- /NAME -->`; append the markers where they are missing. */
export function writeSection(name: string, markdown: string): void {
  const [open, close] = [`<!-- ${name} -->`, `<!-- /${name} -->`]
  const section = `${open}\n\n${markdown.trim()}\n\n${close}`
  const before = existsSync(RESULTS) ? readFileSync(RESULTS, 'utf8') : '# Results\n'
  const [start, end] = [before.indexOf(open), before.indexOf(close)]
  const after =
    start >= 0 && end > start
      ? before.slice(0, start) + section + before.slice(end + close.length)
      : `${before.trimEnd()}\n\n${section}\n`
  writeFileSync(RESULTS, after)
  console.log(`${name}: written to ${RESULTS.slice(ROOT.length + 1)}`)
}

/** A Markdown table, its columns padded as Biome formats them; `|` in cells is escaped. */
export function markdownTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [header, ...rows].map((cells) => cells.map((cell) => cell.replaceAll('|', '\\|')))
  const widths = header.map((_, i) => Math.max(3, ...lines.map((cells) => cells[i]!.length)))
  const format = (cells: readonly string[]) => `| ${cells.map((cell, i) => cell.padEnd(widths[i]!)).join(' | ')} |`
  const rule = format(widths.map((width) => '-'.repeat(width)))
  return [format(lines[0]!), rule, ...lines.slice(1).map(format)].join('\n')
}

/** One line on the machine that the figures come from. */
export function machineLine(): string {
  const processors = cpus()
  const memory = Math.round(totalmem() / 2 ** 30)
  const model = processors[0]?.model.trim() || 'unknown processor'
  return `${processors.length} × ${model}, ${memory} GiB, ${process.platform}, Node ${process.versions.node}`
}

/** Bytes in the unit that reads best, powers of 1000 as file managers and \`--budget 350MB\` count. */
export function formatBytes(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(2)} MB`
  return `${(bytes / 1e3).toFixed(1)} kB`
}

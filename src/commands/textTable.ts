/** @file Tables of plain text that fit a terminal of 100 columns, and how numbers look in them. */
import Table from 'cli-table3'
import { printable } from './terminal.ts'

const WIDTH = 100
const GAP = '  '
const LEAST_NAME_WIDTH = 16
/** cli-table3 takes time quadratic in the rows. */
const ROWS_AT_ONCE = 100
const NO_LINES = Object.fromEntries(
  ['top', 'bottom', 'left', 'right', 'mid']
    .flatMap((name) => [name, `${name}-mid`, `${name}-left`, `${name}-right`])
    .map((name) => [name, '']),
)

/** Shares of a shortened name that its beginning may take, the most readable first. */
const HEAD_SHARES = [0.5, 0.35, 0.2, 0, 0.65, 0.8]

/**
 * Names cut to at most `width` characters (at least 5), each with a piece left out of its middle: at the place where the
 * most names stay apart. Layers of one model differ in the end of their names, branches in the beginning.
 */
function shortenNames(names: readonly string[], width: number): string[] {
  let best: string[] = []
  let most = 0
  for (const share of HEAD_SHARES) {
    const cut = names.map((name) => shortenMiddle(name, width, share))
    const distinct = new Set(cut).size
    if (distinct > most) {
      best = cut
      most = distinct
    }
  }
  return best
}

/** The text with its middle cut out, at most `width` characters long (at least 5). */
export function shortenMiddle(text: string, width: number, headShare = 0.5): string {
  const characters = [...text]
  if (characters.length <= width) return text
  const kept = width - 2
  const head = Math.ceil(kept * headShare)
  return `${characters.slice(0, head).join('')}..${characters.slice(characters.length - (kept - head)).join('')}`
}

/**
 * A table without lines: a header, a rule, the rows. The first column holds names and is shortened in the middle until the
 * table fits; columns whose head starts with `<` are left-aligned, the others right-aligned.
 */
export function textTable(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const clean = rows.map((row) => row.map((cell) => printable(cell)))
  const titles = heads.map((head) => head.replace(/^</, ''))
  const natural = titles.map((title, c) => clean.reduce((most, row) => Math.max(most, row[c]!.length), title.length))
  const others = natural.slice(1).reduce((sum, width) => sum + width + GAP.length, 0)
  const nameWidth = Math.min(natural[0]!, Math.max(LEAST_NAME_WIDTH, titles[0]!.length, WIDTH - others))
  const widths = [nameWidth, ...natural.slice(1)]
  const aligns = heads.map((head, c) => (c === 0 || head.startsWith('<') ? 'left' : 'right'))
  const lines = [titles, widths.map((width) => '-'.repeat(width))]
  const names = shortenNames(
    clean.map((row) => row[0]!),
    nameWidth,
  )
  clean.forEach(([, ...cells], i) => {
    lines.push([names[i]!, ...cells])
  })
  const parts: string[] = []
  for (let start = 0; start < lines.length; start += ROWS_AT_ONCE) {
    parts.push(layOut(lines.slice(start, start + ROWS_AT_ONCE), widths, aligns))
  }
  return parts.join('\n').replace(/ +$/gm, '')
}

function layOut(lines: readonly string[][], widths: readonly number[], aligns: readonly ('left' | 'right')[]): string {
  const table = new Table({
    chars: { ...NO_LINES, middle: GAP },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
    colWidths: [...widths],
    colAligns: [...aligns],
  })
  table.push(...lines)
  return table.toString()
}

const PREFIXES = ['', 'k', 'M', 'G', 'T', 'P']

/** Three digits with a decimal prefix, the two apart: 1234567 → `1.23 M`. */
function prefixed(count: number): string {
  let value = count
  let prefix = 0
  while (value >= 999.5 && prefix < PREFIXES.length - 1) {
    value /= 1000
    prefix++
  }
  const digits = prefix === 0 ? String(value) : value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)
  return `${digits} ${PREFIXES[prefix]}`
}

/** Bytes in decimal units, as budgets count them: 1234567 → `1.23 MB`. */
export function bytesText(bytes: number): string {
  return `${prefixed(bytes)}B`
}

/** A count: 1234567 → `1.23 M`. */
export function countText(count: number): string {
  return prefixed(count).trimEnd()
}

/** Share as a percentage with one decimal. */
export function percentText(share: number, decimals = 1): string {
  return `${(share * 100).toFixed(decimals)}%`
}

/** A number of any size in at most 8 characters and three significant digits. */
export function figureText(value: number | undefined): string {
  if (value === undefined) return '-'
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf'
  if (value === 0) return '0'
  const size = Math.abs(value)
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace('e+', 'e')
  if (size >= 100) return value.toFixed(0)
  return String(Number(value.toPrecision(3)))
}

/** The dimensions of a tensor: `[256, 768]`. */
export function shapeText(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`
}

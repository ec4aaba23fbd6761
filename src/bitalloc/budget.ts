/**
 * @file What a budget expression means: `4bit`, `4bpw`, `350 MiB`, `2*100MB - 5kB`, `0.3x`, `-60%`; and several: `4bit, 350MB`.
 *
 * Numbers and units are mathjs's (MB = 10⁶ bytes, MiB = 2²⁰ bytes). Only arithmetic on literals is accepted: the
 * expression is parsed, its syntax tree checked against a short list, and only then evaluated.
 */
import { createRequire } from 'node:module'
import type { ConstantNode, MathNode, OperatorNode, SymbolNode, Unit } from 'mathjs'
import { QtoolError } from '../errors.ts'

export type Budget =
  /** Mean width of the codes over the weighted layers, in bits; (0, 16]. */
  | { readonly kind: 'meanBits'; readonly bits: number }
  /** Everything that is stored for those weights, divided by their number, in bits; (0, 16]. */
  | { readonly kind: 'bitsPerWeight'; readonly bits: number }
  /** All output files; an integer of at least 1. */
  | { readonly kind: 'bytes'; readonly bytes: number }
  /** All output files over all source files; (0, 1]. */
  | { readonly kind: 'ratio'; readonly ratio: number }

const EXAMPLES = 'write for example 4bit, 4bpw, 350MB, 0.3x or -60%'
const MAX_LENGTH = 200
const MAX_BITS = 16
const MAX_LATENCY = 100
const ARITHMETIC: ReadonlySet<string> = new Set(['add', 'subtract', 'multiply', 'divide', 'unaryMinus', 'unaryPlus'])
const BIT_UNIT = /^(b|bits?)$/
const PREFIXED_BIT_UNIT = /^([kKMGTP]i?b|(kilo|mega|giga|tera|peta|kibi|mebi|gibi|tebi|pebi)bits?)$/
const BYTE_UNIT = /^((k|[KMGTP]i|[MGTP])?B|(kilo|mega|giga|tera|peta|kibi|mebi|gibi|tebi|pebi)?bytes?)$/
const MISSPELT_BYTE_UNIT = /^([kmgtp])(i?)b?$/i

/**
 * Parse a budget.
 * @throws QtoolError `usage` when the text is no budget or out of range; the hint says what to write.
 */
export function parseBudget(text: string): Budget {
  const source = checkedText(text, 'budget')
  if (source.endsWith('%')) return ratioOfReduction(source)
  if (source.endsWith('x')) return { kind: 'ratio', ratio: checkedRatio(source, plainNumber(source, 1)) }
  const bpw = /\s*bpw$/.exec(source)
  if (bpw) return { kind: 'bitsPerWeight', bits: checkedBits(source, plainNumber(source, bpw[0].length)) }
  const { value, unit } = evaluate(source, `budget '${source}'`, EXAMPLES)
  if (unit === 'none') {
    throw new QtoolError('usage', `budget '${source}' has no unit`, {
      hint: `${source}bit is the mean width of the codes, ${source}bpw the stored bits per weight; ${EXAMPLES}`,
    })
  }
  if (unit === 'bytes') return { kind: 'bytes', bytes: checkedBytes(source, value, `budget '${source}'`) }
  return { kind: 'meanBits', bits: checkedBits(source, value) }
}

/**
 * Parse budgets that all are to be kept, with commas between them.
 * @returns at least one, in the order of the text, each kind at most once.
 * @throws QtoolError `usage` as {@link parseBudget}, and when two limit the same.
 */
export function parseBudgets(text: string): Budget[] {
  const budgets = new Map<Budget['kind'], { readonly source: string; readonly budget: Budget }>()
  for (const source of text.split(',').map((part) => part.trim())) {
    if (source === '') {
      throw new QtoolError('usage', `budget '${text.slice(0, MAX_LENGTH)}' has an empty part`, {
        hint: 'write several budgets as 4bit,350MB',
      })
    }
    const budget = parseBudget(source)
    const other = budgets.get(budget.kind)
    if (other !== undefined) {
      throw new QtoolError('usage', `budgets '${other.source}' and '${source}' limit the same`, {
        hint: 'give the tighter one; decimals are written with a point: 3.5bit',
      })
    }
    budgets.set(budget.kind, { source, budget })
  }
  return [...budgets.values()].map(({ budget }) => budget)
}

/**
 * Parse a latency relative to the float model's: `0.7x` is at most 0.7 times as long.
 * @returns above 0, at most 100.
 * @throws QtoolError `usage`.
 */
export function parseLatency(text: string): number {
  const [, digits] = /^\s*(\d+\.?\d*|\.\d+)\s*x\s*$/.exec(text) ?? []
  const ratio = Number(digits)
  if (ratio > 0 && ratio <= MAX_LATENCY) return ratio
  throw new QtoolError(
    'usage',
    `latency '${text.slice(0, MAX_LENGTH)}': wanted a ratio from above 0x to ${MAX_LATENCY}x`,
    {
      hint: '0.7x is at most 0.7 times the time of the float model',
    },
  )
}

/**
 * Parse a size such as `5MB`, `1.5 GiB`, `2*100MB` or a bare number of bytes.
 * @param subject what messages call it, for example `--max-size`.
 * @returns an integer of at least 1.
 * @throws QtoolError `usage`.
 */
export function parseBytes(text: string, subject: string): number {
  const source = checkedText(text, subject)
  const named = `${subject} '${source}'`
  const { value, unit } = evaluate(source, named, 'write a size such as 5MB, 1.5 GiB or 300kB')
  if (unit === 'bits') {
    throw new QtoolError('usage', `${named} is a number of bits`, { hint: 'write bytes with a capital B: 5MB, 300kB' })
  }
  return checkedBytes(source, value, named)
}

function checkedText(text: string, subject: string): string {
  const source = text.trim()
  if (source.length === 0) throw new QtoolError('usage', `${subject} is empty`, { hint: EXAMPLES })
  if (source.length > MAX_LENGTH) {
    throw new QtoolError('usage', `${subject} has ${source.length} characters; at most ${MAX_LENGTH} are read`)
  }
  return source
}

/** `-60%` of the source's bytes is 0.4 of them. */
function ratioOfReduction(source: string): Budget {
  const number = plainNumber(source, 1)
  if (!source.startsWith('-')) {
    const share = Number.isFinite(number) && number > 0 && number < 100 ? number : 40
    throw new QtoolError('usage', `budget '${source}' may mean a share or a reduction`, {
      hint: `write ${round(share / 100)}x for ${share} % of the source's bytes, or -${round(100 - share)}% for ${round(100 - share)} % less`,
    })
  }
  return { kind: 'ratio', ratio: checkedRatio(source, round(1 + number / 100)) }
}

/** Without the noise that binary fractions leave in the last digits. */
function round(value: number): number {
  return Number(value.toPrecision(12))
}

/** The number before a suffix of `suffixLength` characters; may be an expression, may not have a unit. */
function plainNumber(source: string, suffixLength: number): number {
  const { value, unit } = evaluate(source.slice(0, source.length - suffixLength), `budget '${source}'`, EXAMPLES)
  if (unit !== 'none') throw new QtoolError('usage', `budget '${source}' mixes units`, { hint: EXAMPLES })
  return value
}

function checkedRatio(source: string, ratio: number): number {
  if (ratio > 0 && ratio <= 1) return ratio
  const times = Number.isFinite(ratio) && ratio > 1 && source.endsWith('x')
  throw new QtoolError('usage', `budget '${source}': wanted more than 0 and at most the source's bytes`, {
    hint: times
      ? `${source} is ${round(ratio)} times the source; to make it ${round(ratio)} times smaller write ${Number((1 / ratio).toPrecision(3))}x`
      : '0.3x keeps 30 % of the bytes, and so does -70%',
  })
}

function checkedBits(source: string, bits: number): number {
  if (bits > 0 && bits <= MAX_BITS) return bits
  throw new QtoolError('usage', `budget '${source}': wanted more than 0 and at most ${MAX_BITS} bits`, {
    hint: 'widths are 2, 3, 4, 5, 6 and 8 bits; for a size of all files write for example 350MB',
  })
}

function checkedBytes(source: string, bytes: number, subject: string): number {
  const nearest = Math.round(bytes)
  const whole = Math.abs(bytes - nearest) <= 1e-9 * nearest ? nearest : Math.floor(bytes)
  if (whole >= 1 && whole <= Number.MAX_SAFE_INTEGER) return whole
  throw new QtoolError('usage', `${subject}: wanted at least one byte and at most 2^53, found ${bytes}`, {
    hint: `check the sign and the unit of ${source}`,
  })
}

type Mathjs = typeof import('mathjs')

/** The bundled build of mathjs loads in 80 ms, its separate modules in 570 ms; and only who states a budget pays. */
let loaded: Mathjs | undefined
function mathjs(): Mathjs {
  loaded ??= createRequire(import.meta.url)('mathjs/lib/browser/math.js') as Mathjs
  return loaded
}

/**
 * Evaluate arithmetic over numbers and units of information.
 * @returns the value in bits or bytes, whichever its units are, or the plain number where it has none.
 * @throws QtoolError `usage` on anything else.
 */
function evaluate(source: string, subject: string, hint: string): { value: number; unit: 'bits' | 'bytes' | 'none' } {
  const fail = (message: string, better = hint, cause?: unknown): never => {
    throw new QtoolError('usage', `${subject}: ${message}`, { hint: better, cause })
  }
  let tree: MathNode
  try {
    tree = mathjs().parse(source)
  } catch (cause) {
    return fail(`cannot be read (${(cause as Error).message})`, hint, cause)
  }
  const units = new Set<'bits' | 'bytes'>()
  tree.traverse((node) => {
    if (node.type === 'ParenthesisNode') return
    if (node.type === 'ConstantNode' && typeof (node as ConstantNode).value === 'number') return
    if (node.type === 'OperatorNode' && ARITHMETIC.has((node as OperatorNode).fn)) return
    if (node.type !== 'SymbolNode') fail('only numbers, units and + - * / ( ) are read')
    const { name } = node as SymbolNode
    if (BIT_UNIT.test(name)) units.add('bits')
    else if (BYTE_UNIT.test(name)) units.add('bytes')
    else if (PREFIXED_BIT_UNIT.test(name)) fail(`${name} counts bits`, 'write bytes with a capital B: 300kB, 350MB')
    else fail(`'${name}' is not a unit`, hintForUnit(name, hint))
  })
  if (units.size > 1) fail('mixes bits and bytes')
  let result: number | Unit
  try {
    result = tree.compile().evaluate({})
    const [unit] = units
    if (unit === undefined) return { value: checkedNumber(result), unit: 'none' }
    return { value: checkedNumber((result as Unit).toNumber(unit === 'bits' ? 'bit' : 'B')), unit }
  } catch (cause) {
    return fail('its units do not add up', `a unit binds to the number before it: (1 + 2) MB; ${hint}`, cause)
  }
}

function checkedNumber(value: unknown): number {
  if (typeof value !== 'number') throw new TypeError('not a number')
  return value
}

/** Units are case-sensitive: `350mb` and `350M` were meant as `350MB`. */
function hintForUnit(name: string, otherwise: string): string {
  const parts = MISSPELT_BYTE_UNIT.exec(name)
  if (!parts) return otherwise
  const prefix = parts[1]!.toLowerCase()
  const spelt = `${prefix === 'k' && !parts[2] ? 'k' : prefix.toUpperCase()}${parts[2] ? 'i' : ''}B`
  return `did you mean ${spelt}? Units are case-sensitive`
}

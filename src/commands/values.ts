/** @file Reads the values of flags: numbers, lists, `NAME=VALUE` pairs. Ranges are checked in `configRules.ts`. */
import { QtoolError } from '../errors.ts'

/** Makes the reader of one flag's value; `flag` is how messages name it. */
export type Reader<T> = (text: string, previous: T | undefined) => T

function wrong(flag: string, wanted: string, found: string): QtoolError {
  return new QtoolError('usage', `${flag}: wanted ${wanted}, found '${found}'`)
}

/** A decimal number, without a unit. */
export function readNumber(flag: string): Reader<number> {
  return (text) => {
    const value = Number(text)
    if (text.trim() === '' || !Number.isFinite(value)) throw wrong(flag, 'a number', text)
    return value
  }
}

/** A number or a percentage: `0.005` or `0.5%`. */
export function readShare(flag: string): Reader<number> {
  return (text) => {
    const percent = text.trim().endsWith('%')
    const digits = percent ? text.trim().slice(0, -1) : text
    const value = Number(digits)
    if (digits.trim() === '' || !Number.isFinite(value)) throw wrong(flag, 'a number or a percentage', text)
    return percent ? Number((value / 100).toPrecision(15)) : value
  }
}

/** Columns that share a scale: a number or `channel`. */
export function readGroupSize(flag: string): Reader<number | 'channel'> {
  return (text) => (text === 'channel' ? text : readNumber(flag)(text, undefined))
}

/** A number or `auto`. */
export function readAutoNumber(flag: string): Reader<number | 'auto'> {
  return (text) => (text === 'auto' ? text : readNumber(flag)(text, undefined))
}

/** Pixels of an image: `224` for both sides, or `HEIGHTxWIDTH`. */
export function readImageSize(flag: string): Reader<[height: number, width: number]> {
  return (text) => {
    const sides = text.toLowerCase().split('x')
    if (sides.length > 2) throw wrong(flag, 'a size such as 224 or 224x320', text)
    const [height, width = height] = sides.map((side) => readNumber(flag)(side, undefined))
    return [height!, width!]
  }
}

/** Numbers with commas between them. */
export function readNumbers(flag: string): Reader<number[]> {
  return (text) => text.split(',').map((part) => readNumber(flag)(part, undefined))
}

/** Names with commas between them; `none` is no name at all. */
export function readNames(): Reader<string[]> {
  return (text) => (text === 'none' ? [] : text.split(',').map((name) => name.trim()))
}

/** Repeatable texts, none of them empty. */
export function readTexts(flag: string): Reader<string[]> {
  return (text, previous = []) => {
    if (text === '') throw wrong(flag, 'a text', text)
    return [...previous, text]
  }
}

/** Repeatable; also several with commas between them. */
export function readBudgets(): Reader<string> {
  return (text, previous) => (previous === undefined ? text : `${previous},${text}`)
}

/** The last equals sign divides, because names may hold one. */
function divide(flag: string, text: string, wanted: string): [name: string, value: string] {
  const at = text.lastIndexOf('=')
  if (at < 1 || at === text.length - 1) throw wrong(flag, wanted, text)
  return [text.slice(0, at), text.slice(at + 1)]
}

/** Repeatable `NAME=OTHER`. */
export function readPairs(flag: string, wanted: string): Reader<Record<string, string>> {
  return (text, previous) => {
    const [name, value] = divide(flag, text, wanted)
    return { ...previous, [name]: value }
  }
}

/** Repeatable `NAME=NUMBER`. */
export function readNumberPairs(flag: string, wanted: string): Reader<Record<string, number>> {
  return (text, previous) => {
    const [name, value] = divide(flag, text, wanted)
    return { ...previous, [name]: readNumber(flag)(value, undefined) }
  }
}

/** Repeatable `NAME=SIZE,SIZE,…`. */
export function readShapePairs(flag: string, wanted: string): Reader<Record<string, number[]>> {
  return (text, previous) => {
    const [name, sizes] = divide(flag, text, wanted)
    return { ...previous, [name]: sizes.split(',').map((size) => readNumber(flag)(size, undefined)) }
  }
}

/** Repeatable `PATTERN=BITS` or `PATTERN=skip`; widths are checked later. */
export function readLayers(flag: string): Reader<{ pattern: string; bits: number | 'skip' }[]> {
  return (text, previous = []) => {
    const [pattern, bits] = divide(flag, text, "PATTERN=BITS or PATTERN=skip, such as '*/attn/*=8'")
    return [...previous, { pattern, bits: bits === 'skip' ? bits : readNumber(flag)(bits, undefined) }]
  }
}

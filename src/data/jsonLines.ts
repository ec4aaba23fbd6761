/**
 * @file Samples as JSON: one per line (.jsonl, .ndjson), or one document (.json) that is a sample or a list of samples.
 *
 * A sample is an object `{input: value, …}`, or for a model with one input the bare value. A value is a number, nested
 * lists of numbers, or `{"data": numbers, "shape": [2, 3], "dtype": "uint8"}` (shape and dtype may be left out).
 */
import { QtoolError } from '../errors.ts'
import { checkConvertible, convertElements } from './convert.ts'
import { type Dtype, elementCount, formatShape, isDtype, type NamedArrays, type NdArray } from './ndArray.ts'

/** Deeper nesting than any tensor has; also keeps the recursion off the end of the stack. */
const LARGEST_RANK = 32
const NEWLINE = 10

/** One record of a JSON file. */
export interface JsonRecord {
  readonly value: unknown
  /** The file and the line, or the number of the sample, for messages. */
  readonly place: string
}

/**
 * Samples of a JSON-lines file, decoded one line at a time. Empty lines are skipped.
 * @throws QtoolError `data` naming the file and the line.
 */
export function* readJsonLines(bytes: Uint8Array, source: string): Generator<NamedArrays> {
  for (const record of jsonLines(bytes, source)) yield toSample(record)
}

/**
 * Samples of a JSON document. A list is a list of samples.
 * @throws QtoolError `data` naming the file and the sample.
 */
export function* readJsonDocument(bytes: Uint8Array, source: string): Generator<NamedArrays> {
  for (const record of jsonDocument(bytes, source)) yield toSample(record)
}

/** Values of a JSON-lines file; see {@link readJsonLines}. */
export function* jsonLines(bytes: Uint8Array, source: string): Generator<JsonRecord> {
  let line = 0
  for (let begin = 0; begin < bytes.length; ) {
    const newline = bytes.indexOf(NEWLINE, begin)
    const end = newline < 0 ? bytes.length : newline
    line++
    const place = `${source}, line ${line}`
    const text = decodeText(bytes.subarray(begin, end), place)
    if (text.trim() !== '') yield { value: parse(text, place), place }
    begin = end + 1
  }
}

/** Values of a JSON document; see {@link readJsonDocument}. */
export function* jsonDocument(bytes: Uint8Array, source: string): Generator<JsonRecord> {
  const document = parse(decodeText(bytes, source), source)
  if (!Array.isArray(document)) {
    yield { value: document, place: source }
    return
  }
  for (const [i, value] of document.entries()) yield { value, place: `${source}, sample ${i}` }
}

/** @throws QtoolError `data` when the bytes are not UTF-8. A mark of byte order at the beginning is left out. */
export function decodeText(bytes: Uint8Array, place: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new QtoolError('data', `${place}: not UTF-8 text`, { cause })
  }
}

function parse(text: string, place: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new QtoolError('data', `${place}: not JSON (${(cause as Error).message})`, {
      hint: 'a .jsonl file holds one sample a line; a .json file holds one document',
      cause,
    })
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function toSample({ value, place }: JsonRecord): NamedArrays {
  if (!isObject(value) || isTensorObject(value)) return { place, arrays: new Map([['', () => toArray(value, place)]]) }
  const entries = Object.entries(value).map(
    ([name, entry]) => [name, () => toArray(entry, `${place}, ${name}`)] as const,
  )
  return { place, arrays: new Map(entries) }
}

function isTensorObject(value: Record<string, unknown>): boolean {
  return Array.isArray(value.data) && Object.keys(value).every((key) => ['data', 'shape', 'dtype'].includes(key))
}

function toArray(value: unknown, place: string): NdArray {
  if (!isObject(value)) return nestedArray(value, place)
  if (!isTensorObject(value)) {
    throw new QtoolError('data', `${place}: wanted numbers or {"data", "shape", "dtype"}, found ${describe(value)}`)
  }
  const values = nestedArray(value.data, place)
  const shape = value.shape === undefined ? values.shape : toShape(value.shape, values.data.length, place)
  if (value.dtype === undefined) return { ...values, shape }
  const dtype = toDtype(value.dtype, place)
  checkConvertible(values, dtype, place)
  return { dtype, shape, data: convertElements(values, 0, values.data.length, dtype) }
}

function toShape(value: unknown, count: number, place: string): number[] {
  const isShape =
    Array.isArray(value) && value.length <= LARGEST_RANK && value.every((d) => Number.isSafeInteger(d) && d >= 0)
  if (!isShape) throw new QtoolError('data', `${place}: shape must be a list of sizes, found ${describe(value)}`)
  if (elementCount(value) !== count) {
    throw new QtoolError(
      'data',
      `${place}: shape ${formatShape(value)} wants ${elementCount(value)} numbers, found ${count}`,
    )
  }
  return value
}

function toDtype(value: unknown, place: string): Dtype {
  if (typeof value === 'string' && isDtype(value)) return value
  throw new QtoolError('data', `${place}: dtype ${describe(value)} is not known; wanted for example int64 or float32`)
}

/** Nested lists as a float64 array; the shape is that of the first elements, and all others must agree. */
function nestedArray(value: unknown, place: string): NdArray {
  const shape: number[] = []
  for (let level = value; Array.isArray(level); level = level[0]) {
    if (shape.length === LARGEST_RANK)
      throw new QtoolError('data', `${place}: lists nested deeper than ${LARGEST_RANK}`)
    shape.push(level.length)
  }
  // Ragged lists are found before their claimed size is allocated: numbers are collected as they are met.
  const numbers: number[] = []
  const collect = (item: unknown, axis: number): void => {
    if (axis < shape.length) {
      if (!Array.isArray(item) || item.length !== shape[axis]) {
        throw new QtoolError('data', `${place}: ragged lists: wanted a list of ${shape[axis]}, found ${describe(item)}`)
      }
      for (const part of item) collect(part, axis + 1)
    } else if (typeof item === 'number') numbers.push(item)
    else if (typeof item === 'boolean') numbers.push(item ? 1 : 0)
    else throw new QtoolError('data', `${place}: wanted a number, found ${describe(item)}`)
  }
  collect(value, 0)
  return { dtype: 'float64', shape, data: Float64Array.from(numbers), fromText: true }
}

/** Containers are not printed: they may be nested deeper than the stack allows. */
function describe(value: unknown): string {
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (isObject(value)) return `an object with ${Object.keys(value).slice(0, 5).join(', ') || 'nothing in it'}`
  const text = JSON.stringify(value) ?? 'nothing'
  return text.length > 40 ? `${text.slice(0, 40)}…` : text
}

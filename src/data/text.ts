/**
 * @file Files that hold text → texts. A .txt is one text. A .jsonl, .ndjson or .json holds one text a record: a string, or
 * an object with a string named text (or as the user renames it); other fields are not read.
 */
import { QtoolError } from '../errors.ts'
import { readDataFile } from './dataFile.ts'
import { decodeText, isObject, type JsonRecord, jsonDocument, jsonLines } from './jsonLines.ts'
import { endingOf } from './paths.ts'

const FIELD = 'text'

export interface TextRecord {
  readonly text: string
  /** The file, and the line or number of the record in it. */
  readonly place: string
}

/**
 * Whether a JSON file holds text: its first record does, and has no array named like an input.
 *
 * @param names   array names that mean an input.
 * @param fields  further names of the field that holds text.
 * @throws QtoolError `data` when the file or its first record cannot be read.
 */
export function holdsText(file: string, names: ReadonlySet<string>, fields: readonly string[]): boolean {
  for (const { value } of readRecords(file)) {
    if (typeof value === 'string') return true
    if (!isObject(value) || Object.keys(value).some((key) => names.has(key) && typeof value[key] !== 'string'))
      return false
    return textField(value, fields) !== undefined
  }
  return false
}

/**
 * The texts of files, one after another.
 * @param fields  names of the field that holds text, tried before `text`.
 * @throws QtoolError `data` for a file that is not UTF-8, or a record without text.
 */
export function* readTexts(files: readonly string[], fields: readonly string[]): Generator<TextRecord> {
  for (const file of files) {
    if (endingOf(file) === '.txt') {
      yield { text: decodeText(readDataFile(file), file), place: file }
      continue
    }
    for (const { value, place } of readRecords(file)) {
      const text = isObject(value) ? textField(value, fields) : value
      if (typeof text !== 'string') {
        throw new QtoolError('data', `${place}: wanted a string, or an object with a string named ${FIELD}`, {
          hint: 'the first record holds text, so all must',
        })
      }
      yield { text, place }
    }
  }
}

function readRecords(file: string): Generator<JsonRecord> {
  const bytes = readDataFile(file)
  return endingOf(file) === '.json' ? jsonDocument(bytes, file) : jsonLines(bytes, file)
}

function textField(value: Readonly<Record<string, unknown>>, fields: readonly string[]): string | undefined {
  const found = [...fields, FIELD].find((name) => Object.hasOwn(value, name) && typeof value[name] === 'string')
  return found === undefined ? undefined : (value[found] as string)
}

/** @file Paths that the user gives (files, directories, patterns) → data files, in a fixed order. */
import { existsSync, readdirSync, statSync } from 'node:fs'
import { extname, join, sep } from 'node:path'
import picomatch from 'picomatch'
import { QtoolError } from '../errors.ts'
import { fileError } from './dataFile.ts'

/** What the files hold. JSON may hold text as well, which only its contents tell. */
export type FileKind = 'array' | 'json' | 'text' | 'image'

const KINDS: Readonly<Record<FileKind, readonly string[]>> = {
  array: ['.npy', '.npz'],
  json: ['.jsonl', '.ndjson', '.json'],
  text: ['.txt'],
  image: ['.png', '.jpg', '.jpeg', '.webp', '.gif', '.bmp', '.tif', '.tiff', '.avif'],
}

export const ACCEPTED =
  'accepted are .npy, .npz, .jsonl, .ndjson, .json, .txt, images, and a directory of .npy, of .npz or of images'

/** The ending of a path, in lower case. */
export function endingOf(path: string): string {
  return extname(path).toLowerCase()
}

/** What a file of this name holds; undefined when its ending is not known. */
export function fileKind(path: string): FileKind | undefined {
  return (Object.keys(KINDS) as FileKind[]).find((kind) => KINDS[kind].includes(endingOf(path)))
}

/**
 * The data files of the paths.
 *
 * A directory stands for its .npy and .npz files or, when it has none, for its images. A path that does not exist and
 * has one of * ? [ { is a pattern, where ** crosses folders. Files of one directory or pattern are in name order, by code
 * units, as Python's sorted() has it: sample_10 comes before sample_2, sample_02 before sample_10.
 *
 * @throws QtoolError `data` for a path that is missing, holds nothing, or is of a kind that is not known.
 */
export function listFiles(paths: readonly string[]): string[] {
  return paths.flatMap((path) => {
    if (!existsSync(path) && /[*?[{]/.test(path)) return matchPattern(path)
    const entries = readDirectory(path)
    return entries ? chooseFiles(path, entries) : [checkKnown(path)]
  })
}

/** Names in a directory, undefined for a file. */
function readDirectory(path: string): string[] | undefined {
  try {
    return statSync(path).isDirectory() ? readdirSync(path) : undefined
  } catch (cause) {
    throw fileError(path, cause)
  }
}

function checkKnown(path: string): string {
  if (fileKind(path) !== undefined) return path
  throw new QtoolError('data', `data file ${path}: files named ${endingOf(path) || 'so'} are not known`, {
    hint: ACCEPTED,
  })
}

function chooseFiles(directory: string, entries: readonly string[]): string[] {
  for (const kind of ['array', 'image'] as const) {
    const names = entries.filter((name) => fileKind(name) === kind).sort()
    if (names.length > 0) return names.map((name) => join(directory, name))
  }
  throw new QtoolError('data', `data directory ${directory}: no .npy, .npz or image file in it`, {
    hint: `${ACCEPTED}; a pattern (${join(directory, '**', '*.png')}) reaches into folders`,
  })
}

function matchPattern(pattern: string): string[] {
  const { base, glob } = picomatch.scan(pattern.split(sep).join('/'))
  const matches = picomatch(glob)
  const root = base || '.'
  let names: string[]
  try {
    // Without a slash or ** nothing below the first folder can match, and looking there may take long.
    names = readdirSync(root, { recursive: glob.includes('/') || glob.includes('**'), encoding: 'utf8' })
  } catch (cause) {
    throw fileError(root, cause)
  }
  const found = names
    .map((name) => name.split(sep).join('/'))
    .filter((name) => matches(name))
    .sort()
    .map((name) => join(root, name))
    .filter((path) => statSync(path).isFile())
  if (found.length === 0) throw new QtoolError('data', `no file matches ${pattern}`, { hint: ACCEPTED })
  return found.map(checkKnown)
}

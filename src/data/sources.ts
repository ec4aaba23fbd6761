/**
 * @file Paths that the user gives → the arrays they hold, file after file.
 *
 * | path | holds |
 * |---|---|
 * | FILE.npy | samples of the one input that needs data |
 * | FILE.npz | arrays by input name |
 * | FILE.jsonl, .ndjson, .json | one sample a line, or a list of samples |
 * | directory of .npz | all of them, one after another in name order |
 * | directory of .npy, or several .npy | one file per input when stems are input names, else samples in name order |
 *
 * Name order is by code units, as Python's sorted() has it: sample_10 comes before sample_2, sample_02 before sample_10.
 */
import { readdirSync, statSync } from 'node:fs'
import { extname, join, parse } from 'node:path'
import { QtoolError } from '../errors.ts'
import { fileError, readDataFile } from './dataFile.ts'
import { readJsonDocument, readJsonLines } from './jsonLines.ts'
import type { NamedArrays } from './ndArray.ts'
import { decodeNpy } from './npy.ts'
import { openNpz } from './npz.ts'

const ACCEPTED = 'accepted are .npy, .npz, .jsonl, .ndjson, .json, and a directory of .npy or of .npz files'

/**
 * All arrays of the paths, in the order given; a file is read when the walk reaches it.
 *
 * @param paths  at least one file or directory.
 * @param names  array names that mean an input; they decide whether .npy files are inputs or samples.
 * @throws QtoolError `data`: a path that is missing, of a kind that is not known, or of another kind than the others.
 */
export function* readSources(paths: readonly string[], names: ReadonlySet<string>): Generator<NamedArrays> {
  const files = paths.flatMap(listFiles)
  const npys = files.filter((file) => kindOf(file) === '.npy')
  if (npys.length > 0 && npys.length < files.length) {
    const other = files.find((file) => kindOf(file) !== '.npy')
    throw new QtoolError('data', `.npy files and others cannot be mixed: ${npys[0]}, ${other}`, { hint: ACCEPTED })
  }
  if (npys.length > 0) yield* readNpys(npys, names)
  else for (const file of files) yield* readFile(file)
}

function kindOf(path: string): string {
  return extname(path).toLowerCase()
}

function listFiles(path: string): string[] {
  let isDirectory: boolean
  let entries: string[]
  try {
    isDirectory = statSync(path).isDirectory()
    entries = isDirectory ? readdirSync(path) : []
  } catch (cause) {
    throw fileError(path, cause)
  }
  if (!isDirectory) {
    if (['.npy', '.npz', '.jsonl', '.ndjson', '.json'].includes(kindOf(path))) return [path]
    throw new QtoolError('data', `data file ${path}: files named ${kindOf(path) || 'so'} are not known`, {
      hint: ACCEPTED,
    })
  }
  const files = entries.filter((name) => ['.npy', '.npz'].includes(kindOf(name))).sort()
  if (files.length === 0) {
    throw new QtoolError('data', `data directory ${path}: no .npy or .npz file in it`, { hint: ACCEPTED })
  }
  return files.map((name) => join(path, name))
}

function* readNpys(files: readonly string[], names: ReadonlySet<string>): Generator<NamedArrays> {
  const stems = files.map((file) => parse(file).name)
  const load = (file: string) => () => decodeNpy(readDataFile(file), file)
  if (!stems.some((stem) => names.has(stem))) {
    for (const file of files) yield { place: file, arrays: new Map([['', load(file)]]) }
    return
  }
  const repeated = stems.find((stem, i) => stems.indexOf(stem) !== i)
  if (repeated !== undefined) throw new QtoolError('data', `two files named ${repeated}.npy: ${files.join(', ')}`)
  yield { place: files.join(', '), arrays: new Map(files.map((file, i) => [stems[i]!, load(file)])) }
}

function* readFile(file: string): Generator<NamedArrays> {
  const bytes = readDataFile(file)
  if (kindOf(file) === '.npz') {
    const npz = openNpz(bytes, file)
    yield { place: file, arrays: new Map(npz.names.map((name) => [name, () => npz.read(name)])) }
  } else if (kindOf(file) === '.json') {
    yield* readJsonDocument(bytes, file)
  } else {
    yield* readJsonLines(bytes, file)
  }
}

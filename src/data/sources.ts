/**
 * @file Data files that hold numbers → their arrays, file after file.
 *
 * | files | hold |
 * |---|---|
 * | .npy | samples of the one input that needs data |
 * | .npz | arrays by input name |
 * | .jsonl, .ndjson, .json | one sample a line, or a list of samples |
 * | several .npy | one file per input when stems are input names, else samples in the order given |
 */
import { parse } from 'node:path'
import { QtoolError } from '../errors.ts'
import { readDataFile } from './dataFile.ts'
import { readJsonDocument, readJsonLines } from './jsonLines.ts'
import type { NamedArrays } from './ndArray.ts'
import { decodeNpy } from './npy.ts'
import { openNpz } from './npz.ts'
import { ACCEPTED, endingOf } from './paths.ts'

/**
 * All arrays of the files, in the order given; a file is read when the walk reaches it.
 *
 * @param files  of kinds array and json.
 * @param names  array names that mean an input; they decide whether .npy files are inputs or samples.
 * @throws QtoolError `data`: a file that cannot be read, or .npy files among others.
 */
export function* readArrays(files: readonly string[], names: ReadonlySet<string>): Generator<NamedArrays> {
  const npys = files.filter((file) => endingOf(file) === '.npy')
  if (npys.length > 0 && npys.length < files.length) {
    const other = files.find((file) => endingOf(file) !== '.npy')
    throw new QtoolError('data', `.npy files and others cannot be mixed: ${npys[0]}, ${other}`, { hint: ACCEPTED })
  }
  if (npys.length > 0) yield* readNpys(npys, names)
  else for (const file of files) yield* readFile(file)
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
  if (endingOf(file) === '.npz') {
    const npz = openNpz(bytes, file)
    yield { place: file, arrays: new Map(npz.names.map((name) => [name, () => npz.read(name)])) }
  } else if (endingOf(file) === '.json') {
    yield* readJsonDocument(bytes, file)
  } else {
    yield* readJsonLines(bytes, file)
  }
}

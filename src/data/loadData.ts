/** @file Data files → blocks of samples: by what they hold, numbers, text or images. */
import { QtoolError } from '../errors.ts'
import type { DatasetOptions } from './dataset.ts'
import { requiredInputs } from './fillInputs.ts'
import { loadImages } from './imageSource.ts'
import { type Block, layOut } from './layout.ts'
import { arrayName, matchInputs } from './matchInputs.ts'
import type { ModelInput } from './modelInput.ts'
import type { Normalization } from './normalize.ts'
import { ACCEPTED, type FileKind, fileKind } from './paths.ts'
import { readArrays } from './sources.ts'
import { holdsText } from './text.ts'
import { loadText } from './textSource.ts'

/** What the files hold, before samples are chosen. */
export interface LoadedData {
  readonly blocks: readonly Block[]
  /** Rescaling that the files themselves ask for. */
  readonly normalize?: Readonly<Record<string, Normalization>>
  /** Where only some of the data were read: their numbers, and how many there are. */
  readonly part?: { readonly numbers: Int32Array; readonly total: number }
}

/**
 * Read data files.
 *
 * @param enough  samples that suffice; 0 = all. Images go by `options.samples` instead, for their number is known before.
 * @param notes   gets a sentence for each choice that the user should know of.
 * @throws QtoolError `data` when files cannot be read or do not belong together; see the sources.
 */
export async function loadData(
  files: readonly string[],
  inputs: readonly ModelInput[],
  options: DatasetOptions & Required<Pick<DatasetOptions, 'rename' | 'constants' | 'samples'>>,
  enough: number,
  notes: Set<string>,
): Promise<LoadedData> {
  const names = new Set(inputs.map((input) => arrayName(input, options.rename)))
  const kind = sourceKind(files, names, Object.values(options.rename))
  const unused = [
    ...(kind === 'text' || options.seqLen === undefined ? [] : ['a sequence length']),
    ...(kind === 'image' || options.size === undefined ? [] : ['an image size']),
    ...(kind === 'image' || options.layout === undefined ? [] : ['a layout']),
  ]
  if (unused.length > 0 && files.length > 0) {
    notes.add(`${unused.join(' and ')} is given but not used: the data are ${kind === 'array' ? 'arrays' : `${kind}s`}`)
  }
  if (kind === 'text') return { blocks: [await loadText(files, inputs, options, enough, notes)] }
  if (kind === 'image') return loadImages(files, inputs, options, notes)
  return { blocks: loadArrays(files, inputs, { ...options, names }, enough, notes) }
}

/** @throws QtoolError `data` when files of different kinds are given together. */
function sourceKind(
  files: readonly string[],
  names: ReadonlySet<string>,
  fields: readonly string[],
): Exclude<FileKind, 'json'> {
  const first = files.find((file) => fileKind(file) === 'json')
  const json = first !== undefined && holdsText(first, names, fields) ? 'json' : 'array'
  const kinds = new Map(files.map((file) => [fileKind(file) === 'json' ? json : fileKind(file)!, file]))
  if (kinds.size <= 1) {
    const [kind = 'array'] = kinds.keys()
    return kind === 'json' ? 'text' : kind
  }
  throw new QtoolError('data', `files of different kinds cannot be mixed: ${[...kinds.values()].join(', ')}`, {
    hint: ACCEPTED,
  })
}

function loadArrays(
  files: readonly string[],
  inputs: readonly ModelInput[],
  {
    rename,
    constants,
    names,
  }: { rename: Record<string, string>; constants: Record<string, number>; names: Set<string> },
  enough: number,
  notes: Set<string>,
): Block[] {
  const wanted = { inputs, required: requiredInputs(inputs, constants), rename }
  const blocks: Block[] = []
  let total = 0
  for (const record of readArrays(files, names)) {
    const block = layOut(matchInputs(record, wanted, notes), record.place)
    blocks.push(block)
    total += block.count
    if (enough > 0 && total >= enough) break
  }
  return blocks
}

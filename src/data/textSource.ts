/**
 * @file Text → samples of token ids, by the tokenizer that comes with the model.
 *
 * | files | a sample is | special tokens |
 * |---|---|---|
 * | .txt | the next `seqLen` tokens of all files together | what the tokenizer puts before a text begins each sample |
 * | JSON, the model has an attention mask | one text, cut to `seqLen`, padded on the right with mask 0 | as the tokenizer puts them around a text |
 * | JSON, the model has none | the next `seqLen` tokens of all texts together | both |
 *
 * Samples drawn at random (`pickSeed`) from a .txt of more than two passages for each of them come from as many passages, and
 * only these are tokenized; of JSON only as many texts as may be needed. Tokens at the end that do not fill a sample are left out, unless there is no other sample. The default of `seqLen` is the
 * model's fixed sequence dimension, else 512 or what tokenizer_config.json (model_max_length) or config.json
 * (max_position_embeddings) allow, whichever is least.
 */
import { QtoolError } from '../errors.ts'
import type { DatasetOptions } from './dataset.ts'
import { MASKS, POSITIONS, requiredInputs, TOKEN_TYPES } from './fillInputs.ts'
import { type Block, layOut } from './layout.ts'
import { readModelFile } from './modelFolder.ts'
import { fixedDim, type ModelInput } from './modelInput.ts'
import { formatShape, type NdArray } from './ndArray.ts'
import { endingOf } from './paths.ts'
import { shuffled } from './pickSamples.ts'
import { readTexts, type TextRecord } from './text.ts'
import { cutText, openTokenizer, type TextTokenizer } from './tokenizer.ts'
import { packTokens, padRows } from './tokenRows.ts'

const DEFAULT_LENGTH = 512
/** Characters of a passage for each token of a sequence: even long words fill it. */
const PASSAGE = 8
/** Texts to choose from for each sample, since some are empty. */
const SPARE = 4

/**
 * Tokenize files of text.
 *
 * @param enough  samples that suffice; 0 = all.
 * @param notes   gets what was cut, padded and left out.
 * @throws QtoolError `data` when the model takes no tokens, has no tokenizer, or there is no text; `usage` for a sequence
 *   length that does not fit.
 */
export async function loadText(
  files: readonly string[],
  inputs: readonly ModelInput[],
  options: DatasetOptions,
  enough: number,
  notes: Set<string>,
): Promise<Block> {
  const { rename = {}, constants = {}, modelPath, samples = 0, pickSeed, labels } = options
  const input = tokenInput(inputs, constants)
  const mask = inputs.find(
    (other) =>
      Object.hasOwn(MASKS, bare(other)) &&
      other.dims.length === 2 &&
      !Object.hasOwn(constants, other.name) &&
      fits(other, input),
  )
  const tokenizer = await openTokenizer(modelPath)
  const length = sequenceLength(input, options, notes)
  const specials = tokenizer.prefix.length + tokenizer.suffix.length
  if (length <= specials) {
    throw new QtoolError(
      'usage',
      `sequences of ${length} tokens: ${specials} of them are the tokenizer's special tokens`,
    )
  }
  const isPlain = files.every((file) => endingOf(file) === '.txt')
  if (!isPlain && files.some((file) => endingOf(file) === '.txt')) {
    throw new QtoolError('data', `.txt files and others cannot be mixed: ${files.join(', ')}`)
  }
  const all = readTexts(files, Object.hasOwn(rename, input.name) ? [rename[input.name]!] : [])
  const place = files.length > 1 ? `${files[0]} and ${files.length - 1} more` : `${files[0]}`
  const target = { input, mask, length, enough, place }
  const seed = samples > 0 && labels === undefined ? pickSeed : undefined
  const texts = seed === undefined ? all : isPlain ? [...all] : drawTexts([...all], SPARE * samples, seed)
  const drawn =
    seed === undefined || !isPlain ? undefined : drawPassages(texts, samples, seed, tokenizer, target, notes)
  const rows =
    drawn ??
    (isPlain || !mask ? pack(texts, isPlain, tokenizer, target, notes) : separate(texts, tokenizer, target, notes))
  if (rows.length === 0) throw new QtoolError('data', `no text in ${place}`)
  const fixed = fixedDim(input, 1)
  const padded = padRows(rows, tokenizer.padding, fixed)
  const { count, width, lengths } = padded
  if (!mask && lengths.some((used) => used < width)) {
    throw new QtoolError('data', `${place}: ${lengths[0]} tokens, but input ${input.name} takes exactly ${width}`)
  }
  const array = (data: Int32Array): NdArray => ({ dtype: 'int32', shape: [count, width], data, fromText: true })
  const block = layOut(
    new Map([[input, array(padded.ids)], ...(mask ? [[mask, array(padded.mask)] as const] : [])]),
    place,
  )
  return fixed === undefined && lengths.some((used) => used < width) ? { ...block, lengths } : block
}

interface Target {
  readonly input: ModelInput
  readonly mask: ModelInput | undefined
  readonly length: number
  readonly enough: number
  readonly place: string
}

/** All texts one after another, cut into full rows. */
function pack(
  texts: Iterable<TextRecord>,
  isPlain: boolean,
  tokenizer: TextTokenizer,
  { input, length, enough }: Target,
  notes: Set<string>,
): readonly (readonly number[])[] {
  const { prefix, suffix } = tokenizer
  function* pieces(): Generator<readonly number[]> {
    for (const { text } of texts) {
      if (isPlain) yield* tokenizer.encode(text)
      else if (text !== '') yield [...prefix, ...[...tokenizer.encode(text)].flat(), ...suffix]
    }
  }
  const { rows, left } = packTokens(pieces(), { length, prefix, enough })
  if (rows.length === 0) return rows
  const what = isPlain ? 'text' : 'texts, one after another,'
  const rest = left > 0 ? `; ${left} tokens at the end are left out, for they do not fill one` : ''
  notes.add(
    `${input.name}: ${what} cut into ${rows.length} sequences of ${rows[0]!.length} tokens (${tokenizer.path})${rest}`,
  )
  return rows
}

/** Some of the texts, in the order of the data. */
function drawTexts(texts: readonly TextRecord[], count: number, seed: number): readonly TextRecord[] {
  return Array.from(shuffled(texts.length, seed).slice(0, count).sort(), (i) => texts[i]!)
}

/** One sequence from each of `count` passages, in the order of the text; undefined when there are not enough passages. */
function drawPassages(
  texts: Iterable<TextRecord>,
  count: number,
  seed: number,
  tokenizer: TextTokenizer,
  { input, length }: Target,
  notes: Set<string>,
): readonly (readonly number[])[] | undefined {
  const passages = [...texts].flatMap(({ text }) => [...cutText(text, PASSAGE * length)])
  if (passages.length <= 2 * count) return undefined
  const rows = new Map<number, readonly number[]>()
  for (const number of shuffled(passages.length, seed)) {
    const ids = tokenizer.encode(passages[number]!)
    const [row] = packTokens(ids, { length, prefix: tokenizer.prefix, enough: 1 }).rows
    if (row?.length === length) rows.set(number, row)
    if (rows.size === count) break
  }
  if (rows.size < count) return undefined
  notes.add(`${input.name}: ${count} sequences of ${length} tokens (${tokenizer.path}) from random places of the text`)
  return [...rows].sort(([a], [b]) => a - b).map(([, row]) => row)
}

/** Each text in a row of its own. */
function separate(
  texts: Iterable<TextRecord>,
  tokenizer: TextTokenizer,
  { input, mask, length, enough }: Target,
  notes: Set<string>,
): readonly (readonly number[])[] {
  const { prefix, suffix } = tokenizer
  const room = length - prefix.length - suffix.length
  const rows: number[][] = []
  let cut = 0
  let empty = 0
  for (const { text } of texts) {
    const ids = firstTokens(tokenizer.encode(text), room + 1)
    if (ids.length === 0) {
      empty++
      continue
    }
    if (ids.length > room) cut++
    rows.push([...prefix, ...ids.slice(0, room), ...suffix])
    if (rows.length === enough) break
  }
  const details = [
    `each in a row of its own, padded where ${mask!.name} is 0`,
    ...(cut > 0 ? [`${cut} were longer than ${length} tokens and are cut`] : []),
    ...(empty > 0 ? [`${empty} are empty and left out`] : []),
  ]
  notes.add(`${input.name}: ${rows.length} texts (${tokenizer.path}), ${details.join('; ')}`)
  return rows
}

/** At most `count` tokens; no more pieces are tokenized than that takes. */
function firstTokens(pieces: Iterable<readonly number[]>, count: number): number[] {
  const ids: number[] = []
  for (const piece of pieces) {
    for (const id of piece) if (ids.length < count) ids.push(id)
    if (ids.length === count) break
  }
  return ids
}

function bare(input: ModelInput): string {
  return input.name.replace(/:0$/, '')
}

/** Whether a mask has, or may have, the shape of the tokens. */
function fits(mask: ModelInput, tokens: ModelInput): boolean {
  if (/encoder|decoder/.test(mask.name)) return MASKS[bare(mask)]!.includes(bare(tokens))
  return [0, 1].every((axis) => (fixedDim(mask, axis) ?? fixedDim(tokens, axis)) === fixedDim(tokens, axis))
}

/** The input that takes token ids: by name, else the only one of integers [samples, tokens] whose meaning is open. */
function tokenInput(inputs: readonly ModelInput[], constants: Readonly<Record<string, number>>): ModelInput {
  const named = inputs.find((input) => ['input_ids', 'input_word_ids'].includes(bare(input)) && input.dims.length === 2)
  if (named) return named
  const known = [...Object.keys(MASKS), ...TOKEN_TYPES, POSITIONS]
  const candidates = requiredInputs(inputs, constants).filter(
    (input) => /^u?int(32|64)$/.test(input.elementType) && input.dims.length === 2 && !known.includes(bare(input)),
  )
  if (candidates.length === 1) return candidates[0]!
  const list = inputs.map(({ name, elementType, dims }) => `${name} (${elementType} ${formatShape(dims)})`).join(', ')
  throw new QtoolError('data', `the data are text, but no input of the model is known to take token ids: ${list}`, {
    hint: 'text needs one input of integers [batch, sequence], best named input_ids',
  })
}

function sequenceLength(input: ModelInput, { seqLen, modelPath }: DatasetOptions, notes: Set<string>): number {
  const fixed = fixedDim(input, 1)
  if (seqLen !== undefined && !(Number.isSafeInteger(seqLen) && seqLen > 0)) {
    throw new QtoolError('usage', `sequence length: wanted a whole number from 1, found ${seqLen}`)
  }
  if (fixed !== undefined && seqLen !== undefined && seqLen !== fixed) {
    throw new QtoolError('usage', `sequence length ${seqLen}: input ${input.name} takes exactly ${fixed} tokens`)
  }
  const limits = [
    readModelFile(modelPath, 'tokenizer_config.json')?.content.model_max_length,
    ...['max_position_embeddings', 'n_positions'].map((key) => readModelFile(modelPath, 'config.json')?.content[key]),
  ].filter((limit) => typeof limit === 'number' && limit >= 1) as number[]
  const limit = Math.floor(Math.min(...limits))
  const length = fixed ?? seqLen ?? Math.min(DEFAULT_LENGTH, limit)
  if (length > limit) notes.add(`sequences of ${length} tokens: the model's files say that it takes at most ${limit}`)
  return length
}

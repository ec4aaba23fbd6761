/**
 * @file Inputs that the data lacks, filled only where their meaning is certain.
 *
 * | input | value | certain when |
 * |---|---|---|
 * | attention_mask, input_mask, … | ones | rank 2, beside token ids, embeddings or raw audio; no cache given |
 * | token_type_ids, segment_ids, … | zeros | rank 2, beside token ids |
 * | position_ids | 0, 1, 2, … in each row; from the attention mask when the data has one | rank 1 or 2, no cache given |
 * | past_key_values.*, past_* | empty: the past dimension is 0 | one dimension is the past, the others are known; no cache given |
 * | use_cache_branch | false | one bool; no cache given |
 * | h, c, state, hidden, … | zeros (ONNX: the initial state when none is given) | float, rank 3, only axis 1 is open |
 *
 * A constant that the user names comes before all of these. Whatever else is missing is an error.
 */
import { QtoolError } from '../errors.ts'
import { checkConvertible, convertElements } from './convert.ts'
import { type FeedTensor, feedDtype, feedType, fixedDim, type ModelInput } from './modelInput.ts'
import { elementCount, formatShape } from './ndArray.ts'

/** What is known when a batch is fed. */
export interface FillContext {
  /** Inputs that come from the data. */
  readonly feeds: ReadonlyMap<string, FeedTensor>
  /** Rows of the batch. */
  readonly batch: number
  /** Sizes of symbolic dimensions, from the feeds. */
  readonly symbols: ReadonlyMap<string, number>
}

/** How one missing input is made for every batch. */
export interface Fill {
  readonly input: ModelInput
  /** For reports: 'ones', 'zeros', 'empty', 'constant 16000', … */
  readonly value: string
  /** The batch size that the input's fixed dimensions force. */
  readonly batch: number | undefined
  /** @throws QtoolError `data` when a dimension cannot be told from the data. */
  make(context: FillContext): FeedTensor
}

/** The model's inputs, and those of them that the data has. */
interface Situation {
  readonly inputs: readonly ModelInput[]
  readonly given: ReadonlySet<string>
}

type Rule = (input: ModelInput, situation: Situation) => Fill | undefined

/** Mask → the inputs whose first two axes it has. */
export const MASKS: Readonly<Record<string, readonly string[]>> = {
  attention_mask: ['input_ids', 'inputs_embeds', 'input_values'],
  input_mask: ['input_ids', 'input_word_ids'],
  input_word_mask: ['input_word_ids'],
  encoder_attention_mask: ['encoder_hidden_states'],
  decoder_attention_mask: ['decoder_input_ids'],
}
export const TOKEN_TYPES = ['token_type_ids', 'segment_ids', 'input_type_ids']
export const POSITIONS = 'position_ids'
const TOKENS = ['input_ids', 'input_word_ids', 'inputs_embeds']
const STATE = /^(initial_)?(h|c|state|hidden|cell|hidden_states?|cell_states?)_?(0|in|init)?$/

/** TensorFlow's names end in an output number. */
function bareName(input: ModelInput): string {
  return input.name.replace(/:0$/, '')
}

/**
 * Decide how each missing input is made.
 *
 * @param given      names of the inputs that the data has.
 * @param constants  input name → the number that fills it.
 * @param place      where the data comes from, for messages.
 * @throws QtoolError `data` for an input whose meaning is not certain.
 */
export function planFills(
  inputs: readonly ModelInput[],
  given: ReadonlySet<string>,
  constants: Readonly<Record<string, number>>,
  place: string,
): Fill[] {
  const missing = inputs.filter((input) => !given.has(input.name))
  return missing.map((input) => {
    const fill = findFill(input, { inputs, given }, constants)
    if (fill) return fill
    throw new QtoolError(
      'data',
      `input ${input.name} (${input.elementType} ${formatShape(input.dims)}) is not in ${place}, and its value cannot be guessed`,
      {
        hint: `add an array named ${input.name}, name the array that holds it (--rename ${input.name}=NAME), or give a constant (--set ${input.name}=NUMBER)`,
      },
    )
  })
}

/** The inputs that only data can supply: neither a constant nor a certain meaning. */
export function requiredInputs(
  inputs: readonly ModelInput[],
  constants: Readonly<Record<string, number>>,
): ModelInput[] {
  const isFillable = (input: ModelInput) => {
    const others = inputs.filter((other) => other !== input && !isPast(other))
    return findFill(input, { inputs, given: new Set(others.map((other) => other.name)) }, constants) !== undefined
  }
  return inputs.filter((input) => !isFillable(input))
}

function findFill(
  input: ModelInput,
  situation: Situation,
  constants: Readonly<Record<string, number>>,
): Fill | undefined {
  if (Object.hasOwn(constants, input.name)) return constantFill(input, constants[input.name]!)
  for (const rule of [maskRule, tokenTypeRule, positionRule, pastRule, cacheBranchRule, stateRule]) {
    const fill = rule(input, situation)
    if (fill) return fill
  }
  return undefined
}

function constantFill(input: ModelInput, value: number): Fill {
  const single = { dtype: 'float64', shape: [], data: Float64Array.of(value) } as const
  checkConvertible(single, feedDtype(input), `constant for input ${input.name}`)
  return {
    input,
    value: `constant ${value}`,
    batch: undefined,
    make: (context) => filled(input, resolveDims(input, context), value),
  }
}

const maskRule: Rule = (input, { inputs, given }) => {
  const source = findSource(MASKS[bareName(input)] ?? [], inputs, given)
  if (!source || input.dims.length !== 2 || isPastGiven(given, inputs)) return undefined
  return likeRows(input, source, 'ones', 1)
}

const tokenTypeRule: Rule = (input, { inputs, given }) => {
  const source = TOKEN_TYPES.includes(bareName(input)) ? findSource(TOKENS, inputs, given) : undefined
  return source && input.dims.length === 2 ? likeRows(input, source, 'zeros', 0) : undefined
}

const positionRule: Rule = (input, { inputs, given }) => {
  const source = bareName(input) === POSITIONS ? findSource(TOKENS, inputs, given) : undefined
  const rank = input.dims.length
  if (!source || (rank !== 1 && rank !== 2) || isPastGiven(given, inputs)) return undefined
  const mask = rank === 2 ? findSource(['attention_mask'], inputs, given) : undefined
  return {
    input,
    value: mask ? 'tokens counted by the attention mask' : '0, 1, 2, … in each row',
    batch: rank === 2 ? fixedDim(input, 0) : undefined,
    make: ({ feeds }) => {
      const [rows, tokens] = feeds.get(source.name)!.dims as [number, number]
      const positions = mask
        ? maskedPositions(feeds.get(mask.name)!)
        : Float64Array.from({ length: (rank === 2 ? rows : 1) * tokens }, (_, i) => i % tokens)
      return toFeed(input, rank === 2 ? [rows, tokens] : [tokens], positions)
    },
  }
}

const pastRule: Rule = (input, { inputs, given }) => {
  const axis = isPast(input) ? pastAxis(input) : undefined
  if (axis === undefined || isPastGiven(given, inputs)) return undefined
  // What a decoder remembers of its encoder is needed unless a merged decoder's switch says otherwise.
  if (/encoder/.test(input.name) && !inputs.some(isCacheBranch)) return undefined
  return {
    input,
    value: 'empty',
    batch: fixedDim(input, 0),
    make: (context) => {
      const dims = resolveDims({ ...input, dims: input.dims.map((dim, i) => (i === axis ? 0 : dim)) }, context)
      return filled(input, dims, 0)
    },
  }
}

const cacheBranchRule: Rule = (input, { inputs, given }) =>
  isCacheBranch(input) && !isPastGiven(given, inputs)
    ? {
        input,
        value: 'false',
        batch: undefined,
        make: () =>
          filled(
            input,
            input.dims.map(() => 1),
            0,
          ),
      }
    : undefined

const stateRule: Rule = (input) => {
  const isState =
    STATE.test(bareName(input)) && ['float', 'float16', 'double'].includes(input.elementType) && input.dims.length === 3
  if (!isState || fixedDim(input, 0) === undefined || fixedDim(input, 2) === undefined) return undefined
  return {
    input,
    value: 'zeros',
    batch: fixedDim(input, 1),
    make: ({ batch }) => filled(input, [fixedDim(input, 0)!, fixedDim(input, 1) ?? batch, fixedDim(input, 2)!], 0),
  }
}

function findSource(
  names: readonly string[],
  inputs: readonly ModelInput[],
  given: ReadonlySet<string>,
): ModelInput | undefined {
  return inputs.find((other) => names.includes(bareName(other)) && given.has(other.name) && other.dims.length >= 2)
}

/** A fill with the first two axes of another input. */
function likeRows(input: ModelInput, source: ModelInput, value: string, number: number): Fill {
  return {
    input,
    value,
    batch: fixedDim(input, 0),
    make: ({ feeds }) => filled(input, feeds.get(source.name)!.dims.slice(0, 2), number),
  }
}

/** Position of each token among the unmasked ones of its row; masked tokens before the first get 0. */
function maskedPositions(mask: FeedTensor): Float64Array {
  const tokens = mask.dims[1]!
  const positions = new Float64Array(mask.data.length)
  for (let i = 0; i < positions.length; i++) {
    const before = i % tokens === 0 ? -1 : positions[i - 1]!
    positions[i] = before + (Number(mask.data[i]) === 0 ? 0 : 1)
  }
  return positions.map((position) => Math.max(0, position))
}

/** A key/value cache: named past…, of rank 3 to 5 with a float type. */
function isPast(input: ModelInput): boolean {
  const isNamed =
    /(^|[._])past([._]|$)/.test(input.name) || (/[._](key|value)$/.test(input.name) && namedPast(input) >= 0)
  return isNamed && ['float', 'float16', 'double'].includes(input.elementType) && input.dims.length >= 3
}

function namedPast(input: ModelInput): number {
  return input.dims.findIndex((dim) => typeof dim === 'string' && /past/i.test(dim))
}

/** The axis of the past: the one named so, else the only open one beside the batch. */
function pastAxis(input: ModelInput): number | undefined {
  const named = namedPast(input)
  if (named >= 0) return named
  const open = input.dims.flatMap((dim, axis) => (typeof dim === 'number' ? [] : [axis]))
  const batch = open.find((axis) => /batch/i.test(String(input.dims[axis]))) ?? 0
  const others = open.filter((axis) => axis !== batch)
  return others.length === 1 ? others[0] : undefined
}

function isPastGiven(given: ReadonlySet<string>, inputs: readonly ModelInput[]): boolean {
  return inputs.some((input) => given.has(input.name) && isPast(input))
}

function isCacheBranch(input: ModelInput): boolean {
  return bareName(input) === 'use_cache_branch' && input.elementType === 'bool' && input.dims.length <= 1
}

/** Sizes of all axes: fixed, or known from the feeds by symbol, or the batch (axis 0, or a symbol that says so). */
function resolveDims(input: ModelInput, { symbols, batch }: FillContext): number[] {
  return input.dims.map((dim, axis) => {
    if (typeof dim === 'number') return dim
    const known = dim ? symbols.get(dim) : undefined
    if (known !== undefined) return known
    if (axis === 0 || (dim !== undefined && /^batch(_?size)?$/i.test(dim))) return batch
    throw new QtoolError(
      'data',
      `input ${input.name} ${formatShape(input.dims)}: the size of axis ${axis} cannot be told from the data`,
      { hint: `add an array named ${input.name}` },
    )
  })
}

function filled(input: ModelInput, dims: readonly number[], value: number): FeedTensor {
  return toFeed(input, dims, new Float64Array(elementCount(dims)).fill(value))
}

function toFeed(input: ModelInput, dims: readonly number[], values: Float64Array): FeedTensor {
  const array = { dtype: 'float64', shape: dims, data: values } as const
  return { type: feedType(input), dims, data: convertElements(array, 0, values.length, feedDtype(input)) }
}

/** @file The tokenizer that comes with a model (Hugging Face's tokenizer.json): text → token ids. */
import { QtoolError } from '../errors.ts'
import { modelFilePlaces, readModelFile } from './modelFolder.ts'

/** Text is tokenized in pieces of about so many characters: some tokenizers take memory and time by the length. */
const PIECE = 8192

export interface TextTokenizer {
  /** Of tokenizer.json, for messages. */
  readonly path: string
  /** What the tokenizer's post-processor puts before each text ([CLS], a begin-of-sequence token); often nothing. */
  readonly prefix: readonly number[]
  /** What it puts after each text. */
  readonly suffix: readonly number[]
  /** The id that stands for padding; any valid one does, since the attention mask hides it. */
  readonly padding: number
  /**
   * Ids of a text without the special tokens, in consecutive pieces.
   * @throws QtoolError `data` for text that the vocabulary cannot express.
   */
  encode(text: string): Iterable<readonly number[]>
}

const HINT = 'token ids can be given instead: a .npy, .npz or .jsonl of them'

/**
 * Open the tokenizer beside a model.
 * @throws QtoolError `data` when there is none, or one of a kind that is not supported.
 */
export async function openTokenizer(modelPath: string | undefined): Promise<TextTokenizer> {
  const file = readModelFile(modelPath, 'tokenizer.json')
  if (!file) {
    const places = modelFilePlaces(modelPath, 'tokenizer.json').join(', ')
    throw new QtoolError('data', `text needs the model's tokenizer: no tokenizer.json found (looked for ${places})`, {
      hint: `put the model's tokenizer.json beside it; ${HINT}`,
    })
  }
  const config = readModelFile(modelPath, 'tokenizer_config.json')?.content ?? {}
  const { Tokenizer } = await import('@huggingface/tokenizers')
  const failure = (cause: unknown) =>
    new QtoolError('data', `${file.path}: this tokenizer is not supported (${(cause as Error).message})`, {
      hint: HINT,
      cause,
    })
  let encodeWhole: (text: string, special: boolean) => readonly number[]
  let padding: number | undefined
  let specials: Pick<TextTokenizer, 'prefix' | 'suffix'>
  try {
    // Parts that a file leaves out are as good as null.
    const parts = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] }
    const tokenizer = new Tokenizer({ ...parts, ...file.content }, config)
    encodeWhole = (text, special) => tokenizer.encode(text, { add_special_tokens: special }).ids
    padding = paddingId(config, (token) => tokenizer.token_to_id(token)) ?? modelPadding(modelPath)
    specials = findSpecials(encodeWhole)
  } catch (cause) {
    throw failure(cause)
  }
  return {
    path: file.path,
    ...specials,
    padding: padding ?? 0,
    *encode(text) {
      for (const piece of cutText(text)) {
        let ids: readonly number[]
        try {
          ids = encodeWhole(piece, false)
        } catch (cause) {
          throw failure(cause)
        }
        if (!ids.every((id) => Number.isSafeInteger(id) && id >= 0)) {
          throw new QtoolError(
            'data',
            `${file.path}: its vocabulary cannot express all of the text, and has no unknown token`,
          )
        }
        yield ids
      }
    },
  }
}

/** What a text without and with special tokens differs by. */
function findSpecials(encode: (text: string, special: boolean) => readonly number[]) {
  const whole = encode('a', true)
  const plain = encode('a', false)
  for (let at = 0; at + plain.length <= whole.length; at++) {
    if (plain.every((id, i) => id === whole[at + i])) {
      return { prefix: whole.slice(0, at), suffix: whole.slice(at + plain.length) }
    }
  }
  throw new Error('its post-processor changes the tokens of the text')
}

function paddingId(
  config: Readonly<Record<string, unknown>>,
  idOf: (token: string) => number | undefined,
): number | undefined {
  for (const key of ['pad_token', 'eos_token']) {
    const token = config[key]
    const content = typeof token === 'object' && token !== null ? (token as { content?: unknown }).content : token
    const id = typeof content === 'string' ? idOf(content) : undefined
    if (id !== undefined) return id
  }
  return undefined
}

function modelPadding(modelPath: string | undefined): number | undefined {
  const { pad_token_id: id } = readModelFile(modelPath, 'config.json')?.content ?? {}
  return Number.isSafeInteger(id) && (id as number) >= 0 ? (id as number) : undefined
}

/**
 * Cut a text into pieces of about `size` characters, at most twice as many, at ends of lines, where tokens seldom cross; after white
 * space where lines are too long; anywhere, but not inside a character, where there is none.
 */
export function* cutText(text: string, size: number = PIECE): Generator<string> {
  for (let begin = 0; begin < text.length; ) {
    const end = text.length - begin <= 2 * size ? text.length : findCut(text, begin + size, begin + 2 * size)
    yield text.slice(begin, end)
    begin = end
  }
}

function findCut(text: string, from: number, to: number): number {
  // One line break between two other characters: byte-level pre-tokenizers split there by themselves.
  const line = /(?<=\S)\n(?=\S)/
  const match = line.exec(text.slice(from, to))
  if (match) return from + match.index + 1
  for (let at = from; at < to; at++) if (/\s/.test(text[at]!)) return at
  const code = text.charCodeAt(to)
  return code >= 0xdc00 && code < 0xe000 ? to - 1 : to
}

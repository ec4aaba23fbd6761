import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Dataset, type DatasetOptions, openDataset } from '../../src/data/dataset.ts'
import type { ModelInput } from '../../src/data/modelInput.ts'
import { cutText } from '../../src/data/tokenizer.ts'
import { packTokens } from '../../src/data/tokenRows.ts'
import { tokenWeights } from '../../src/data/tokenWeights.ts'
import { expectRejection } from './expectError.ts'

const WORDS = 50
const [PAD, CLS, SEP, UNKNOWN, FIRST] = [0, 1, 2, 3, 4] as const
const BERT = { type: 'BertProcessing', cls: ['[CLS]', CLS], sep: ['[SEP]', SEP] }
const BEGIN = {
  type: 'TemplateProcessing',
  single: [{ SpecialToken: { id: '[CLS]', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
  pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
  special_tokens: { '[CLS]': { id: '[CLS]', ids: [CLS], tokens: ['[CLS]'] } },
}

/** A tokenizer whose tokens are the words w0, w1, …, with ids from {@link FIRST}. */
function tokenizerFile(postProcessor: object | null): object {
  const special = ['[PAD]', '[CLS]', '[SEP]', '[UNK]']
  const words = Array.from({ length: WORDS }, (_, i) => `w${i}`)
  return {
    added_tokens: special.map((content, id) => ({ id, content, special: true, normalized: false })),
    normalizer: null,
    pre_tokenizer: { type: 'WhitespaceSplit' },
    post_processor: postProcessor,
    decoder: null,
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries([...special, ...words].map((word, id) => [word, id])),
    },
  }
}

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'qtool-text-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

let made = 0
/** A folder laid out as Hugging Face does; the path of its model, which is not there. */
function model(postProcessor: object | null, config?: object, tokenizerConfig?: object): string {
  const root = join(folder, `model${made++}`)
  mkdirSync(join(root, 'onnx'), { recursive: true })
  writeFileSync(join(root, 'tokenizer.json'), JSON.stringify(tokenizerFile(postProcessor)))
  if (config) writeFileSync(join(root, 'config.json'), JSON.stringify(config))
  if (tokenizerConfig) writeFileSync(join(root, 'tokenizer_config.json'), JSON.stringify(tokenizerConfig))
  return join(root, 'onnx', 'model.onnx')
}

function file(name: string, text: string): string {
  const path = join(folder, `${made++}-${name}`)
  writeFileSync(path, text)
  return path
}

const words = (numbers: readonly number[]) => numbers.map((n) => `w${n}`).join(' ')
const ids = (numbers: readonly number[]) => numbers.map((n) => n + FIRST)
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i % WORDS)
const lines = (texts: readonly (readonly number[])[]) => texts.map((t) => JSON.stringify({ text: words(t) })).join('\n')

function input(name: string, elementType: string, ...dims: ModelInput['dims']): ModelInput {
  return { name, elementType, dims }
}
const tokens = input('input_ids', 'int64', 'batch', 'seq')
const mask = input('attention_mask', 'int64', 'batch', 'seq')

/** All feeds, row by row. */
function feeds(dataset: Dataset, batchSize: number): Record<string, number[][]>[] {
  return [...dataset.batches(batchSize)].map((batch) =>
    Object.fromEntries(
      [...batch.feeds].map(([name, { dims, data }]) => {
        const [rows, width] = dims as [number, number]
        return [
          name,
          Array.from({ length: rows }, (_, r) => Array.from(data.slice(r * width, (r + 1) * width), Number)),
        ]
      }),
    ),
  )
}

async function open(path: string | string[], inputs: ModelInput[], options: DatasetOptions) {
  return openDataset([path].flat(), inputs, options)
}

describe('text of .txt files', () => {
  it('is cut into consecutive sequences; a short rest is left out and said so', async () => {
    const path = file('a.txt', words(upTo(11)))
    const dataset = await open(path, [tokens, mask], { modelPath: model(null), seqLen: 4 })
    expect(feeds(dataset, 8)).toEqual([
      {
        input_ids: [ids([0, 1, 2, 3]), ids([4, 5, 6, 7])],
        attention_mask: [
          [1, 1, 1, 1],
          [1, 1, 1, 1],
        ],
      },
    ])
    expect(dataset.notes).toEqual([expect.stringMatching(/2 sequences of 4 tokens .*3 tokens at the end are left out/)])
    const two = await open([path, file('b.txt', words([20]))], [tokens], { modelPath: model(null), seqLen: 4 })
    expect(feeds(two, 8)[0]!.input_ids![2]).toEqual(ids([8, 9, 10, 20]))
  })

  it('is kept when it is shorter than one sequence', async () => {
    const path = file('short.txt', words([5, 6]))
    const dataset = await open(path, [tokens], { modelPath: model(BEGIN), seqLen: 4 })
    expect(feeds(dataset, 8)).toEqual([{ input_ids: [[CLS, ...ids([5, 6])]] }])
    expect(dataset.notes.join()).not.toContain('left out')
    const fixed = [{ ...tokens, dims: [1, 4] }]
    await expectRejection(() => open(path, fixed, { modelPath: model(null) }), 'data', '2 tokens', 'exactly 4')
    const masked = [...fixed, { ...mask, dims: [1, 4] }]
    expect(feeds(await open(path, masked, { modelPath: model(null) }), 1)).toEqual([
      { input_ids: [[...ids([5, 6]), PAD, PAD]], attention_mask: [[1, 1, 0, 0]] },
    ])
  })

  it('begins each sequence with what the tokenizer puts before a text, and with nothing after it', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 3, max: 9 }),
        fc.constantFrom(null, BEGIN, BERT),
        async (count, seqLen, post) => {
          const dataset = await open(file('p.txt', words(upTo(count))), [tokens], { modelPath: model(post), seqLen })
          const prefix = post ? [CLS] : []
          const fresh = seqLen - prefix.length
          const full = Math.floor(count / fresh)
          const expected = Array.from({ length: full }, (_, i) => upTo(count).slice(i * fresh, (i + 1) * fresh))
          if (full === 0) expected.push(upTo(count))
          expect(feeds(dataset, 100)[0]!.input_ids).toEqual(expected.map((row) => [...prefix, ...ids(row)]))
        },
      ),
      { numRuns: 30 },
    )
  })

  it('is tokenized in pieces with the same result, and no further than needed', async () => {
    const numbers = Array.from({ length: 60000 }, (_, i) => (i * 7) % WORDS)
    const text = numbers.map((n, i) => `w${n}${i % 11 === 10 ? '\n' : ' '}`).join('')
    expect([...cutText(text)].length).toBeGreaterThan(2)
    const dataset = await open(file('long.txt', text), [tokens], { modelPath: model(null), seqLen: 1000 })
    expect(dataset.count).toBe(60)
    expect(feeds(dataset, 60)[0]!.input_ids!.flat()).toEqual(ids(numbers))
    const first = await open(file('long.txt', text), [tokens], { modelPath: model(null), seqLen: 1000, samples: 2 })
    expect(first.count).toBe(2)
    expect(first.notes[0]).toContain('2 sequences')
    for (const hard of ['x'.repeat(200000), '😀'.repeat(100000), `x${'😀'.repeat(100000)}`]) {
      const pieces = [...cutText(hard)]
      expect(pieces.join('')).toBe(hard)
      expect(pieces.every((piece) => !/\p{Cs}/u.test(piece))).toBe(true)
      expect(pieces.length).toBeGreaterThan(1)
    }
  })

  it('is drawn from random places of a long text, where only these are tokenized', async () => {
    const count = 600
    const short = file('short.txt', words([1, 2]))
    const numbers = Array.from({ length: count }, (_, i) => Math.floor(i / WORDS) % WORDS)
    const path = file('draw.txt', words(numbers))
    const modelPath = model(BEGIN)
    const draw = async (pickSeed: number) => {
      const dataset = await open([path, short], [tokens], { modelPath, seqLen: 11, samples: 6, pickSeed })
      expect(dataset.notes.join()).toContain('from random places')
      return feeds(dataset, 8)[0]!.input_ids!
    }
    const rows = await draw(1)
    expect(rows.length).toBe(6)
    const places = rows.map((row) => {
      expect(row.slice(0, 1)).toEqual([CLS])
      return words(numbers).indexOf(words(row.slice(1).map((id) => id - FIRST)))
    })
    expect(places.every((place) => place >= 0)).toBe(true)
    expect(await draw(1)).toEqual(rows)
    for (let seed = 2; seed < 12; seed++) expect(await draw(seed)).not.toEqual(rows)
    const whole = await open(file('few.txt', words(upTo(60))), [tokens], {
      modelPath,
      seqLen: 11,
      samples: 3,
      pickSeed: 1,
    })
    expect(feeds(whole, 8)[0]!.input_ids).toEqual(
      [...whole.order].map((i) => [CLS, ...ids(upTo(60).slice(10 * i, 10 * i + 10))]),
    )
    const records = file('draw.jsonl', lines(upTo(50).map((i) => [i])))
    const some = await open(records, [tokens, mask], { modelPath: model(null), samples: 3, pickSeed: 1 })
    expect(some.count).toBe(3)
    expect(new Set(feeds(some, 8)[0]!.input_ids!.flat()).size).toBe(3)
  })

  it('packs the same wherever pieces begin', () => {
    const pieces = fc.array(fc.array(fc.integer({ min: 2, max: 9 }), { maxLength: 7 }), { maxLength: 8 })
    fc.assert(
      fc.property(pieces, fc.integer({ min: 2, max: 6 }), (parts, length) => {
        const options = { length, prefix: [1], enough: 0 }
        expect(packTokens(parts, options)).toEqual(packTokens([parts.flat()], options))
      }),
    )
  })
})

describe('text of JSON files', () => {
  const texts = [[1], [2, 3, 4, 5, 6, 7], [8, 9, 10], [11, 12]]

  it('is padded in a batch, with zeros in the mask, positions and types to match', async () => {
    const others = [input('token_type_ids', 'int64', 'batch', 'seq'), input('position_ids', 'int64', 'batch', 'seq')]
    const past = input('past_key_values.0.key', 'float', 'batch', 2, 'past', 3)
    const path = file('r.jsonl', `${lines(texts)}\n"w13 nonsense"\n`)
    const tokenizerConfig = { pad_token: { content: '[UNK]' } }
    const options = { modelPath: model(BERT, undefined, tokenizerConfig), seqLen: 6 }
    const dataset = await open(path, [tokens, mask, ...others, past], options)
    const [first, second, third] = feeds(dataset, 2)
    expect(first).toMatchObject({
      input_ids: [
        [CLS, FIRST + 1, SEP, UNKNOWN, UNKNOWN, UNKNOWN],
        [CLS, ...ids([2, 3, 4, 5]), SEP],
      ],
      attention_mask: [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1],
      ],
      token_type_ids: [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
      ],
      position_ids: [
        [0, 1, 2, 2, 2, 2],
        [0, 1, 2, 3, 4, 5],
      ],
    })
    // Batches are as long as their longest text.
    expect(second).toMatchObject({
      input_ids: [
        [CLS, ...ids([8, 9, 10]), SEP],
        [CLS, ...ids([11, 12]), SEP, UNKNOWN],
      ],
      attention_mask: [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 0],
      ],
    })
    expect(third!.input_ids).toEqual([[CLS, FIRST + 13, UNKNOWN, SEP]])
    const [batch] = dataset.batches(2)
    expect(batch!.feeds.get('past_key_values.0.key')!.dims).toEqual([2, 2, 0, 3])
    expect(tokenWeights(batch!)).toEqual(Float32Array.of(1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1))
    expect(tokenWeights([...dataset.batches(2)][2]!)).toBeUndefined()
    expect(dataset.notes.join()).toContain('1 were longer than 6 tokens and are cut')
  })

  it('weighs padding nothing whatever the batch size, and keeps every text whole', async () => {
    const arrays = fc.array(fc.array(fc.nat(WORDS - 1), { minLength: 1, maxLength: 9 }), {
      minLength: 1,
      maxLength: 12,
    })
    const modelPath = model(null)
    await fc.assert(
      fc.asyncProperty(arrays, fc.integer({ min: 1, max: 5 }), async (rows, batchSize) => {
        const dataset = await open(file('q.jsonl', lines(rows)), [tokens, mask], { modelPath, seqLen: 7 })
        const seen: number[][] = []
        for (const batch of dataset.batches(batchSize)) {
          const { dims, data } = batch.feeds.get('input_ids')!
          const [count, width] = dims as [number, number]
          const weights = tokenWeights(batch) ?? new Float32Array(count * width).fill(1)
          expect(weights.length).toBe(count * width)
          for (let r = 0; r < count; r++) {
            const kept = upToWidth(width).filter((t) => weights[r * width + t] === 1)
            seen.push(kept.map((t) => Number(data[r * width + t])))
          }
        }
        expect(seen).toEqual(rows.map((row) => ids(row.slice(0, 7))))
      }),
      { numRuns: 40 },
    )
  })
  const upToWidth = (n: number) => Array.from({ length: n }, (_, i) => i)

  it('is packed where the model has no mask', async () => {
    const dataset = await open(file('n.jsonl', lines(texts)), [tokens], { modelPath: model(BERT), seqLen: 5 })
    // [CLS] 1 [SEP] [CLS] 2 | 3 4 5 6 7 [SEP] [CLS] 8 9 10 [SEP] [CLS] 11 12 [SEP], each row beginning with [CLS].
    expect(feeds(dataset, 8)[0]!.input_ids).toEqual([
      [CLS, FIRST + 1, SEP, CLS, FIRST + 2],
      [CLS, ...ids([3, 4, 5, 6])],
      [CLS, FIRST + 7, SEP, CLS, FIRST + 8],
      [CLS, ...ids([9, 10]), SEP, CLS],
    ])
    expect(dataset.notes[0]).toContain('3 tokens at the end are left out')
  })

  it('may be strings, a list, or under another name; empty texts are left out', async () => {
    const modelPath = model(null)
    const list = file('l.json', JSON.stringify(['w1', { text: 'w2', label: 3 }, '', '  ']))
    const dataset = await open(list, [tokens, mask], { modelPath })
    expect(feeds(dataset, 8)[0]!.input_ids).toEqual([[FIRST + 1], [FIRST + 2]])
    expect(dataset.notes.join()).toContain('2 are empty')
    const named = file('o.jsonl', JSON.stringify({ content: 'w3', text: 'w4' }))
    const renamed = await open(named, [tokens, mask], { modelPath, rename: { input_ids: 'content' } })
    expect(feeds(renamed, 1)[0]!.input_ids).toEqual([[FIRST + 3]])
    // Arrays by input name come first, as they always have.
    const arrays = await open(file('b.jsonl', '{"text": "w1", "input_ids": [7]}'), [tokens, mask], { modelPath })
    expect(feeds(arrays, 1)[0]!.input_ids).toEqual([[7]])
  })

  it('fills fixed shapes, and takes ids into the only input of integers', async () => {
    const fixed = [
      { ...tokens, dims: [2, 4] },
      { ...mask, dims: [2, 4] },
    ]
    const dataset = await open(file('f.jsonl', lines(texts)), fixed, { modelPath: model(null) })
    expect(feeds(dataset, 9).map((batch) => batch.input_ids)).toEqual([
      [[FIRST + 1, 0, 0, 0], ids([2, 3, 4, 5])],
      [
        [...ids([8, 9, 10]), 0],
        [...ids([11, 12]), 0, 0],
      ],
    ])
    const odd = [input('x', 'int32', undefined, undefined), input('scale', 'float', 1)]
    const other = await open(file('f.jsonl', lines([[1, 2]])), odd, { modelPath: model(null), constants: { scale: 1 } })
    expect(feeds(other, 9)[0]!.x).toEqual([ids([1, 2])])
  })

  it('orders a subset by length, and remembers which text is which', async () => {
    const dataset = await open(file('s.jsonl', lines(texts)), [tokens, mask], { modelPath: model(null) })
    const part = dataset.subset([0, 2, 1])
    expect([...part.order]).toEqual([1, 2, 0])
    expect(feeds(part, 2).map((batch) => batch.input_ids)).toEqual([
      [ids([2, 3, 4, 5, 6, 7]), [...ids([8, 9, 10]), 0, 0, 0]],
      [[FIRST + 1]],
    ])
  })
})

describe('length of a sequence', () => {
  const lengthOf = async (
    modelPath: string,
    options: DatasetOptions = {},
    dims: ModelInput['dims'] = ['batch', 'seq'],
  ) => {
    const path = file('len.txt', words(upTo(1200)))
    const dataset = await open(path, [{ ...tokens, dims }], { modelPath, ...options })
    const [batch] = dataset.batches(1)
    return [batch!.feeds.get('input_ids')!.dims[1], dataset.notes.join()] as const
  }

  it('is what the model allows, at most 512 unless given', async () => {
    expect((await lengthOf(model(null)))[0]).toBe(512)
    expect((await lengthOf(model(null, { max_position_embeddings: 100 })))[0]).toBe(100)
    expect((await lengthOf(model(null, { n_positions: 90 }, { model_max_length: 1e30 })))[0]).toBe(90)
    expect((await lengthOf(model(null, { max_position_embeddings: 100 }, { model_max_length: 64 })))[0]).toBe(64)
    expect((await lengthOf(model(null), { seqLen: 700 }))[0]).toBe(700)
    expect((await lengthOf(model(null), {}, ['batch', 33]))[0]).toBe(33)
    const [length, notes] = await lengthOf(model(null, { max_position_embeddings: 100 }), { seqLen: 200 })
    expect(length).toBe(200)
    expect(notes).toContain('at most 100')
  })

  it('is refused where it cannot be', async () => {
    await expectRejection(() => lengthOf(model(null), { seqLen: 12 }, ['b', 33]), 'usage', '12', 'exactly 33')
    await expectRejection(() => lengthOf(model(BERT), { seqLen: 2 }), 'usage', '2 of them', 'special')
    await expectRejection(() => lengthOf(model(null), { seqLen: 0.5 }), 'usage', '0.5')
  })
})

describe('text that cannot be used', () => {
  it('says what is missing', async () => {
    const path = file('t.txt', 'w1 w2')
    const nowhere = join(folder, 'nothing', 'onnx', 'model.onnx')
    const places = [join(folder, 'nothing', 'onnx', 'tokenizer.json'), join(folder, 'nothing', 'tokenizer.json')]
    await expectRejection(() => open(path, [tokens], { modelPath: nowhere }), 'data', ...places)
    await expectRejection(
      () => open(path, [input('x', 'float', 'b', 'c')], { modelPath: model(null) }),
      'data',
      'x (float',
    )
    const odd = model(null)
    writeFileSync(join(odd, '..', 'tokenizer.json'), JSON.stringify({ ...tokenizerFile(null), model: { type: 'Odd' } }))
    await expectRejection(() => open(path, [tokens], { modelPath: odd }), 'data', 'not supported', 'token ids')
    writeFileSync(join(odd, '..', 'tokenizer.json'), '{')
    await expectRejection(() => open(path, [tokens], { modelPath: odd }), 'data', 'tokenizer.json', 'not JSON')
    const modelPath = model(null)
    for (const empty of [file('e.txt', ''), file('e.txt', ' \n'), file('e.jsonl', '""\n{"text": ""}')]) {
      await expectRejection(() => open(empty, [tokens], { modelPath }), 'data', 'no text', empty)
      await expectRejection(() => open(empty, [tokens, mask], { modelPath }), 'data', 'no text', empty)
    }
    const mixed = file('m.jsonl', '{"text": "w1"}\n{"text": 3}')
    await expectRejection(() => open(mixed, [tokens], { modelPath }), 'data', 'line 2', 'text')
    await expectRejection(() => open([mixed, path], [tokens], { modelPath }), 'data', 'mixed')
    await expectRejection(() => open([path, file('a.jsonl', '[1]')], [tokens], { modelPath }), 'data', 'mixed')
  })
})

import { InferenceSession, Tensor } from 'onnxruntime-node'
import { describe, expect, it } from 'vitest'
import { type FillContext, planFills, requiredInputs } from '../../src/data/fillInputs.ts'
import type { FeedTensor, ModelInput } from '../../src/data/modelInput.ts'
import { DataType, encodeModel, makeModel, makeNode, makeOpset } from '../../src/onnx/proto.ts'
import { expectError } from './expectError.ts'

function input(name: string, elementType: string, ...dims: ModelInput['dims']): ModelInput {
  return { name, elementType, dims }
}

const ids = input('input_ids', 'int64', 'batch', 'seq')

function int64(dims: number[], values: number[]): FeedTensor {
  return { type: 'int64', dims, data: BigInt64Array.from(values, BigInt) }
}

/** Feeds of 2 rows of 3 tokens, and what is made of the other inputs. */
function fill(inputs: ModelInput[], given: Record<string, FeedTensor>, constants: Record<string, number> = {}) {
  const feeds = new Map(Object.entries(given))
  const symbols = new Map([
    ['batch', 2],
    ['seq', 3],
  ] as const)
  const context: FillContext = { feeds, batch: 2, symbols }
  const fills = planFills(inputs, new Set(feeds.keys()), constants, 'x.npz')
  return new Map(fills.map((one) => [one.input.name, { value: one.value, batch: one.batch, ...one.make(context) }]))
}

const tokens = int64([2, 3], [5, 6, 7, 8, 9, 10])

describe('planFills', () => {
  it('fills what BERT wants beside its tokens, in the type that the model takes', () => {
    const made = fill(
      [
        ids,
        input('attention_mask', 'int64', 'batch', 'seq'),
        input('token_type_ids', 'int32', 'batch', 'seq'),
        input('position_ids', 'int64', 'batch', 'seq'),
      ],
      { input_ids: tokens },
    )
    expect(made.get('attention_mask')).toMatchObject({ value: 'ones', ...int64([2, 3], [1, 1, 1, 1, 1, 1]) })
    expect(made.get('token_type_ids')).toMatchObject({
      value: 'zeros',
      type: 'int32',
      dims: [2, 3],
      data: new Int32Array(6),
    })
    expect(made.get('position_ids')).toMatchObject(int64([2, 3], [0, 1, 2, 0, 1, 2]))
  })

  it('counts positions by an attention mask that the data has', () => {
    const made = fill(
      [ids, input('attention_mask', 'int64', 'batch', 'seq'), input('position_ids', 'int64', 'batch', 'seq')],
      {
        input_ids: tokens,
        attention_mask: int64([2, 3], [0, 1, 1, 1, 1, 0]),
      },
    )
    expect(made.get('position_ids')).toMatchObject(int64([2, 3], [0, 0, 1, 0, 1, 1]))
  })

  it('makes one row of positions where the input has rank 1', () => {
    const made = fill([ids, input('position_ids', 'int64', 'seq')], { input_ids: tokens })
    expect(made.get('position_ids')).toMatchObject(int64([3], [0, 1, 2]))
  })

  it('makes empty caches', () => {
    const made = fill(
      [
        ids,
        input('past_key_values.0.key', 'float16', 'batch', 4, 'past_sequence_length', 16),
        input('past_0', 'float', 2, 'batch', 4, 'past_len', 16),
        input('past_key_values.1.value', 'float', undefined, 4, undefined, 16),
        input('past_key_values.0.encoder.key', 'float', 'batch', 4, 'encoder_sequence_length', 16),
        input('use_cache_branch', 'bool', 1),
      ],
      { input_ids: tokens },
    )
    expect(made.get('past_key_values.0.key')).toMatchObject({
      value: 'empty',
      type: 'float16',
      dims: [2, 4, 0, 16],
      data: new Uint16Array(0),
    })
    expect(made.get('past_0')!.dims).toEqual([2, 2, 4, 0, 16])
    expect(made.get('past_key_values.1.value')!.dims).toEqual([2, 4, 0, 16])
    expect(made.get('past_key_values.0.encoder.key')!.dims).toEqual([2, 4, 0, 16])
    expect(made.get('use_cache_branch')).toMatchObject({ type: 'bool', dims: [1], data: Uint8Array.of(0) })
  })

  it('starts recurrent states at zero and keeps to their batch', () => {
    const audio = input('input', 'float', 'batch', 'samples')
    const given = { input: { type: 'float', dims: [2, 3], data: new Float32Array(6) } as const }
    const made = fill(
      [
        audio,
        input('h', 'float', 2, 'batch', 64),
        input('state', 'float', 2, undefined, 8),
        input('c0', 'float', 1, 3, 4),
      ],
      given,
    )
    expect(made.get('h')).toMatchObject({
      value: 'zeros',
      dims: [2, 2, 64],
      data: new Float32Array(256),
      batch: undefined,
    })
    expect(made.get('state')!.dims).toEqual([2, 2, 8])
    expect(made.get('c0')).toMatchObject({ dims: [1, 3, 4], batch: 3 })
  })

  it('gives constants any shape that is known', () => {
    const made = fill(
      [
        ids,
        input('sr', 'int64'),
        input('scale', 'float16', 'batch', 'seq', 2),
        input('flag', 'bool', 1),
        input('attention_mask', 'float', 'batch', 'seq'),
      ],
      { input_ids: tokens },
      { sr: 16000, scale: 0.5, flag: 1, attention_mask: 0 },
    )
    expect(made.get('sr')).toMatchObject({ value: 'constant 16000', ...int64([], [16000]) })
    expect(made.get('scale')).toMatchObject({ dims: [2, 3, 2], data: new Uint16Array(12).fill(0x3800) })
    expect(made.get('flag')).toMatchObject({ type: 'bool', data: Uint8Array.of(1) })
    expect(made.get('attention_mask')).toMatchObject({ value: 'constant 0', data: new Float32Array(6) })
    expectError(() => fill([ids, input('sr', 'int64')], { input_ids: tokens }, { sr: 0.5 }), 'data', 'sr', '0.5')
    expectError(
      () => fill([ids, input('z', 'float', 'a', 'b')], { input_ids: tokens }, { z: 1 }),
      'data',
      'z',
      'axis 1',
    )
  })

  it('guesses nothing else, and says how to supply it', () => {
    const refuse = (
      odd: ModelInput,
      more: ModelInput[] = [],
      given: Record<string, FeedTensor> = { input_ids: tokens },
    ) =>
      expectError(
        () => fill([ids, ...more, odd], given),
        'data',
        odd.name,
        odd.elementType,
        'x.npz',
        `--set ${odd.name}=`,
      )
    refuse(input('sr', 'int64'))
    refuse(input('pixel_values', 'float', 'batch', 3, 224, 224))
    refuse(input('attention_mask', 'float', 'batch', 1, 'seq', 'seq'))
    refuse(input('position_ids', 'int64', 3, 'batch', 'seq'))
    refuse(input('state', 'float', 'batch', 4))
    refuse(input('state', 'float', 1, 'batch', 8, 8))
    refuse(input('hidden_states', 'float', 'batch', 'seq', 64))
    refuse(input('past_key_values.0.key', 'float', 'batch', 4, 2048, 16))
    refuse(input('past_key_values.0.encoder.key', 'float', 'batch', 4, 'encoder_sequence_length', 16))
    refuse(input('past_0', 'float', 2, undefined, 4, undefined, 16))
    refuse(input('past_sequence_length', 'int64'))
    // With a cache in the data, tokens do not begin at position 0 and the mask is longer than they are.
    const cache = input('past_key_values.0.key', 'float', 'batch', 4, 'past', 16)
    const given = {
      input_ids: tokens,
      [cache.name]: { type: 'float', dims: [2, 4, 5, 16], data: new Float32Array(640) } as const,
    }
    refuse(input('attention_mask', 'int64', 'batch', 'total'), [cache], given)
    refuse(input('position_ids', 'int64', 'batch', 'seq'), [cache], given)
    refuse(input('past_key_values.0.value', 'float', 'batch', 4, 'past', 16), [cache], given)
    refuse(input('use_cache_branch', 'bool', 1), [cache], given)
  })
})

describe('requiredInputs', () => {
  it('are those without a certain meaning', () => {
    const mask = input('attention_mask', 'int64', 'batch', 'seq')
    const past = input('past_key_values.0.key', 'float', 'batch', 4, 'past', 16)
    const sr = input('sr', 'int64')
    expect(requiredInputs([mask, ids, past], {})).toEqual([ids])
    expect(requiredInputs([mask, past], {})).toEqual([mask])
    expect(requiredInputs([ids, sr], {})).toEqual([ids, sr])
    expect(requiredInputs([ids, sr], { sr: 1 })).toEqual([ids])
  })
})

it('makes empty caches that onnxruntime takes', async () => {
  const value = (name: string, ...dims: (number | string)[]) => ({
    name,
    type: {
      value: {
        case: 'tensorType' as const,
        value: {
          elemType: DataType.FLOAT,
          shape: {
            dim: dims.map((dim) =>
              typeof dim === 'number'
                ? { value: { case: 'dimValue' as const, value: BigInt(dim) } }
                : { value: { case: 'dimParam' as const, value: dim } },
            ),
          },
        },
      },
    },
  })
  const model = makeModel({
    irVersion: 8n,
    opsetImport: [makeOpset('', 17)],
    graph: {
      name: 'cache',
      node: [makeNode('Concat', ['past_key_values.0.key', 'key'], ['present'], { attributes: { axis: 2 } })],
      input: [value('past_key_values.0.key', 'batch', 2, 'past', 3), value('key', 'batch', 2, 'seq', 3)],
      output: [value('present', 'batch', 2, 'total', 3)],
    },
  })
  const session = await InferenceSession.create(encodeModel(model))
  const key = Float32Array.from({ length: 12 }, (_, i) => i)
  const made = fill(
    [input('past_key_values.0.key', 'float', 'batch', 2, 'past', 3), input('key', 'float', 'batch', 2, 'seq', 3)],
    { key: { type: 'float', dims: [2, 2, 1, 3], data: key } },
  ).get('past_key_values.0.key')!
  const { present } = await session.run({
    key: new Tensor('float32', key, [2, 2, 1, 3]),
    'past_key_values.0.key': new Tensor('float32', made.data as Float32Array, made.dims),
  })
  expect(present!.data).toEqual(key)
  await session.release()
})

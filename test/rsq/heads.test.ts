/** Heads rotated in the weights: the network computes the same, and where that cannot be, nothing changes. */
import { describe, expect, it } from 'vitest'
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { indexModel } from '../../src/onnx/graph.ts'
import { type ModelProto, makeNode } from '../../src/onnx/proto.ts'
import { tensorBytes } from '../../src/onnx/tensorData.ts'
import { findHeads } from '../../src/rsq/heads.ts'
import { rotateHeads } from '../../src/rsq/rotateHeads.ts'
import {
  type AttentionOptions,
  attention,
  attentionFeeds,
  type FusedForm,
  fusedAttention,
  inMemory,
} from './headModels.ts'
import { runModel } from './streamModels.ts'
import type { Parts } from './streamParts.ts'

const headsOf = (proto: ModelProto) => findHeads(analyseMainGraph(indexModel(proto)))

/** Largest difference, relative to the largest number. */
function difference(a: FeedTensor, b: FeedTensor): number {
  expect(a.dims).toEqual(b.dims)
  const [x, y] = [a, b].map(({ data }) => Array.from(data as Float64Array)) as [number[], number[]]
  const scale = Math.max(...x.map(Math.abs))
  return Math.max(...x.map((value, i) => Math.abs(value - y[i]!))) / scale
}

/** Names of the constants whose bytes are not the same. */
function changedConstants(before: ModelProto, after: ReturnType<typeof rotateHeads>['model']): string[] {
  const source = inMemory(before)
  return before.graph!.initializer.flatMap((tensor) => {
    const other = after.proto.graph!.initializer.find(({ name }) => name === tensor.name)
    const isSame = other && Buffer.from(tensorBytes(after, other)).equals(Buffer.from(tensorBytes(source, tensor)))
    return isSame ? [] : [tensor.name]
  })
}

/** With payloads put back in place: what onnxruntime reads. */
function whole(model: ReturnType<typeof rotateHeads>['model']): ModelProto {
  for (const tensor of model.proto.graph!.initializer) tensor.rawData = new Uint8Array(tensorBytes(model, tensor))
  return model.proto
}

async function checkRotated(proto: ModelProto, type: 'float' | 'double', changed: readonly string[]): Promise<void> {
  const { pairs, refused } = headsOf(proto)
  expect(refused).toEqual([])
  expect(pairs).toHaveLength(1)
  expect(pairs[0]!.headSize).toBe(8)
  const { model, copies } = rotateHeads(inMemory(proto), pairs, 3)
  expect(copies).toEqual([])
  expect(changedConstants(proto, model).sort()).toEqual([...changed].sort())
  const feeds = attentionFeeds(type)
  const [before, after] = [await runModel(proto, feeds), await runModel(whole(model), feeds)]
  for (const [name, output] of before) {
    expect(difference(output, after.get(name)!)).toBeLessThan(type === 'double' ? 1e-13 : 1e-5)
  }
}

const FORMS: readonly (readonly [string, AttentionOptions])[] = [
  ['MatMul', {}],
  ['MatMul and biases', { bias: true }],
  ['Gemm', { linear: 'gemm' }],
  ['Gemm and biases', { linear: 'gemm', bias: true }],
  ['shapes known at run time', { dynamic: true, bias: true }],
  ['batch and heads on one axis', { flat: true, bias: true }],
  ['keys and values repeated by Expand', { heads: 6, shared: 2, repeat: 'expand', bias: true }],
  ['repeated by Concat', { heads: 6, shared: 2, repeat: 'concat' }],
  ['repeated by Tile', { heads: 4, shared: 1, repeat: 'tile' }],
  ['repeated by Gather', { heads: 6, shared: 2, repeat: 'gather', bias: true }],
  ['one Split', { packed: 'split', bias: true }],
  ['Slices', { packed: 'slice', bias: true }],
  ['Slices of a Gemm, with shapes from it', { packed: 'slice', linear: 'gemm', bias: true, dynamic: true }],
  ['queries, keys and values of each head side by side', { packed: 'perHead', bias: true }],
  ['an axis of three and Gather', { packed: 'axis', bias: true }],
  ['an axis of three, Split and Squeeze', { packed: 'unbind', bias: true }],
  ['packed by Gemm', { packed: 'axis', linear: 'gemm', bias: true, dynamic: true }],
]

describe('heads are rotated exactly', () => {
  it.each(FORMS)('with %s', async (_, options) => {
    const source = options.packed ? 'qkv' : 'v'
    const changed = ['y.weight', `${source}.weight`, ...(options.bias ? [`${source}.bias`] : [])]
    await checkRotated(attention(options), 'double', changed)
  })

  it.each<readonly [FusedForm, { bias?: boolean }, readonly string[]]>([
    ['multiHead', {}, ['v.weight']],
    ['multiHead', { bias: true }, ['v.weight', 'all.bias']],
    ['groupQuery', {}, ['v.weight']],
    ['groupQueryPacked', {}, ['qkv.weight']],
    ['packed', {}, ['all.weight', 'all.bias']],
    ['standard', {}, ['v.weight']],
    ['standardFour', { bias: true }, ['v.weight']],
  ])('in the fused operator %s %o', async (form, options, changed) => {
    await checkRotated(fusedAttention(form, options), 'float', ['y.weight', ...changed])
  })

  it('with a factor, a cast and a bias of the heads on the way', async () => {
    const onValues = (parts: Parts, name: string) => {
      const biased = parts.add('Add', [parts.weight('late', [3, 1, 8]), name], 'late/add')
      return parts.add('Mul', [biased, parts.scalar(0.5)], 'half')
    }
    const onHeads = (parts: Parts, name: string) => parts.add('Div', [name, parts.scalar(3)], 'third')
    await checkRotated(attention({ onValues, onHeads }), 'double', ['y.weight', 'v.weight', 'late'])
  })

  it('queries, keys and channels outside of the values stay bit for bit', () => {
    const proto = attention({ packed: 'split', bias: true })
    const { model } = rotateHeads(inMemory(proto), headsOf(proto).pairs, 3)
    const numbers = (source: ReturnType<typeof inMemory>) => {
      const tensor = source.proto.graph!.initializer.find(({ name }) => name === 'qkv.weight')!
      return new Float64Array(new Uint8Array(tensorBytes(source, tensor)).buffer)
    }
    const [before, after] = [numbers(inMemory(proto)), numbers(model)]
    const changed = Array.from(before, (x, i) => (x === after[i] ? -1 : i % 72)).filter((column) => column >= 0)
    expect([...new Set(changed)].sort((a, b) => a - b)).toEqual(Array.from({ length: 24 }, (_, i) => 48 + i))
  })

  it('depends on the seed', () => {
    const proto = attention()
    const of = (seed: number) => {
      const { model } = rotateHeads(inMemory(proto), headsOf(proto).pairs, seed)
      const tensor = model.proto.graph!.initializer.find(({ name }) => name === 'v.weight')!
      return Buffer.from(tensorBytes(model, tensor)).toString('hex')
    }
    expect(of(1)).toBe(of(1))
    expect(of(1)).not.toBe(of(2))
  })
})

/** Two attentions after another, the second with the weights of the first where `same`. */
function twice(rename: (name: string) => string): ModelProto {
  const proto = attention()
  const first = [...proto.graph!.node]
  const isStored = (name: string) => proto.graph!.initializer.some((tensor) => tensor.name === name)
  for (const node of first) {
    const input = node.input.map((name) => (isStored(name) ? rename(name) : name === 'x' ? 'x' : `${name}/2`))
    const copy = makeNode(
      node.opType,
      input,
      node.output.map((name) => `${name}/2`),
      { name: `${node.name}/2` },
    )
    copy.attribute = node.attribute
    proto.graph!.node.push(copy)
  }
  proto.graph!.node.push(makeNode('Add', ['y', 'y/2'], ['z']))
  proto.graph!.output[0]!.name = 'z'
  return proto
}

describe('heads stay as they are', () => {
  const sibling = (op: string) => (parts: Parts, name: string) => {
    parts.add(op, [name], 'beside')
    return name
  }
  const replaced =
    (op: string, inputs: readonly string[] = []) =>
    (parts: Parts, name: string) =>
      parts.add(op, [name, ...inputs], 'instead')

  it.each<readonly [string, ModelProto, string]>([
    ['values that are an output', attention({ extraOutputs: ['v/heads'] }), 'its values are an output of the model'],
    ['heads that are an output', attention({ extraOutputs: ['joined'] }), 'its heads are an output of the model'],
    [
      'values read elsewhere',
      attention({ onValues: sibling('Relu'), extraOutputs: ['beside'] }),
      "Relu 'beside' reads its values as well",
    ],
    [
      'work on the values',
      attention({ onValues: replaced('Relu') }),
      "Relu 'instead' stands between its values and their projection",
    ],
    [
      'work on the heads',
      attention({ onHeads: replaced('Tanh') }),
      "Tanh 'instead' stands between its heads and a projection",
    ],
    [
      'channels that are not all scaled alike',
      attention({ onHeads: (parts, name) => parts.add('Mul', [name, parts.weight('gate', [8])], 'gated') }),
      "Mul 'gated' stands between its heads and a projection",
    ],
    [
      'stored values',
      attention({
        onValues: (parts, name) => parts.add('Concat', [name, parts.weight('old', [2, 3, 1, 8])], 'more', { axis: 2 }),
      }),
      'a part of its values is stored in the model',
    ],
    ['a cache', fusedAttention('multiHead', { cache: true }), 'its values are an output of the model'],
    ['a cache of groups', fusedAttention('groupQuery', { cache: true }), 'its values are an output of the model'],
  ])('with %s', (_, proto, reason) => {
    const { pairs, refused } = headsOf(proto)
    expect(pairs).toEqual([])
    expect(refused.map((each) => each.reason)).toEqual([`not rotated: ${reason}`])
  })

  it('where keys and values are the same', () => {
    const proto = attention()
    for (const node of proto.graph!.node) if (node.name === 'kt') node.input[0] = 'v/heads'
    expect(headsOf(proto).refused[0]!.reason).toBe("not rotated: Transpose 'kt' reads its values as well")
  })

  it('where a weight is used elsewhere; where all its uses are the same heads they are rotated together', async () => {
    const all = twice((name) => name)
    const { pairs, refused } = headsOf(all)
    expect([pairs.length, refused]).toEqual([2, []])
    const { model, copies } = rotateHeads(inMemory(all), pairs, 3)
    expect(copies).toEqual([])
    const feeds = attentionFeeds('double')
    const before = (await runModel(all, feeds)).get('z')!
    expect(difference(before, (await runModel(whole(model), feeds)).get('z')!)).toBeLessThan(1e-13)

    // The keys of the second use the values' weight of the first.
    const crossed = twice((name) => (name === 'k.weight' ? 'v.weight' : name))
    expect(headsOf(crossed).pairs).toEqual([])
    expect(headsOf(crossed).refused.map(({ reason }) => reason)).toEqual(
      Array(2).fill('not rotated: one of its weights is used elsewhere'),
    )
  })
})

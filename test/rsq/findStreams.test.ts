import { describe, expect, it } from 'vitest'
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { type ModelProto, makeNode } from '../../src/onnx/proto.ts'
import { findStreams } from '../../src/rsq/findStreams.ts'
import type { ResidualStream } from '../../src/rsq/stream.ts'
import { encoderDecoder, type StreamModelOptions, transformer } from './streamModels.ts'
import { MEAN_FORMS, PLAIN_FORMS } from './streamParts.ts'

const find = (model: ModelProto) => findStreams(analyseMainGraph(modelLayers(model).index))

function only(model: ModelProto): ResidualStream {
  const { streams, refused } = find(model)
  expect(refused).toEqual([])
  expect(streams).toHaveLength(1)
  return streams[0]!
}

/** `weight@axis`, in the order in which they are found. */
const writersOf = ({ writers }: ResidualStream) => writers.map(({ constant, axis }) => `${constant.name}@${axis}`)
/** `weight@axis < gain, bias` of the norm before. */
const readersOf = ({ readers }: ResidualStream) =>
  readers.map(({ constant, axis, norm }) => {
    const vectors = [norm?.gain, norm?.bias].flatMap((vector) => vector?.constant.name ?? [])
    return `${constant.name}@${axis} < ${vectors.join(', ')}`
  })

const BLOCKS = ['b0', 'b1']
/** Readers of the usual blocks. @param axis of inputs in the stored weights. */
function blockReaders(bias: boolean, axis = 0): string[] {
  const vectors = (norm: string) => (bias ? `${norm}.gain, ${norm}.beta` : `${norm}.gain`)
  return BLOCKS.flatMap((b) => [
    ...['q', 'k', 'v'].map((name) => `${b}/${name}.weight@${axis} < ${vectors(`${b}/attnNorm`)}`),
    ...['gate', 'up'].map((name) => `${b}/${name}.weight@${axis} < ${vectors(`${b}/mlpNorm`)}`),
  ])
}
const NORMS = ['b0/attnNorm', 'b0/mlpNorm', 'b1/attnNorm', 'b1/mlpNorm', 'finalNorm']

describe('streams in every form of a norm', () => {
  for (const norm of [...MEAN_FORMS, ...PLAIN_FORMS]) {
    const isMean = MEAN_FORMS.includes(norm)
    it(norm, () => {
      const stream = only(transformer({ norm }))
      expect(stream.width).toBe(16)
      expect(writersOf(stream).sort()).toEqual(
        ['embed@1', ...BLOCKS.flatMap((b) => [`${b}/down.weight@1`, `${b}/o.weight@1`])].sort(),
      )
      const head = isMean ? 'finalNorm.gain, finalNorm.beta' : 'finalNorm.gain'
      expect(readersOf(stream)).toEqual([...blockReaders(isMean), `head.weight@0 < ${head}`])
      expect(stream.norms.map(({ output }) => output)).toEqual(NORMS)
      expect(stream.norms.every(({ kind }) => kind === (isMean ? 'mean' : 'plain'))).toBe(true)
      expect(stream.norms.every(({ input }) => stream.tensors.has(input))).toBe(true)
    })

    it(`${norm}, with biases`, () => {
      const stream = only(transformer({ norm, bias: true }))
      const biases = BLOCKS.flatMap((b) => [`${b}/down.bias@0`, `${b}/o.bias@0`])
      expect(
        writersOf(stream)
          .filter((name) => name.includes('bias'))
          .sort(),
      ).toEqual(biases.sort())
    })
  }

  it('take no more than their own nodes for a norm', () => {
    const { norms } = only(transformer({ norm: 'layerTorch' }))
    const operators = norms[0]!.nodes.map(({ opType }) => opType)
    expect(operators).toEqual('ReduceMean Sub Sub Pow ReduceMean Add Sqrt Div Mul Add'.split(' '))
  })
})

describe('streams in every form of a layer', () => {
  const cases: [string, StreamModelOptions, string[], string[]][] = [
    ['Gemm', { linear: 'gemm', bias: true }, ['b0/o.weight@0', 'b0/o.bias@0'], ['b0/q.weight@1', 'head.weight@0']],
    ['a tied head behind Transpose', { head: 'transpose' }, ['embed@1'], ['embed@1']],
    ['a tied head in Gemm', { head: 'gemm' }, ['embed@1'], ['embed@1']],
    ['positions', { positions: true }, ['embed@1', 'positions@2'], ['b0/q.weight@0']],
    ['fewer key and value heads', { kvHeads: 2 }, ['b0/o.weight@1'], ['b0/k.weight@0', 'b0/v.weight@0']],
    ['a packed Attention', { attention: 'fused' }, ['b0/o.weight@1'], ['b0/qkv.weight@0', 'b1/qkv.weight@0']],
    [
      'patches and a class token',
      { front: 'patches' },
      ['patch.weight@0', 'patch.bias@0', 'cls@2', 'positions@2'],
      ['b0/q.weight@0', 'head.weight@0'],
    ],
  ]
  it.each(cases)('%s', (_, options, writers, readers) => {
    const stream = only(transformer({ norm: 'simplified', ...options }))
    expect(writersOf(stream)).toEqual(expect.arrayContaining(writers))
    expect(readersOf(stream).map((text) => text.split(' ')[0])).toEqual(expect.arrayContaining(readers))
    expect(stream.norms).toHaveLength(5)
  })

  it('patches, exactly', () => {
    expect(writersOf(only(transformer({ front: 'patches' })))).toEqual([
      'patch.weight@0',
      'patch.bias@0',
      'cls@2',
      'positions@2',
      'b0/o.weight@1',
      'b0/down.weight@1',
      'b1/o.weight@1',
      'b1/down.weight@1',
    ])
  })

  it('constants in nodes, and names that mean nothing', () => {
    const model = transformer({ norm: 'layerTorch', bias: true, positions: true, head: 'transpose' })
    const before = only(model)
    const names = new Map<string, string>()
    const rename = (name: string) => {
      if (!name || name === 'input_ids' || name === 'logits') return name
      if (!names.has(name)) names.set(name, `t${(names.size * 7919) % 10007}`)
      return names.get(name)!
    }
    const graph = model.graph!
    for (const node of graph.node) {
      node.name = ''
      node.input = node.input.map(rename)
      node.output = node.output.map(rename)
    }
    graph.node.unshift(
      ...graph.initializer.map((tensor) =>
        makeNode('Constant', [], [rename(tensor.name)], { attributes: { value: tensor } }),
      ),
    )
    graph.initializer = []
    const after = only(model)
    const renamed = (texts: string[]) =>
      texts.map((text) => {
        const pieces = text.split(/(@\d < |@\d|, )/)
        return pieces.map((piece, i) => (i % 2 === 0 ? rename(piece) : piece)).join('')
      })
    expect(writersOf(after)).toEqual(renamed(writersOf(before)))
    expect(readersOf(after)).toEqual(renamed(readersOf(before)))
  })
})

describe('encoder and decoder', () => {
  it('are two streams, and the decoder reads the encoder behind its final norm', () => {
    const { streams, refused } = find(encoderDecoder())
    expect(refused).toEqual([])
    const [encoder, decoder] = streams
    expect(streams).toHaveLength(2)
    expect(writersOf(encoder!)[0]).toBe('enc/table@1')
    expect(readersOf(encoder!)).toContain('b1/cross/k.weight@0 < enc/finalNorm.gain, enc/finalNorm.beta')
    expect(readersOf(decoder!)).toContain('b1/cross/q.weight@0 < b1/crossNorm.gain, b1/crossNorm.beta')
    expect(readersOf(decoder!).some((text) => text.includes('cross/k'))).toBe(false)
  })

  it('are one stream where they look up the same table', () => {
    const stream = only(encoderDecoder({ shared: true, head: 'transpose' }))
    expect(stream.writers.filter(({ constant }) => constant.name === 'embed')).toHaveLength(2)
    expect(stream.readers.filter(({ constant }) => constant.name === 'embed')).toHaveLength(1)
    expect(stream.norms).toHaveLength(5 + 7)
  })
})

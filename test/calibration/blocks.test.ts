import { describe, expect, test } from 'vitest'
import { type Block, findBlocks } from '../../src/calibration/blocks.ts'
import { DataType, type ModelProto, makeNode, makeValueInfo } from '../../src/onnx/proto.ts'
import { makeRandom } from '../../src/random.ts'
import { Net, opened, WIDTH } from '../analyze/residualModels.ts'
import { branches, floats } from '../helpers/smallModels.ts'
import { smallModel } from '../quantize/calibratedModels.ts'

function blocksOf(proto: ModelProto): Block[] {
  const { graph, found } = opened(proto)
  return findBlocks(graph, found.layers)
}

/** 'input → output: layers' of each block. */
const shown = (proto: ModelProto) =>
  blocksOf(proto).map(
    ({ input, output, layers }) => `${input} → ${output}: ${layers.map(({ name }) => name).join(' ')}`,
  )

const attentionLayers = (path: string) => ['q', 'k', 'v', 'o'].map((name) => `${path}/${name}`).join(' ')

/** A mask that depends on the data, added in every layer. */
function withMask(net: Net): string {
  return net.add('Transpose', [net.linear('x', 'mask/lin')], 'mask', { perm: [0, 2, 1] })
}

/** Norms before attention and feed-forward; an embedding before, a norm and an output layer behind. */
function preNorm(depth: number): ModelProto {
  const net = new Net()
  const mask = withMask(net)
  let stream = net.linear('x', 'embedding')
  for (let i = 0; i < depth; i++) {
    const attention = net.attention(net.norm(stream, `l.${i}/norm1`), `l.${i}/attn`, mask)
    // The order of the terms is the exporter's.
    stream = net.add('Add', i % 2 === 0 ? [stream, attention] : [attention, stream], `l.${i}/sum1`)
    stream = net.add('Add', [net.feedForward(net.norm(stream, `l.${i}/norm2`), `l.${i}/mlp`), stream], `l.${i}/sum2`)
  }
  return net.model([net.linear(net.norm(stream, 'final'), 'head')])
}

describe('blocks of a transformer', () => {
  test('with norms before the layers: one layer each, whatever else is added on the way', () => {
    const blocks = blocksOf(preNorm(3))
    expect(blocks.map(({ name }) => name)).toEqual(['l.0', 'l.1', 'l.2'])
    expect(shown(preNorm(3))).toEqual([
      `embedding → l.0/sum2: ${attentionLayers('l.0/attn')} l.0/mlp/up l.0/mlp/down`,
      `l.0/sum2 → l.1/sum2: ${attentionLayers('l.1/attn')} l.1/mlp/up l.1/mlp/down`,
      `l.1/sum2 → l.2/sum2: ${attentionLayers('l.2/attn')} l.2/mlp/up l.2/mlp/down`,
    ])
  })

  test('do not depend on names, nor on the order in which nodes are stored', () => {
    const expected = blocksOf(preNorm(3)).map(({ layers }) => layers.length)
    const proto = preNorm(3)
    const random = makeRandom(7)
    const renamed = new Map<string, string>()
    const rename = (name: string) => {
      if (!renamed.has(name)) renamed.set(name, `${random.below(1e9)}`)
      return renamed.get(name)!
    }
    const graph = proto.graph!
    for (const tensor of [...graph.initializer, ...graph.input, ...graph.output]) tensor.name = rename(tensor.name)
    for (const node of graph.node) {
      node.input = node.input.map(rename)
      node.output = node.output.map(rename)
      node.name = ''
    }
    graph.node.sort(() => random.uniform() - 0.5)
    const blocks = blocksOf(proto)
    expect(blocks.map(({ layers }) => layers.length)).toEqual(expected)
    // Nothing in common: the tensor's name.
    expect(blocks.map(({ name }) => name)).toEqual([0, 1, 2].map((i) => rename(`l.${i}/sum2`)))
  })

  test('with norms behind the sums: the stream is what is normalised, to its end', () => {
    const net = new Net()
    let stream = net.norm(net.linear('x', 'embedding'), 'e')
    for (let i = 0; i < 2; i++) {
      const first = net.add('Add', [net.attention(stream, `l.${i}/attn`), stream], `l.${i}/sum1`)
      const middle = net.norm(first, `l.${i}/norm1`)
      stream = net.norm(net.add('Add', [net.feedForward(middle, `l.${i}/mlp`), middle], `l.${i}/sum2`), `l.${i}/out`)
    }
    const ends = shown(net.model([net.linear(stream, 'head')])).map((text) => text.split(':')[0])
    expect(ends).toEqual(['e → l.0/out', 'l.0/out → l.1/out'])
  })

  test('with sum and norm in one node', () => {
    const net = new Net()
    net.norm('x', 'n0')
    const skip = (from: string, stream: string, to: string, isLast = false) => {
      const outputs = [`${to}/normed`, '', '', ...(isLast ? [] : [`${to}/stream`])]
      const inputs = [stream, from, net.weight(`${to}.scale`, [WIDTH], () => 1)]
      net.node.push(makeNode('SkipSimplifiedLayerNormalization', inputs, outputs, { domain: 'com.microsoft' }))
    }
    skip(net.attention('n0', 'a0'), 'x', 's0')
    skip(net.feedForward('s0/normed', 'm0'), 's0/stream', 's1')
    skip(net.attention('s1/normed', 'a1'), 's1/stream', 's2')
    skip(net.feedForward('s2/normed', 'm1'), 's2/stream', 's3', true)
    expect(shown(net.model([net.linear('s3/normed', 'head')]))).toEqual([
      `x → s1/stream: ${attentionLayers('a0')} m0/up m0/down`,
      // The last node gives no sum away.
      `s1/stream → s3/normed: ${attentionLayers('a1')} m1/up m1/down`,
    ])
  })

  test('with attention and feed-forward side by side, added in any order', () => {
    const net = new Net()
    let stream = 'x'
    for (let i = 0; i < 3; i++) {
      const n = net.norm(stream, `l.${i}/norm`)
      const [a, m] = [net.attention(n, `l.${i}/attn`), net.feedForward(n, `l.${i}/mlp`)]
      const [first, second, third] = [
        [stream, a, m],
        [a, m, stream],
        [m, stream, a],
      ][i] as [string, string, string]
      stream = net.add('Add', [net.add('Add', [first, second], `l.${i}/part`), third], `l.${i}/sum`)
    }
    const both = (i: number) => `${attentionLayers(`l.${i}/attn`)} l.${i}/mlp/up l.${i}/mlp/down`
    expect(shown(net.model([stream]))).toEqual([
      `x → l.0/sum: ${both(0)}`,
      `l.0/sum → l.1/sum: ${both(1)}`,
      `l.1/sum → l.2/sum: ${both(2)}`,
    ])
  })

  test('take in layers that nothing else reads; not those that several blocks share', () => {
    const net = new Net()
    let stream = 'x'
    net.input.push(makeValueInfo('encoded', DataType.FLOAT, [undefined, undefined, WIDTH]))
    const memory = net.linear('encoded', 'memory')
    for (let i = 0; i < 2; i++) {
      const own = net.add(
        'Mul',
        [net.linear(memory, `l.${i}/cross`), net.linear(stream, `l.${i}/self`)],
        `l.${i}/product`,
      )
      stream = net.add('Add', [stream, own], `l.${i}/sum`)
    }
    expect(shown(net.model([stream]))).toEqual([
      'x → l.0/sum: l.0/cross l.0/self',
      'l.0/sum → l.1/sum: l.1/cross l.1/self',
    ])
  })
})

describe('a branch that reads what another stream gives', () => {
  test('has the layers on the way from that stream, not those of the stream', () => {
    const net = new Net()
    net.input.push(makeValueInfo('source', DataType.FLOAT, [undefined, undefined, WIDTH]))
    const encoded = net.add('Add', ['source', net.feedForward(net.norm('source', 'n1'), 'enc')], 'encoded')
    const keys = net.linear(net.norm(encoded, 'n2'), 'keys')
    const cross = net.add('Mul', [net.linear('x', 'queries'), keys], 'cross')
    expect(shown(net.model([net.add('Add', ['x', cross], 'y')]))).toEqual([
      'source → encoded: enc/up enc/down',
      'x → y: keys queries',
    ])
  })
})

describe('where branches repeat', () => {
  /** A chain whose branches have hidden widths by letter. @returns the blocks as strings of letters. */
  function parts(letters: string): string[] {
    const net = new Net()
    let stream = 'x'
    for (const [i, letter] of [...letters].entries()) {
      const hidden = letter.charCodeAt(0)
      const up = net.linear(net.norm(stream, `n${i}`), `${letter}${i}`, [WIDTH, hidden])
      stream = net.add('Add', [stream, net.linear(up, `d${i}`, [hidden, WIDTH])], `s${i}`)
    }
    const blocks = blocksOf(net.model([stream]))
    expect(blocks.at(-1)!.output).toBe(stream)
    expect(blocks.map(({ input }) => input)).toEqual(['x', ...blocks.map(({ output }) => output).slice(0, -1)])
    return blocks.map(({ layers }) => layers.map(({ name }) => (name.startsWith('d') ? '' : name[0]!)).join(''))
  }

  test.each([
    ['ABAB', 'AB AB'],
    ['AAAA', 'A A A A'],
    ['AB', 'A B'],
    ['ABCABC', 'ABC ABC'],
    ['ABACABAC', 'ABAC ABAC'],
    ['AABAAB', 'AAB AAB'],
    ['AEABAB', 'A E AB AB'],
    ['BABAB', 'BA BA B'],
    ['ABABE', 'AB AB E'],
    ['ABCE', 'A B C E'],
    ['A', 'A'],
  ])('%s is cut to %s', (letters, cut) => {
    expect(parts(letters)).toEqual(cut.split(' '))
  })
})

describe('blocks of other networks', () => {
  /** Stages of two branches each, an activation behind every sum, a convolution or a pool between stages. */
  function convnet(between: 'conv' | 'pool'): Net {
    const net = new Net()
    let stream = net.add('Relu', [net.conv('x', 'stem')], 'in')
    for (const stage of [0, 1]) {
      for (const i of [0, 1]) {
        const path = `s${stage}/b${i}`
        const inner = net.add('Relu', [net.conv(stream, `${path}/c1`)], `${path}/a1`)
        stream = net.add(
          'Relu',
          [net.add('Add', [net.conv(inner, `${path}/c2`), stream], `${path}/sum`)],
          `${path}/out`,
        )
      }
      if (between === 'conv') stream = net.conv(stream, `s${stage}/down`)
      else stream = net.add('MaxPool', [stream], `s${stage}/pool`, { kernel_shape: [2, 2], strides: [2, 2] })
    }
    return net
  }

  test.each(['conv', 'pool'] as const)('residual convolutions, %s between stages', (between) => {
    const start = between === 'conv' ? 's0/down' : 's0/pool'
    const net = convnet(between)
    const proto = net.model([net.node.at(-1)!.output[0]!])
    expect(shown(proto)).toEqual([
      'in → s0/b0/out: s0/b0/c1 s0/b0/c2',
      's0/b0/out → s0/b1/out: s0/b1/c1 s0/b1/c2',
      `${start} → s1/b0/out: s1/b0/c1 s1/b0/c2`,
      's1/b0/out → s1/b1/out: s1/b1/c1 s1/b1/c2',
    ])
    expect(blocksOf(proto).map(({ name }) => name)).toEqual(['s0/b0', 's0/b1', 's1/b0', 's1/b1'])
  })

  test('a skip over the whole network gives way to the chain inside', () => {
    const net = convnet('conv')
    const whole = net.add('Add', ['in', net.conv(net.node.at(-1)!.output[0]!, 'tail')], 'whole')
    expect(blocksOf(net.model([whole])).map(({ name }) => name)).toEqual(['s0/b0', 's0/b1', 's1/b0', 's1/b1'])
  })

  test('a residual sum inside a branch gives way to the stream', () => {
    const net = new Net()
    let stream = 'x'
    for (const i of [0, 1]) {
      const up = net.linear(stream, `l${i}/up`)
      const inner = net.add('Add', [up, net.linear(up, `l${i}/inner`)], `l${i}/partial`)
      stream = net.add('Add', [stream, net.linear(inner, `l${i}/down`)], `l${i}/sum`)
    }
    expect(shown(net.model([stream]))).toEqual([
      'x → l0/sum: l0/up l0/inner l0/down',
      'l0/sum → l1/sum: l1/up l1/inner l1/down',
    ])
  })

  test('sums without layers are no blocks, and do not end the stream', () => {
    const net = new Net()
    const first = net.add('Add', ['x', net.linear('x', 'a')], 's1')
    const between = net.add('Add', [first, net.add('Tanh', [first], 't')], 's2')
    const last = net.add('Add', [between, net.linear(between, 'b')], 's3')
    // One chain: what follows the first sum follows the last one too.
    const end = net.add('Add', [last, net.add('Tanh', [last], 't3')], 's4')
    expect(shown(net.model([end]))).toEqual(['x → s2: a', 's2 → s4: b'])
    const none = new Net()
    none.linear(none.add('Add', ['x', none.add('Tanh', ['x'], 't')], 's'), 'head')
    expect(blocksOf(none.model(['head']))).toEqual([])
  })

  test('a path that other layers share names no block', () => {
    const net = new Net()
    let stream = 'x'
    for (const i of [0, 2]) {
      const up = net.linear(stream, `net/${i}`)
      stream = net.add('Add', [stream, net.linear(up, `net/${i + 1}`)], `s${i}`)
    }
    expect(blocksOf(net.model([stream])).map(({ name }) => name)).toEqual(['s0', 's2'])
  })

  test('layers inside the branches of an If belong to the block', () => {
    const net = new Net()
    net.add('ReduceMax', ['x'], 'max', { keepdims: 0 })
    net.add('Greater', ['max', net.weight('zero', [], () => 0)], 'c')
    net.node.push(branches(floats('t_w', [32, 32]), floats('e_w', [32, 32])))
    const [block, ...others] = blocksOf(net.model([net.add('Add', ['x', 'z'], 'y')]))
    expect(others).toEqual([])
    expect(block!.layers.map(({ constant }) => constant.name).sort()).toEqual(['e_w', 't_w'])
  })

  test('one layer each: attention and feed-forward are blocks of their own', () => {
    expect(shown(smallModel('transformer').proto)).toEqual(['x → r1: q k v o', 'r1 → r2: u d'])
    expect(shown(smallModel('tied embedding').proto)).toEqual(['e → r: h d'])
  })

  test.each(['MLP', 'convnet', 'LSTM', 'If'])('none without a residual stream: %s', (name) => {
    expect(blocksOf(smallModel(name).proto)).toEqual([])
  })
})

import { describe, expect, it } from 'vitest'
import { type ModelProto, makeNode, makeValueInfo } from '../../src/onnx/proto.ts'
import { find, floats, insert, masked, NEXT, nodeNamed, op, pre, SUM } from './insertedNodes.ts'
import { encoderDecoder, residualConvNet, transformer } from './streamModels.ts'

const cases: [string, () => ModelProto, string, RegExp][] = [
  [
    'post-norm',
    () => transformer({ arrangement: 'post' }),
    'b0/attnNorm',
    /^post-norm: the stream itself passes a norm, node 'b0\/attnNorm' \(LayerNormalization\)/,
  ],
  [
    'post-norm of single operators',
    () => transformer({ arrangement: 'post', norm: 'layerTorch' }),
    'b0/attnNorm',
    /^post-norm: /,
  ],
  [
    'sandwich norms',
    () => transformer({ arrangement: 'sandwich', norm: 'rmsDiv' }),
    'b0/attnNormAfter',
    /^sandwich norm: node 'b0\/attnNormAfter' \(Mul\) norms what a branch adds/,
  ],
  [
    'an activation',
    () => insert(pre(), SUM, NEXT, op('Relu')),
    'new',
    /\(Relu\) works on single channels of the stream/,
  ],
  [
    'a product with a vector',
    () => insert(pre(), 'b0/o', SUM, op('Mul', ['v']), [floats('v', [16], (i) => i)]),
    'new',
    /\(Mul\) multiplies single channels of/,
  ],
  [
    'a product with another tensor',
    () => insert(pre(), 'b0/o', SUM, op('Mul', ['embedded'])),
    'new',
    /\(Mul\) multiplies single channels of/,
  ],
  ['a softmax', () => insert(pre(), SUM, NEXT, op('Softmax')), 'new', /\(Softmax\) works on single channels/],
  [
    'an activation behind a norm',
    () => insert(pre(), 'b0/mlpNorm', 'b0/up', op('Tanh')),
    'new',
    /\(Tanh\) works on single channels of the normalised stream/,
  ],
  [
    'split channels',
    () => insert(pre(), SUM, NEXT, op('Transpose', [], { perm: [0, 2, 1] })),
    'new',
    /moves the channels/,
  ],
  [
    'a number for all channels',
    () => insert(pre(), SUM, NEXT, op('Add', ['one']), [floats('one', [1], () => 1)]),
    'new',
    /adds 'one', whose last axis is not that of the channels/,
  ],
  [
    'a convolution',
    () => insert(pre(), SUM, NEXT, op('Conv', ['k'], { kernel_shape: [1] }), [floats('k', [6, 6, 1], () => 1)]),
    'new',
    /^convolutional stream: node 'new' \(Conv\)/,
  ],
  [
    'a norm over another axis',
    () =>
      insert(pre(), 'embedded', 'b0/attnNorm', op('LayerNormalization', ['g'], { axis: 1 }), [
        floats('g', [16], () => 1),
      ]),
    'new',
    /\(LayerNormalization\) normalises over other axes than the channels alone|^post-norm/,
  ],
  [
    'an output of the model on the stream',
    () => {
      const model = pre()
      model.graph!.output.push(makeValueInfo(SUM))
      return model
    },
    SUM,
    /'b0\/mlpNorm\/sum' is an output of the model/,
  ],
  [
    'an output of the model behind the last norm',
    () => {
      const model = pre()
      model.graph!.output.push(makeValueInfo('finalNorm'))
      return model
    },
    'finalNorm',
    /'finalNorm' is an output of the model/,
  ],
  [
    'a reader whose weight is computed',
    () => insert(pre(), 'b0/q.weight', 'b0/q', op('Abs')),
    'b0/q',
    /\(MatMul\) multiplies the normalised stream by something that is not a stored weight/,
  ],
  [
    'a weight that is used elsewhere',
    () => {
      const model = pre()
      model.graph!.node.push(makeNode('Abs', ['b0/o.weight'], ['other'], { name: 'other' }))
      model.graph!.output.push(makeValueInfo('other'))
      return model
    },
    'other',
    /the weight 'b0\/o.weight' of the stream is also used by node 'other' \(Abs\)/,
  ],
  [
    'a weight that reads and writes along different axes',
    () => {
      const model = pre()
      nodeNamed(model, 'b0/o').input[1] = 'b0/q.weight'
      return model
    },
    'b0/q',
    /the weight 'b0\/q.weight' of the stream is also used by node 'b0\/q'/,
  ],
  [
    'a mask over tokens, behind a norm with a bias',
    () => masked(transformer()),
    'new',
    /\(Mul\) weighs tokens behind a norm whose bias/,
  ],
  [
    'a norm of single operators that something else looks into',
    () => {
      const model = pre({ norm: 'rmsDiv' })
      model.graph!.output.push(makeValueInfo('b0/mlpNorm/unit'))
      model.graph!.node.push(makeNode('Exp', ['b0/mlpNorm/squares'], ['b0/other'], { name: 'b0/other' }))
      return model
    },
    'b0/mlpNorm/squares',
    /\(Pow\) multiplies single channels of the stream/,
  ],
  [
    'positions that are computed',
    () => insert(pre({ positions: true }), 'cut', 'placed', op('Sin')),
    'new',
    /what node 'new' \(Sin\) adds to the stream does not come from a stored weight/,
  ],
  [
    'an input of the model as the stream',
    () => {
      const model = pre()
      const { graph } = model
      graph!.node = graph!.node.filter(({ name }) => name !== 'embedded')
      graph!.input = [makeValueInfo('embedded', 1, [undefined, undefined, 16])]
      return model
    },
    'embedded',
    /begins at the input 'embedded' of the model/,
  ],
  ['a residual convolutional network', residualConvNet, 'b0/sum', /^convolutional stream: /],
  ['one with batch norms', () => residualConvNet({ batchNorm: true }), 'b0/sum', /^convolutional stream: /],
]

describe('refused', () => {
  it.each(cases)('%s', (_, make, node, reason) => {
    const { streams, refused } = find(make())
    expect(streams).toEqual([])
    expect(refused).toHaveLength(1)
    expect(refused[0]!.reason).toMatch(reason)
    expect(refused[0]!.node).toBe(node)
    expect(refused[0]!.reason).not.toMatch(/\.$/)
  })

  it('one stream of two, and the other is found', () => {
    const model = insert(encoderDecoder(), 'enc/b0/mlpNorm/sum', 'enc/b1/attnNorm/sum', op('Relu'))
    const { streams, refused } = find(model)
    expect(streams).toHaveLength(1)
    expect(streams[0]!.tensors.has('embedded')).toBe(true)
    expect(refused.map(({ node }) => node)).toEqual(['new'])
  })
})

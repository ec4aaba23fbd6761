/** Channels that have to stay where they are: the reason says why, and there is no set that could be applied. */
import { describe, expect, it } from 'vitest'
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import { findPermutable } from '../../src/codebook/permute/permutable.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { type ModelProto, makeAttribute, makeModel, makeNode } from '../../src/onnx/proto.ts'
import { Net } from './permuteModels.ts'

const WIDTH = 12

/** The layer fc1 (8 → 12) or the convolution a (3 → 8), with whatever comes behind. */
const behindLinear = (rest: (net: Net, x: string) => void, dims = [2, 5, 8], opset?: number): ModelProto => {
  const net = new Net('numbers')
  rest(net, net.linear('fc1', 'x', 8, WIDTH))
  return net.model(dims, opset)
}
const behindConv = (rest: (net: Net, x: string) => void, dims: (number | undefined)[] = [2, 3, 6, 6]): ModelProto => {
  const net = new Net('numbers')
  rest(net, net.conv('a', 'x', [8, 3, 3, 3]))
  return net.model(dims)
}
const last = (net: Net, x: string, from = WIDTH) => net.linear('last', x, from, 10, 'y')
const between = (op: string, attributes = {}, inputs: (net: Net) => string[] = () => []) =>
  behindLinear((net, x) => last(net, net.op(op, [x, ...inputs(net)], attributes)))
const betweenConvs = (middle: (net: Net, x: string) => string, channels = 8) =>
  behindConv((net, x) => {
    net.conv('b', middle(net, x), [5, channels, 3, 3], {}, 'y')
  })

function ifReading(name: string): ReturnType<typeof makeNode> {
  const node = makeNode('If', ['c'], ['z'], { name: 'if' })
  const g = { name: 'branch', node: [makeNode('Relu', [name], ['inner'])], output: [{ name: 'inner' }] }
  const holder = makeModel({ graph: { node: [{ attribute: [{ name: 'then_branch', type: 5, g }] }] } })
  node.attribute = holder.graph!.node[0]!.attribute
  return node
}

const REFUSED: Readonly<Record<string, readonly [ModelProto, RegExp]>> = {
  'an output of the model': [
    behindLinear((net, x) => {
      net.op('Relu', [x], {}, 'shown')
      net.outputs.push('shown')
      last(net, 'shown')
    }),
    /'shown' is an output of the model/,
  ],
  'a residual sum': [
    behindLinear((net, x) => last(net, net.op('Add', [x, net.linear('skip', 'x', 8, WIDTH)]))),
    /adds it to results of other layers, as a residual branch does/,
  ],
  'a residual sum with the input of the branch': [
    (() => {
      const net = new Net('numbers')
      const stream = net.linear('embed', 'x', 8, WIDTH)
      const hidden = net.op('Relu', [net.linear('fc1', stream, WIDTH, 16)])
      last(net, net.op('Add', [stream, net.linear('fc2', hidden, 16, WIDTH)]))
      return net.model([2, 5, 8])
    })(),
    /n\/Add\d+' adds it to results of other layers/,
  ],
  'a sum with an input': [between('Add', {}, () => ['x']), /results of other layers/],
  'a gate that is an input': [between('Mul', {}, () => ['x']), /'x', which meets its channels, is an input/],
  LayerNormalization: [
    between('LayerNormalization', { axis: -1 }, (net) => [net.weight('gain', [WIDTH])]),
    /LayerNormalization 'n\/.*' does not keep its channels apart/,
  ],
  Softmax: [between('Softmax', { axis: -1 }), /Softmax/],
  Concat: [behindLinear((net, x) => last(net, net.op('Concat', [x, x], { axis: 2 }), 24)), /Concat/],
  Split: [
    behindLinear((net, x) => {
      const left = net.op('Split', [x, net.integers([6, 6])], { axis: 2 })
      net.nodes.at(-1)!.output.push('right')
      last(net, net.op('Mul', [left, 'right']), 6)
    }),
    /Split/,
  ],
  Slice: [
    behindLinear((net, x) => last(net, net.op('Slice', [x, net.integers([0]), net.integers([12]), net.integers([2])]))),
    /Slice/,
  ],
  'a mean over channels': [
    behindLinear((net, x) => last(net, net.op('Div', [x, net.op('ReduceMean', [x], { axes: [-1] })]))),
    /ReduceMean/,
  ],
  'a product of data': [
    behindLinear((net, x) => net.op('MatMul', [net.op('Transpose', [x], { perm: [0, 2, 1] }), x], {}, 'y')),
    /MatMul|Transpose/,
  ],
  'heads that a Reshape makes': [
    behindLinear((net, x) => last(net, net.op('Reshape', [x, net.integers([0, 0, 3, 4])]), 4)),
    /Reshape/,
  ],
  'tokens that a Reshape mixes in': [
    behindLinear((net, x) => last(net, net.op('Reshape', [x, net.integers([0, 30, 2])]), 2)),
    /Reshape/,
  ],
  'tokens and channels on one axis': [
    behindLinear((net, x) => last(net, net.op('Flatten', [x], { axis: 1 }), 60)),
    /Flatten/,
  ],
  'a batch that may be another one': [
    behindConv(
      (net, x) => last(net, net.op('Reshape', [x, net.integers([-1, 144])]), 144),
      [undefined, 3, undefined, 6],
    ),
    /Reshape/,
  ],
  LSTM: [
    behindLinear((net, x) => {
      const weights = [net.weight('w', [1, 16, WIDTH]), net.weight('r', [1, 16, 4])]
      net.op('LSTM', [x, ...weights], { hidden_size: 4 }, 'y')
    }),
    /LSTM 'n\/y' does not keep its channels apart/,
  ],
  'a shared weight': [
    behindLinear((net, x) => {
      const again = net.op('MatMul', [net.op('Relu', ['x']), 'fc1.weight'])
      last(net, net.op('Mul', [x, again]))
    }),
    /its weight is used elsewhere as well/,
  ],
  'a shared reader': [
    behindLinear((net, x) => {
      last(net, net.op('Relu', [x]))
      net.op('MatMul', [net.linear('other', 'x', 8, WIDTH), 'last.weight'], {}, 'y2')
      net.outputs.push('y2')
    }),
    /'last.weight' is used elsewhere as well/,
  ],
  'a shared bias': [
    behindLinear((net, x) => {
      last(net, net.op('Relu', [x]))
      net.op('Add', [net.op('MatMul', ['x', net.weight('o', [8, WIDTH])]), 'fc1.bias'], {}, 'y2')
      net.outputs.push('y2')
    }),
    /'fc1.bias' is used elsewhere as well/,
  ],
  'a weight that is an output': [
    behindLinear((net, x) => {
      last(net, net.op('Relu', [x]))
      net.outputs.push('last.weight')
    }),
    /'last.weight' is used elsewhere as well/,
  ],
  'a vector in two places': [
    behindLinear((net, x) => {
      const one = net.op('Mul', [net.op('Relu', [x]), net.weight('gain', [WIDTH])])
      last(
        net,
        net.op('Reshape', [net.op('Add', [net.op('Flatten', [one], { axis: 2 }), 'gain']), net.integers([2, 5, 12])]),
      )
      net.op('Add', ['gain', 'x'], {}, 'y2')
      net.outputs.push('y2')
    }),
    /'gain' is used elsewhere as well/,
  ],
  'a subgraph': [
    behindLinear((net, x) => {
      const one = net.op('Relu', [x], {}, 'seen')
      net.nodes.push(ifReading('seen'))
      last(net, one)
    }),
    /If 'if' may read its channels in a subgraph/,
  ],
  InstanceNormalization: [
    betweenConvs((net, x) => net.op('InstanceNormalization', [x, net.weight('s', [8]), net.weight('b', [8])])),
    /InstanceNormalization/,
  ],
  'GroupNormalization as Reshape': [
    betweenConvs((net, x) => {
      const groups = net.op('Reshape', [x, net.integers([0, 2, -1])])
      const norm = net.op('InstanceNormalization', [groups, net.weight('s', [2]), net.weight('b', [2])])
      return net.op('Reshape', [norm, net.integers([2, 8, 6, 6])])
    }),
    /Reshape/,
  ],
  'groups of channels': [
    betweenConvs((net, x) => net.conv('grouped', x, [8, 4, 3, 3], { group: 2 })),
    /Conv 'n\/.*' keeps groups of channels apart/,
  ],
  'channels that DepthToSpace turns into positions': [
    betweenConvs((net, x) => net.op('DepthToSpace', [x], { blocksize: 2 }), 2),
    /DepthToSpace/,
  ],
  'a pool over channels': [
    betweenConvs((net, x) => {
      const turned = net.op('Transpose', [x], { perm: [0, 2, 3, 1] })
      const pooled = net.op('MaxPool', [turned], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] })
      return net.op('Transpose', [pooled], { perm: [0, 3, 1, 2] })
    }),
    /MaxPool/,
  ],
  'indices of a pool': [
    betweenConvs((net, x) => {
      const pooled = net.op('MaxPool', [x], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] })
      net.nodes.at(-1)!.output.push('indices')
      net.outputs.push('indices')
      return pooled
    }),
    /MaxPool/,
  ],
  'Pad between channels': [
    betweenConvs((net, x) => net.op('Pad', [x, net.integers([0, 1, 0, 0, 0, 0, 0, 0])]), 9),
    /Pad/,
  ],
  'Resize of channels': [
    betweenConvs((net, x) => net.op('Resize', [x, '', net.constant([4], [1, 2, 1, 1])], { mode: 'nearest' }), 16),
    /Resize/,
  ],
  'Resize by a crop box': [
    betweenConvs((net, x) => {
      const attributes = { coordinate_transformation_mode: 'tf_crop_and_resize' }
      return net.op(
        'Resize',
        [x, net.constant([8], [0, 0.5, 0, 0, 1, 1, 1, 1]), net.constant([4], [1, 1, 1, 1])],
        attributes,
      )
    }),
    /Resize/,
  ],
  'a linear layer along another axis': [behindConv((net, x) => last(net, x, 6)), /does not keep its channels apart/],
  'a stored weight with positions first': [
    (() => {
      const net = new Net('numbers')
      const turned = net.op('Transpose', [net.weight('a.weight', [3, 3, 4, 8])], { perm: [3, 2, 0, 1] })
      net.conv('b', net.op('Relu', [net.op('Conv', ['x', turned])]), [5, 8, 3, 3], {}, 'y')
      return net.model([2, 4, 6, 6])
    })(),
    /its rows are not those of the stored weight/,
  ],
  'a sum that repeats one output': [
    (() => {
      const net = new Net('numbers')
      net.conv('b', net.op('Mul', [net.conv('a', 'x', [1, 8, 3, 3]), 'x']), [5, 8, 3, 3], {}, 'y')
      return net.model([2, 8, 6, 6])
    })(),
    /it has one row/,
  ],
}

const sources = Object.keys(REFUSED)

function search(proto: ModelProto) {
  const { index, layers } = modelLayers(proto)
  return findPermutable(analyseMainGraph(index), layers)
}

describe('layers stay as they are', () => {
  it.each(sources)('because of %s', (name) => {
    const [proto, reason] = REFUSED[name]!
    const { sets, fixed } = search(proto)
    const reasons = fixed.map(({ layer, reason: why }) => `${layer.constant.name}: ${why}`)
    const subject = ['fc2', 'a', 'fc1'].find((name) =>
      proto.graph!.initializer.some((t) => t.name === `${name}.weight`),
    )!
    expect(reasons.find((text) => text.startsWith(`${subject}.weight: not permuted: `))).toMatch(reason)
    const inner = sets.flatMap(({ layers }) => layers.map(({ constant }) => constant.name))
    expect(inner).not.toContain(`${subject}.weight`)
  })

  it('where they are no matrix with channels as rows', () => {
    const net = new Net('numbers')
    const table = net.op('Gather', [net.weight('table', [20, 8]), net.op('Cast', ['x'], { to: 7 })])
    net.op('ConvTranspose', [table, net.weight('up', [5, 8, 3])], {}, 'y')
    const { fixed } = search(net.model([2, 5]))
    expect(fixed.map(({ reason }) => reason)).toEqual([
      'not permuted: the rows of a Gather like this are not channels of its output',
      'not permuted: the rows of a ConvTranspose like this are not channels of its output',
    ])
  })

  it('where a Constant node writes its numbers as a list, which has no bytes to move', () => {
    const proto = behindLinear((net, x) => {
      const list = net.op('Constant', [])
      const attribute = makeAttribute('value_floats', 1)
      attribute.type = 6
      attribute.floats = Array.from({ length: WIDTH }, (_, i) => i)
      net.nodes.at(-1)!.attribute.push(attribute)
      last(net, net.op('Mul', [x, list]))
    })
    expect(search(proto).fixed.map(({ reason }) => reason)[0]).toMatch(/Constant '.*' does not keep its channels apart/)
  })

  it('and inner layers of a residual branch do not', () => {
    const { sets } = search(REFUSED['a residual sum with the input of the branch']![0])
    expect(sets.map(({ layers }) => layers.map(({ constant }) => constant.name))).toEqual([['fc1.weight']])
  })
})

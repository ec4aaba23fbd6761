/** Weighted layers of every fixture, written by hand from the fixtures' definitions; and of models that are harder. */
import { describe, expect, it } from 'vitest'
import { FIXTURES, fixturePath } from '../../fixtures/generate.ts'
import { type Layers, modelLayers, type WeightedLayer } from '../../src/onnx/layers.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { weightSlot } from '../../src/onnx/operators.ts'
import { makeAttribute, makeNode, makeOpset, type NodeProto } from '../../src/onnx/proto.ts'
import { npmModels } from '../helpers/npmModels.ts'
import { constant, floats, model, value } from '../helpers/smallModels.ts'

type View = readonly [outer: number, reduction: number, inner: number]
interface Expected {
  /** Layer name, weight, view, and one `Operator.input: kernel` per use. */
  readonly layers?: readonly (readonly [name: string, weight: string, view: View, ...uses: string[]])[]
  readonly unquantizable?: readonly (readonly [weight: string, operator: string, reason: RegExp])[]
  readonly quantized?: readonly string[]
}

const VECTOR = /a vector/
const mm = (name: string, weight: string, k: number, n: number, use = 'MatMul.1: matmul') =>
  [name, weight, [1, k, n] as View, use] as const
const linear = (name: string, weight: string, n: number, k: number, use = 'Gemm.1: matmul') =>
  [name, weight, [n, k, 1] as View, use] as const

const EXPECTED: Readonly<Record<string, Expected>> = {
  matmul: { layers: [mm('MatMul_h', 'w1', 64, 96), mm('MatMul_y', 'w2', 96, 32)] },
  'matmul-shared-input': {
    layers: [mm('MatMul_q', 'wq', 64, 32), mm('MatMul_k', 'wk', 64, 32), mm('MatMul_v', 'wv', 64, 32)],
  },
  'matmul-left-constant': { layers: [linear('MatMul_y', 'w', 40, 64, 'MatMul.0: -')] },
  'matmul-batched': { layers: [['MatMul_y', 'w', [4, 32, 24], 'MatMul.1: -']] },
  'gemm-transB-bias': { layers: [linear('Gemm_y', 'w', 48, 64)] },
  'gemm-alpha-beta': { layers: [mm('Gemm_y', 'w', 64, 48, 'Gemm.1: matmul')] },
  'gemm-transA': { layers: [mm('Gemm_y', 'w', 64, 48, 'Gemm.1: matmul')] },
  'odd-sizes': { layers: [mm('MatMul_y', 'w', 37, 5)] },
  'conv-1d': { layers: [linear('Conv_y', 'w', 16, 24, 'Conv.1: -')] },
  'conv-2d': { layers: [linear('Conv_h', 'w1', 16, 72, 'Conv.1: -'), linear('Conv_y', 'w2', 24, 16, 'Conv.1: -')] },
  'conv-3d': { layers: [linear('Conv_y', 'w', 8, 108, 'Conv.1: -')] },
  'conv-grouped': { layers: [linear('Conv_y', 'w', 16, 36, 'Conv.1: -')] },
  'conv-depthwise': { layers: [linear('Conv_y', 'w', 16, 9, 'Conv.1: -')] },
  'conv-transpose': { layers: [linear('ConvTranspose_y', 'w', 8, 54, 'ConvTranspose.1: -')] },
  'conv-transpose-grouped': { layers: [linear('ConvTranspose_y', 'w', 8, 27, 'ConvTranspose.1: -')] },
  'gather-embedding': { layers: [linear('Gather_y', 'table', 64, 32, 'Gather.0: gather')] },
  'tied-embedding': {
    layers: [
      ['Gather_h', 'table', [64, 32, 1], 'Gather.0: gather', 'Transpose > MatMul.1: matmul'],
      mm('MatMul_m', 'w', 32, 32),
    ],
  },
  lstm: {
    layers: [linear('LSTM_y', 'w', 192, 16, 'LSTM.1: -'), linear('r', 'r', 192, 24, 'LSTM.2: -')],
    unquantizable: [['b', 'LSTM', VECTOR]],
  },
  gru: {
    layers: [linear('GRU_y', 'w', 72, 16, 'GRU.1: -'), linear('r', 'r', 72, 24, 'GRU.2: -')],
    unquantizable: [['b', 'GRU', VECTOR]],
  },
  'attention-msft': {
    layers: [mm('Attention_y', 'w', 32, 96, 'Attention.1: -')],
    unquantizable: [['b', 'com.microsoft.Attention', VECTOR]],
  },
  'fused-matmul': { layers: [linear('FusedMatMul_y', 'w', 48, 64, 'FusedMatMul.1: matmul')] },
  'if-branches': { layers: [mm('MatMul_y_then', 'w_then', 32, 32), mm('MatMul_y_else', 'w_else', 32, 32)] },
  'loop-body': { layers: [mm('MatMul_m', 'w_body', 32, 32)] },
  'scan-body': { layers: [mm('MatMul_y_t', 'w_outer', 32, 32)] },
  // Called with two weights, the function cannot hold a kernel for either.
  'local-function': {
    layers: [
      mm('MatMul_product', 'w1', 64, 48, 'MatMul.1 in function: -'),
      mm('w2', 'w2', 48, 32, 'MatMul.1 in function: -'),
    ],
  },
  'local-function-constant': { layers: [mm('MatMul_product', 'w_inside', 64, 48)] },
  'constant-node': { layers: [mm('MatMul_m', 'w', 64, 48)] },
  'cast-weight': { layers: [mm('MatMul_y', 'w', 64, 48, 'Cast > MatMul.1: matmul')] },
  'transpose-weight': { layers: [linear('MatMul_y', 'w', 48, 64, 'Transpose > MatMul.1: matmul')] },
  'reshape-weight': { layers: [mm('MatMul_y', 'w', 64, 48, 'Reshape > Identity > MatMul.1: matmul')] },
  'external-data': {
    layers: [linear('Gemm_h', 'w1', 72, 64), mm('MatMul_m', 'w2', 72, 48), mm('MatMul_s', 'w3', 48, 32)],
    unquantizable: [['b1', 'Gemm', VECTOR]],
  },
  'overridable-initializers': { layers: [linear('Gemm_y', 'w', 48, 64)] },
  'float-data': { layers: [mm('MatMul_y', 'w', 32, 32)] },
  'float16-model': { layers: [mm('MatMul_m', 'w', 64, 48)] },
  'bfloat16-weights': { layers: [mm('MatMul_y', 'w', 64, 48, 'Cast > MatMul.1: matmul')] },
  'double-weights': { layers: [mm('MatMul_y', 'w', 64, 48)] },
  opset7: { layers: [mm('MatMul_m', 'w1', 64, 48), linear('Gemm_y', 'w2', 32, 48)] },
  opset26: { layers: [mm('MatMul_m', 'w', 64, 48)] },
  'nan-weight': { layers: [mm('MatMul_m', 'w', 32, 32), mm('MatMul_y', 'w_good', 32, 32)] },
  'nothing-to-quantize': {},
  'weird-names': {
    layers: [
      mm("MatMul_h\n'1'", '/model/layers.0/../w eight*[a-z]', 32, 32),
      mm('MatMul_выход / 出力', '../../etc/пароль 🔑\\', 32, 32),
    ],
  },
  'unknown-field': { layers: [mm('MatMul_m', 'w', 32, 32)] },
  'already-quantized-nbits': {
    layers: [mm('MatMul_y', 'w2', 48, 32)],
    unquantizable: [['w_scales', 'com.microsoft.MatMulNBits', /already quantized/]],
    quantized: ['MatMulNBits_h'],
  },
  'already-quantized-qdq': { quantized: ['DequantizeLinear_x_real', 'DequantizeLinear_w_real'] },
  'already-quantized-qattention': {
    unquantizable: [['b', 'com.microsoft.QAttention', /already quantized/]],
    quantized: ['QAttention_y'],
  },
}

const layersOf = (path: string): Layers => modelLayers(loadModel(path).proto)

function described({ name, constant: held, view, uses }: WeightedLayer) {
  const shown = uses.map(({ steps, node, inputIndex, kernel, inFunction }) => {
    const path = [...steps.map((step) => step.node.opType), `${node.opType}.${inputIndex}`].join(' > ')
    return `${path}${inFunction ? ' in function' : ''}: ${kernel ?? '-'}`
  })
  return [name, held.name, [view.outer, view.reduction, view.inner], ...shown]
}

describe('fixtures', () => {
  it('all have an expectation', () => {
    expect(Object.keys(EXPECTED)).toEqual(FIXTURES.map((fixture) => fixture.name))
  })

  it.each(Object.entries(EXPECTED))('%s', (name, { layers = [], unquantizable = [], quantized = [] }) => {
    const found = layersOf(fixturePath(name))
    expect(found.layers.map(described)).toEqual(layers)
    for (const layer of found.layers) {
      const { outer, reduction, inner } = layer.view
      expect(outer * reduction * inner).toBe(layer.weights)
      expect(layer.hasOtherReaders).toBe(false)
    }
    expect(found.unquantizable.map((u) => [u.constant.name, u.operator])).toEqual(
      unquantizable.map(([weight, operator]) => [weight, operator]),
    )
    for (const [i, u] of found.unquantizable.entries()) expect(u.reason).toMatch(unquantizable[i]![2])
    expect(found.quantizedNodes.map(({ node }) => node.name)).toEqual(quantized)
  })
})

describe('names of layers', () => {
  it.each(Object.entries(npmModels))('are unique in %s', (_, file) => {
    const names = layersOf(file).layers.map((layer) => layer.name)
    expect(new Set(names).size).toBe(names.length)
  })

  it('are unique where functions have the same names inside', () => {
    const fn = (name: string) => ({
      name,
      domain: 'local',
      input: ['a'],
      output: ['b'],
      opsetImport: [makeOpset('', 17)],
      node: [constant('w', floats('', [64, 64])), makeNode('MatMul', ['a', 'w'], ['b'], { name: 'mm' })],
    })
    const { layers } = modelLayers(model({}, { functions: ['A', 'B', 'C', 'D'].map(fn) }))
    expect(layers.map((layer) => layer.name)).toEqual(['mm', 'w', 'w~2', 'w~3'])
  })
})

describe('weights that are cut and joined on the way', () => {
  const found = layersOf(npmModels.silero)
  const recurrent = found.layers.filter((layer) => layer.uses.some((use) => use.node.opType === 'LSTM'))

  it('are weights of the LSTM that gets the pieces, grouped along their own last axis', () => {
    expect(recurrent.map((layer) => layer.constant.name.replace(/^.*__/, ''))).toEqual([
      'decoder.rnn.weight_ih',
      'decoder.rnn.weight_hh',
      'decoder.rnn.weight_ih',
      'decoder.rnn.weight_hh',
    ])
    for (const layer of recurrent) {
      expect(layer.dims).toEqual([512, 128])
      expect(layer.view).toEqual({ outer: 512, reduction: 128, inner: 1 })
      // Three slices, joined again, are one reading of the LSTM; there is one in each branch of an inner If.
      expect(layer.uses.map(({ scope, node, dims, kernel }) => [scope.label, node.opType, dims, kernel])).toEqual([
        [expect.stringMatching(/then_branch$/), 'LSTM', undefined, undefined],
        [expect.stringMatching(/else_branch$/), 'LSTM', undefined, undefined],
      ])
    }
    expect(recurrent.map((layer) => layer.uses[0]!.inputIndex)).toEqual([1, 2, 1, 2])
  })

  it('do not make a bias a weight', () => {
    const biases = found.unquantizable.filter((u) => u.operator === 'LSTM').map((u) => u.constant.name)
    expect(biases).toHaveLength(4)
    for (const name of biases) expect(name).toMatch(/bias/)
  })

  it('are followed in time, however often they are joined with themselves', () => {
    const joins = Array.from({ length: 14 }, (_, i) => {
      const input = i === 0 ? 'w' : `j${i}`
      return makeNode('Concat', [input, input], [`j${i + 1}`], { attributes: { axis: 0 } })
    })
    const proto = model({
      initializer: [floats('w', [8, 8])],
      node: [...joins, makeNode('MatMul', ['x', 'j14'], ['y'])],
    })
    const start = performance.now()
    expect(modelLayers(proto).layers.map((layer) => layer.uses.length)).toEqual([1])
    expect(performance.now() - start).toBeLessThan(1000)
  })
})

describe('other readers', () => {
  const read = (...node: NodeProto[]) =>
    modelLayers(model({ initializer: [floats('w', [8, 16])], node, input: [value('x', [1, 8])] }))

  it.each([
    ['Add', makeNode('Add', ['x', 'w'], ['y'])],
    ['Conv', makeNode('Conv', ['x', 'k', 'w'], ['y'])],
    ['com.example.Scale', makeNode('Scale', ['x', 'w'], ['y'], { domain: 'com.example' })],
  ])('a tensor that only %s reads stays as it is, with a reason', (operator, node) => {
    const { layers, unquantizable } = read(node)
    expect(layers).toEqual([])
    expect(unquantizable.map((u) => [u.operator, u.constant.name])).toEqual([[operator, 'w']])
    expect(unquantizable[0]!.reason).toBe(`${operator} input ${node.input.indexOf('w')} is not quantized by qtool`)
  })

  it('a tensor that a quantizer reads is on a grid already', () => {
    const { layers, unquantizable } = read(makeNode('QuantizeLinear', ['w', 's'], ['q']))
    expect(layers).toEqual([])
    expect(unquantizable[0]!.reason).toBe('already on a quantization grid')
  })

  it('a tensor that nothing reads, and one that only leaves the model, say so', () => {
    expect(read().unquantizable[0]!.reason).toBe('no node reads it')
    const proto = model({ initializer: [floats('w', [8, 16])], output: [value('w', [8, 16])] })
    expect(modelLayers(proto).unquantizable[0]!.reason).toBe('is an output of the model')
  })

  it('are noticed beside a weight input: a node, a moved graph output', () => {
    const product = makeNode('MatMul', ['x', 'w'], ['y'])
    expect(read(product).layers[0]!.hasOtherReaders).toBe(false)
    expect(read(product, makeNode('ReduceMax', ['w'], ['m'])).layers[0]!.hasOtherReaders).toBe(true)
    const moved = model({
      initializer: [floats('w', [16, 8])],
      node: [makeNode('Transpose', ['w'], ['t']), makeNode('MatMul', ['x', 't'], ['y'])],
      output: [value('t', [8, 16])],
    })
    expect(modelLayers(moved).layers[0]!.hasOtherReaders).toBe(true)
  })

  it('fewer than 64 elements are left alone, and say so', () => {
    const small = model({ initializer: [floats('w', [7, 9])], node: [makeNode('MatMul', ['x', 'w'], ['y'])] })
    expect(modelLayers(small).layers).toEqual([])
    expect(modelLayers(small).unquantizable.map(({ reason }) => reason)).toEqual([
      'fewer than 64 weights: would not get smaller',
    ])
  })
})

describe('one tensor, several products', () => {
  it('read both ways is grouped for the first kernel; the other reads the rebuilt tensor', () => {
    const proto = model({
      initializer: [floats('w', [8, 16])],
      node: [makeNode('MatMul', ['x', 'w'], ['h']), makeNode('Gemm', ['h', 'w'], ['y'], { attributes: { transB: 1 } })],
    })
    const [layer] = modelLayers(proto).layers
    expect(layer!.view).toEqual({ outer: 1, reduction: 8, inner: 16 })
    expect(layer!.uses.map((use) => use.kernel)).toEqual(['matmul', undefined])
  })
})

describe('attributes that come from the caller of a function', () => {
  const referring = (opType: string, inputs: string[], attribute: string): NodeProto => {
    const node = makeNode(opType, inputs, ['b'])
    node.attribute.push({ ...makeAttribute(attribute, 0), refAttrName: 'outside' })
    return node
  }

  it.each([
    ['Gemm', 'transB', [8, 16], undefined],
    ['Gather', 'axis', [8, 16], undefined],
    ['ConvTranspose', 'group', [32, 4, 3, 3], { outer: 32, reduction: 36, inner: 1 }],
    ['Conv', 'group', [32, 4, 3, 3], { outer: 32, reduction: 36, inner: 1 }],
  ] as const)('%s with %s', (opType, attribute, dims, view) => {
    const index = opType === 'Gather' ? 0 : 1
    const slot = weightSlot(referring(opType, index === 0 ? ['w', 'a'] : ['a', 'w'], attribute), index, dims)
    expect(slot?.view).toEqual(view)
  })

  it('leave a weight in a function as it is where its layout depends on them', () => {
    const fn = {
      name: 'F',
      domain: 'local',
      input: ['a'],
      output: ['b'],
      node: [constant('w', floats('', [8, 16])), referring('Gemm', ['a', 'w'], 'transB')],
    }
    const { layers, unquantizable } = modelLayers(model({}, { functions: [fn] }))
    expect(layers).toEqual([])
    expect(unquantizable.map((u) => u.operator)).toEqual(['Gemm'])
  })
})

it('the shape of a weight behind an unknown shape is not guessed', () => {
  const proto = model({
    initializer: [floats('w', [64])],
    node: [
      makeNode('Shape', ['x'], ['s']),
      makeNode('Reshape', ['w', 's'], ['r']),
      makeNode('MatMul', ['x', 'r'], ['y']),
    ],
    input: [value('x', [8, 8])],
  })
  const { layers, unquantizable } = modelLayers(proto)
  expect(layers).toEqual([])
  expect(unquantizable.map((u) => u.operator)).toEqual(['Reshape'])
})

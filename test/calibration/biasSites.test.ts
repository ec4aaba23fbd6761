import { describe, expect, it } from 'vitest'
import { type BiasSite, findBiasSite, withAddedBias } from '../../src/calibration/biasSites.ts'
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import { ADDED_INPUT } from '../../src/calibration/stageModel.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import {
  type AttributeValue,
  DataType,
  type ModelProto,
  makeNode,
  makeTensor,
  makeValueInfo,
  type NodeProto,
} from '../../src/onnx/proto.ts'
import { draw, drawn, expectClose, runModel, smallModel, weight } from './tapRuns.ts'

const w = (name: string, dims: readonly number[]) => weight(name, dims, draw(dims, name.length))

interface Case {
  readonly nodes: readonly NodeProto[]
  /** Shapes of the stored tensors; the first is the layer's weight. */
  readonly stored: Readonly<Record<string, readonly number[]>>
  readonly x: readonly number[]
  readonly outputs?: readonly string[]
}

function build({ nodes, stored, x, outputs = ['y'] }: Case): ModelProto {
  return smallModel({
    nodes,
    weights: Object.entries(stored).map(([name, dims]) => w(name, dims)),
    inputs: { x },
    outputs,
  })
}

function siteIn(model: ModelProto, name = 'w'): BiasSite | undefined {
  const { index, layers } = modelLayers(model)
  const layer = layers.find(({ constant }) => constant.name === name)!
  return findBiasSite(analyseMainGraph(index), layer, layer.uses[0]!)
}

const node = (operator: string, inputs: readonly string[], attributes: Readonly<Record<string, AttributeValue>> = {}) =>
  makeNode(operator, inputs, ['y'], { name: 'node', attributes })
const matMul = makeNode('MatMul', ['x', 'w'], ['p'], { name: 'product' })
const add = (a: string, b: string) => makeNode('Add', [a, b], ['y'], { name: 'node' })
const LSTM = { w: [1, 32, 8], r: [1, 32, 8] }
const hidden = { hidden_size: 8 }

/** What a layer of 12 rows has, and the shape of its bias. */
const sites: [string, Case, { original?: string; dims: number[]; inputIndex: number }][] = [
  [
    'Conv',
    { nodes: [node('Conv', ['x', 'w'])], stored: { w: [12, 8, 1] }, x: [1, 8, 5] },
    { dims: [12], inputIndex: 2 },
  ],
  [
    'Conv in groups, with bias',
    { nodes: [node('Conv', ['x', 'w', 'b'], { group: 2 })], stored: { w: [12, 8, 3], b: [12] }, x: [1, 16, 5] },
    { original: 'b', dims: [12], inputIndex: 2 },
  ],
  ['Gemm', { nodes: [node('Gemm', ['x', 'w'])], stored: { w: [8, 12] }, x: [3, 8] }, { dims: [12], inputIndex: 2 }],
  [
    'Gemm with C [N]',
    { nodes: [node('Gemm', ['x', 'w', 'b'], { transB: 1 })], stored: { w: [12, 8], b: [12] }, x: [3, 8] },
    { original: 'b', dims: [12], inputIndex: 2 },
  ],
  [
    'Gemm with C [1, N]',
    { nodes: [node('Gemm', ['x', 'w', 'b'])], stored: { w: [8, 12], b: [1, 12] }, x: [3, 8] },
    { original: 'b', dims: [1, 12], inputIndex: 2 },
  ],
  [
    'MatMul and Add',
    { nodes: [matMul, add('p', 'b')], stored: { w: [8, 12], b: [12] }, x: [2, 3, 8] },
    { original: 'b', dims: [12], inputIndex: 1 },
  ],
  [
    'MatMul and Add, the bias first and of more axes',
    { nodes: [matMul, add('b', 'p')], stored: { w: [8, 12], b: [1, 1, 12] }, x: [3, 8] },
    { original: 'b', dims: [1, 1, 12], inputIndex: 0 },
  ],
  [
    'MatMul of a turned weight',
    {
      nodes: [makeNode('Transpose', ['w'], ['t']), makeNode('MatMul', ['x', 't'], ['p']), add('p', 'b')],
      stored: { w: [12, 8], b: [12] },
      x: [3, 8],
    },
    { original: 'b', dims: [12], inputIndex: 1 },
  ],
  [
    'LSTM',
    { nodes: [node('LSTM', ['x', 'w', 'r'], hidden)], stored: LSTM, x: [3, 2, 8] },
    { dims: [1, 64], inputIndex: 3 },
  ],
  [
    'LSTM with B, in two directions',
    {
      nodes: [node('LSTM', ['x', 'w', 'r', 'b'], { ...hidden, direction: 'bidirectional' })],
      stored: { w: [2, 32, 8], r: [2, 32, 8], b: [2, 64] },
      x: [3, 2, 8],
    },
    { original: 'b', dims: [2, 64], inputIndex: 3 },
  ],
  [
    'GRU with B',
    {
      nodes: [node('GRU', ['x', 'w', 'r', 'b'], hidden)],
      stored: { w: [1, 24, 8], r: [1, 24, 8], b: [1, 48] },
      x: [3, 2, 8],
    },
    { original: 'b', dims: [1, 48], inputIndex: 3 },
  ],
  [
    'RNN',
    { nodes: [node('RNN', ['x', 'w', 'r'], hidden)], stored: { w: [1, 8, 8], r: [1, 8, 8] }, x: [3, 2, 8] },
    { dims: [1, 16], inputIndex: 3 },
  ],
]

describe('a bias can be corrected', () => {
  it.each(sites)('%s', async (_name, c, { original, dims, inputIndex }) => {
    const model = build(c)
    const site = siteIn(model)!
    const owner = model.graph!.node.at(-1)!
    expect(site).toMatchObject({ inputIndex, dims, dataType: DataType.FLOAT, added: `${ADDED_INPUT}y` })
    expect([site.original, site.node]).toEqual([original, owner])

    // With the value that it has, or with zeros, the network computes the same.
    const edited = withAddedBias(site)
    expect(owner.input).not.toContain(site.added)
    expect(edited.input[inputIndex]).toBe(site.added)
    const graph = model.graph!
    const fed: ModelProto = {
      ...model,
      graph: {
        ...graph,
        node: graph.node.map((one) => (one === site.node ? edited : one)),
        input: [...graph.input, makeValueInfo(site.added, DataType.FLOAT, site.dims)],
      },
    }
    const x = drawn(c.x, 3)
    const length = dims.reduce((a, b) => a * b, 1)
    const stored = graph.initializer.find((tensor) => tensor.name === original)
    const before = Float32Array.from(stored?.floatData ?? new Float32Array(length))
    const wanted = (await runModel(model, { x })).get('y')!
    const run = async (bias: Float32Array) =>
      (await runModel(fed, { x, [site.added]: { type: 'float', dims: site.dims, data: bias } })).get('y')!
    expectClose((await run(before)).data as Float32Array, wanted.data as Float32Array, 'y', 1e-6)
    expect((await run(before.map((value) => value + 1))).data).not.toEqual(wanted.data)
  })

  it('of a recurrent layer: each row has its own element, apart for W and R, by direction', () => {
    const stored = { w: [2, 32, 8], r: [2, 32, 8] }
    const model = build({
      nodes: [node('LSTM', ['x', 'w', 'r'], { ...hidden, direction: 'bidirectional' })],
      stored,
      x: [3, 2, 8],
    })
    const elements = (name: string) => Array.from({ length: 64 }, (_, row) => siteIn(model, name)!.elementOf(row))
    const from = (first: number) => Array.from({ length: 32 }, (_, i) => first + i)
    expect(elements('w')).toEqual([...from(0), ...from(64)])
    expect(elements('r')).toEqual([...from(32), ...from(96)])
  })

  it('of a GRU: that of R only where the state meets R before the reset', () => {
    const model = (linear: number) =>
      build({
        nodes: [node('GRU', ['x', 'w', 'r'], { ...hidden, linear_before_reset: linear })],
        stored: { w: [1, 24, 8], r: [1, 24, 8] },
        x: [3, 2, 8],
      })
    expect([siteIn(model(0), 'w'), siteIn(model(1), 'w'), siteIn(model(1), 'r')]).not.toContain(undefined)
    expect(siteIn(model(0), 'r')).toBeUndefined()
  })
})

const twoReaders = [matMul, add('p', 'b'), makeNode('Relu', ['p'], ['z'])]
const none: [string, Case][] = [
  [
    'Gemm with alpha',
    { nodes: [node('Gemm', ['x', 'w'], { alpha: { float: 0.5 } })], stored: { w: [8, 12] }, x: [3, 8] },
  ],
  [
    'Gemm with beta',
    { nodes: [node('Gemm', ['x', 'w', 'b'], { beta: { float: 2 } })], stored: { w: [8, 12], b: [12] }, x: [3, 8] },
  ],
  [
    'Gemm whose C has a row for each row',
    { nodes: [node('Gemm', ['x', 'w', 'b'])], stored: { w: [8, 12], b: [3, 12] }, x: [3, 8] },
  ],
  ['Gemm whose C is one number', { nodes: [node('Gemm', ['x', 'w', 'b'])], stored: { w: [8, 12], b: [1] }, x: [3, 8] }],
  [
    'Gemm with the weight first',
    { nodes: [node('Gemm', ['w', 'x', 'b'])], stored: { w: [12, 8], b: [12] }, x: [8, 5] },
  ],
  [
    'Gemm whose C is computed',
    {
      nodes: [makeNode('Relu', ['b'], ['c']), node('Gemm', ['x', 'w', 'c'])],
      stored: { w: [8, 12], b: [12] },
      x: [3, 8],
    },
  ],
  ['MatMul alone', { nodes: [node('MatMul', ['x', 'w'])], stored: { w: [8, 12] }, x: [3, 8] }],
  ['MatMul whose product has two readers', { nodes: twoReaders, stored: { w: [8, 12], b: [12] }, x: [3, 8] }],
  [
    'MatMul whose product is an output',
    { nodes: [matMul, add('p', 'b')], stored: { w: [8, 12], b: [12] }, x: [3, 8], outputs: ['y', 'p'] },
  ],
  [
    'MatMul with the weight first',
    { nodes: [makeNode('MatMul', ['w', 'x'], ['p']), add('p', 'b')], stored: { w: [12, 8], b: [12] }, x: [8, 12] },
  ],
  [
    'MatMul and the addition of a matrix',
    { nodes: [matMul, add('p', 'b')], stored: { w: [8, 12], b: [3, 12] }, x: [3, 8] },
  ],
  ['MatMul and the addition of an activation', { nodes: [matMul, add('p', 'x')], stored: { w: [8, 8] }, x: [3, 8] }],
  ['MatMul and its own double', { nodes: [matMul, add('p', 'p')], stored: { w: [8, 12] }, x: [3, 8] }],
  [
    'a weight with two readers',
    {
      nodes: [matMul, makeNode('MatMul', ['x', 'w'], ['z']), add('p', 'b')],
      stored: { w: [8, 12], b: [12] },
      x: [3, 8],
    },
  ],
  [
    'a weight that is an output',
    { nodes: [matMul, add('p', 'b')], stored: { w: [8, 12], b: [12] }, x: [3, 8], outputs: ['y', 'w'] },
  ],
  ['ConvTranspose', { nodes: [node('ConvTranspose', ['x', 'w'])], stored: { w: [8, 12, 1] }, x: [1, 8, 5] }],
  [
    'a weight that is joined with another',
    {
      nodes: [
        makeNode('Concat', ['w', 'v'], ['t'], { attributes: { axis: 0 } }),
        makeNode('MatMul', ['x', 't'], ['p']),
        add('p', 'b'),
      ],
      stored: { w: [8, 8], v: [4, 8], b: [8] },
      x: [3, 12],
    },
  ],
  [
    'a recurrent weight that is joined with another',
    {
      nodes: [
        makeNode('Concat', ['w', 'v'], ['t'], { attributes: { axis: 1 } }),
        node('LSTM', ['x', 't', 'r'], hidden),
      ],
      stored: { w: [1, 16, 8], v: [1, 16, 8], r: [1, 32, 8] },
      x: [3, 2, 8],
    },
  ],
]

describe('a bias would cost a node, or is not the layer’s own', () => {
  it.each(none)('%s', (_name, c) => {
    expect(siteIn(build(c))).toBeUndefined()
  })

  it('half-precision weights have a half-precision bias; others of the same node none', () => {
    const half = (name: string, dims: readonly number[], dataType: number) => {
      const length = dims.reduce((a, b) => a * b, 1)
      return makeTensor({
        name,
        dims: dims.map(BigInt),
        dataType,
        rawData: new Uint8Array((dataType === DataType.DOUBLE ? 8 : 2) * length),
      })
    }
    const model = (dataType: number) =>
      smallModel({
        nodes: [node('Gemm', ['x', 'w', 'b'])],
        weights: [half('w', [8, 12], dataType), half('b', [12], dataType)],
        inputs: { x: [3, 8] },
      })
    expect(siteIn(model(DataType.FLOAT16))).toMatchObject({ dataType: DataType.FLOAT16, original: 'b' })
    expect(siteIn(model(DataType.DOUBLE))).toBeUndefined()
  })
})

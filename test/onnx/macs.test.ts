/** Multiply-accumulates against counting them one by one, from the operators' definitions. */
import { describe, expect, it } from 'vitest'
import { modelLayers } from '../../src/onnx/layers.ts'
import { layerMacs, type Macs } from '../../src/onnx/macs.ts'
import type { NodeProto } from '../../src/onnx/proto.ts'
import { branches, floats, makeNode, model, value } from '../helpers/smallModels.ts'

interface Case {
  readonly weight: readonly number[]
  readonly node: NodeProto
  readonly shapes: Readonly<Record<string, readonly number[]>>
}

function macsOf(
  { weight, node, shapes }: Case,
  inferred?: ReadonlyMap<string, readonly (number | string | undefined)[]>,
): Macs {
  const named = Object.entries(shapes).map(([name, dims]) => value(name, dims))
  const { index, layers } = modelLayers(model({ initializer: [floats('w', weight)], node: [node], valueInfo: named }))
  return layerMacs(index, layers[0]!, inferred)
}

/** Σ over output elements of the length of their sum, each taken step by step. */
function countProduct(output: readonly number[], reduction: number): number {
  let count = 0
  const values = output.reduce((a, b) => a * b, 1)
  for (let i = 0; i < values; i++) for (let k = 0; k < reduction; k++) count++
  return count
}

/** Every (output pixel, weight) pair of a 2-D convolution, padding included as if it were data. */
function countConv(batch: number, out: readonly [number, number], weight: readonly number[]): number {
  let count = 0
  const [cout, cin, kh, kw] = weight as [number, number, number, number]
  for (let n = 0; n < batch; n++)
    for (let o = 0; o < cout; o++)
      for (let y = 0; y < out[0]; y++) for (let x = 0; x < out[1]; x++) count += cin * kh * kw
  return count
}

describe('shapes are declared', () => {
  it.each<[string, Case, number]>([
    [
      'MatMul on a batch of sequences',
      { weight: [8, 16], node: makeNode('MatMul', ['x', 'w'], ['y']), shapes: { y: [2, 5, 16] } },
      countProduct([2, 5, 16], 8),
    ],
    [
      'MatMul with the constant on the left',
      { weight: [16, 8], node: makeNode('MatMul', ['w', 'x'], ['y']), shapes: { y: [16, 7] } },
      countProduct([16, 7], 8),
    ],
    [
      'MatMul with the constant on the left of a batch',
      { weight: [16, 8], node: makeNode('MatMul', ['w', 'x'], ['y']), shapes: { y: [3, 16, 7] } },
      countProduct([3, 16, 7], 8),
    ],
    [
      'MatMul with a stack of weights',
      { weight: [4, 8, 6], node: makeNode('MatMul', ['x', 'w'], ['y']), shapes: { y: [2, 4, 5, 6] } },
      countProduct([2, 4, 5, 6], 8),
    ],
    [
      'Gemm with transB',
      {
        weight: [16, 8],
        node: makeNode('Gemm', ['x', 'w'], ['y'], { attributes: { transB: 1 } }),
        shapes: { y: [3, 16] },
      },
      countProduct([3, 16], 8),
    ],
    [
      'Gemm with the constant first and transA',
      {
        weight: [8, 16],
        node: makeNode('Gemm', ['w', 'x'], ['y'], { attributes: { transA: 1 } }),
        shapes: { y: [16, 9] },
      },
      countProduct([16, 9], 8),
    ],
    [
      'grouped Conv',
      {
        weight: [6, 4, 3, 3],
        node: makeNode('Conv', ['x', 'w'], ['y'], { attributes: { group: 2 } }),
        shapes: { y: [2, 6, 5, 7] },
      },
      countConv(2, [5, 7], [6, 4, 3, 3]),
    ],
    [
      // Each input pixel of each channel meets every weight of the channel.
      'ConvTranspose',
      {
        weight: [8, 3, 2, 2],
        node: makeNode('ConvTranspose', ['x', 'w'], ['y']),
        shapes: { x: [2, 8, 5, 6], y: [2, 3, 6, 7] },
      },
      countConv(2, [5, 6], [8, 3, 2, 2]),
    ],
    [
      // Per step, sample and direction: hidden · 4 gates · inputs.
      'bidirectional LSTM',
      { weight: [2, 16, 5], node: makeNode('LSTM', ['x', 'w', 'r'], ['y']), shapes: { y: [7, 2, 3, 4] } },
      7 * 3 * 2 * (4 * 4) * 5,
    ],
    [
      'LSTM with the batch first',
      {
        weight: [1, 16, 5],
        node: makeNode('LSTM', ['x', 'w', 'r'], ['y'], { attributes: { layout: 1 } }),
        shapes: { y: [3, 7, 1, 4] },
      },
      7 * 3 * (4 * 4) * 5,
    ],
  ])('%s', (_, made, expected) => {
    expect(macsOf(made)).toEqual({ count: expected, perPosition: false })
  })

  it('a lookup multiplies nothing', () => {
    const node = makeNode('Gather', ['w', 'ids'], ['y'])
    expect(macsOf({ weight: [16, 8], node, shapes: { y: [3, 8] } })).toEqual({ count: 0, perPosition: false })
  })

  it('inferred shapes are used where the model declares none, and an unknown batch is one sample', () => {
    const made = { weight: [8, 16], node: makeNode('MatMul', ['x', 'w'], ['y']), shapes: {} }
    expect(macsOf(made, new Map([['y', ['batch', 5, 16]]]))).toEqual({ count: 5 * 8 * 16, perPosition: false })
    expect(macsOf(made, new Map([['y', [2, 'tokens', 16]]]))).toEqual({ count: 8 * 16, perPosition: true })
  })

  it('several readers of one weight each multiply with it', () => {
    const { index, layers } = modelLayers(
      model({
        initializer: [floats('w', [16, 16])],
        node: [makeNode('MatMul', ['x', 'w'], ['y']), makeNode('MatMul', ['v', 'w'], ['z'])],
        valueInfo: [value('y', [5, 16]), value('z', [2, 16])],
      }),
    )
    expect(layerMacs(index, layers[0]!)).toEqual({ count: 7 * 256, perPosition: false })
  })

  it('a branch goes by its own declarations, whatever the graph around it calls by the same name', () => {
    const node = branches(floats('t_w', [32, 32]), floats('', [32, 32]))
    const { index, layers } = modelLayers(model({ node: [node], valueInfo: [value('t', [5, 32])] }))
    expect(layers.map((layer) => layerMacs(index, layer))).toEqual([
      { count: 1024, perPosition: false },
      { count: 1024, perPosition: false },
    ])
  })
})

describe('shapes are not known', () => {
  it.each([
    ['MatMul', makeNode('MatMul', ['x', 'w'], ['y']), [8, 16]],
    ['Conv', makeNode('Conv', ['x', 'w'], ['y']), [8, 2, 3, 3]],
    ['LSTM', makeNode('LSTM', ['x', 'w', 'r'], ['', 'h']), [1, 16, 8]],
    ['Attention', makeNode('Attention', ['x', 'w'], ['y'], { domain: 'com.microsoft' }), [8, 24]],
  ] as const)('%s is counted for one position', (_, node, weight) => {
    const count = weight.reduce((a: number, b) => a * b, 1)
    expect(macsOf({ weight, node, shapes: {} })).toEqual({ count, perPosition: true })
  })

  it('of one use is enough to count all uses of a weight for one position', () => {
    const { index, layers } = modelLayers(
      model({
        initializer: [floats('w', [16, 16])],
        node: [makeNode('MatMul', ['x', 'w'], ['y']), makeNode('MatMul', ['v', 'w'], ['z'])],
        valueInfo: [value('y', [5, 16])],
      }),
    )
    expect(layerMacs(index, layers[0]!)).toEqual({ count: 2 * 256, perPosition: true })
  })
})

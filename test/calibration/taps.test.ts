import { describe, expect, it } from 'vitest'
import { DataType, makeNode, makeOpset, makeTensor, type NodeProto } from '../../src/onnx/proto.ts'
import { branches, floats, model, value } from '../helpers/smallModels.ts'
import { draw, reasonIn, smallModel, tapIn, weight } from './tapRuns.ts'

type Dims = readonly number[]

/** A model of nodes, with the weights they read. */
function withWeights(
  weights: Readonly<Record<string, Dims>>,
  nodes: readonly NodeProto[],
  inputs: Record<string, Dims>,
) {
  const tensors = Object.entries(weights).map(([name, dims]) => weight(name, dims, draw(dims, 1)))
  return smallModel({ nodes, weights: tensors, inputs, outputs: nodes.map((node) => node.output[0]!) })
}

const keysOf = (from: ReturnType<typeof withWeights>, names: readonly string[]) =>
  names.map((name) => tapIn(from, name).tap.key)

describe('keys', () => {
  it('of query, key and value are the same', () => {
    const found = withWeights(
      { q: [16, 16], k: [16, 8], v: [8, 16], other: [16, 16] },
      [
        makeNode('MatMul', ['x', 'q'], ['yq']),
        makeNode('MatMul', ['x', 'k'], ['yk']),
        makeNode('Gemm', ['x', 'v'], ['yv'], { attributes: { transB: 1 } }),
        makeNode('MatMul', ['yq', 'other'], ['y']),
      ],
      { x: [5, 16] },
    )
    const [q, k, v, other] = keysOf(found, ['q', 'k', 'v', 'other'])
    expect([k, v]).toEqual([q, q])
    expect(other).not.toBe(q)
  })

  it('tell rows from columns', () => {
    const found = withWeights(
      { a: [16, 16], b: [16, 16], c: [16, 16] },
      [
        makeNode('MatMul', ['x', 'a'], ['ya']),
        makeNode('MatMul', ['b', 'x'], ['yb']),
        makeNode('Gemm', ['x', 'c'], ['yc'], { attributes: { transA: 1 } }),
      ],
      { x: [16, 16] },
    )
    const [a, b, c] = keysOf(found, ['a', 'b', 'c'])
    expect(a).not.toBe(b)
    expect(c).toBe(b)
  })

  it('tell what a recurrent node reads from columns, and from rows of tokens', () => {
    const found = withWeights(
      { a: [1, 64, 16], r: [1, 64, 16], b: [16, 16], c: [16, 16] },
      [
        makeNode('LSTM', ['x', 'a', 'r'], ['ya'], { attributes: { hidden_size: 16 } }),
        makeNode('MatMul', ['b', 'x'], ['yb']),
        makeNode('MatMul', ['x', 'c'], ['yc']),
      ],
      { x: [16, 16, 16] },
    )
    expect(new Set(keysOf(found, ['a', 'b', 'c'])).size).toBe(3)
  })

  it('of convolutions are those of their windows', () => {
    const conv = (name: string, attributes: Readonly<Record<string, number | string | readonly number[]>> = {}) =>
      makeNode('Conv', ['x', name], [`y${name}`], { attributes })
    const shape = [8, 4, 3, 3]
    const found = withWeights(
      {
        a: shape,
        b: [16, 4, 3, 3],
        one: [16, 4, 1, 1],
        padded: shape,
        same: shape,
        valid: shape,
        strided: shape,
        two: [8, 2, 3, 3],
        spread: shape,
      },
      [
        conv('a'),
        conv('b', { pads: [0, 0, 0, 0], strides: [1, 1], kernel_shape: [3, 3] }),
        conv('one'),
        conv('padded', { pads: [1, 1, 1, 1] }),
        conv('same', { auto_pad: 'SAME_UPPER' }),
        conv('valid', { auto_pad: 'VALID', pads: [1, 1, 1, 1] }),
        conv('strided', { strides: [2, 1] }),
        conv('two', { group: 2 }),
        conv('spread', { dilations: [2, 1] }),
      ],
      { x: [1, 4, 8, 8] },
    )
    const [a, b, one, padded, same, valid, strided, two, spread] = keysOf(found, [
      'a',
      'b',
      'one',
      'padded',
      'same',
      'valid',
      'strided',
      'two',
      'spread',
    ])
    expect([b, valid]).toEqual([a, a])
    expect(new Set([a, one, padded, same, strided, two, spread]).size).toBe(7)
  })

  it('of a 1×1 convolution and a transposed one are the same: both see channels', () => {
    const found = withWeights(
      { a: [8, 16, 1, 1], b: [16, 4, 2, 2] },
      [makeNode('Conv', ['x', 'a'], ['ya']), makeNode('ConvTranspose', ['x', 'b'], ['yb'])],
      { x: [1, 16, 8, 8] },
    )
    const [a, b] = keysOf(found, ['a', 'b'])
    expect(b).toBe(a)
  })
})

describe('columns', () => {
  it('follow the stored tensor through Transpose and Reshape', () => {
    const found = withWeights(
      { w: [8, 16], v: [2, 8, 16] },
      [
        makeNode('Transpose', ['w'], ['wt'], { attributes: { perm: [1, 0] } }),
        makeNode('MatMul', ['x', 'wt'], ['y']),
        makeNode('Flatten', ['v'], ['vf'], { attributes: { axis: 2 } }),
        makeNode('Gemm', ['x', 'vf'], ['z'], { attributes: { transB: 1 } }),
      ],
      { x: [5, 16] },
    )
    expect(tapIn(found, 'w').tap).toMatchObject({ blocks: 1, cols: 16, reads: ['x'] })
    expect(tapIn(found, 'v').tap).toMatchObject({ blocks: 1, cols: 16, reads: ['x'] })
  })
})

describe('reasons', () => {
  const one = (node: NodeProto, dims: Dims, x: Dims = [2, 16]) => reasonIn(withWeights({ w: dims }, [node], { x }))

  it('for look-ups', () => {
    const gather = makeNode('Gather', ['w', 'x'], ['y'])
    expect(one(gather, [16, 16])).toBe('each row is looked up, not summed over')
    const embed = makeNode('EmbedLayerNormalization', ['x', '', 'w', 'w', '', 'x', 'x'], ['y'], {
      domain: 'com.microsoft',
    })
    expect(one(embed, [16, 16])).toBe('each row is looked up, not summed over')
  })

  it('for products of constants', () => {
    const found = withWeights({ w: [16, 16], c: [2, 16] }, [makeNode('MatMul', ['c', 'w'], ['y'])], {})
    expect(reasonIn(found)).toBe('the MatMul multiplies it with a constant, not with data')
  })

  it('for batch axes that are moved or repeated', () => {
    const moved = makeNode('FusedMatMul', ['x', 'w'], ['y'], {
      domain: 'com.microsoft',
      attributes: { transBatchA: 1 },
    })
    expect(one(moved, [16, 16], [2, 3, 16])).toBe('the FusedMatMul that reads it moves batch axes')
    const repeated = makeNode('MatMul', ['x', 'w'], ['y'])
    expect(one(repeated, [2, 1, 16, 16], [2, 3, 5, 16])).toBe('the MatMul that reads it repeats it along a batch axis')
  })

  it('for a ConvTranspose grouped otherwise', () => {
    const node = makeNode('ConvTranspose', ['x', 'w'], ['y'], { attributes: { group: 4 } })
    expect(one(node, [16, 2, 3, 3], [1, 16, 4, 4])).toMatch(/^a ConvTranspose with few input channels/)
  })

  it('for groups that do not divide the rows', () => {
    const node = makeNode('Conv', ['x', 'w'], ['y'], { attributes: { group: 3 } })
    expect(one(node, [8, 4, 3, 3], [1, 12, 5, 5])).toBe('its shape does not fit the Conv')
  })

  it('for statistics that would take too much memory', () => {
    const w = makeTensor({ name: 'w', dims: [20000n, 4n], dataType: DataType.FLOAT })
    const found = smallModel({ nodes: [makeNode('MatMul', ['x', 'w'], ['y'])], weights: [w], inputs: { x: undefined } })
    expect(reasonIn(found)).toBe('statistics of its inputs (1 × 20000²) would take 1.6 GB')
  })

  it('for rows that are not the outputs', () => {
    const nodes = [
      makeNode('Transpose', ['w'], ['t'], { attributes: { perm: [2, 0, 1] } }),
      makeNode('MatMul', ['x', 't'], ['y']),
    ]
    // t [4, 8, 16] of w [8, 16, 4]: what is summed over is w's first axis, but the batch is its last.
    expect(reasonIn(withWeights({ w: [8, 16, 4] }, nodes, { x: [4, 5, 8] }))).toBe(
      'its groups do not run along what the MatMul sums over',
    )
  })

  it('for weights that are cut up', () => {
    const nodes = [
      makeNode('Concat', ['w', 'w'], ['t'], { attributes: { axis: 0 } }),
      makeNode('MatMul', ['x', 't'], ['y']),
    ]
    expect(reasonIn(withWeights({ w: [16, 16] }, nodes, { x: [2, 32] }))).toBe(
      'it is cut up or joined with others before the MatMul that reads it',
    )
  })

  it('for weights of a branch and of a function', () => {
    const branching = model({
      node: [branches(floats('w', [32, 32]), floats('', [32, 32]))],
      input: [value('x', [1, 32]), value('c', [], 9)],
      output: [value('z', [1, 32])],
    })
    expect(reasonIn(branching)).toBe('the MatMul that reads it is in the body of an If, Loop or Scan')
    const found = withWeights({ w: [16, 16] }, [makeNode('Times', ['x', 'w'], ['y'], { domain: 'own' })], {
      x: [2, 16],
    })
    found.opsetImport.push(makeOpset('own', 1))
    const product = makeNode('MatMul', ['a', 'b'], ['c'])
    const body = { name: 'Times', domain: 'own', input: ['a', 'b'], output: ['c'], node: [product] }
    found.functions.push(...model({}, { functions: [{ ...body, opsetImport: [makeOpset('', 17)] }] }).functions)
    expect(reasonIn(found)).toBe('the MatMul that reads it is in a local function')
  })
})

import { describe, expect, it } from 'vitest'
import { type ModelProto, makeNode } from '../../src/onnx/proto.ts'
import { find, floats, insert, masked, op, pre, SUM } from './insertedNodes.ts'

describe('not refused', () => {
  const fine: [string, () => ModelProto][] = [
    ['a number that scales', () => insert(pre(), 'embedded', 'b0/attnNorm', op('Identity'))],
    ['a mask over tokens, behind a norm without bias', () => masked(pre())],
    [
      'zeros that are added to all channels',
      () => insert(pre(), 'b0/o', SUM, op('Add', ['zero']), [floats('zero', [1], () => 0)]),
    ],
    [
      'a scale for all channels',
      () => insert(pre(), 'b0/o', SUM, op('Mul', ['half']), [floats('half', [], () => 0.5)]),
    ],
    [
      'a vector of zeros and more on the stream, with its shape asked for',
      () => {
        const model = insert(pre(), 'b0/o', SUM, op('Add', ['v']), [floats('v', [1, 1, 16], (i) => i)])
        model.graph!.node.push(makeNode('Shape', [SUM], ['shape'], { name: 'shape' }))
        return model
      },
    ],
  ]
  it.each(fine)('%s', (_, make) => {
    const { streams, refused } = find(make())
    expect(refused).toEqual([])
    expect(streams).toHaveLength(1)
    expect(streams[0]!.norms).toHaveLength(5)
  })

  it('networks without residual sums have nothing to say', () => {
    const model = pre({ blocks: 1 })
    model.graph!.node = model.graph!.node.filter(({ opType }) => opType !== 'Add')
    expect(find(model)).toEqual({ streams: [], refused: [] })
  })
})

import { describe, expect, it } from 'vitest'
import { cutsOf, groupLayers, horizonOf } from '../../src/calibration/groups.ts'
import { analyseMainGraph, constantNames, constantUses } from '../../src/calibration/mainGraph.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { DataType, type ModelProto, makeNode, type NodeProto } from '../../src/onnx/proto.ts'
import { branch } from './randomGraphs.ts'
import { draw, smallModel, weight } from './tapRuns.ts'

const w = (name: string, dims: readonly number[] = [8, 8]) => weight(name, dims, draw(dims, 1))
const matMul = (x: string, weights: string, y: string) => makeNode('MatMul', [x, weights], [y], { name: y })

function grouped(model: ModelProto, edit = (node: NodeProto) => node) {
  const { index, layers } = modelLayers(model)
  const graph = analyseMainGraph(index)
  const constants = constantNames(graph)
  const groups = groupLayers(graph, constants, constantUses(graph, constants), layers, edit)
  return groups.map((group) => ({ ...group, before: graph.nodes[group.position]?.output[0], graph }))
}

/** Names of the layers of each group, the node before which it is solved, and what its statistics are of. */
const summary = (groups: ReturnType<typeof grouped>) =>
  groups.map(({ members, before, tap }) => [members.map(({ layer }) => layer.name).join(), before, tap?.reads.join()])

const reasons = (groups: ReturnType<typeof grouped>) =>
  groups.flatMap(({ members }) => members.map(({ layer, reason }) => [layer.name, reason]))

describe('groups of layers', () => {
  it('share statistics where they read the same tensor in the same way, before the first of them', () => {
    const nodes = [
      matMul('x', 'wq', 'q'),
      makeNode('Relu', ['q'], ['r']),
      matMul('r', 'wr', 's'),
      matMul('x', 'wk', 'k'),
      makeNode('Gemm', ['x', 'wv'], ['v'], { name: 'v', attributes: { transB: 1 } }),
      makeNode('Gemm', ['x', 'wt'], ['t'], { name: 't', attributes: { transA: 1 } }),
      makeNode('Sum', ['s', 'k', 'v', 't'], ['y']),
    ]
    const model = smallModel({
      nodes,
      weights: ['wq', 'wr', 'wk', 'wv', 'wt'].map((name) => w(name)),
      inputs: { x: [8, 8] },
    })
    expect(summary(grouped(model))).toEqual([
      ['q,k,v', 'q', 'x'],
      ['s', 's', 'r'],
      ['t', 't', 'x'],
    ])
    expect(reasons(grouped(model)).every(([, reason]) => reason === undefined)).toBe(true)
    expect(grouped(model)[0]!.members.map(({ use }) => use!.node.name)).toEqual(['q', 'k', 'v'])
  })

  it('of unsorted nodes are in the order in which the nodes run', () => {
    const nodes = [matMul('b', 'w2', 'y'), matMul('a', 'w1', 'b'), matMul('x', 'w0', 'a')]
    const model = smallModel({ nodes, weights: [w('w0'), w('w1'), w('w2')], inputs: { x: [1, 8] } })
    expect(grouped(model).map(({ members, position }) => [members[0]!.layer.name, position])).toEqual([
      ['a', 0],
      ['b', 1],
      ['y', 2],
    ])
  })

  it('are solved before the product, not before the chain that brings the weight', () => {
    const nodes = [
      makeNode('Transpose', ['w0'], ['turned']),
      makeNode('Relu', ['x'], ['a']),
      matMul('a', 'turned', 'y'),
    ]
    expect(summary(grouped(smallModel({ nodes, weights: [w('w0')], inputs: { x: [1, 8] } })))).toEqual([
      ['y', 'y', 'a'],
    ])
  })

  it('of a recurrent node: what meets the state comes after what meets the input, even if it is stored first', () => {
    const lstm = makeNode('LSTM', ['x', 'wi', 'wr'], ['y'], { name: 'lstm', attributes: { hidden_size: 8 } })
    const model = smallModel({
      nodes: [lstm],
      weights: [w('wr', [1, 32, 8]), w('wi', [1, 32, 8])],
      inputs: { x: [3, 1, 8] },
    })
    expect(grouped(model).map(({ tap, members }) => [members[0]!.layer.constant.name, tap!.source.kind])).toEqual([
      ['wi', 'rows'],
      ['wr', 'states'],
    ])
    // With a bias that calibration adds, the state depends on it.
    const edit = (node: NodeProto) => ({ ...node, input: [...node.input, 'added'] })
    expect(summary(grouped(model, edit)).map(([, , reads]) => reads)).toEqual(['x', 'x,wi,wr,added'])
  })

  it('of an embedding that is also the output layer have their statistics ahead', () => {
    const nodes = [
      makeNode('Gather', ['table', 'ids'], ['h'], { name: 'embed' }),
      matMul('h', 'w0', 'z'),
      makeNode('Transpose', ['table'], ['head']),
      matMul('z', 'head', 'logits'),
    ]
    const model = smallModel({
      nodes,
      weights: [w('table', [16, 8]), w('w0')],
      inputs: { ids: [1, 4] },
      outputs: ['logits'],
    })
    model.graph!.input[0]!.type!.value.value = {
      ...(model.graph!.input[0]!.type!.value.value as object),
      elemType: DataType.INT64,
    } as never
    const [embedding, middle] = grouped(model)
    expect(embedding).toMatchObject({ before: 'h', tap: undefined })
    expect(embedding!.ahead!.map(({ tap }) => tap.reads)).toEqual([['z']])
    expect(embedding!.graph.nodes[embedding!.ahead![0]!.position]!.output[0]).toBe('logits')
    const [member] = embedding!.members
    expect(member).toMatchObject({ reason: undefined, use: { node: { name: 'logits' } }, leftOut: [] })
    expect(middle).toMatchObject({ before: 'z', ahead: undefined, tap: { reads: ['h'] } })
  })

  it('of weights that several products read have the statistics of all of them ahead', () => {
    const nodes = [
      matMul('x', 'wq', 'q1'),
      matMul('x', 'wk', 'k1'),
      matMul('x', 'own', 'o'),
      makeNode('Sum', ['q1', 'k1', 'o'], ['h']),
      matMul('h', 'wk', 'k2'),
      matMul('h', 'wq', 'q2'),
      makeNode('Add', ['k2', 'q2'], ['z']),
      matMul('z', 'last', 'y'),
    ]
    const weights = ['wq', 'wk', 'own', 'last'].map((name) => w(name))
    const groups = grouped(smallModel({ nodes, weights, inputs: { x: [1, 8] } }))
    expect(summary(groups)).toEqual([
      ['q1,k1', 'q1', undefined],
      ['o', 'o', 'x'],
      ['y', 'y', 'z'],
    ])
    expect(groups[0]!.ahead!.map(({ tap, position }) => [tap.reads.join(), position])).toEqual([
      ['x', 0],
      ['h', 4],
    ])
    expect(groups.map(({ ahead }) => ahead !== undefined)).toEqual([true, false, false])
    expect(groups.flatMap(({ members }) => members.flatMap(({ leftOut }) => leftOut))).toEqual([])
    expect(cutsOf(groups)).toEqual([0, 2, 7])
    expect([0, 2, 7].map((cut) => horizonOf(cutsOf(groups), cut, 8))).toEqual([7, 8, 8])
  })

  it('of a weight that reads one tensor twice, or whose other readers have no statistics, wait for the quantized network', () => {
    const nodes = [
      matMul('x', 'w0', 'a'),
      matMul('x', 'w0', 'b'),
      branch('yes', 'c', 'a', 'b', 'a'),
      makeNode('Add', ['b', 'c'], ['y']),
    ]
    const inner = nodes[2]!.attribute[0]!.g!
    inner.node = [makeNode('MatMul', ['a', 'w0'], [inner.output[0]!.name], { name: 'in a branch' })]
    const groups = grouped(smallModel({ nodes, weights: [w('w0')], inputs: { x: [1, 8], yes: [] } }))
    expect(summary(groups)).toEqual([['a', 'a', 'x']])
    expect(groups[0]!.ahead).toBeUndefined()
    expect(groups[0]!.members[0]!.leftOut).toEqual(['the MatMul that reads it is in the body of an If, Loop or Scan'])
  })

  it('say why there are no statistics; such layers are alone', () => {
    const nodes = [
      makeNode('Gather', ['table', 'ids'], ['h'], { name: 'lookup' }),
      makeNode('MatMul', ['fixed', 'unmoved'], ['c'], { name: 'constant' }),
      branch('yes', 'b', 'h', 'h', 'c'),
      makeNode('SplitToSequence', ['h'], ['s']),
      matMul('b', 'within', 'p'),
      makeNode('SequenceAt', ['s', 'at'], ['q']),
      makeNode('Add', ['p', 'q'], ['y']),
    ]
    const inner = nodes[2]!.attribute[0]!.g!
    inner.initializer = [w('inside')]
    inner.node = [makeNode('MatMul', ['h', 'inside'], [inner.output[0]!.name], { name: 'in a branch' })]
    const model = smallModel({
      nodes,
      weights: [w('table', [16, 8]), weight('fixed', [1, 8], draw([1, 8], 1)), w('unmoved'), w('within')],
      inputs: { ids: [4], yes: [], at: [] },
    })
    const found = grouped(model)
    expect(found.every(({ tap, ahead, members }) => !tap && !ahead && members.length === 1)).toBe(true)
    expect(new Map(reasons(found) as [string, string][])).toEqual(
      new Map([
        ['lookup', 'each row is looked up, not summed over'],
        ['constant', 'no node that depends on the inputs reads it'],
        ['in a branch', 'lies in a subgraph or function'],
        ['p', 'the graph cannot be cut before it'],
      ]),
    )
  })
})

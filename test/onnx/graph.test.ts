/** The index over a model: scopes, constants, who reads a name, and names that nothing has yet. */
import { describe, expect, it } from 'vitest'
import { fixturePath } from '../../fixtures/generate.ts'
import { definingScope, findConstant, functionKey, indexModel, makeFreshNames, nodesOf } from '../../src/onnx/graph.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { makeNode } from '../../src/onnx/proto.ts'
import { branches, chain, constant, floats, model, value } from '../helpers/smallModels.ts'

const indexOfFixture = (name: string) => indexModel(loadModel(fixturePath(name)).proto)

describe('scopes', () => {
  it.each([
    ['matmul', ['']],
    ['if-branches', ['', 'If_y.then_branch', 'If_y.else_branch']],
    ['loop-body', ['', 'Loop_y.body']],
    ['scan-body', ['', 'Scan_y.body']],
    ['local-function', ['', 'function local::Linear']],
  ])('%s: each graph before its subgraphs, functions last', (name, labels) => {
    expect(indexOfFixture(name).scopes.map((scope) => scope.label)).toEqual(labels)
  })

  it('labels graphs in graphs by the way to them', () => {
    const inner = branches(floats('a', [32, 32]), floats('', [32, 32]))
    const outer = branches(floats('b', [32, 32]), floats('', [32, 32]))
    inner.output[0] = 'deep'
    outer.attribute[0]!.g!.node.push(inner)
    const { scopes } = indexModel(model({ node: [outer] }))
    expect(scopes.map((scope) => scope.label)).toEqual([
      '',
      'if.then_branch',
      'if.then_branch/if.then_branch',
      'if.then_branch/if.else_branch',
      'if.else_branch',
    ])
    expect(scopes.map((scope) => scopes.indexOf(scope.parent!))).toEqual([-1, 0, 1, 1, 0])
  })

  it('keeps functions by domain, name and overload', () => {
    const fn = (overload: string) => ({ name: 'F', domain: 'd', overload, input: ['a'], output: ['a'] })
    const { functions } = indexModel(model({}, { functions: [fn(''), fn('two')] }))
    expect([...functions.keys()]).toEqual([functionKey('d', 'F'), functionKey('d', 'F', 'two')])
    expect(functions.get('d::F::two')!.fn!.overload).toBe('two')
  })
})

describe('names', () => {
  it('are seen from a graph into its subgraphs, not out of them, and may be shadowed there', () => {
    const body = branches(
      floats('w', [32, 32], () => 2),
      floats('', [32, 32]),
    )
    const proto = model({ initializer: [floats('w', [32, 32], () => 1)], node: [body], input: [value('x', [1, 32])] })
    const { scopes } = indexModel(proto)
    const [main, then, otherwise] = scopes as [(typeof scopes)[0], (typeof scopes)[0], (typeof scopes)[0]]
    expect(findConstant(main, 'w')!.scope).toBe(main)
    expect(findConstant(then, 'w')!.scope).toBe(then)
    expect(findConstant(otherwise, 'w')!.scope).toBe(main)
    expect(findConstant(main, 'e_w')).toBeUndefined()
    expect(definingScope(otherwise, 'x')).toBe(main)
    expect(definingScope(otherwise, 't')).toBeUndefined()
    // The inner reader belongs to the inner weight.
    expect(main.readers.get('w')).toBeUndefined()
    expect(then.readers.get('w')).toHaveLength(1)
  })

  it('in a function are its own', () => {
    const index = indexOfFixture('local-function')
    const body = index.functions.get('local::Linear')!
    expect(findConstant(body, 'w1')).toBeUndefined()
    expect(definingScope(body, 'w')).toBe(body)
  })

  it('of a Constant node mean its tensor', () => {
    const { scopes } = indexModel(model({ node: [constant('w', floats('other', [8, 8]))] }))
    const found = findConstant(scopes[0]!, 'w')!
    expect(found.node).toBe(nodesOf(scopes[0]!)[0])
    expect(found.tensor.name).toBe('other')
    expect(findConstant(scopes[0]!, 'other')).toBeUndefined()
  })

  it('list every reading of a weight, also in a subgraph and twice by one node', () => {
    const proto = chain([floats('w', [32, 32])], {
      node: [makeNode('MatMul', ['w', 'w'], ['z']), branches(floats('t_w', [32, 32]), floats('', [32, 32]))],
    })
    const { scopes } = indexModel(proto)
    expect(scopes[0]!.readers.get('w')!.map(({ node, inputIndex }) => [node.opType, inputIndex])).toEqual([
      ['MatMul', 1],
      ['MatMul', 0],
      ['MatMul', 1],
    ])
    expect(scopes[0]!.readers.get('x')!.map(({ scope }) => scope.label)).toEqual([
      '',
      'if.then_branch',
      'if.else_branch',
    ])
  })
})

describe('fresh names', () => {
  it('avoid everything that any scope has, and each other', () => {
    const proto = chain([floats('w', [32, 32])], { node: [branches(floats('t_w', [32, 32]), floats('', [32, 32]))] })
    const fresh = makeFreshNames(proto)
    for (const taken of ['w', 'x', 'y', 'mm0', 't_w', 'e_w', 't']) expect(fresh(taken), taken).toBe(`${taken}~2`)
    expect(fresh('new')).toBe('new')
    expect(fresh('new')).toBe('new~2')
    expect(fresh('new')).toBe('new~3')
  })
})

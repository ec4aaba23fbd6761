import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { aliveAt, analyseMainGraph, canCut, constantNames, constantUses } from '../../src/calibration/mainGraph.ts'
import { indexModel } from '../../src/onnx/graph.ts'
import { DataType, type ModelProto, makeNode } from '../../src/onnx/proto.ts'
import { dependents, isRunnable, neededAcross, placesThatNeed } from '../oracles/graphOracle.ts'
import { branch, inOrder, modelOfSteps, steps } from './randomGraphs.ts'
import { draw, smallModel, weight } from './tapRuns.ts'

function analyse(model: ModelProto) {
  const graph = analyseMainGraph(indexModel(model))
  const constants = constantNames(graph)
  return { graph, constants, uses: constantUses(graph, constants) }
}

const names = (nodes: readonly { readonly output: readonly string[] }[]) => nodes.map(({ output }) => output[0])

/** Random networks with their nodes in random order. */
const shuffledModels = steps(10).chain((list) => {
  const model = modelOfSteps(list)
  const all = model.graph!.node.map((_, i) => i)
  return fc.shuffledSubarray(all, { minLength: all.length }).map((places) => inOrder(model, places))
})

describe('random graphs in random order', () => {
  it('come out runnable, with every node once; sorted ones as they were', () => {
    fc.assert(
      fc.property(shuffledModels, (model) => {
        const { graph } = analyse(model)
        expect(isRunnable(graph.nodes)).toBe(true)
        expect(new Set(graph.nodes)).toEqual(new Set(model.graph!.node))
        expect(graph.nodes.length).toBe(model.graph!.node.length)
        const sorted = { ...model, graph: { ...model.graph!, node: [...graph.nodes] } }
        expect(names(analyse(sorted).graph.nodes)).toEqual(names(graph.nodes))
      }),
      { numRuns: 100 },
    )
  })

  it('have the alive names and the constants of the definition, at every cut', () => {
    fc.assert(
      fc.property(shuffledModels, (model) => {
        const { graph, constants } = analyse(model)
        const depends = dependents(model.graph!)
        for (const name of graph.madeAt.keys()) expect([name, constants.has(name)]).toEqual([name, !depends.has(name)])
        for (let cut = 0; cut <= graph.nodes.length; cut++) {
          const alive = aliveAt(graph, constants, cut)
          expect(new Set(alive)).toEqual(neededAcross(model.graph!, graph.nodes, cut))
          expect(new Set(alive).size).toBe(alive.length)
        }
      }),
      { numRuns: 60 },
    )
  })

  it('need a constant first and last where the definition says, through chains', () => {
    fc.assert(
      fc.property(shuffledModels, (model) => {
        const { graph, uses } = analyse(model)
        for (const { name } of model.graph!.initializer) {
          const places = placesThatNeed(model.graph!, graph.nodes, name)
          const wanted = places.length > 0 ? { first: Math.min(...places), last: Math.max(...places) } : undefined
          expect(uses.get(name)).toEqual(wanted)
        }
      }),
      { numRuns: 60 },
    )
  })
})

describe('a main graph', () => {
  const w = weight('w', [4, 4], draw([4, 4], 1))

  it('reads what the branches of an If read, also of an If within', () => {
    const outer = makeNode('If', ['c'], ['y'])
    outer.attribute = branch('c', 'inner', 'h', 'h', 'w').attribute
    const inner = outer.attribute[0]!.g!.node[0]!
    outer.attribute[0]!.g!.node = [branch('c', inner.output[0]!, 'late', 'h', 'w')]
    const model = smallModel({
      nodes: [outer, makeNode('Relu', ['x'], ['h']), makeNode('Tanh', ['x'], ['late'])],
      weights: [w],
      inputs: { x: [1, 4], c: [] },
    })
    const { graph, uses } = analyse(model)
    expect(names(graph.nodes)).toEqual(['h', 'late', 'y'])
    expect(new Set(graph.reads.get(outer))).toEqual(new Set(['c', 'late', 'h', 'w']))
    expect(uses.get('w')).toEqual({ first: 2, last: 2 })
  })

  it('has a chain of nodes in the wrong order, however long', () => {
    const length = 20_000
    const nodes = Array.from({ length }, (_, i) => makeNode('Relu', [i ? `h${i - 1}` : 'x'], [`h${i}`])).reverse()
    const { graph } = analyse(smallModel({ nodes, inputs: { x: [1] }, outputs: [`h${length - 1}`] }))
    expect(graph.nodes[0]!.output[0]).toBe('h0')
    expect(graph.madeAt.get(`h${length - 1}`)).toBe(length - 1)
  })

  it('has constants behind Transpose and Cast; random numbers are none', () => {
    const { constants, uses } = analyse(
      smallModel({
        nodes: [
          makeNode('Cast', ['w'], ['cast'], { attributes: { to: DataType.DOUBLE } }),
          makeNode('Cast', ['cast'], ['back'], { attributes: { to: DataType.FLOAT } }),
          makeNode('Transpose', ['back'], ['turned']),
          makeNode('RandomNormal', [], ['noise'], { attributes: { shape: [4] } }),
          makeNode('Bernoulli', ['w'], ['coin']),
          makeNode('MatMul', ['x', 'turned'], ['h']),
          makeNode('Add', ['h', 'noise'], ['g']),
          makeNode('MatMul', ['g', 'back'], ['y']),
        ],
        weights: [w],
        inputs: { x: [1, 4] },
      }),
    )
    expect([...constants].sort()).toEqual(['back', 'cast', 'turned', 'w'])
    // Where the coin is tossed, it is read too.
    expect(uses.get('w')).toEqual({ first: 4, last: 7 })
    expect(uses.get('back')).toEqual({ first: 5, last: 7 })
    expect(uses.get('turned')).toEqual({ first: 5, last: 5 })
  })

  it('takes an input with a default for a constant', () => {
    const model = smallModel({
      nodes: [makeNode('MatMul', ['x', 'w'], ['y'])],
      weights: [w],
      inputs: { x: [1, 4], w: [4, 4] },
    })
    const { graph, constants } = analyse(model)
    expect(graph.inputs).toEqual(['x'])
    expect(aliveAt(graph, constants, 0)).toEqual(['x'])
  })

  it('cannot be cut where a sequence is alive', () => {
    const { graph, constants } = analyse(
      smallModel({
        nodes: [
          makeNode('SplitToSequence', ['x'], ['s']),
          makeNode('Relu', ['x'], ['h']),
          makeNode('SequenceLength', ['s'], ['n']),
          makeNode('SequenceAt', ['s', 'n'], ['t']),
          makeNode('Add', ['h', 't'], ['y']),
        ],
        inputs: { x: [1, 4] },
      }),
    )
    const cuts = Array.from({ length: 6 }, (_, cut) => canCut(graph, aliveAt(graph, constants, cut)))
    expect(cuts).toEqual([true, false, false, false, true, true])
  })
})

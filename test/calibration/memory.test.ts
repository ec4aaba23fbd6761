import { describe, expect, it } from 'vitest'
import { groupLayers } from '../../src/calibration/groups.ts'
import { analyseMainGraph, constantNames, constantUses } from '../../src/calibration/mainGraph.ts'
import { estimateMemory } from '../../src/calibration/memory.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { DataType, type ModelProto, makeNode, makeTensor } from '../../src/onnx/proto.ts'
import { branch } from './randomGraphs.ts'
import { smallModel } from './tapRuns.ts'

/** A weight of which only the shape is there: nothing is read for an estimate. */
const w = (name: string, rows: number, cols: number) =>
  makeTensor({ name, dims: [BigInt(rows), BigInt(cols)], dataType: DataType.FLOAT })
const matMul = (x: string, weight: string, y: string) => makeNode('MatMul', [x, weight], [y], { name: y })

function estimate(model: ModelProto, content = 0) {
  const { index, layers } = modelLayers(model)
  const graph = analyseMainGraph(index)
  const constants = constantNames(graph)
  const uses = constantUses(graph, constants)
  const edit = <T>(node: T) => node
  const groups = groupLayers(graph, constants, uses, layers, edit)
  const fed = new Set(layers.map(({ constant }) => constant.name))
  return estimateMemory(graph, groups, uses, { constants, fed, edit }, content)
}

/** x · w0 · w1 …, of these widths one after the other. */
function chain(...widths: readonly number[]): ModelProto {
  const weights = widths.slice(1).map((width, i) => w(`w${i}`, widths[i]!, width))
  const nodes = weights.map(({ name }, i) => matMul(i === 0 ? 'x' : `h${i}`, name, `h${i + 1}`))
  return smallModel({ nodes, weights, inputs: { x: [1, widths[0]] }, outputs: [`h${weights.length}`] })
}

describe('the memory of a chain that is cut at every layer', () => {
  it('is that of the largest layer, however many others there are', () => {
    const sizes = [256, 256, 256, 256, 4096, 2048, 256, 256, 256] as const
    const { bytes, at, uncut } = estimate(chain(...sizes))
    // Statistics and Hessians of 4096 inputs outweigh all; two layers further on the networks are compared.
    expect(at).toBe('h5')
    const weights = 4 * (4096 * 2048 + 2048 * 256)
    expect(bytes).toBe(250e6 + weights + (16 + 12 + 48) * 4096 ** 2 + 20 * 4096 * 2048)
    expect(uncut).toBeUndefined()
    expect(estimate(chain(...sizes), 1000).bytes).toBe(bytes + 1000)
    const longer = estimate(chain(...Array<number>(50).fill(256), ...sizes))
    expect(longer).toEqual({ bytes, at: 'h55', uncut: undefined })
  })

  it('grows with the weights of the part where the inputs are few and the outputs many', () => {
    const { bytes, at } = estimate(chain(64, 400_000))
    expect(at).toBe('h1')
    expect(bytes).toBe(250e6 + 4 * 64 * 400_000 + 76 * 64 ** 2 + 20 * 64 * 400_000)
  })

  it('counts the sums that are gathered ahead for a weight that several products read', () => {
    const nodes = Array.from({ length: 4 }, (_, i) => matMul(i === 0 ? 'x' : `h${i}`, 'shared', `h${i + 1}`))
    const model = smallModel({
      nodes: [...nodes, matMul('h4', 'own', 'y')],
      weights: [w('shared', 2048, 2048), w('own', 2048, 16)],
      inputs: { x: [1, 2048] },
    })
    // At its first product there are its sums, and no trial; at the last layer its quantized copy is not needed any more.
    expect(estimate(model).bytes).toBe(250e6 + 16 * 2048 ** 2 + (12 + 48) * 2048 ** 2 + 20 * 2048 ** 2)
  })
})

describe('a model that cannot be cut', () => {
  /** An If whose branch holds the weights. */
  function branching(inside: number, outside: number): ModelProto {
    const nodes = [matMul('x', 'w0', 'h'), branch('yes', 'y', 'h', 'h', 'h')]
    const inner = nodes[1]!.attribute[0]!.g!
    inner.initializer = [w('v0', 1024, inside), w('v1', inside, 1024)]
    inner.node = [matMul('h', 'v0', 'in0'), matMul('in0', 'v1', inner.output[0]!.name)]
    return smallModel({ nodes, weights: [w('w0', outside, 1024)], inputs: { x: [1, outside], yes: [] } })
  }

  it('is named with the reason, where its weights lie in control flow', () => {
    const { bytes, uncut } = estimate(branching(20_000, 256))
    const inBodies = 8 * 1024 * 20_000
    expect(bytes).toBeGreaterThan(5 * inBodies)
    expect(uncut!.share).toBeGreaterThan(0.9)
    expect(uncut!.why).toContain('bodies of If, Loop or Scan')
    // A small model needs no warning, nor one most of whose weights lie outside.
    expect(estimate(branching(1000, 256)).uncut).toBeUndefined()
    expect(estimate(branching(5000, 20_000)).uncut).toBeUndefined()
  })

  it('is named with the reason, where something other than tensors is alive', () => {
    const nodes = [
      makeNode('SplitToSequence', ['x'], ['s']),
      matMul('x', 'w0', 'a'),
      matMul('a', 'w1', 'b'),
      matMul('b', 'w2', 'c'),
      makeNode('SequenceAt', ['s', 'at'], ['q']),
      makeNode('Add', ['c', 'q'], ['y']),
    ]
    const weights = ['w0', 'w1', 'w2'].map((name) => w(name, 4096, 4096))
    const { bytes, uncut } = estimate(smallModel({ nodes, weights, inputs: { x: [1, 4096], at: [] } }))
    expect(uncut).toEqual({ share: 1, why: 'the graph cannot be cut before it' })
    expect(bytes).toBeGreaterThan(250e6 + 2 * 3 * 4 * 4096 ** 2 - 1)
    // One tensor of that size could not be cut anyway.
    const alone = smallModel({
      nodes: [nodes[0]!, nodes[1]!, nodes[4]!, makeNode('Add', ['a', 'q'], ['y'])],
      weights,
      inputs: { x: [1, 4096], at: [] },
    })
    alone.graph!.initializer.length = 1
    alone.graph!.initializer[0]!.dims = [4096n, 8192n]
    expect(estimate(alone).uncut).toBeUndefined()
  })
})

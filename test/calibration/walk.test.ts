import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { aliveAt } from '../../src/calibration/mainGraph.ts'
import { ADDED_INPUT, planStage } from '../../src/calibration/stageModel.ts'
import type { Walk } from '../../src/calibration/walk.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { cloneNode, DataType, type ModelProto, makeNode, makeTensor, type NodeProto } from '../../src/onnx/proto.ts'
import { datasetOf } from '../eval/models.ts'
import { branch, modelOfSteps, steps } from './randomGraphs.ts'
import { draw, drawn, expectClose, feed, smallModel, weight } from './tapRuns.ts'
import { allValues, walkThrough } from './walks.ts'

const data = datasetOf({ x: drawn([7, 4], 1), z: drawn([7, 4], 2) })
const parts = { fit: data.subset([4, 0, 6, 2]), held: data.subset([1, 5, 3]) }
const batches = [...parts.fit.batches(2), ...parts.held.batches(2)]

function expectTensor(found: FeedTensor, wanted: FeedTensor, what: string): void {
  expect([what, found.type, found.dims]).toEqual([what, wanted.type, wanted.dims])
  expectClose(Float64Array.from(found.data, Number), Float64Array.from(wanted.data, Number), what, 1e-5)
}

/** What a walk has at its position is what the whole models compute there, and it keeps nothing else. */
function expectValues(
  walk: Walk,
  float: readonly ReadonlyMap<string, FeedTensor>[],
  quantized: readonly ReadonlyMap<string, FeedTensor>[],
): void {
  const { graph, constants, position, activations } = walk
  const alive = new Set(aliveAt(graph, constants, position))
  const read = graph.nodes.slice(position).flatMap((node) => graph.reads.get(node)!)
  const kept = new Set(read.filter((name) => alive.has(name)))
  for (const [batch, values] of float.entries()) {
    for (const name of values.keys()) {
      expect([name, activations.has('float', batch, name)]).toEqual([name, kept.has(name)])
      expect([name, activations.has('quantized', batch, name)]).toEqual([name, kept.has(name) && walk.isDrifted(name)])
    }
    for (const name of kept) {
      expectTensor(walk.get('float', batch, name), values.get(name)!, `${name}, float, at ${position}`)
      expectTensor(walk.get('quantized', batch, name), quantized[batch]!.get(name)!, `${name} at ${position}`)
      if (!walk.isDrifted(name)) expect(walk.get('quantized', batch, name)).toBe(walk.get('float', batch, name))
    }
  }
}

describe('a walk through random networks, with random cuts', () => {
  it('has the values of the whole network, and those of the network with the weights changed so far', async () => {
    const cutsOf = fc.uniqueArray(fc.nat(1000), { maxLength: 4 })
    const changes = fc.subarray(['w0', 'w1'])
    await fc.assert(
      fc.asyncProperty(steps(8), cutsOf, changes, async (list, places, changed) => {
        const scale = Object.fromEntries(changed.map((name) => [name, 0.9]))
        const [model, other] = [modelOfSteps(list), modelOfSteps(list, scale)]
        const [float, quantized] = [await allValues(model, batches), await allValues(other, batches)]
        const outputs = new Map<string, readonly FeedTensor[]>()
        const walk = walkThrough(model, {
          ...parts,
          weights: new Set(['w0', 'w1']),
          onOutput: (name, batch, ...both) => outputs.set(`${name} ${batch}`, both),
        })
        try {
          const end = walk.graph.nodes.length
          const cuts = [...new Set(places.map((place) => place % end))].sort((a, b) => a - b)
          for (const cut of [...cuts, end]) {
            // Each weight as late as possible: in the stage that needs it first.
            for (const name of changed) {
              const first = walk.constantUses.get(name)?.first
              if (first === undefined || first < walk.position || first >= cut) continue
              const { floatData } = other.graph!.initializer.find((tensor) => tensor.name === name)!
              walk.change(name, feed([4, 4], Float32Array.from(floatData)))
            }
            await walk.advance(cut)
            expectValues(walk, float, quantized)
          }
          const held = batches.slice(walk.fitBatches).map((_, i) => walk.fitBatches + i)
          const expected = model.graph!.output.flatMap(({ name }) => held.map((batch) => [name, batch] as const))
          expect([...outputs.keys()].sort()).toEqual(expected.map(([name, batch]) => `${name} ${batch}`).sort())
          for (const [name, batch] of expected) {
            const [own, changedOne] = outputs.get(`${name} ${batch}`)!
            expectTensor(own!, float[batch]!.get(name)!, `output ${name}`)
            expectTensor(changedOne!, quantized[batch]!.get(name)!, `changed output ${name}`)
          }
        } finally {
          walk.close()
        }
      }),
      { numRuns: 40 },
    )
  })
})

const w = (name: string, seed: number) => weight(name, [4, 4], draw([4, 4], seed))

/** a = x·w0; b = tanh a; c = b·w1; y = c + a. */
function chain(): ModelProto {
  return smallModel({
    nodes: [
      makeNode('MatMul', ['x', 'w0'], ['a']),
      makeNode('Tanh', ['a'], ['b']),
      makeNode('MatMul', ['b', 'w1'], ['c']),
      makeNode('Add', ['c', 'a'], ['y']),
    ],
    weights: [w('w0', 1), w('w1', 2)],
    inputs: { x: [undefined, 4] },
  })
}

function replaced(model: ModelProto, name: string, value: FeedTensor): ModelProto {
  const graph = model.graph!
  const others = graph.initializer.filter((tensor) => tensor.name !== name)
  return { ...model, graph: { ...graph, initializer: [...others, weight(name, [4, 4], value.data as Float32Array)] } }
}

describe('a walk', () => {
  it('knows the batches: their samples by number in the data, token weights, what is held out', () => {
    const mask = BigInt64Array.from([1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0], BigInt)
    const tokens = datasetOf({ x: drawn([4, 4], 1), attention_mask: { type: 'int64', dims: [4, 3], data: mask } })
    const walk = walkThrough(chain(), { fit: tokens.subset([2, 0, 1]), held: tokens.subset([3]) })
    const found = walk.batches.map(({ count, numbers, weights }) => [count, [...numbers], weights && [...weights]])
    expect(found).toEqual([
      [2, [2, 0], undefined],
      [1, [1], [1, 0, 0]],
      [1, [3], [1, 1, 0]],
    ])
    expect(walk.fitBatches).toBe(2)
    // The mask is no input of this network.
    expect(walk.activations.has('float', 0, 'attention_mask')).toBe(false)
    walk.close()
  })

  it('tries candidates over several stages without going on', async () => {
    const model = chain()
    const walk = walkThrough(model, { ...parts, weights: new Set(['w0', 'w1']) })
    await walk.advance(2)
    const trial = await walk.openTrial(4)
    const candidate = drawn([4, 4], 5)
    const values = await allValues(replaced(model, 'w1', candidate), batches)
    const own = await allValues(model, batches)
    for (const batch of [3, 0]) {
      const found = await trial.run('quantized', batch, { values: new Map([['w1', candidate]]) })
      expect([...found.keys()]).toEqual(['y'])
      expectTensor(found.get('y')!, values[batch]!.get('y')!, 'y of the candidate')
      expectTensor((await trial.run('float', batch)).get('y')!, own[batch]!.get('y')!, 'y')
    }
    await trial.close()
    expect(walk.position).toBe(2)
    expectValues(walk, own, own)
    walk.close()
  })

  it('tries candidates on the values of the changed network', async () => {
    const model = chain()
    const walk = walkThrough(model, { ...parts, weights: new Set(['w0', 'w1']) })
    const [first, second] = [drawn([4, 4], 5), drawn([4, 4], 6)]
    walk.change('w0', first)
    await walk.advance(2)
    const trial = await walk.openTrial(4)
    const values = await allValues(replaced(replaced(model, 'w0', first), 'w1', second), batches)
    const found = await trial.run('quantized', 1, { values: new Map([['w1', second]]) })
    expectTensor(found.get('y')!, values[1]!.get('y')!, 'y')
    await trial.close()
    walk.close()
  })

  it('runs edited nodes with added inputs, which may change', async () => {
    const model = chain()
    const added = `${ADDED_INPUT}y`
    const edit: Parameters<typeof walkThrough>[1]['edit'] = (node) => {
      if (node.opType !== 'Add') return node
      const copy = cloneNode(node)
      copy.input[1] = added
      return copy
    }
    const outputs: number[][] = []
    const onOutput = (_name: string, _batch: number, ...both: FeedTensor[]) => {
      outputs.push(...both.map((tensor) => [...(tensor.data as Float32Array)]))
    }
    const walk = walkThrough(model, { ...parts, edit, onOutput })
    walk.addInput(added, feed([4], Float32Array.of(1, 2, 3, 4)))
    walk.change(added, feed([4], Float32Array.of(5, 5, 5, 5)))
    await walk.advance(3)
    expect(walk.isDrifted('c')).toBe(false)
    await walk.advance(4)
    const [values] = (await allValues(model, batches)).slice(walk.fitBatches)
    const sums = (bias: readonly number[]) =>
      Array.from(values!.get('c')!.data as Float32Array, (v, i) => v + bias[i % 4]!)
    expectClose(outputs[0]!, sums([1, 2, 3, 4]), 'float')
    expectClose(outputs[1]!, sums([5, 5, 5, 5]), 'quantized')
    walk.close()
  })

  it('runs nothing whose values nobody needs, and keeps nothing that no node will read', async () => {
    const nodes = [makeNode('Relu', ['x'], ['early']), makeNode('Tanh', ['x'], ['b']), makeNode('Neg', ['b'], ['y'])]
    const model = smallModel({ nodes, inputs: { x: [undefined, 4] }, outputs: ['early', 'y'] })
    const seen: string[] = []
    const walk = walkThrough(model, { ...parts, onOutput: (name, batch) => seen.push(`${name} ${batch}`) })
    await walk.advance(1)
    expect(seen).toEqual(['early 2', 'early 3'])
    expect(walk.activations.has('float', 2, 'early')).toBe(false)
    await walk.advance(3)
    expect(seen).toEqual(['early 2', 'early 3', 'y 2', 'y 3'])
    walk.close()
  })

  it('computes with a changed weight as long as nodes read it', async () => {
    const names = ['x', 'a', 'b', 'y']
    const nodes = [0, 1, 2].map((i) => makeNode('MatMul', [names[i]!, 'w0'], [names[i + 1]!]))
    const model = smallModel({ nodes, weights: [w('w0', 1)], inputs: { x: [undefined, 4] } })
    const value = drawn([4, 4], 5)
    const quantized = await allValues(replaced(model, 'w0', value), batches)
    const ys: FeedTensor[] = []
    const onOutput = (_name: string, _batch: number, _float: FeedTensor, own: FeedTensor) => ys.push(own)
    const walk = walkThrough(model, { ...parts, weights: new Set(['w0']), onOutput })
    walk.change('w0', value)
    for (const cut of [1, 2, 3]) await walk.advance(cut)
    expect(ys.length).toBe(2)
    for (const [i, y] of ys.entries()) expectTensor(y, quantized[walk.fitBatches + i]!.get('y')!, 'y')
    walk.close()
  })

  it('has constants of types that JavaScript cannot feed, however large', async () => {
    const size = 2 ** 20
    const nodes = [
      makeNode('DequantizeLinear', ['codes', 'scale'], ['w']),
      makeNode('ReduceSum', ['w'], ['sum'], { attributes: { keepdims: 0 } }),
      makeNode('Mul', ['x', 'sum'], ['y']),
    ]
    const weights = [
      makeTensor({
        name: 'codes',
        dims: [BigInt(size)],
        dataType: DataType.INT4,
        rawData: new Uint8Array(size / 2).fill(0x11),
      }),
      weight('scale', [], Float32Array.of(1 / size)),
    ]
    const model = smallModel({ nodes, weights, inputs: { x: [undefined, 4] }, opset: 21 })
    model.irVersion = 10n
    const walk = walkThrough(model, {
      ...parts,
      onOutput: (_name, batch, float) => expectTensor(float, [...batches][batch]!.feeds.get('x')!, 'y'),
    })
    expect.assertions(4)
    await walk.advance(3)
    walk.close()
  })

  it('stops when it is told to, and says which node failed on the data', async () => {
    const model = smallModel({
      nodes: [
        makeNode('Cast', ['x'], ['i'], { attributes: { to: DataType.INT64 } }),
        makeNode('Gather', ['table', 'i'], ['y'], { name: 'lookup' }),
      ],
      weights: [weight('table', [2], draw([2], 1))],
      inputs: { x: [undefined, 4] },
    })
    const large = datasetOf({ x: feed([1, 4], Float32Array.of(0, 1, 9, 0)) })
    const walk = walkThrough(model, { fit: parts.fit, held: large })
    await walk.advance(1)
    await expect(walk.advance(2)).rejects.toMatchObject({ code: 'data', message: expect.stringContaining('lookup') })
    const stopped = walkThrough(model, { ...parts, run: { signal: AbortSignal.abort() } })
    await expect(stopped.advance(1)).rejects.toMatchObject({ code: 'interrupted' })
  })
})

describe('a stage', () => {
  it('takes only what its outputs need; large constants and weights that change are fed', () => {
    const model = smallModel({
      nodes: [
        makeNode('MatMul', ['x', 'large'], ['a']),
        makeNode('MatMul', ['a', 'changing'], ['b']),
        makeNode('Add', ['b', 'small'], ['c']),
        makeNode('Tanh', ['a'], ['unneeded']),
        branch('yes', 'd', 'c', 'a', 'small'),
      ],
      weights: [
        makeTensor({
          name: 'large',
          dims: [257n, 256n],
          dataType: DataType.FLOAT,
          rawData: new Uint8Array(257 * 1024),
        }),
        weight('changing', [256, 256], new Float32Array(256 * 256)),
        weight('small', [256], new Float32Array(256)),
      ],
      inputs: { x: [1, 257], yes: [] },
      outputs: ['d', 'unneeded'],
    })
    const walk = walkThrough(model, { ...parts, fit: datasetOf({ x: drawn([1, 257], 1) }) })
    const options = { constants: walk.constants, fed: new Set(['changing']), edit: (node: NodeProto) => node }
    const stage = (from: number, to: number, outputs: string[]) => {
      const { inputs, fed, nodes } = planStage(walk.graph, from, to, outputs, options)
      return { inputs: [...inputs].sort(), fed: [...fed].sort(), makes: nodes.map(({ output }) => output[0]) }
    }
    expect(stage(0, 5, ['d'])).toEqual({
      inputs: ['x', 'yes'],
      fed: ['changing', 'large'],
      makes: ['a', 'b', 'c', 'd'],
    })
    expect(stage(1, 3, ['c'])).toEqual({ inputs: ['a'], fed: ['changing'], makes: ['b', 'c'] })
    expect(stage(3, 5, ['d', 'unneeded'])).toEqual({ inputs: ['a', 'c', 'yes'], fed: [], makes: ['unneeded', 'd'] })
    walk.close()
  })
})

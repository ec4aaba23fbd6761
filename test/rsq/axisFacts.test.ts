import { describe, expect, it } from 'vitest'
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { indexModel } from '../../src/onnx/graph.ts'
import { type ModelProto, makeModel, makeNode, makeOpset, makeTensor, makeValueInfo } from '../../src/onnx/proto.ts'
import { AxisFacts } from '../../src/rsq/axisFacts.ts'
import { attention, attentionFeeds, fusedAttention } from './headModels.ts'
import { floats } from './insertedNodes.ts'
import { encoderDecoder, feedsOf, runModel, transformer } from './streamModels.ts'

const factsOf = (model: ModelProto) => new AxisFacts(analyseMainGraph(indexModel(model)))

/** Names whose last axis is not known, after all that is known is held against what onnxruntime makes. */
async function unknown(model: ModelProto, feeds: Map<string, FeedTensor>): Promise<string[]> {
  const facts = factsOf(model)
  const names = model.graph!.node.flatMap(({ output }) => output.filter((name) => name !== ''))
  const given = new Set(model.graph!.output.map(({ name }) => name))
  model.graph!.output.push(...names.filter((name) => !given.has(name)).map((name) => makeValueInfo(name)))
  const values = await runModel(model, feeds)
  const known = (name: string) => {
    const { dims } = values.get(name)!
    const [rank, last] = [facts.rank(name), facts.last(name)]
    if (rank !== undefined) expect([name, rank]).toEqual([name, dims.length])
    if (last !== undefined) expect([name, last]).toEqual([name, dims.at(-1) ?? 1])
    return last !== undefined
  }
  return names.filter((name) => !known(name))
}

/** Without names that have to do with lengths, which no model proves. */
const widths = (names: readonly string[]) =>
  names.filter((name) => !/scores|scaled|probabilities|kt|shape|lead|whole/.test(name))

describe('what is said of axes is so in onnxruntime', () => {
  it.each([
    transformer(),
    transformer({ norm: 'skip', bias: true, linear: 'gemm', kvHeads: 2 }),
    transformer({ norm: 'layerTorch', positions: true }),
    transformer({ norm: 'l2', head: 'transpose' }),
    transformer({ attention: 'fused', head: 'gemm' }),
    transformer({ front: 'patches' }),
    encoderDecoder(),
  ])('in a transformer, %#', async (model) => {
    await unknown(model, feedsOf(model))
  })

  it.each([
    attention(),
    attention({ dynamic: true, packed: 'perHead' }),
    attention({ packed: 'split' }),
    attention({ packed: 'slice', bias: true, linear: 'gemm' }),
    attention({ packed: 'axis' }),
    attention({ packed: 'unbind', dynamic: true }),
    attention({ flat: true }),
    attention({ shared: 1, repeat: 'expand' }),
    attention({ shared: 1, repeat: 'tile', dynamic: true }),
    attention({ heads: 4, shared: 2, repeat: 'gather' }),
  ])('in an attention, whose channels all are known, %#', async (model) => {
    expect(widths(await unknown(model, attentionFeeds('double')))).toEqual([])
  })

  it.each(['multiHead', 'groupQuery', 'groupQueryPacked', 'packed', 'standard', 'standardFour'] as const)(
    'in a fused attention, %s',
    async (form) => {
      const model = fusedAttention(form)
      const facts = factsOf(model)
      if (form !== 'standardFour') expect(facts.rank('context')).toBe(3)
      if (form === 'multiHead' || form.startsWith('groupQuery')) expect(facts.last('context')).toBe(32)
      await unknown(model, attentionFeeds('float'))
    },
  )
})

const integers = (name: string, values: readonly number[], dims: readonly number[] = [values.length]) => {
  const rawData = new Uint8Array(BigInt64Array.from(values.map(BigInt)).buffer)
  return makeTensor({ name, dims: dims.map(BigInt), dataType: 7, rawData })
}

/** x [batch, 5, 24] and nodes behind it, each with one output of its own name. */
function graphOf(
  nodes: readonly (readonly [string, readonly string[], string, Record<string, unknown>?])[],
): ModelProto {
  const initializer = [
    floats('matrix', [24, 6], (i) => i),
    floats('wide', [1, 1, 24], (i) => i),
    integers('minusOne', [-1]),
    integers('two', [2]),
    integers('lastOf', [2], []),
    integers('sixteen', [16]),
    integers('halves', [12, 12]),
    integers('zeros', [0, 0, -1]),
    integers('blocks', [0, -1, 4]),
    integers('split', [0, 0, 3, -1]),
    integers('repeats', [1, 2, 1]),
  ]
  const node = nodes.map(([op, inputs, output, attributes = {}]) =>
    makeNode(op, inputs, output.split(' '), { name: output, attributes: attributes as Record<string, number> }),
  )
  const output = node.flatMap((made) => made.output).map((name) => makeValueInfo(name))
  const input = [makeValueInfo('x', 1, [undefined, undefined, 24])]
  return makeModel({
    graph: { name: 'g', node, initializer, input, output },
    irVersion: 10n,
    opsetImport: [makeOpset('', 17)],
  })
}

describe('rules of operators', () => {
  it('follow what exporters do to the last axis', async () => {
    const model = graphOf([
      ['Transpose', ['matrix'], 'turned', { perm: [1, 0] }],
      ['Gemm', ['matrix', 'matrix'], 'gram', { transA: 1 }],
      ['MatMul', ['x', 'matrix'], 'projected'],
      ['MatMul', ['projected', 'turned'], 'back'],
      ['Shape', ['x'], 'shape'],
      ['Gather', ['shape', 'two'], 'channels'],
      ['Gather', ['shape', 'lastOf'], 'channel'],
      ['Unsqueeze', ['channel', 'minusOneAxis'], 'channelVector'],
      ['Concat', ['minusOne', 'channels'], 'flatShape', { axis: 0 }],
      ['Concat', ['minusOne', 'channelVector'], 'sameShape', { axis: 0 }],
      ['Reshape', ['x', 'flatShape'], 'flat'],
      ['Reshape', ['x', 'sameShape'], 'same'],
      ['Reshape', ['x', 'zeros'], 'copied'],
      ['Reshape', ['x', 'blocks'], 'blocked'],
      ['Reshape', ['x', 'split'], 'parts'],
      ['Split', ['x', 'halves'], 'left right', { axis: -1 }],
      ['Slice', ['x', 'minusOne', 'sixteen', 'two'], 'none'],
      ['Slice', ['x', 'two', 'sixteen', 'two'], 'some'],
      ['Tile', ['x', 'repeats'], 'tiled'],
      ['Unsqueeze', ['x', 'two'], 'opened'],
      ['Unsqueeze', ['x', 'minusOne'], 'column'],
      ['Squeeze', ['opened', 'two'], 'closed'],
      ['ReduceMean', ['x'], 'mean', { axes: [-1] }],
      ['Add', ['mean', 'wide'], 'spread'],
      ['Concat', ['spread', 'x'], 'longer', { axis: 1 }],
    ])
    model.graph!.initializer.push(integers('minusOneAxis', [0]))
    // How long shapes are nothing asks; a product looks through what is made of stored weights by itself.
    const others = ['turned', 'shape', 'channels', 'channel', 'flatShape', 'sameShape']
    expect(await unknown(model, attentionFeeds('float'))).toEqual(others)
  })

  it('say nothing of operators of unknown domains, and do not believe impossible declarations', () => {
    const model = graphOf([['Relu', ['x'], 'y']])
    model.graph!.node[0]!.domain = 'elsewhere'
    expect(factsOf(model).last('y')).toBeUndefined()
    model.graph!.valueInfo.push(makeValueInfo('y', 1, [2, -1]))
    expect(factsOf(model).last('y')).toBeUndefined()
  })
})

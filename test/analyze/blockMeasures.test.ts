import path from 'node:path'
import { describe, expect, test } from 'vitest'
import type { MeasuredBlock } from '../../src/analyze/analysis.ts'
import { measureBlocks } from '../../src/analyze/blockMeasures.ts'
import { findBlocks } from '../../src/calibration/blocks.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { DataType, type ModelProto, makeValueInfo } from '../../src/onnx/proto.ts'
import { SourceReader } from '../../src/onnx/sourceReader.ts'
import { tensorBytes } from '../../src/onnx/tensorData.ts'
import type { RunOptions } from '../../src/progress.ts'
import { groupedLayers } from '../../src/quantize/layerGroups.ts'
import { createPool } from '../../src/threads/pool.ts'
import { allValues, inMemory } from '../calibration/walks.ts'
import { datasetOf, normalTensor, tensor } from '../eval/models.ts'
import { Net, opened, WIDTH } from './residualModels.ts'

const SAMPLES = 7
const TOKENS = 5
const pool = createPool(1)

interface Case {
  readonly proto: ModelProto
  readonly feeds: Readonly<Record<string, FeedTensor>>
  /** Samples that are held out; none: all judge. */
  readonly held?: readonly number[]
}

async function measured(
  { proto, feeds, held = [] }: Case,
  { lim = true, zd = true, run = {} as RunOptions } = {},
): Promise<MeasuredBlock[]> {
  const { graph, found } = opened(proto)
  const model = inMemory(proto)
  const all = datasetOf(feeds)
  const data = {
    fit: all.subset([...all.order].filter((sample) => !held.includes(sample))),
    held: all.subset(held),
    batchSize: 2,
    notes: [],
    source: 'test',
    scratch: () => path.join('never', 'made'),
  }
  const network = {
    source: { model, reader: new SourceReader(model), pool },
    grouped: groupedLayers(found, found.layers),
    layers: found.layers,
    ...{ data, run },
  }
  return measureBlocks(network, findBlocks(graph, found.layers), { lim, zd })
}

/**
 * −mean cosine of two tensors of the whole model, computed by onnxruntime at once, over samples and tokens with a weight.
 * @param tokenOf numbers of the same token of the flat tensors, token by token.
 */
async function limByHand(
  { proto, feeds, held = [] }: Case,
  [input, output]: readonly [string, string],
  tokensOf: (sample: FeedTensor) => number[][],
  counts: (sample: number, token: number) => boolean = () => true,
): Promise<number> {
  const all = datasetOf(feeds)
  const samples = held.length > 0 ? held : [...all.order]
  const values = await allValues(proto, [...all.subset(samples).batches(1)])
  const cosines = values.flatMap((names, i) => {
    const [a, b] = [names.get(input)!, names.get(output)!]
    return tokensOf(a).flatMap((places, token) => {
      if (!counts(samples[i]!, token)) return []
      const [before, after] = [a, b].map(({ data }) => places.map((at) => Number(data[at]))) as [number[], number[]]
      const product = before.reduce((sum, value, k) => sum + value * after[k]!, 0)
      return [product / (Math.hypot(...before) * Math.hypot(...after))]
    })
  })
  return -cosines.reduce((a, b) => a + b, 0) / cosines.length
}

const range = (count: number) => Array.from({ length: count }, (_, i) => i)
const rowsOfWidth = ({ data }: FeedTensor) =>
  range(data.length / WIDTH).map((token) => range(WIDTH).map((k) => token * WIDTH + k))

/** x, unchanged, turned round, and changed by two layers and an activation. */
function threeBranches(input = 'x'): Net {
  const net = new Net()
  const diagonal = (value: number) => (i: number) => (Math.floor(i / WIDTH) === i % WIDTH ? value : 0)
  const square = [WIDTH, WIDTH]
  net.add('MatMul', [input, net.weight('nothing.weight', square, diagonal(0))], 'nothing')
  net.add('Add', [input, 'nothing'], 'same')
  net.add('MatMul', ['same', net.weight('turn.weight', square, diagonal(-2))], 'turn')
  net.add('Add', ['same', 'turn'], 'negative')
  net.add('Add', ['negative', net.feedForward('negative', 'mlp')], 'changed')
  return net
}

const x = normalTensor([SAMPLES, TOKENS, WIDTH], 5)

describe('LIM of blocks, through onnxruntime', () => {
  const net = threeBranches()
  const proto = net.model([net.linear('changed', 'head')])

  test('is −1 where nothing changes, 1 where all is turned round, and the mean of the cosines else', async () => {
    const run = { proto, feeds: { x } }
    const blocks = await measured(run, { zd: false })
    expect(blocks.map(({ layers, zd }) => [layers, zd])).toEqual([
      [['nothing'], null],
      [['turn'], null],
      [['mlp/up', 'mlp/down'], null],
    ])
    expect(blocks[0]!.lim).toBe(-1)
    expect(blocks[1]!.lim).toBe(1)
    const expected = await limByHand(run, ['negative', 'changed'], rowsOfWidth)
    expect(Math.abs(expected)).toBeLessThan(0.95)
    expect(blocks[2]!.lim).toBeCloseTo(expected, 6)
  })

  test('is that of the held-out samples where there are some', async () => {
    const run = { proto, feeds: { x }, held: [4, 1, 6] }
    const [, , block] = await measured(run)
    expect(block!.lim).toBeCloseTo(await limByHand(run, ['negative', 'changed'], rowsOfWidth), 6)
    const all = await limByHand({ proto, feeds: { x } }, ['negative', 'changed'], rowsOfWidth)
    expect(Math.abs(block!.lim! - all)).toBeGreaterThan(1e-3)
  })

  test('does not count padding', async () => {
    const padded = threeBranches('inputs_embeds')
    padded.input.length = 0
    padded.input.push(makeValueInfo('inputs_embeds', DataType.FLOAT, [undefined, undefined, WIDTH]))
    padded.input.push(makeValueInfo('attention_mask', DataType.INT64, [undefined, undefined]))
    const counts = (sample: number, token: number) => token < 1 + (sample % TOKENS)
    const mask = BigInt64Array.from(range(SAMPLES * TOKENS), (i) => BigInt(counts(Math.floor(i / TOKENS), i % TOKENS)))
    const feeds = { inputs_embeds: x, attention_mask: tensor('int64', [SAMPLES, TOKENS], mask) }
    const run = { proto: padded.model(['changed', padded.add('Identity', ['attention_mask'], 'mask')]), feeds }
    const [, , block] = await measured(run)
    const expected = await limByHand(run, ['negative', 'changed'], rowsOfWidth, counts)
    expect(block!.lim).toBeCloseTo(expected, 6)
    expect(Math.abs(expected - (await limByHand(run, ['negative', 'changed'], rowsOfWidth)))).toBeGreaterThan(1e-3)
  })

  test('compares the channels of each pixel in blocks of convolutions', async () => {
    const conv = new Net()
    conv.input.length = 0
    conv.input.push(makeValueInfo('x', DataType.FLOAT, [undefined, WIDTH, undefined, undefined]))
    const inner = conv.add('Relu', [conv.conv('x', 'c1', [2 * WIDTH, WIDTH])], 'a')
    conv.add('Add', ['x', conv.conv(inner, 'c2', [WIDTH, 2 * WIDTH])], 'y')
    // As many pixels in a row as channels: the shape alone does not tell them apart.
    const pixels = 3 * WIDTH
    const run = { proto: conv.model(['y']), feeds: { x: normalTensor([SAMPLES, WIDTH, 3, WIDTH], 6) } }
    const [block] = await measured(run)
    const columns = () => range(pixels).map((pixel) => range(WIDTH).map((channel) => channel * pixels + pixel))
    expect(block!.lim).toBeCloseTo(await limByHand(run, ['x', 'y'], columns), 6)
  })

  test('finds the width where convolutions and products are mixed', async () => {
    // Pixels by a convolution, channels by a product behind a Transpose, as in ConvNeXt.
    const mixed = new Net()
    mixed.input.length = 0
    mixed.input.push(makeValueInfo('x', DataType.FLOAT, [undefined, WIDTH, undefined, undefined]))
    const last = mixed.add('Transpose', [mixed.conv('x', 'c')], 'last', { perm: [0, 2, 3, 1] })
    const product = mixed.linear(last, 'l')
    mixed.add('Add', ['x', mixed.add('Transpose', [product], 'first', { perm: [0, 3, 1, 2] })], 'y')
    const images = { proto: mixed.model(['y']), feeds: { x: normalTensor([SAMPLES, WIDTH, 3, 4], 6) } }
    const columns = () => range(12).map((pixel) => range(WIDTH).map((channel) => channel * 12 + pixel))
    expect((await measured(images))[0]!.lim).toBeCloseTo(await limByHand(images, ['x', 'y'], columns), 6)
    // A convolution over time between products, as in Conformers.
    const time = new Net()
    const channels = time.add('Transpose', [time.linear('x', 'l')], 'channels', { perm: [0, 2, 1] })
    const kernel = time.weight('c.weight', [WIDTH, WIDTH, 3])
    const along = time.add('Conv', [channels, kernel], 'c', { pads: [1, 1] })
    time.add('Add', ['x', time.add('Transpose', [along], 'back', { perm: [0, 2, 1] })], 'y')
    const sequences = { proto: time.model(['y']), feeds: { x } }
    expect((await measured(sequences))[0]!.lim).toBeCloseTo(await limByHand(sequences, ['x', 'y'], rowsOfWidth), 6)
  })

  test('is undefined where the sum has another shape than the input', async () => {
    const wide = new Net()
    const pooled = wide.add('ReduceMean', ['x'], 'pooled', { axes: [1], keepdims: 1 })
    const moved = wide.add('Mul', [wide.linear(pooled, 'l'), 'x'], 'moved')
    wide.add('Add', [pooled, moved], 'y')
    const [block] = await measured({ proto: wide.model(['y']), feeds: { x } })
    expect(block).toMatchObject({ layers: ['l'], lim: null })
    expect(block!.zd).toBeGreaterThan(0)
  })
})

describe('ZD of blocks', () => {
  test('is the share of the weights of all layers above μ + σ', async () => {
    const net = threeBranches()
    const proto = net.model(['changed'])
    const steps: string[] = []
    const run: RunOptions = { onProgress: ({ item }) => steps.push(item ?? '') }
    const blocks = await measured({ proto, feeds: { x } }, { lim: false, run })
    // Without LIM the network does not run.
    expect(steps).toEqual([])
    expect(blocks.map(({ lim }) => lim)).toEqual([null, null, null])
    const weights = ['mlp/up.weight', 'mlp/down.weight'].flatMap((name) => {
      const bytes = tensorBytes(inMemory(proto), proto.graph!.initializer.find((own) => own.name === name)!)
      return [...new Float32Array(bytes.slice().buffer)]
    })
    const mean = weights.reduce((a, b) => a + b, 0) / weights.length
    const deviation = Math.sqrt(weights.reduce((sum, w) => sum + (w - mean) ** 2, 0) / weights.length)
    const share = weights.filter((w) => (w - mean) / deviation > 1).length / weights.length
    // All weights of the first block are equal; of the second, none is above μ + σ.
    expect(blocks.map(({ zd }) => zd)).toEqual([null, 0, share])
  })
})

test('no blocks: nothing is measured', async () => {
  const net = new Net()
  expect(await measured({ proto: net.model([net.linear('x', 'y')]), feeds: { x } })).toEqual([])
})

test('stops when told to', async () => {
  const net = threeBranches()
  const run = { signal: AbortSignal.abort() }
  await expect(measured({ proto: net.model(['changed']), feeds: { x } }, { run })).rejects.toMatchObject({
    code: 'interrupted',
  })
})

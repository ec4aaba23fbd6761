import { describe, expect, test } from 'vitest'
import type { Block } from '../../src/calibration/blocks.ts'
import type { Dataset } from '../../src/data/dataset.ts'
import { DataType, type ModelProto, makeValueInfo } from '../../src/onnx/proto.ts'
import { BlockScores, type Scores } from '../../src/rsq/blockScores.ts'
import { collectImportance } from '../../src/rsq/collectScores.ts'
import { Net, WIDTH } from '../analyze/residualModels.ts'
import { expectClose } from '../calibration/tapRuns.ts'
import { allValues } from '../calibration/walks.ts'
import { datasetOf, normalTensor } from '../eval/models.ts'
import { slowNorm, slowReceived, slowWeights } from '../oracles/importanceOracle.ts'
import {
  attending,
  blocksOf,
  collected,
  mask,
  PLAIN,
  padding,
  range,
  rowsOf,
  SAMPLES,
  type Shape,
  stored,
  TOKENS,
  walkOf,
  x,
} from './attentionModels.ts'

/** Attention scores of the first block, as they are before they become weights. */
async function firstScores(proto: ModelProto, data: Dataset): Promise<{ scores: Scores; notes: string[] }> {
  const walk = walkOf(proto, data, { batchSize: SAMPLES })
  const notes: string[] = []
  const [block] = blocksOf(proto) as [Block]
  try {
    const batches = walk.batches.map(({ count, weights }) => ({ sequences: count, length: TOKENS, counts: weights }))
    const to = walk.graph.madeAt.get(block.output)! + 1
    return { scores: await new BlockScores(walk, 'attention', {}, notes).scores(block, to, batches), notes }
  } finally {
    walk.close()
  }
}

describe('attention that tokens receive', () => {
  test.each([12, 17])('of uniform causal attention is heads · Σ_{i ≥ t} 1/(i + 1), opset %i', async (opset) => {
    for (const heads of [1, 4]) {
      const { scores } = await firstScores(attending({ heads, uniform: true }, 2, opset), datasetOf({ x }))
      const expected = range(TOKENS).map((t) =>
        range(TOKENS).reduce((sum, i) => sum + (i >= t ? heads / (i + 1) : 0), 0),
      )
      expectClose((scores as Float64Array[])[0]!, Array(SAMPLES).fill(expected).flat(), 'scores')
    }
  })

  test.each([
    [{ kind: 'plain' }, 17],
    [{ kind: 'plain', causal: false }, 17],
    [{ kind: 'MultiHeadAttention' }, 17],
    [{ kind: 'MultiHeadAttention', causal: false, bias: true }, 17],
    [{ kind: 'MultiHeadAttention', attributes: { scale: { float: 0.9 } } }, 17],
    [{ kind: 'GroupQueryAttention', heads: 4, keyHeads: 2 }, 17],
    [{ kind: 'Attention of axis 2', heads: 4, keyHeads: 2 }, 23],
    [{ kind: 'Attention of four axes', heads: 4, keyHeads: 1 }, 23],
    [{ kind: 'Attention of four axes', causal: false }, 23],
  ] as readonly [Shape, number][])('is that of the softmax of q·kᵀ: %o', async (shape, opset) => {
    const proto = attending(shape, 1, opset)
    const { heads = 2, keyHeads = heads, causal = true, attributes, bias } = shape
    const size = WIDTH / heads
    // Queries and keys by onnxruntime; all after them by hand.
    const cut = { ...proto.graph!, node: proto.graph!.node.filter(({ name }) => /\/[qk]$/.test(name)) }
    const [values] = await allValues({ ...proto, graph: cut }, [...datasetOf({ x }).batches(SAMPLES)])
    const added = bias ? stored(proto, 'l0/attn/bias') : new Float32Array(2 * WIDTH)
    const plus = (rows: number[][], from: number) => rows.map((row) => row.map((value, i) => value + added[from + i]!))
    for (const padded of [false, true]) {
      const data = datasetOf(padded ? { x, attention_mask: padding } : { x })
      const { scores, notes } = await firstScores(proto, data)
      expect(notes).toEqual([])
      for (const sample of range(SAMPLES)) {
        const counts = range(TOKENS).filter((t) => !padded || mask[sample * TOKENS + t] === 1)
        const q = plus(rowsOf(values!.get('l0/attn/q')!, sample, WIDTH), 0)
        const k = plus(rowsOf(values!.get('l0/attn/k')!, sample, keyHeads * size), WIDTH)
        // A plain graph hides only what its own mask says; its queries of padding do not count all the same.
        const keys = shape.kind === 'plain' ? range(TOKENS) : counts
        const expected = counts.map(() => 0)
        for (const head of range(heads)) {
          const part = (row: readonly number[], at: number) => row.slice(at * size, (at + 1) * size)
          const group = Math.floor((head * keyHeads) / heads)
          const scale = attributes ? 0.9 : 1 / Math.sqrt(size)
          for (const i of counts) {
            const seen = keys.filter((t) => !causal || t <= i)
            const received = slowReceived(
              [part(q[i]!, head)],
              seen.map((t) => part(k[t]!, group)),
              scale,
              false,
            )
            counts.forEach((t, at) => {
              if (seen.includes(t)) expected[at]! += received[seen.indexOf(t)]!
            })
          }
        }
        const found = counts.map((t) => (scores as Float64Array[])[0]![sample * TOKENS + t]!)
        expectClose(found, expected, `scores of sample ${sample}`)
      }
    }
  })

  test.each([
    [{ kind: 'MultiHeadAttention' }, 17],
    [{ kind: 'MultiHeadAttention', causal: false }, 17],
    // Heads of this operator have a multiple of 8 channels.
    [{ kind: 'GroupQueryAttention', heads: 1 }, 17],
    [{ kind: 'Attention of axis 2' }, 23],
    [{ kind: 'Attention of four axes', causal: false }, 23],
  ] as readonly [Shape, number][])('of fused operators is what onnxruntime attends with: %o', async (shape, opset) => {
    // Weights are drawn in the same order, so that both networks are one function.
    const [fused, plain] = [attending(shape, 1, opset), attending({ ...shape, kind: 'plain' })]
    const single = datasetOf({ x: normalTensor([1, TOKENS, WIDTH], 3) })
    const [[a], [b]] = [await allValues(fused, [...single.batches(1)]), await allValues(plain, [...single.batches(1)])]
    expectClose(a!.get('head')!.data as Float32Array, b!.get('head')!.data as Float32Array, 'outputs')
    const [own, other] = [await firstScores(fused, single), await firstScores(plain, single)]
    expectClose((own.scores as Float64Array[])[0]!, (other.scores as Float64Array[])[0]!, 'scores')
  })

  test('is taken from the block before, where a block has none', async () => {
    // One layer: nothing repeats, so that attention and feed-forward are blocks of their own.
    const { blocks, notes } = await collected(attending({}), datasetOf({ x }), {})
    expect(blocks.map(({ layers }) => layers.length)).toEqual([4, 2])
    expect(blocks[1]!.weights).toEqual(blocks[0]!.weights)
    expect(notes).toEqual([])
  })

  test.each([
    [{ kind: 'GroupQueryAttention', attributes: { do_rotary: 1 } }, 'GroupQueryAttention rotates'],
    [{ kind: 'GroupQueryAttention', attributes: { local_window_size: 2 } }, 'GroupQueryAttention has a local window'],
    [{ kind: 'GroupQueryAttention', attributes: { softcap: { float: 2 } } }, 'GroupQueryAttention caps its scores'],
  ] as readonly [Shape, string][])('is not seen: %o; norms take its place, and a note says so', async (shape, why) => {
    const proto = attending(shape)
    const walk = walkOf(proto, datasetOf({ x }))
    // The network itself need not run for the first block.
    const [block] = blocksOf(proto)
    const found = await collectImportance(
      walk,
      [block!],
      { ...PLAIN, strategy: 'attention', lengthCorrection: 'linear' },
      {},
    )
    walk.close()
    expect(found.notes).toEqual([
      expect.stringMatching(`^tokens in l0/attn are weighed by activation norms, .*: ${why}`),
    ])
    const expected = range(2).flatMap((s) => slowWeights(slowNorm(rowsOf(x, s, WIDTH)), 0.01, 1))
    expectClose(found.blocks[0]!.weights[0]!, expected, 'weights')
  })

  test('is not that of a router over experts, nor over what an encoder puts out', async () => {
    const router = new Net()
    const gate = router.linear('x', 'mlp/gate', [WIDTH, TOKENS])
    const shares = router.add('Softmax', [gate], 'mlp/shares', { axis: -1 })
    const mixture = router.add('MatMul', [shares, router.weight('mlp/experts', [TOKENS, WIDTH])], 'mlp/mixed')
    const experts = router.linear(mixture, 'mlp/down')
    const cross = new Net()
    cross.input.push(makeValueInfo('encoded', DataType.FLOAT, [undefined, undefined, WIDTH]))
    const keys = cross.add('Transpose', ['encoded'], 'keys', { perm: [0, 2, 1] })
    const queries = cross.add('Softmax', [cross.add('MatMul', [cross.linear('x', 'q'), keys], 's')], 'p', { axis: -1 })
    const mixed = cross.linear(cross.add('MatMul', [queries, 'encoded'], 'm'), 'o')
    for (const [net, branch] of [
      [router, experts],
      [cross, mixed],
    ] as const) {
      const proto = net.model([net.linear(net.add('Add', ['x', branch], 'sum'), 'head')])
      const { notes } = await collected(proto, datasetOf({ x, encoded: normalTensor([SAMPLES, TOKENS, WIDTH], 9) }), {})
      expect(notes).toEqual([expect.stringMatching(/there is no attention between the tokens of a sequence$/)])
    }
  })
})

/** Search and rotation together: what findStreams finds is turned, and the network computes the same. */
import { describe, expect, it } from 'vitest'
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import { indexModel } from '../../src/onnx/graph.ts'
import type { ModelProto } from '../../src/onnx/proto.ts'
import { relativeError } from '../../src/rsq/checkRotation.ts'
import { findStreams } from '../../src/rsq/findStreams.ts'
import { rotateStreams } from '../../src/rsq/rotateStreams.ts'
import { randomHadamard } from '../../src/rsq/rotations.ts'
import { inlined, opened } from './namedStreams.ts'
import { encoderDecoder, feedsOf, runModel, transformer } from './streamModels.ts'
import { MEAN_FORMS, PLAIN_FORMS } from './streamParts.ts'

async function turned(proto: ModelProto, keepsOnes: boolean, simplifyNorms: boolean) {
  const streams = findStreams(analyseMainGraph(indexModel(proto)))
  const rotations = new Map(
    streams.streams.map((stream, i) => [stream, randomHadamard(stream.width, { seed: i, keepsOnes })]),
  )
  const result = rotateStreams(opened(proto), streams, rotations, { simplifyNorms })
  const wanted = (await runModel(proto)).get('logits')!
  const got = (await runModel(inlined(result.model), feedsOf(proto))).get('logits')
  return { ...result, error: relativeError(wanted, got, undefined) }
}

describe('streams that were found', () => {
  it.each([...MEAN_FORMS, ...PLAIN_FORMS])('behind norms of the form %s', async (norm) => {
    const proto = transformer({ norm, bias: true, positions: true, head: 'transpose', vocab: 40 })
    const { streams, error } = await turned(proto, true, false)
    expect(streams).toHaveLength(1)
    expect(streams[0]!.fusedNorms).toBe(5)
    expect(error).toBeLessThanOrEqual(5e-6)
  })

  it.each([
    { front: 'patches', bias: true },
    { attention: 'fused' },
    { norm: 'skip', bias: true },
    { norm: 'skip', linear: 'gemm', bias: true, kvHeads: 2 },
  ] as const)('lose their means: %o', async (options) => {
    const { streams, error } = await turned(transformer(options), false, true)
    expect(streams.map(({ simplifiedNorms }) => simplifiedNorms)).toEqual([5])
    expect(error).toBeLessThanOrEqual(5e-6)
  })

  it.each([true, false])('in an encoder and a decoder, one table for both: %s', async (shared) => {
    const proto = encoderDecoder({ shared, head: 'transpose', vocab: 40, bias: true })
    const { streams, copies, error } = await turned(proto, true, false)
    expect(error).toBeLessThanOrEqual(5e-6)
    // Streams that share a table are turned alike, so that it stays one.
    expect(streams).toHaveLength(shared ? 1 : 2)
    expect(copies).toEqual([])
  })
})

import { describe, expect, it } from 'vitest'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import type { OnnxModel } from '../../src/onnx/model.ts'
import { encodeModel, type ModelProto } from '../../src/onnx/proto.ts'
import { relativeError } from '../../src/rsq/checkRotation.ts'
import { readVectors } from '../../src/rsq/constantVectors.ts'
import { type RotatedModel, rotateStreams } from '../../src/rsq/rotateStreams.ts'
import type { Rotation } from '../../src/rsq/rotation.ts'
import { matrixOf, randomHadamard } from '../../src/rsq/rotations.ts'
import { found, inlined, namedStream, opened } from './namedStreams.ts'
import { feedsOf, runModel, type StreamModelOptions, transformer } from './streamModels.ts'
import { MEAN_FORMS, PLAIN_FORMS } from './streamParts.ts'

const KEEPING = randomHadamard(16, { seed: 3, keepsOnes: true })
const ANY = randomHadamard(16, { seed: 4 })

function turn(model: OnnxModel, rotation: Rotation | undefined, simplifyNorms = false): RotatedModel {
  const stream = namedStream(model)
  return rotateStreams(model, found(stream), new Map([[stream, rotation]]), { simplifyNorms })
}

/** Largest relative error of an output, the graph as it stands. */
async function errorOf(proto: ModelProto, turned: OnnxModel, known?: Map<string, FeedTensor>): Promise<number> {
  const wanted = known ?? (await runModel(proto))
  const got = await runModel(inlined(turned), feedsOf(proto))
  return Math.max(...[...wanted].map(([name, tensor]) => relativeError(tensor, got.get(name), undefined)))
}

function constant(model: OnnxModel, name: string) {
  return model.proto.graph!.initializer.find((tensor) => tensor.name === name)
}

/** The vectors of a constant along an axis. */
function vectors(model: OnnxModel, name: string, axis: number): Float64Array {
  return readVectors(model, constant(model, name)!, axis)
}

const operators = (model: OnnxModel) => model.proto.graph!.node.map(({ opType }) => opType)

describe('rotated networks compute the same in float64', () => {
  const doubles: StreamModelOptions = { type: 'double', blocks: 2, width: 16 }
  const rest: readonly StreamModelOptions[] = [
    { bias: true, positions: true },
    { bias: true, linear: 'gemm', kvHeads: 2 },
    { head: 'transpose', vocab: 40 },
    { head: 'gemm', vocab: 40, bias: true },
    { head: 'transpose', vocab: 11 },
    { head: 'gemm', vocab: 11 },
  ]
  const cases = [
    ...MEAN_FORMS.filter((norm) => norm !== 'skip').flatMap((norm, i) =>
      (i === 0 ? rest : rest.slice(i === 1 ? 0 : 3, i === 1 ? 3 : 6)).map((each) => ({ ...each, norm })),
    ),
    // The others have their variance computed with float32 numbers in between.
    ...PLAIN_FORMS.filter((norm) => norm !== 'skipSimplified' && norm !== 'rmsCast' && norm !== 'rms23').flatMap(
      (norm, i) => rest.slice(i % 2 === 0 ? 0 : 2, i % 2 === 0 ? 3 : 6).map((each) => ({ ...each, norm })),
    ),
  ]
  it.each(cases)('%o', async (options) => {
    const proto = transformer({ ...doubles, ...options })
    const model = opened(proto)
    const wanted = await runModel(proto)
    for (const rotation of [undefined, MEAN_FORMS.includes(options.norm) ? KEEPING : ANY]) {
      expect(await errorOf(proto, turn(model, rotation).model, wanted)).toBeLessThanOrEqual(1e-12)
    }
  })

  it.each([{ bias: true }, { head: 'gemm', vocab: 40 } as const])(
    'without means, by any rotation: %o',
    async (options) => {
      const proto = transformer({ ...doubles, ...options })
      const { model, streams } = turn(opened(proto), ANY, true)
      expect(operators(model)).not.toContain('LayerNormalization')
      expect(operators(model).filter((type) => type === 'SimplifiedLayerNormalization')).toHaveLength(5)
      expect(streams[0]!.simplifiedNorms).toBe(5)
      expect(await errorOf(proto, model)).toBeLessThanOrEqual(1e-12)
    },
  )
})

describe('rotated networks compute the same in float32', () => {
  it.each([
    { norm: 'skip', bias: true },
    { norm: 'skip', bias: true, linear: 'gemm' },
    { norm: 'skipSimplified', bias: true },
    { norm: 'layer', attention: 'fused', bias: true },
    { front: 'patches', norm: 'layer', bias: true },
    { norm: 'rms23' },
    { norm: 'rmsCast' },
  ] as const)('%o', async (options) => {
    const proto = transformer(options)
    const isMean = MEAN_FORMS.includes(options.norm)
    expect(await errorOf(proto, turn(opened(proto), isMean ? KEEPING : ANY).model)).toBeLessThanOrEqual(5e-6)
    if (isMean) {
      const { model } = turn(opened(proto), ANY, true)
      expect(operators(model).filter((type) => /^(Skip)?LayerNormalization$/.test(type))).toEqual([])
      expect(await errorOf(proto, model)).toBeLessThanOrEqual(5e-6)
    }
  })
})

describe('weights', () => {
  it('become diag(γ)·W turned, and what is written centred and turned', () => {
    const model = opened(transformer({ type: 'double', bias: true }))
    const { model: turned } = turn(model, KEEPING)
    const q = matrixOf(KEEPING)
    const gain = vectors(model, 'b0/attnNorm.gain', 0)
    const rotated = (v: ArrayLike<number>) =>
      Array.from({ length: 16 }, (_, j) => Array.from(v).reduce((sum, x, i) => sum + x * q[i * 16 + j]!, 0))
    const check = (name: string, axis: number, before: (v: number[]) => number[]) => {
      const old = vectors(model, name, axis)
      const fresh = vectors(turned, name, axis)
      for (let at = 0; at < old.length; at += 16) {
        const wanted = rotated(before([...old.subarray(at, at + 16)]))
        for (const [i, value] of wanted.entries()) expect(fresh[at + i]).toBeCloseTo(value, 12)
      }
    }
    const centred = (v: number[]) => v.map((x) => x - v.reduce((a, b) => a + b, 0) / 16)
    check('b0/q.weight', 0, (v) => v.map((x, i) => x * gain[i]!))
    check('b0/o.weight', 1, centred)
    check('b0/o.bias', 0, centred)
    check('embed', 1, centred)
    const beta = vectors(model, 'b0/attnNorm.beta', 0)
    const weight = vectors(model, 'b0/q.weight', 0)
    vectors(turned, 'b0/q.bias', 0).forEach((value, n) => {
      const product = beta.reduce((sum, x, i) => sum + x * weight[n * 16 + i]!, 0)
      expect(value).toBeCloseTo(vectors(model, 'b0/q.bias', 0)[n]! + product, 12)
    })
  })

  it('of norms go when nothing reads them, and one vector of ones serves all', () => {
    const model = opened(transformer({ bias: true }))
    const { model: turned, streams } = turn(model, KEEPING)
    const names = turned.proto.graph!.initializer.map(({ name }) => name)
    expect(names.filter((name) => /gain|beta/.test(name))).toEqual([])
    expect(names.filter((name) => /ones|zeros/.test(name))).toEqual(['ones_16_float', 'zeros_16_float'])
    expect(streams[0]).toMatchObject({ fusedNorms: 5, addedBiases: 1, recentredWriters: 9, simplifiedNorms: 0 })
    // Blocks have biases; the head had none.
    expect(operators(turned)).toHaveLength(operators(model).length + 1)
    expect(turned.proto.graph!.output.map(({ name }) => name)).toEqual(['logits'])
  })

  it('of the source are untouched', () => {
    const model = opened(transformer({ head: 'gemm', vocab: 40 }))
    const before = encodeModel(model.proto)
    turn(model, ANY, true)
    turn(model, undefined)
    expect(Buffer.compare(encodeModel(model.proto), before)).toBe(0)
    expect(model.payloads.size).toBe(0)
  })
})

describe('rotations are refused', () => {
  it('where LayerNorms stay and the ones vector does not', () => {
    const model = opened(transformer())
    expect(() => turn(model, ANY)).toThrow(/ones/)
    expect(() => turn(opened(transformer({ norm: 'layerTorch' })), ANY, true)).toThrow(/ones/)
    expect(() => turn(opened(transformer({ norm: 'rmsDiv' })), ANY)).not.toThrow()
  })

  it('of another width, or for another stream', () => {
    const model = opened(transformer({ norm: 'rmsDiv' }))
    const stream = namedStream(model)
    const options = { simplifyNorms: false }
    expect(() => turn(model, randomHadamard(8, { seed: 1 }))).toThrow(/width/)
    expect(() => rotateStreams(model, found(namedStream(model)), new Map([[stream, ANY]]), options)).toThrow(
      /not found/,
    )
    const leaves = { ...stream, tensors: new Set(['logits']) }
    expect(() => rotateStreams(model, found(leaves), new Map([[leaves, ANY]]), options)).toThrow(/output/)
  })
})

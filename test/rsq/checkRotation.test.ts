import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { DataType, encodeModel, type ModelProto, makeNode, makeTensor, makeValueInfo } from '../../src/onnx/proto.ts'
import { floatToHalf } from '../../src/quant/float16.ts'
import { checkRotation, ROTATION_TOLERANCE, relativeError } from '../../src/rsq/checkRotation.ts'
import { readVectors, writeVectors } from '../../src/rsq/constantVectors.ts'
import { rotateStreams } from '../../src/rsq/rotateStreams.ts'
import { randomHadamard } from '../../src/rsq/rotations.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { found, namedStream } from './namedStreams.ts'
import { feedsOf, transformer } from './streamModels.ts'

const temp = useTempDir()
const scratch = path.join(temp, 'rotated.onnx')

function rotatedFile(proto: ModelProto, name: string) {
  const file = path.join(temp, name)
  fs.writeFileSync(file, encodeModel(proto))
  const model = loadModel(file)
  const stream = namedStream(model)
  const rotations = new Map([[stream, randomHadamard(16, { seed: 1, keepsOnes: true })]])
  return { file, model: rotateStreams(model, found(stream), rotations, { simplifyNorms: false }).model }
}

const floats = (dims: readonly number[], values: readonly number[]): FeedTensor => ({
  type: 'float',
  dims,
  data: Float32Array.from(values),
})

describe('a rotated file', () => {
  it('agrees, and a weight that was not turned is seen', async () => {
    const proto = transformer({ bias: true })
    const { file, model } = rotatedFile(proto, 'a.onnx')
    const runs = [{ feeds: feedsOf(proto) }, { feeds: feedsOf(proto, 8) }]
    const before = fs.readFileSync(file)
    const good = await checkRotation(file, model, runs, { scratch })
    expect(good).toMatchObject({ output: 'logits', tolerance: 1e-4, agrees: true })
    expect(good.error).toBeGreaterThan(0)
    expect(good.error).toBeLessThan(1e-5)
    const weight = model.proto.graph!.initializer.find(({ name }) => name === 'b1/k.weight')!
    const vectors = readVectors(model, weight, 0)
    vectors[3]! += 0.05
    writeVectors(model, weight, 0, vectors)
    const bad = await checkRotation(file, model, runs, { scratch })
    expect(bad).toMatchObject({ output: 'logits', agrees: false })
    expect(bad.error).toBeLessThan(0.1)
    // Nothing is left behind, and the source is as it was.
    expect(fs.readdirSync(temp)).toEqual(['a.onnx'])
    expect(fs.readFileSync(file).equals(before)).toBe(true)
  })

  it('of 16 bits may differ by their rounding', async () => {
    const proto = halved(transformer({ bias: true }))
    const { file, model } = rotatedFile(proto, 'h.onnx')
    const check = await checkRotation(file, model, [{ feeds: feedsOf(proto) }], { scratch })
    expect(check).toMatchObject({ tolerance: ROTATION_TOLERANCE.sixteenBits, agrees: true })
    expect(check.error).toBeGreaterThan(1e-4)
  })

  it('without float outputs agrees with nothing', async () => {
    const proto = transformer()
    const { file, model } = rotatedFile(withArgMax(proto), 'i.onnx')
    const check = await checkRotation(file, model, [{ feeds: feedsOf(proto) }], { scratch })
    expect(check).toMatchObject({ output: undefined, agrees: false })
  })
})

describe('relative errors', () => {
  it('count the tokens that have weight', () => {
    const a = floats([1, 2, 2], [3, 4, 5, 6])
    const b = floats([1, 2, 2], [3, 4.5, 99, 99])
    expect(relativeError(a, b, Float32Array.of(1, 0))).toBeCloseTo(0.1, 12)
    expect(relativeError(a, b, undefined)).toBeGreaterThan(10)
    // No axis of tokens: all count.
    expect(relativeError(floats([1, 2], [3, 4]), floats([1, 2], [3, 4.5]), Float32Array.of(1, 0))).toBeCloseTo(0.1, 12)
  })

  it('take infinities and NaN that both have for equal', () => {
    const odd = [Number.NaN, Number.NEGATIVE_INFINITY, 2]
    expect(relativeError(floats([3], odd), floats([3], odd), undefined)).toBe(0)
    expect(relativeError(floats([3], odd), floats([3], [0, Number.NEGATIVE_INFINITY, 2]), undefined)).toBe(Infinity)
    expect(relativeError(floats([1], [0]), floats([1], [1]), undefined)).toBe(Infinity)
    expect(relativeError(floats([1], [0]), floats([1], [-0]), undefined)).toBe(0)
    expect(relativeError(floats([2], [0, 1]), floats([1], [0]), undefined)).toBe(Infinity)
    expect(relativeError(floats([1], [0]), undefined, undefined)).toBe(Infinity)
  })
})

/** The same network with all float32 constants as float16. */
function halved(proto: ModelProto): ModelProto {
  const graph = proto.graph!
  graph.initializer = graph.initializer.map((tensor) => {
    if (tensor.dataType !== DataType.FLOAT) return tensor
    const values = new Float32Array(tensor.rawData.slice().buffer)
    const rawData = new Uint8Array(Uint16Array.from(values, floatToHalf).buffer)
    return makeTensor({ name: tensor.name, dims: tensor.dims, dataType: DataType.FLOAT16, rawData })
  })
  return proto
}

function withArgMax(proto: ModelProto): ModelProto {
  const graph = proto.graph!
  graph.node.push(makeNode('ArgMax', ['logits'], ['best'], { name: 'best', attributes: { axis: -1 } }))
  graph.output = [makeValueInfo('best', DataType.INT64)]
  return proto
}

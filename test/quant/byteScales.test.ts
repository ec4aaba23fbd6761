/** Scales in a byte each: multiples of one step, taken where the bytes are worth more than the precision, and run as decoded. */
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { encodeModel } from '../../src/onnx/proto.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import { withByteScales } from '../../src/quant/byteScales.ts'
import { gridCandidates } from '../../src/quant/candidates.ts'
import { type Bits, squaredErrors } from '../../src/quant/quantizedWeight.ts'
import { quantizeTensor } from '../../src/quant/quantizeTensor.ts'
import { createPool } from '../../src/threads/pool.ts'
import { makeNode, model, value } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { normals } from '../quantize/roundTrip.ts'
import { normalWeights, store } from './weights.ts'

const pool = createPool(1)
afterAll(() => pool.close())
const directory = useTempDir()

const [ROWS, COLS] = [48, 256]
const rows = normalWeights(ROWS * COLS, 7, 0)

/** Groups of 32 of normal weights, each row times its factor. */
async function rounded(bits: Bits, factorOf: (row: number) => number = () => 1, symmetric: 'yes' | 'no' = 'no') {
  const values = Float32Array.from(rows, (w, i) => w * factorOf(Math.floor(i / COLS)))
  const options = { bits, groupSize: 32, candidates: gridCandidates('auto', symmetric) }
  const { weight } = await quantizeTensor(store(values, [ROWS, COLS, 1]), options, pool)
  const { squaredError, squaredNorm } = squaredErrors(values, weight)
  return { values, weight, squaredError, relativeError: squaredError / squaredNorm }
}

describe('scales in bytes', () => {
  it.each([2, 3, 4, 5, 6] as const)('of %i bits are multiples of the step, and cost next to nothing', async (bits) => {
    const { values, weight, squaredError, relativeError } = await rounded(bits)
    const own = withByteScales(weight, relativeError)
    expect(own.scaleType).toBe('uint8')
    own.scales.forEach((scale, i) => {
      const times = Math.round(scale / own.scaleStep!)
      expect(times).toBeGreaterThanOrEqual(1)
      expect(times).toBeLessThanOrEqual(255)
      expect(scale).toBe(Math.fround(times * own.scaleStep!))
      expect(Math.abs(scale - weight.scales[i]!)).toBeLessThanOrEqual(0.501 * own.scaleStep!)
    })
    expect(own.codes).toBe(weight.codes)
    expect(squaredErrors(values, own).squaredError / squaredError).toBeLessThan(1.02)
  })

  it('that are negative somewhere have a sign', async () => {
    const { weight, relativeError } = await rounded(2, undefined, 'yes')
    expect(Math.min(...weight.scales)).toBeLessThan(0)
    const own = withByteScales(weight, relativeError)
    expect(own.scaleType).toBe('int8')
    own.scales.forEach((scale, i) => {
      expect(Math.sign(scale)).toBe(Math.sign(weight.scales[i]!))
    })
  })

  it('are not taken where rows differ too much, or where the weights are exact', async () => {
    const apart = await rounded(4, (row) => 2 ** -(row % 12))
    expect(withByteScales(apart.weight, apart.relativeError)).toBe(apart.weight)
    const { weight } = await rounded(4)
    expect(withByteScales(weight, 0)).toBe(weight)
  })

  it('are not taken at 8 bits, where they would cost more than they save', async () => {
    const { weight, relativeError } = await rounded(8, (row) => 1 + (row % 8))
    expect(withByteScales(weight, relativeError)).toBe(weight)
  })

  it('pass over groups of zeros, whose scale may be anything', async () => {
    const { weight, relativeError } = await rounded(4, (row) => (row === 5 ? 0 : 1e-3))
    const own = withByteScales(weight, relativeError)
    expect(own.scaleType).toBe('uint8')
    expect(own.scaleStep).toBeLessThan(1e-3)
  })
})

describe('a written file', () => {
  const file = path.join(directory, 'model.onnx')
  const graph = {
    initializer: [normals('table', [300, 96], 1), normals('w', [96, 160], 0.1), normals('kernel', [64, 10, 3, 3], 0.1)],
    node: [
      makeNode('Gather', ['table', 'ids'], ['rows']),
      makeNode('MatMul', ['rows', 'w'], ['y']),
      makeNode('Conv', ['image', 'kernel'], ['z']),
    ],
    input: [value('ids', [4], 7), value('image', [1, 10, 5, 5])],
    output: [value('y', [4, 160]), value('z', [1, 64, 3, 3])],
  }
  fs.writeFileSync(file, encodeModel(model(graph)))

  it.each([
    [2, {}],
    [3, {}],
    [4, {}],
    [5, {}],
    [3, { format: 'standard' }],
    [3, { method: 'codebook', groupSize: 32 }],
  ] as const)('of %i bits, %o, computes what was decided, and is smaller', async (bits, config) => {
    const all = { bits, groupSize: 32, threads: 1, force: true, ...config } as const
    const out = path.join(directory, 'out.onnx')
    const bytes = await quantizeModel(file, out, all)
    const plain = await quantizeModel(file, undefined, { ...all, scales: 'float', dryRun: true })
    const inBytes = bytes.layers.filter(({ scaleType }) => /int8/.test(scaleType))
    expect(inBytes.length).toBeGreaterThanOrEqual('format' in config ? 1 : 3)
    // Verification has run each layer and thrown where it differs.
    expect(bytes.verified!.length).toBe(3)
    expect(bytes.output.totalBytes).toBeLessThan(plain.output.totalBytes - 100)
    bytes.layers.forEach((layer, i) => {
      expect(layer.relativeError / plain.layers[i]!.relativeError).toBeLessThan(1.05)
    })
  })
})

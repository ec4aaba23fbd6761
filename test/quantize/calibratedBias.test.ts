/** Mean errors that calibrated layers leave are taken back by biases, where a bias costs nothing, in the written file. */
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import type { QuantizeConfig } from '../../src/config.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { innerValues, smallModel, writeCase } from './calibratedModels.ts'

const directory = useTempDir()
const SAMPLES = 120

/** Layers that may have a bias: the tensor that has it added, its channels and the values of each in a row. */
const ALLOWED: Readonly<
  Record<string, Readonly<Record<string, readonly [made: string, channels: number, inner: number]>>>
> = {
  MLP: { h1: ['h1', 64, 1], m2: ['h2', 48, 1] },
  'float16 MLP': { h1: ['h1', 64, 1], m2: ['h2', 48, 1] },
  convnet: { c1: ['c1', 32, 36], c2: ['c2', 32, 36], c3: ['c3', 48, 36], y: ['y', 24, 1] },
  transformer: { u: ['ub', 96, 1] },
  'tied embedding': {},
}

async function run(name: string, config: Partial<QuantizeConfig>) {
  const model = smallModel(name)
  const { model: source, data, folder } = writeCase(directory, model, SAMPLES)
  const out = path.join(folder, 'out.onnx')
  // Float activations, so that what was decided is what is computed; and all samples are those that were fitted to.
  const report = await quantizeModel(source, out, {
    ...{ bits: 3, format: 'contrib', accuracyLevel: 0, holdout: 0, threads: 1, data: [data] },
    ...config,
  })
  const samples = model.draw(SAMPLES, 100)
  const inner = (file: string, names: readonly string[]) => innerValues(file, model, samples, names)
  return { report, source, out, inner }
}

describe('a corrected bias', () => {
  it.each(Object.entries(ALLOWED))(
    'of %s leaves no mean error in any channel on the calibration data',
    async (name, layers) => {
      const { report, source, out, inner } = await run(name, {})
      const corrected = report.layers.filter(({ calibration }) => calibration!.biasCorrected).map((layer) => layer.name)
      // A layer may do better without; the first of each model does not.
      for (const layer of corrected) expect(Object.keys(layers)).toContain(layer)
      expect(corrected.slice(0, 1)).toEqual(Object.keys(layers).slice(0, 1))
      const count = (file: string, op: string) =>
        loadModel(file).proto.graph!.node.filter(({ opType }) => opType === op).length
      // The bias of a Gemm is an addition of its own where the product is a MatMulNBits.
      expect(count(out, 'Add')).toBe(count(source, 'Add') + count(source, 'Gemm'))
      const names = corrected.map((layer) => layers[layer]![0])
      if (names.length === 0) return
      const [float, quantized] = [await inner(source, names), await inner(out, names)]
      for (const layer of corrected) {
        const [made, channels, width] = layers[layer]!
        const { mean, root } = channelErrors(float.get(made)!, quantized.get(made)!, channels, width)
        const largest = Math.max(...mean.map((error, c) => Math.abs(error) / root[c]!))
        // Beside it a float16 bias is a coarse number.
        expect(largest, layer).toBeLessThan(name.startsWith('float16') ? 0.03 : 1e-3)
      }
    },
  )

  it('of an LSTM is the half of B that goes with each weight', async () => {
    const { report, source, out, inner } = await run('LSTM', {})
    expect(report.layers.slice(0, 2).map(({ weight }) => weight)).toEqual(['W', 'R'])
    expect(report.layers.map(({ calibration }) => calibration!.biasCorrected)).toEqual([true, true, false])
    const lstm = (file: string) => loadModel(file).proto.graph!.node.find(({ opType }) => opType === 'LSTM')!
    const [before, after] = [lstm(source).input, lstm(out).input]
    expect(before).toHaveLength(3)
    const float = await inner(source, ['x', 'W', 'R', 'h'])
    const quantized = await inner(out, [...after.slice(1, 4), 'h'])
    const [weights, recurrent, bias] = after.slice(1, 4).map((name) => quantized.get(name)!)
    expect(bias).toHaveLength(256)
    const means = (values: Float32Array, count: number) =>
      Array.from({ length: 32 }, (_, k) => {
        let sum = 0
        for (let i = k; i < values.length; i += 32) sum += values[i]!
        return sum / count
      })
    const product = (matrix: Float32Array, row: number, vector: readonly number[]) =>
      vector.reduce((sum, v, k) => sum + v * matrix[row * 32 + k]!, 0)
    const positions = SAMPLES * 8
    const x = means(float.get('x')!, positions)
    // The hidden state that enters a step is what left the one before; nothing enters the first.
    const state = (values: Float32Array) => means(values.subarray(0, 7 * SAMPLES * 32), positions)
    const [hFloat, hQuantized] = [state(float.get('h')!), state(quantized.get('h')!)]
    for (let row = 0; row < 128; row++) {
      const missing = product(float.get('W')!, row, x) - product(weights!, row, x)
      expect(bias![row]! - missing).toBeCloseTo(0, 5)
      // The state that the correction was computed for is that of the layer before its R was quantized.
      const missingOfState = product(float.get('R')!, row, hFloat) - product(recurrent!, row, hQuantized)
      expect(bias![128 + row]! - missingOfState).toBeCloseTo(0, 2)
    }
  })
})

/** Mean and root of the mean square of a − b in each channel. */
function channelErrors(a: Float32Array, b: Float32Array, channels: number, inner: number) {
  const sums = new Float64Array(channels)
  const squares = new Float64Array(channels)
  a.forEach((value, i) => {
    const channel = Math.floor(i / inner) % channels
    const error = value - b[i]!
    sums[channel]! += error
    squares[channel]! += error * error
  })
  const count = a.length / channels
  return { mean: [...sums].map((sum) => sum / count), root: [...squares].map((sum) => Math.sqrt(sum / count)) }
}

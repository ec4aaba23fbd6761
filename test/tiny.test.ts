/** The whole tool on one small model: analyze, quantize, eval. Read this first. */
import path from 'node:path'
import { expect, it } from 'vitest'
import { fixturePath } from '../fixtures/generate.ts'
import { analyzeModel, evaluateModels, quantizeModel } from '../src/index.ts'
import { useTempDir } from './helpers/tempDir.ts'

const directory = useTempDir()

it('makes a model of two MatMuls small, and says what that cost', async () => {
  // y = relu(x · w1) · w2 with w1 [64, 96] and w2 [96, 32]: 9216 weights in float32, 4 bytes each.
  const source = fixturePath('matmul')
  const out = path.join(directory, 'small.onnx')

  // What would each layer cost, and lose, at each width?
  const analyzed = await analyzeModel(source)
  expect(analyzed.layers.map(({ weight, shape }) => [weight, shape])).toEqual([
    ['w1', [64, 96]],
    ['w2', [96, 32]],
  ])
  expect(analyzed.totals).toMatchObject({ weights: 9216, weightBytes: 36_864 })
  const [eight, , , four] = analyzed.totals.widths
  expect([eight!.bits, four!.bits]).toEqual([8, 4])
  expect(four!.relativeError).toBeGreaterThan(50 * eight!.relativeError)

  // 4-bit codes on average; the written file has been run by onnxruntime when this returns.
  const quantized = await quantizeModel(source, out, { budget: '4bit' })
  expect(quantized.totals.meanBits).toBe(4)
  expect(quantized.totals.ratio).toBeLessThan(0.2)
  expect(quantized.layers.map((layer) => layer.representations)).toEqual([['MatMulNBits'], ['MatMulNBits']])
  expect(quantized.verified).toHaveLength(2)

  // The same inputs through both models.
  const compared = await evaluateModels(source, out, { random: 8, seed: 1, runs: 1, thresholds: { minSqnr: 15 } })
  const [y] = compared.outputs
  expect(y).toMatchObject({ output: 'y', values: 8 * 32 })
  expect(y!.cosine).toBeGreaterThan(0.98)
  expect(compared.execution.map(({ status }) => status)).toEqual(['low-bit kernel', 'low-bit kernel'])
  expect(compared.passed).toBe(true)
})

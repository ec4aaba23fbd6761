/** The analyze report: its sums, and that its figures are those that quantize ends with. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { FIXTURES, fixturePath } from '../../fixtures/generate.ts'
import { encodeModel } from '../../src/onnx/proto.ts'
import { analyzeModel, quantizeModel } from '../../src/pipeline.ts'
import { BITS } from '../../src/quant/quantizedWeight.ts'
import { tensorsIndependently } from '../helpers/independentReader.ts'
import { npmModels } from '../helpers/npmModels.ts'
import { makeNode, model, value } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { normals } from '../quantize/roundTrip.ts'

const directory = useTempDir()
const names = FIXTURES.map((fixture) => fixture.name).filter((name) => name !== 'nan-weight')
const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0)

it.each(names)('%s: totals are the sums of what is listed', async (name) => {
  const report = await analyzeModel(fixturePath(name), { threads: 1 })
  const { layers, leftAlone, totals } = report
  const sizes = report.model!.files.map((file) => fs.statSync(file.path).size)
  expect(report.model!.totalBytes).toBe(sum(sizes))
  expect(totals.weights).toBe(sum(layers.map((layer) => layer.weights)))
  expect(totals.weightBytes).toBe(sum(layers.map((layer) => layer.bytes)))
  expect(totals.leftAloneBytes).toBe(sum(leftAlone.map((entry) => entry.bytes)))
  expect(totals.weightBytes + totals.leftAloneBytes + totals.otherBytes).toBe(report.model!.totalBytes)
  // Names, nodes and the message format itself take some bytes.
  expect(totals.otherBytes).toBeGreaterThan(0)
  expect(sum(layers.map((layer) => layer.shareOfBytes))).toBeCloseTo(totals.weightBytes / report.model!.totalBytes, 12)
  for (const [w, { bits, storedBytes, relativeError }] of totals.widths.entries()) {
    expect(bits).toBe(BITS[w])
    expect(storedBytes).toBe(sum(layers.map((layer) => layer.widths[w]!.storedBytes)))
    // A mean over layers, weighted by their norms.
    const errors = layers.map((layer) => layer.widths[w]!.relativeError)
    if (errors.length > 0) {
      expect(relativeError).toBeGreaterThanOrEqual(Math.min(...errors) - 1e-15)
      expect(relativeError).toBeLessThanOrEqual(Math.max(...errors) + 1e-15)
    }
  }
  for (const { widths } of layers) {
    for (let w = 1; w < widths.length; w++) {
      expect(widths[w]!.relativeError).toBeGreaterThan(widths[w - 1]!.relativeError)
    }
  }
})

/** Fixtures with nothing but MatMul, and one of other sizes. */
const PRODUCTS = [
  'matmul',
  'matmul-shared-input',
  'external-data',
  'gemm-transB-bias',
  'transpose-weight',
  'constant-node',
]

describe.each(PRODUCTS)('%s: sizes and errors are those of quantize with method rtn', (name) => {
  it.each([16, 32, 64, 'channel'] as const)('groups of %s', async (groupSize) => {
    const report = await analyzeModel(fixturePath(name), { groupSize, threads: 1 })
    for (const [w, bits] of BITS.entries()) {
      const config = { bits, groupSize, method: 'rtn', dryRun: true, threads: 1 } as const
      const quantized = await quantizeModel(fixturePath(name), undefined, { ...config, scales: 'float' })
      const stored = quantized.layers.map((layer) => [layer.name, layer.storedBytes, layer.relativeError])
      expect(report.layers.map((l) => [l.name, l.widths[w]!.storedBytes, l.widths[w]!.relativeError])).toEqual(stored)
      expect(report.totals.widths[w]!.relativeError).toBeCloseTo(quantized.totals.relativeError, 12)
    }
  })
})

it('weights so small that scales need float32 are counted with them', async () => {
  const file = path.join(directory, 'tiny.onnx')
  const node = [makeNode('MatMul', ['x', 'w'], ['y'])]
  const io = { input: [value('x', [1, 64])], output: [value('y', [1, 64])] }
  fs.writeFileSync(file, encodeModel(model({ initializer: [normals('w', [64, 64], 1e-6)], node, ...io })))
  const { layers } = await analyzeModel(file, { threads: 1 })
  const quantized = await quantizeModel(file, undefined, { bits: 4, method: 'rtn', scales: 'float', dryRun: true })
  expect(quantized.layers[0]!.scaleType).toBe('float32')
  expect(layers[0]!.widths.find(({ bits }) => bits === 4)!.storedBytes).toBe(quantized.layers[0]!.storedBytes)
})

describe('what is quantized already', () => {
  it.each(names.filter((name) => name.startsWith('already')))('%s: each tensor is counted once', async (name) => {
    const { layers, leftAlone } = await analyzeModel(fixturePath(name), { threads: 1 })
    const tensors = tensorsIndependently(fs.readFileSync(fixturePath(name)))
    const held = sum(tensors.map((tensor) => tensor.rawData?.length ?? 0))
    expect(sum(layers.map((layer) => layer.bytes)) + sum(leftAlone.map((entry) => entry.bytes))).toBeLessThanOrEqual(
      held,
    )
    expect(leftAlone.map((entry) => entry.reason)).toContain('already quantized')
  })
})

it('a real model: every byte of every float tensor is in one place', async () => {
  const report = await analyzeModel(npmModels.ocrClassifier)
  const floats = tensorsIndependently(fs.readFileSync(npmModels.ocrClassifier)).filter((t) => t.dataType === 1)
  const large = floats.filter((t) => sum((t.dims ?? []).map(Number)) > 0 && (t.rawData?.length ?? 0) >= 256)
  const small = report.leftAlone.filter(({ reason }) => reason.startsWith('fewer than 64'))
  const listed = report.totals.weightBytes + report.totals.leftAloneBytes - sum(small.map(({ bytes }) => bytes))
  expect(listed).toBe(sum(large.map((t) => t.rawData!.length)))
})

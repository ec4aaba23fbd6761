/** What is planned: overrides by pattern, opsets that cannot be raised, layers that would not get smaller. */
import { describe, expect, it } from 'vitest'
import { fixturePath } from '../../fixtures/generate.ts'
import type { QuantizeConfig } from '../../src/config.ts'
import { makeNode, makeOpset } from '../../src/onnx/proto.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import { floats, model, value } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { activations, normals, roundTrip } from './roundTrip.ts'

const directory = useTempDir()
const dryRun = (name: string, config: Partial<QuantizeConfig>) =>
  quantizeModel(fixturePath(name), undefined, { dryRun: true, threads: 1, ...config })

type Overrides = QuantizeConfig['layers']

describe('overrides', () => {
  it.each<[string, Overrides, (number | 'skip')[]]>([
    ['none', [], [4, 4, 4]],
    ['a glob on layer names', [{ pattern: 'MatMul_*', bits: 8 }], [8, 8, 8]],
    ['a name', [{ pattern: 'MatMul_k', bits: 2 }], [4, 2, 4]],
    ['the name of a weight', [{ pattern: 'wv', bits: 6 }], [4, 4, 6]],
    ['a regular expression', [{ pattern: '/_(q|k)$/', bits: 3 }], [3, 3, 4]],
    [
      'the last that matches wins',
      [
        { pattern: '*', bits: 8 },
        { pattern: '*_k', bits: 'skip' },
        { pattern: '/[kv]$/', bits: 5 },
      ],
      [8, 5, 5],
    ],
    [
      'a skipped layer stays',
      [
        { pattern: '*', bits: 5 },
        { pattern: 'w[qv]', bits: 'skip' },
      ],
      ['skip', 5, 'skip'],
    ],
  ])('%s', async (_, layers, expected) => {
    const report = await dryRun('matmul-shared-input', { bits: 4, layers })
    const skipped = report.leftAlone.filter(({ reason }) => reason === 'skipped by --layer').map(({ name }) => name)
    const names = ['MatMul_q', 'MatMul_k', 'MatMul_v']
    const found = names.map((name) => report.layers.find((layer) => layer.name === name)?.bits ?? 'skip')
    expect(found).toEqual(expected)
    expect(skipped).toEqual(names.filter((_name, i) => expected[i] === 'skip'))
    expect(report.warnings).toEqual([])
  })

  it('that match nothing are warnings, and errors with strict', async () => {
    const layers: Overrides = [
      { pattern: 'matmul_q', bits: 8 },
      { pattern: 'MatMul_q', bits: 8 },
      { pattern: '/nothing/', bits: 'skip' },
    ]
    const { warnings } = await dryRun('matmul-shared-input', { layers })
    expect(warnings).toEqual([expect.stringContaining('matmul_q'), expect.stringContaining('/nothing/')])
    await expect(dryRun('matmul-shared-input', { layers, strict: true })).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining('matmul_q'),
    })
  })
})

/**
 * y = Softmax(x · w) at an opset where Softmax flattens; the rank of its input is not declared, so it cannot be raised to
 * 13. At opset 9 Upsample, which went away with 10.
 */
function stuck(opset: number, { conv = false } = {}) {
  const node = conv
    ? [makeNode('Conv', ['x', 'w'], ['m'])]
    : [makeNode('MatMul', ['x', 'w'], ['m']), makeNode('ReduceMax', ['w'], ['most'], { attributes: { keepdims: 0 } })]
  const output = conv ? [value('y', [])] : [value('y', []), value('most', [])]
  for (const { type } of output) Reflect.deleteProperty(type.value.value, 'shape')
  const input = { ...value('x', []) }
  Reflect.deleteProperty(input.type.value.value, 'shape')
  const isUpsampled = opset === 9
  const last = isUpsampled ? makeNode('Upsample', ['m', 'twice'], ['y']) : makeNode('Softmax', ['m'], ['y'])
  return model(
    {
      initializer: [
        normals('w', conv ? [16, 64, 1, 1] : [64, 48], 0.2),
        ...(isUpsampled ? [floats('twice', [2], (i) => i + 1)] : []),
      ],
      node: [...node, last],
      input: [input],
      output,
    },
    { irVersion: 7n, opsetImport: [makeOpset('', opset)] },
  )
}

describe('a model that cannot be raised', () => {
  // BitShift comes with opset 11, BitwiseOr with 18.
  it.each([
    [12, 2, 2],
    [12, 3, 4],
    [12, 4, 4],
    [12, 5, 8],
    [12, 6, 8],
    [12, 8, 8],
    [9, 2, 8],
    [9, 3, 8],
    [9, 4, 8],
  ] as const)('opset %i: %i bits are stored at %i', async (opset, bits, carried) => {
    const feeds = { x: activations(3, 64) }
    const { report, distance } = await roundTrip(directory, stuck(opset), feeds, { bits, symmetric: 'yes' })
    expect(report.opset).toEqual({ from: opset, to: opset })
    expect(report.layers[0]!.bits).toBe(carried)
    expect(report.layers[0]!.representations).toContain('MatMulNBits')
    expect(report.warnings).toEqual(
      carried === bits ? [] : [expect.stringMatching(/^1 layer: stored at \d bits: opset/)],
    )
    expect(distance).toBeLessThan(carried >= 8 ? 0.05 : 1)
    const strict = roundTrip(directory, stuck(opset), feeds, { bits, strict: true })
    if (carried === bits) expect((await strict).report.warnings).toEqual([])
    else await expect(strict).rejects.toMatchObject({ code: 'usage' })
  })

  it('is raised as far as it can be', async () => {
    const { report } = await roundTrip(directory, stuck(10), { x: activations(3, 64) }, { bits: 3 })
    expect(report.opset).toEqual({ from: 10, to: 11 })
    expect(report.layers[0]).toMatchObject({ bits: 4, notes: [expect.stringMatching(/opset 11 cannot unpack 3-bit/)] })
  })

  it('a budget goes by what is really stored', async () => {
    const feeds = { x: activations(3, 64) }
    const { report } = await roundTrip(directory, stuck(12), feeds, { budget: '3.5bit' })
    expect(report.totals.meanBits).toBe(2)
    await expect(roundTrip(directory, stuck(9), feeds, { budget: '7bit' })).rejects.toMatchObject({
      code: 'infeasible',
      message: expect.stringMatching(/the least is 8bit/),
    })
  })

  it.each([8, 4] as const)('standard format at %i bits: Cast, Sub and Mul, with a note', async (bits) => {
    const { report, written, distance } = await roundTrip(
      directory,
      stuck(12, { conv: true }),
      { x: activations(1, 64, 2, 2) },
      { bits, format: 'standard' },
    )
    expect(report.layers[0]!.representations).toEqual(['folded'])
    expect(report.layers[0]!.notes).toEqual([expect.stringMatching(/opset 12 has no blocked DequantizeLinear/)])
    const operators = written.graph!.node.map((node) => node.opType)
    expect(operators).not.toContain('DequantizeLinear')
    for (const operator of ['Cast', 'Sub', 'Mul']) expect(operators).toContain(operator)
    expect(distance).toBeLessThan(bits === 8 ? 0.05 : 0.5)
  })
})

describe('opset 7, the oldest', () => {
  const old = (rows: number, reader: boolean) =>
    model(
      {
        initializer: [normals('w', [rows, 48])],
        node: [
          makeNode('MatMul', ['x', 'w'], ['y']),
          ...(reader ? [makeNode('ReduceMax', ['w'], ['z'], { attributes: { keepdims: 0 } })] : []),
        ],
        input: [value('x', [2, rows])],
        output: [value('y', [2, 48]), ...(reader ? [value('z', [])] : [])],
      },
      { irVersion: 4n, opsetImport: [makeOpset('', 7)] },
    )

  it.each([
    ['one scale per row, repeated for each block', 300, false, { bits: 4, groupSize: 'channel' }],
    ['the same with zero points', 300, false, { bits: 4, groupSize: 'channel', symmetric: 'no' }],
    ['a weight that is read twice', 64, true, { bits: 8, symmetric: 'yes' }],
    ['a last group that is cut', 70, true, { bits: 8, symmetric: 'no' }],
  ] as const)('carries %s', async (_, rows, reader, config) => {
    const { report, distance } = await roundTrip(directory, old(rows, reader), { x: activations(2, rows) }, config)
    expect(report.opset).toEqual({ from: 7, to: 7 })
    expect(distance).toBeLessThan(config.bits === 8 ? 0.02 : 0.2)
  })

  it('is left only where that is needed', async () => {
    const { report } = await roundTrip(directory, old(64, false), { x: activations(2, 64) }, { bits: 3 })
    expect(report.opset).toEqual({ from: 7, to: 18 })
    const standard = await roundTrip(directory, old(64, false), { x: activations(2, 64) }, { format: 'standard' })
    expect(standard.report.opset).toEqual({ from: 7, to: 21 })
  })
})

it('a layer that would not get smaller stays, with both sizes', async () => {
  await expect(dryRun('conv-depthwise', {})).rejects.toMatchObject({
    code: 'model',
    hint: expect.stringMatching(/would not get smaller: 576 bytes now, about \d+ quantized/),
  })
})

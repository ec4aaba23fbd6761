/** Findings of people who used the tool without knowing it: odd outputs, odd sources, weights in odd places. */
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { fixturePath } from '../../fixtures/generate.ts'
import { parseBudget } from '../../src/bitalloc/budget.ts'
import { encodeModel, makeAttribute, makeNode } from '../../src/onnx/proto.ts'
import { analyzeModel, quantizeModel } from '../../src/pipeline.ts'
import { floats, model, value } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const directory = useTempDir()
const at = (name: string) => path.join(directory, name)
const wave = (i: number) => Math.sin(i) / 4

function write(name: string, ...fields: Parameters<typeof model>): string {
  fs.writeFileSync(at(name), encodeModel(model(...fields)))
  return at(name)
}

describe('an output', () => {
  it.skipIf(process.platform === 'win32')('that is a pipe is refused, even with force, and stays one', async () => {
    execFileSync('mkfifo', [at('pipe')])
    const written = quantizeModel(fixturePath('matmul'), at('pipe'), { force: true })
    await expect(written).rejects.toMatchObject({ code: 'output', message: expect.stringContaining('pipe') })
    expect(fs.statSync(at('pipe')).isFIFO()).toBe(true)
  })

  it('says which data file an earlier one left behind', async () => {
    const out = at('again.onnx')
    await quantizeModel(fixturePath('external-data'), out)
    const report = await quantizeModel(fixturePath('matmul'), out, { force: true })
    expect(report.warnings).toEqual([expect.stringContaining('again.onnx_data')])
  })
})

describe('a source', () => {
  it('that onnxruntime refuses is named, not our copy of it', async () => {
    const wrong = write('wrong.onnx', {
      initializer: [floats('w', [64, 64], wave)],
      node: [makeNode('MatMul', ['x', 'w'], ['y'])],
      input: [value('x', [1, 48])],
      output: [value('y', [1, 64])],
    })
    const written = quantizeModel(wrong, at('wrong-q.onnx'))
    await expect(written).rejects.toMatchObject({ code: 'model', message: expect.stringContaining('wrong.onnx') })
    expect(fs.existsSync(at('wrong-q.onnx'))).toBe(false)
  })

  it('whose weight is an input that callers may feed gives a warning, an error when strict', async () => {
    const graph = {
      initializer: [floats('w', [64, 64], wave)],
      node: [makeNode('MatMul', ['x', 'w'], ['y'])],
      input: [value('x', [1, 64]), value('w', [64, 64])],
      output: [value('y', [1, 64])],
    }
    const fed = write('fed.onnx', graph)
    const { warnings } = await quantizeModel(fed, at('fed-q.onnx'))
    expect(warnings).toEqual([expect.stringContaining('input w')])
    const strict = quantizeModel(fed, at('fed-strict.onnx'), { strict: true })
    await expect(strict).rejects.toMatchObject({ code: 'usage' })
  })

  it('may hold a weight as a list of floats', async () => {
    const list = makeNode('Constant', [], ['flat'])
    list.attribute.push(makeAttribute('value_floats', { float: 0 }))
    Object.assign(list.attribute[0]!, { type: 6, f: 0, floats: Array.from({ length: 4096 }, (_, i) => wave(i)) })
    const shape = { ...floats('shape', [2]), dataType: 7, rawData: new Uint8Array(BigInt64Array.of(64n, 64n).buffer) }
    const source = write('list.onnx', {
      initializer: [shape],
      node: [list, makeNode('Reshape', ['flat', 'shape'], ['w']), makeNode('MatMul', ['x', 'w'], ['y'])],
      input: [value('x', [1, 64])],
      output: [value('y', [1, 64])],
    })
    const report = await quantizeModel(source, at('list-q.onnx'))
    expect(report.layers.map(({ weight, weights }) => [weight, weights])).toEqual([['flat', 4096]])
    expect(report.verified).toHaveLength(1)
  })

  it('with a weight too small to gain says so', async () => {
    const source = write('small.onnx', {
      initializer: [floats('w', [7, 5])],
      node: [makeNode('MatMul', ['x', 'w'], ['y'])],
      input: [value('x', [1, 7])],
      output: [value('y', [1, 5])],
    })
    const { layers, leftAlone } = await analyzeModel(source)
    expect(layers).toEqual([])
    expect(leftAlone).toEqual([expect.objectContaining({ weight: 'w', bytes: 140, operator: 'MatMul' })])
  })

  it('of weights below the smallest normal number can be written', async () => {
    const source = write('denormal.onnx', {
      initializer: [floats('w', [64, 64], (i) => (i % 7) * 1e-41)],
      node: [makeNode('MatMul', ['x', 'w'], ['y'])],
      input: [value('x', [1, 64])],
      output: [value('y', [1, 64])],
    })
    for (const bits of [8, 4] as const) {
      const { verified } = await quantizeModel(source, at('denormal-q.onnx'), { bits, force: true })
      expect(verified).toHaveLength(1)
    }
  })
})

it('kibibytes are a unit', () => {
  expect(parseBudget('20 KiB')).toEqual({ kind: 'bytes', bytes: 20480 })
  expect(parseBudget('20kB')).toEqual({ kind: 'bytes', bytes: 20000 })
})

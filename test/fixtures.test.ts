/** @file The fixture models are what their script makes, and onnxruntime loads and runs each of them. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { describe, expect, test } from 'vitest'
import {
  FIXTURES,
  type FixtureInput,
  fixtureFiles,
  fixturePath,
  INDEX_LIMIT,
  MODELS_DIRECTORY,
} from '../fixtures/generate.ts'
import { decodeModel } from '../src/onnx/proto.ts'

const SIZE_LIMIT = 64 * 1024

/** Feeds of small numbers: ±½, ±¼ … for floats, indices for int64, true for bool. */
function feedOf({ type, dims }: FixtureInput): Tensor {
  const count = dims.reduce((product, d) => product * d, 1)
  const numbers = Array.from({ length: count }, (_, i) => ((i % 7) - 3) / 4)
  if (type === 'bool') return new Tensor('bool', new Uint8Array(count).fill(1), dims)
  if (type === 'int64')
    return new Tensor(
      'int64',
      BigInt64Array.from(numbers, (_, i) => BigInt(i % INDEX_LIMIT)),
      dims,
    )
  if (type === 'float64') return new Tensor('float64', Float64Array.from(numbers), dims)
  // 0x3800 is ½ in float16; the sign bit alternates.
  if (type === 'float16')
    return new Tensor(
      'float16',
      Uint16Array.from(numbers, (_, i) => 0x3800 | ((i % 2) << 15)),
      dims,
    )
  return new Tensor('float32', Float32Array.from(numbers), dims)
}

describe('files', () => {
  test('fixtures/models holds exactly what the script makes, byte for byte', () => {
    const made = fixtureFiles()
    expect(readdirSync(MODELS_DIRECTORY).sort()).toEqual([...made.keys()].sort())
    for (const [file, bytes] of made) {
      expect(Buffer.compare(readFileSync(join(MODELS_DIRECTORY, file)), bytes), file).toBe(0)
    }
  })

  test('each file is small and each name is used once', () => {
    for (const { file, bytes } of FIXTURES.flatMap((f) => f.files)) expect(bytes.length, file).toBeLessThan(SIZE_LIMIT)
    expect(new Set(FIXTURES.map((f) => f.name)).size).toBe(FIXTURES.length)
  })

  test('an unknown name is refused', () => {
    expect(() => fixturePath('no-such-model')).toThrow('no-such-model')
  })
})

describe('traits that a reader could lose', () => {
  const read = (name: string) => decodeModel(readFileSync(fixturePath(name)))

  test('unknown-field has unknown fields in the model and in a node', () => {
    const model = read('unknown-field')
    expect(model.$unknown?.map((f) => f.no)).toEqual([1900])
    expect(model.graph!.node[1]!.$unknown?.map((f) => f.no)).toEqual([1901])
  })

  test('overridable-initializers lists its initializers as inputs', () => {
    const graph = read('overridable-initializers').graph!
    const inputs = graph.input.map((v) => v.name)
    for (const held of graph.initializer) expect(inputs).toContain(held.name)
  })
})

describe('onnxruntime', () => {
  test.each(FIXTURES.map((f) => [f.name, f] as const))('runs %s', async (name, { inputs, outputs }) => {
    const session = await InferenceSession.create(fixturePath(name), { logSeverityLevel: 3 })
    expect([...session.inputNames].sort()).toEqual(inputs.map((v) => v.name).sort())
    const results = await session.run(Object.fromEntries(inputs.map((input) => [input.name, feedOf(input)])))
    for (const declared of outputs) {
      const result = results[declared.name]!
      expect(result.type).toBe(declared.type)
      expect(result.dims).toHaveLength(declared.dims.length)
      for (const [axis, size] of declared.dims.entries()) {
        if (typeof size === 'number') expect(result.dims[axis]).toBe(size)
      }
      if (declared.type.startsWith('float') && declared.type !== 'float16') {
        const values = [...(result.data as Float32Array | Float64Array)]
        expect(values.every(Number.isFinite)).toBe(name !== 'nan-weight')
        expect(values.some((v) => v !== 0)).toBe(true)
      }
    }
    await session.release()
  })
})

/** The run-ready form computes bit for bit what the compact one does, leaves nothing to decode, and says its bytes. */
import fs from 'node:fs'
import path from 'node:path'
import * as ort from 'onnxruntime-node'
import { describe, expect, it } from 'vitest'
import { fixturePath } from '../../fixtures/generate.ts'
import { resolveQuantizeConfig } from '../../src/configRules.ts'
import { indexModel, nodesOf } from '../../src/onnx/graph.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { METADATA } from '../../src/onnx/metadata.ts'
import type { OnnxModel } from '../../src/onnx/model.ts'
import { DataType, encodeModel, makeNode, makeOpset, makeValueInfo, type NodeProto } from '../../src/onnx/proto.ts'
import { constantDecoding } from '../../src/onnx/represent/constantDecoding.ts'
import type { Target } from '../../src/onnx/represent/plan.ts'
import { tensorByteLength, tensorBytes } from '../../src/onnx/tensorData.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import { decodedAtLoad, expandInPlace } from '../../src/quantize/expandModel.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { model, value } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { feedsFor, formsOf, nameOf, outputs, planFor, randomWeight, source, write } from '../onnx/codebookModels.ts'
import { normals } from './roundTrip.ts'

const directory = useTempDir()
const at = (name: string) => path.join(directory, name)

const inMemory = (bytes: Uint8Array) => ({ kind: 'memory', byteLength: bytes.length, bytes: bytes.slice() }) as const
const expand = (built: OnnxModel) => expandInPlace(built, { decode: true, store: inMemory, threads: 1 }, {})

const nodesIn = (built: OnnxModel): NodeProto[] => indexModel(built.proto).scopes.flatMap((scope) => nodesOf(scope))
const decodersIn = (built: OnnxModel) => nodesIn(built).filter(({ name }) => name.startsWith('qtool/'))

describe('every form of a codebook', () => {
  const rows = 40
  const cols = 24
  it.each([
    ['MatMul', 'auto'],
    ['Gemm', 'standard'],
    ['Conv', 'auto'],
    ['tied', 'auto'],
    ['tied', 'standard'],
  ] as const)('in %s, format %s, runs the same unpacked', async (graph, format) => {
    for (const form of formsOf(rows)) {
      const what = nameOf(form)
      const proto = source(graph, rows, cols, DataType.FLOAT)
      const target: Target = { format, opset: format === 'standard' ? 21 : 18, accuracyLevel: 4, smallTable: 0 }
      const plan = planFor(proto, form, 'channel', target)
      const build = () => write(proto, [{ plan, weight: randomWeight(plan) }], target)
      const compact = build()
      const expanded = build()
      await expand(expanded)
      const feeds = feedsFor(graph, rows, cols)
      expect(await outputs(expanded, feeds), what).toEqual(await outputs(compact, feeds))
      // What is left decodes looked-up rows, or is fused with the product.
      const left = decodersIn(expanded).filter(
        ({ name, opType }) => !name.includes('/rows/') && opType !== 'DequantizeLinear',
      )
      expect(
        left.map(({ name }) => name),
        what,
      ).toEqual([])
      expect(decodedAtLoad(expanded).intermediateBytes, what).toBe(0)
      expect(decodedAtLoad(compact).unknown, what).toEqual(new Set())
      const kernels = nodesIn(expanded).filter(({ opType }) => opType === 'MatMulNBits')
      expect(kernels, what).toHaveLength(format === 'auto' && graph !== 'Conv' ? 1 : 0)
    }
  })
})

/** Bytes of what nodes give that onnxruntime would compute at load, by running every node for its own result. */
async function intermediateBytesByRunning(file: string): Promise<number> {
  const built = loadModel(file)
  const decoding = decodedAtLoad(built)
  const graph = built.proto.graph!
  const names = [...decoding.nodes].map((node) => node.output[0]!)
  for (const [tensor] of built.payloads) tensor.rawData = new Uint8Array(tensorBytes(built, tensor))
  graph.output.push(...names.map((name) => makeValueInfo(name)))
  const session = await ort.InferenceSession.create(encodeModel(built.proto), {
    logSeverityLevel: 4,
    graphOptimizationLevel: 'disabled',
  })
  const results = await session.run({ x: new ort.Tensor('float32', new Float32Array(64), [1, 64]) }, names)
  await session.release()
  const last = new Set(decoding.results.map(({ name }) => name))
  return names
    .filter((name) => !last.has(name))
    .reduce((sum, name) => sum + (results[name]!.data as Uint8Array).byteLength, 0)
}

describe('quantize --expand', () => {
  const proto = model(
    {
      node: [
        makeNode('MatMul', ['x', 'w1'], ['h'], { name: 'one' }),
        makeNode('Relu', ['h'], ['r'], { name: 'relu' }),
        makeNode('MatMul', ['r', 'w2'], ['y'], { name: 'two' }),
      ],
      initializer: [normals('w1', [64, 96]), normals('w2', [96, 48])],
      input: [value('x', [1, 64])],
      output: [value('y', [1, 48])],
    },
    { opsetImport: [makeOpset('', 18)] },
  )
  fs.writeFileSync(at('two.onnx'), encodeModel(proto))
  const quantize = (name: string, config: Parameters<typeof quantizeModel>[2]) =>
    quantizeModel(at('two.onnx'), at(name), { threads: 1, force: true, ...config })

  it('writes what it says, and says what the compact form has', async () => {
    const layers = [{ pattern: 'two', bits: 4 }] as const
    for (const externalData of ['never', 'always'] as const) {
      const config = { bits: 3, layers, externalData } as const
      const compact = await quantize('a.onnx', config)
      const expanded = await quantize('b.onnx', { ...config, expand: true })
      expect(expanded.verified).toHaveLength(2)
      const sizes = (report: typeof compact) => report.output.files.map(({ path: file }) => fs.statSync(file).size)
      expect(expanded.output.files.map(({ bytes }) => bytes)).toEqual(sizes(expanded))
      expect(expanded.loading.compactBytes).toBe(compact.output.totalBytes)
      expect(compact.loading.compactBytes).toBeUndefined()
      expect(expanded.loading.transientBytes).toBe(compact.loading.transientBytes)
      expect(compact.loading.transientBytes).toBe(await intermediateBytesByRunning(at('a.onnx')))
      // 3 bits become the 4-bit kernel's: half a byte a weight, a float32 scale and half a byte for each of 2 blocks a row.
      const [one, two] = expanded.layers
      const written = loadModel(at('b.onnx'))
      const stored = written.proto.graph!.initializer.filter(({ name }) => name.startsWith('qtool/0/'))
      expect(one!.storedBytes).toBe(stored.reduce((sum, tensor) => sum + tensorByteLength(tensor), 0))
      expect(one!.storedBytes).toBe(96 * (64 / 2 + 2 * 4 + 1))
      expect(two!.storedBytes).toBeGreaterThan(compact.layers[1]!.storedBytes)
      const bits = (8 * (one!.storedBytes + two!.storedBytes)) / expanded.totals.weights
      expect(expanded.totals.bitsPerWeight).toBeCloseTo(bits, 12)
      expect(JSON.parse(written.proto.metadataProps.find(({ key }) => key === METADATA.config)!.value).expand).toBe(
        true,
      )
      expect(fs.readdirSync(directory).filter((name) => name.endsWith('.tmp'))).toEqual([])
    }
  })

  it('does not store a weight twice that two nodes see in two shapes', async () => {
    const tied = fixturePath('tied-embedding')
    const config = { bits: 4, threads: 1, method: 'rtn', force: true } as const
    const compact = await quantizeModel(tied, at('tied.onnx'), config)
    const expanded = await quantizeModel(tied, at('tied-expanded.onnx'), { ...config, expand: true })
    expect(compact.layers[0]!.representations).toContain('GatherBlockQuantized')
    const codes = compact.layers[0]!.weights / 2
    expect(expanded.layers[0]!.storedBytes - compact.layers[0]!.storedBytes).toBeLessThan(codes)
  })

  it('knows the bytes in a dry run, and verifies what it writes, wherever weights are and are read', async () => {
    for (const name of [
      ...['local-function', 'local-function-constant', 'if-branches', 'loop-body', 'scan-body', 'bfloat16-weights'],
      ...['float16-model', 'gemm-alpha-beta', 'constant-node', 'overridable-initializers', 'opset7', 'external-data'],
    ]) {
      const config = { bits: 3, groupSize: 16, threads: 1, method: 'rtn', expand: true } as const
      const out = at(`all-${name}.onnx`)
      const planned = await quantizeModel(fixturePath(name), out, { ...config, dryRun: true })
      const written = await quantizeModel(fixturePath(name), out, config)
      expect(planned.output, name).toEqual(written.output)
      expect(
        planned.layers.map(({ storedBytes }) => storedBytes),
        name,
      ).toEqual(written.layers.map(({ storedBytes }) => storedBytes))
      for (const file of written.output.files) expect(fs.statSync(file.path).size, name).toBe(file.bytes)
      expect(decodedAtLoad(loadModel(out)).intermediateBytes, name).toBe(0)
      expect(written.verified!.length, name).toBeGreaterThan(0)
    }
  })

  it('is about no budget of the compact form', () => {
    for (const budget of ['350MB', '0.3x', '4bpw', '4bit,350MB'])
      expectQtoolError('usage', () => resolveQuantizeConfig({ budget, expand: true }), /expand/)
    expect(resolveQuantizeConfig({ budget: '4bit', expand: true }).expand).toBe(true)
  })
})

describe('constant decode nodes', () => {
  it('are not those that an input of the model may change, nor those whose result leaves the graph', () => {
    const cast = (name: string, input: string) =>
      makeNode('Cast', [input], [name], { name: `qtool/0/${name}`, attributes: { to: 1 } })
    const proto = model({
      node: [cast('a', 'v'), cast('b', 'w'), cast('c', 'w'), makeNode('Add', ['a', 'b'], ['y'])],
      initializer: [normals('v', [3]), normals('w', [3])],
      input: [value('v', [3])],
      output: [value('y', [3]), value('c', [3])],
    })
    const found = constantDecoding(indexModel(proto), () => true)
    expect(found.results.map(({ name, bytes }) => [name, bytes])).toEqual([['b', 12]])
    expect([...found.nodes].map(({ name }) => name)).toEqual(['qtool/0/b'])
    expect(constantDecoding(indexModel(proto), () => false).results).toEqual([])
  })
})

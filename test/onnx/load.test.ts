import fs from 'node:fs'
import path from 'node:path'
import * as ort from 'onnxruntime-node'
import { describe, expect, test } from 'vitest'
import { loadModel } from '../../src/onnx/load.ts'
import { INLINE_LIMIT, type OnnxModel } from '../../src/onnx/model.ts'
import { DataLocation, encodeModel, makeOpset, type TensorProto } from '../../src/onnx/proto.ts'
import { readPayload, tensorByteLength, tensorBytes } from '../../src/onnx/tensorData.ts'
import { forEachTensor } from '../../src/onnx/tensors.ts'
import { tensorsIndependently } from '../helpers/independentReader.ts'
import { npmModels } from '../helpers/npmModels.ts'
import { branches, chain, constant, external, floats, makeNode, model, value } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()

function directory(name: string, files: Readonly<Record<string, Uint8Array>> = {}): string {
  const made = path.join(temp, name)
  for (const [file, bytes] of Object.entries(files)) {
    fs.mkdirSync(path.dirname(path.join(made, file)), { recursive: true })
    fs.writeFileSync(path.join(made, file), bytes)
  }
  return made
}

function tensorsOf(loaded: OnnxModel): TensorProto[] {
  const tensors: TensorProto[] = []
  forEachTensor(loaded.proto, (tensor) => tensors.push(tensor))
  return tensors
}

/** Raw bytes as the second reader sees them. */
function rawIndependently(tensor: ReturnType<typeof tensorsIndependently>[number]): Buffer {
  if (tensor.rawData?.length) return Buffer.from(tensor.rawData)
  if (tensor.floatData?.length) return Buffer.from(Float32Array.from(tensor.floatData).buffer)
  if (tensor.int64Data?.length)
    return Buffer.from(BigInt64Array.from(tensor.int64Data, (v) => BigInt(v.toString())).buffer)
  if (tensor.int32Data?.length) return Buffer.from(Int32Array.from(tensor.int32Data).buffer)
  return Buffer.alloc(0)
}

/** Put every payload back into its tensor. */
function withPayloads(loaded: OnnxModel): Uint8Array {
  for (const [tensor, payload] of loaded.payloads) {
    tensor.rawData = Uint8Array.from(readPayload(payload))
  }
  return encodeModel(loaded.proto)
}

describe('real models', () => {
  test.each(Object.entries(npmModels))('%s: every tensor as a second reader reads it', (_, file) => {
    const bytes = fs.readFileSync(file)
    const theirs = tensorsIndependently(bytes)
    for (const wholeFileLimit of [Number.POSITIVE_INFINITY, 0]) {
      const loaded = loadModel(file, { wholeFileLimit })
      expect(loaded.files).toEqual([{ path: file, bytes: bytes.length }])
      const ours = tensorsOf(loaded)
      expect(ours.map((tensor) => tensor.name)).toEqual(theirs.map((tensor) => tensor.name))
      ours.forEach((tensor, i) => {
        const payload = loaded.payloads.get(tensor)
        expect(payload?.kind).toBe(
          tensorByteLength(tensor) > INLINE_LIMIT && payload ? (wholeFileLimit ? 'memory' : 'file') : undefined,
        )
        if (payload) expect(tensor.rawData).toHaveLength(0)
        else expect(tensor.rawData.length).toBeLessThanOrEqual(INLINE_LIMIT)
        if (!rawIndependently(theirs[i]!).equals(tensorBytes(loaded, tensor))) expect.fail(`${tensor.name} differs`)
      })
      expect(loaded.payloads.size).toBeGreaterThan(0)
      expect(loaded.content !== undefined).toBe(wholeFileLimit > 0)
      if (wholeFileLimit) expect(loaded.content!.buffer).toBeInstanceOf(SharedArrayBuffer)
      expect(Buffer.compare(withPayloads(loaded), bytes)).toBe(0)
    }
  })
})

describe('where tensors are', () => {
  test('initializers, constants, branches and functions get payloads', () => {
    const proto = chain([floats('w', [32, 32])], { node: [branches(floats('tw', [32, 32]), floats('', [32, 32]))] })
    proto.graph!.input.push(model({ input: [value('c', [], 9)] }).graph!.input[0]!)
    proto.functions = model(
      {},
      {
        functions: [{ name: 'f', domain: 'own', output: ['k'], node: [constant('k', floats('', [300]))] }],
      },
    ).functions
    const file = path.join(directory('places', { 'm.onnx': encodeModel(proto) }), 'm.onnx')
    const loaded = loadModel(file)
    const places: string[] = []
    forEachTensor(loaded.proto, (tensor, place) => {
      if (loaded.payloads.has(tensor)) places.push(`${place.role}: ${place.describe()}`)
    })
    expect(places).toEqual([
      "initializer: tensor 'tw'",
      "constant: attribute 'value' of node 'make_e_w' (Constant)",
      "initializer: tensor 'w'",
      "constant: attribute 'value' of node 'make_k' (Constant)",
    ])
  })

  test('unknown fields stay, the marker goes', () => {
    const proto = chain([floats('w', [32, 32])])
    const unknown = { no: 999, wireType: 0, data: Uint8Array.of(5) }
    proto.graph!.initializer[0]!.$unknown = [unknown]
    const dir = directory('unknown', { 'm.onnx': encodeModel(proto) })
    const loaded = loadModel(path.join(dir, 'm.onnx'))
    expect(loaded.proto.graph!.initializer[0]!.$unknown).toEqual([unknown])
    expect(loadModel(npmModels.silero).proto.graph!.initializer.some((tensor) => tensor.$unknown)).toBe(false)
  })
})

describe('external data', () => {
  const weights = (seed: number) => Float32Array.from({ length: 1024 }, (_, i) => ((i * seed) % 7) / 8)
  const data = new Uint8Array([
    ...new Uint8Array(4096),
    ...new Uint8Array(weights(3).buffer),
    ...new Uint8Array(weights(5).buffer),
  ])
  const proto = () =>
    chain([
      external('a', [32, 32], { location: 'sub/w.bin', offset: '4096', length: '4096' }),
      external('b', [32, 32], { location: './sub/w.bin', offset: '8192' }),
      external('tied', [32, 32], { offset: '4096', location: 'sub/w.bin', checksum: 'ignored' }),
    ])

  test('becomes payloads, and the fields are cleared', async () => {
    const dir = directory('external', { 'm.onnx': encodeModel(proto()), 'sub/w.bin': data })
    const loaded = loadModel(path.join(dir, 'm.onnx'))
    const [a, b, tied] = loaded.proto.graph!.initializer
    const file = path.join(dir, 'sub/w.bin')
    expect(loaded.files).toEqual([
      { path: path.join(dir, 'm.onnx'), bytes: encodeModel(proto()).length },
      { path: file, bytes: data.length },
    ])
    expect(loaded.payloads.get(a!)).toEqual({ kind: 'file', byteLength: 4096, path: file, offset: 4096 })
    expect(loaded.payloads.get(tied!)).toEqual(loaded.payloads.get(a!))
    expect(tensorBytes(loaded, b!)).toEqual(new Uint8Array(weights(5).buffer))
    for (const tensor of [a!, b!, tied!]) {
      expect(tensor.externalData).toEqual([])
      expect(tensor.dataLocation).toBe(DataLocation.DEFAULT)
    }
    // With the data put back inline, the runtime computes the same.
    const feeds = { x: new ort.Tensor('float32', new Float32Array(32).fill(1), [1, 32]) }
    const wanted = await (await ort.InferenceSession.create(path.join(dir, 'm.onnx'))).run(feeds)
    const found = await (await ort.InferenceSession.create(withPayloads(loaded))).run(feeds)
    expect(found.y!.data).toEqual(wanted.y!.data)
  })

  test('a model that is a link: data beside the link, beside its target, and links to blobs', () => {
    const dir = directory('hub', {
      'blobs/111': encodeModel(proto()),
      'blobs/222': data,
      'real/m.onnx': encodeModel(proto()),
      'real/sub/w.bin': data,
    })
    fs.mkdirSync(path.join(dir, 'snapshot/sub'), { recursive: true })
    fs.symlinkSync('../blobs/111', path.join(dir, 'snapshot/m.onnx'))
    fs.symlinkSync('../../blobs/222', path.join(dir, 'snapshot/sub/w.bin'))
    const cached = loadModel(path.join(dir, 'snapshot/m.onnx'))
    expect(cached.files[1]).toEqual({ path: path.join(dir, 'snapshot/sub/w.bin'), bytes: data.length })
    fs.symlinkSync('real/m.onnx', path.join(dir, 'alias.onnx'))
    const alias = loadModel(path.join(dir, 'alias.onnx'))
    expect(alias.files[1]!.path).toBe(path.join(dir, 'real/sub/w.bin'))
    // A link that stays inside the model's directory is fine too.
    fs.mkdirSync(path.join(dir, 'inside/sub'), { recursive: true })
    fs.writeFileSync(path.join(dir, 'inside/m.onnx'), encodeModel(proto()))
    fs.writeFileSync(path.join(dir, 'inside/other.bin'), data)
    fs.symlinkSync('../other.bin', path.join(dir, 'inside/sub/w.bin'))
    expect(loadModel(path.join(dir, 'inside/m.onnx')).payloads.size).toBe(3)
  })

  test('an empty external tensor needs no bytes', () => {
    const empty = chain([floats('w', [32, 32])])
    empty.graph!.initializer.push(external('none', [0, 4], { location: 'w.bin', length: '0' }))
    const dir = directory('none', { 'm.onnx': encodeModel(empty), 'w.bin': Uint8Array.of(1) })
    expect(loadModel(path.join(dir, 'm.onnx')).payloads.size).toBe(2)
  })
})

describe('versions and graphs that are fine', () => {
  const load = (proto: ReturnType<typeof model>) => {
    const dir = directory('fine', { 'm.onnx': encodeModel(proto) })
    return loadModel(path.join(dir, 'm.onnx'))
  }
  test.each([7, 13, 26])('opset %i', (opset) => {
    expect(
      load({ ...chain([floats('w', [32, 32])]), opsetImport: [makeOpset('x', 1), makeOpset('ai.onnx', opset)] }).files,
    ).toHaveLength(1)
  })

  test('nodes out of order, optional inputs, an initializer that is also an input, shadowed names', () => {
    const inner = branches(floats('w', [32, 32]), floats('', [32, 32]))
    const proto = model({
      node: [makeNode('Clip', ['h', '', 'w2'], ['y', '']), makeNode('Neg', ['x'], ['h']), inner],
      initializer: [floats('w', [32, 32]), floats('w2', [])],
      input: [value('x', [1, 32]), value('w', [32, 32]), value('c', [], 9)],
      output: [value('y', [1, 32])],
    })
    expect(load(proto).proto.graph!.node).toHaveLength(3)
  })

  test('200,000 nodes are checked in well under 5 s', () => {
    const node = Array.from({ length: 200_000 }, (_, i) => makeNode('Neg', [i ? `h${i}` : 'x'], [`h${i + 1}`]))
    // The first node moves to the end, so that the order has to be found.
    const proto = model({
      node: [...node.slice(1), node[0]!],
      input: [value('x', [1])],
      output: [value('h200000', [1])],
    })
    const start = performance.now()
    load(proto)
    expect(performance.now() - start).toBeLessThan(5000)
  })
})

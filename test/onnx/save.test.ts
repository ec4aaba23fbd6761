import fs from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import * as ort from 'onnxruntime-node'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { copyModel, stageCopy } from '../../src/onnx/copyModel.ts'
import { type ExternalDataMode, INLINE_MODEL_LIMIT, planOutput } from '../../src/onnx/layout.ts'
import { loadModel } from '../../src/onnx/load.ts'
import type { OnnxModel, Payload } from '../../src/onnx/model.ts'
import { DataType, encodeModel, type ModelProto, makeTensor, type TensorProto } from '../../src/onnx/proto.ts'
import { type SaveOptions, saveModel, stageModel } from '../../src/onnx/save.ts'
import { Spool } from '../../src/onnx/spool.ts'
import { Temporaries } from '../../src/onnx/temporaries.ts'
import { readPayload, tensorBytes } from '../../src/onnx/tensorData.ts'
import { forEachTensor } from '../../src/onnx/tensors.ts'
import { decodeIndependently, tensorsIndependently } from '../helpers/independentReader.ts'
import { npmModels } from '../helpers/npmModels.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { branches, chain, constant, external, floats, makeNode, model, value } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()
let count = 0
const newDirectory = (): string => {
  const directory = path.join(temp, `${count++}`)
  fs.mkdirSync(directory)
  return directory
}
const save = (extra: Partial<SaveOptions> = {}): SaveOptions => ({
  externalData: 'auto',
  force: false,
  sources: [],
  ...extra,
})
const namesIn = (directory: string): string[] => fs.readdirSync(directory).sort()

afterEach(() => {
  vi.restoreAllMocks()
})

/** All tensors with their bytes, in order. */
function contents(loaded: OnnxModel): [string, Buffer][] {
  const all: [string, Buffer][] = []
  forEachTensor(loaded.proto, (tensor) => {
    if (tensor.stringData.length === 0) all.push([tensor.name, Buffer.from(tensorBytes(loaded, tensor))])
  })
  return all
}

function expectSameContents(file: string, loaded: OnnxModel): void {
  const found = contents(loadModel(file))
  const wanted = contents(loaded)
  expect(found.map(([name]) => name)).toEqual(wanted.map(([name]) => name))
  // Comparing buffers element by element takes minutes.
  for (const [i, [name, bytes]] of found.entries()) expect(bytes.equals(wanted[i]![1]), name).toBe(true)
}

async function outputs(file: string, feeds: Record<string, ort.Tensor>): Promise<Record<string, unknown>> {
  const session = await ort.InferenceSession.create(file, { graphOptimizationLevel: 'disabled', logSeverityLevel: 4 })
  const results = await session.run(feeds)
  await session.release()
  return Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, tensor.data]))
}

const ones = (dims: number[]) =>
  new ort.Tensor('float32', new Float32Array(dims.reduce((a, b) => a * b, 1)).fill(0.5), dims)
const wakeWordFeeds = { 'onnx::Flatten_0': ones([1, 25, 96]) }

describe('a loaded model, saved again', () => {
  test.each(Object.entries(npmModels))('%s inline: the same bytes; both ways of loading', (_, file) => {
    for (const wholeFileLimit of [Number.POSITIVE_INFINITY, 0]) {
      const directory = newDirectory()
      const loaded = loadModel(file, { wholeFileLimit })
      const before = encodeModel(loaded.proto)
      const files = saveModel(
        loaded.proto,
        loaded.payloads,
        path.join(directory, 'm.onnx'),
        save({ externalData: 'never' }),
      )
      expect(Buffer.compare(fs.readFileSync(files[0]!.path), fs.readFileSync(file))).toBe(0)
      expect(Buffer.compare(encodeModel(loaded.proto), before)).toBe(0)
      expect(namesIn(directory)).toEqual(['m.onnx'])
    }
  })

  test.each(Object.entries(npmModels))('%s external: every tensor, entries as ONNX asks', (_, file) => {
    const directory = newDirectory()
    const loaded = loadModel(file)
    const outPath = path.join(directory, 'model.onnx')
    const before = encodeModel(loaded.proto)
    const plan = planOutput(loaded.proto, loaded.payloads, outPath, 'always')
    const files = saveModel(loaded.proto, loaded.payloads, outPath, save({ externalData: 'always' }))
    expect(Buffer.compare(encodeModel(loaded.proto), before)).toBe(0)
    expect(namesIn(directory)).toEqual(['model.onnx', 'model.onnx_data'])
    expect(files).toEqual(plan.files)
    for (const { path: written, bytes } of files) expect(fs.statSync(written).size).toBe(bytes)
    expectSameContents(outPath, loaded)
    // The second reader finds the bytes where the entries say, and none of them inline.
    const data = fs.readFileSync(`${outPath}_data`)
    const originals = tensorsIndependently(fs.readFileSync(file))
    tensorsIndependently(fs.readFileSync(outPath)).forEach((tensor, i) => {
      const original = Buffer.from(originals[i]!.rawData ?? [])
      if (original.length <= 1024) {
        expect(Buffer.compare(Buffer.from(tensor.rawData ?? []), original)).toBe(0)
        return
      }
      expect(tensor.rawData ?? []).toHaveLength(0)
      expect(tensor.dataLocation).toBe(1)
      expect(tensor.externalData!.map(({ key }) => key)).toEqual(['location', 'offset', 'length'])
      const [location, offset, length] = tensor.externalData!.map(({ value: text }) => text!)
      expect(location).toBe('model.onnx_data')
      expect(Number(offset) % 4096).toBe(0)
      expect(data.subarray(Number(offset), Number(offset) + Number(length)).equals(original)).toBe(true)
    })
  })

  test('onnxruntime computes the same from inline, external and renamed-spool files', async () => {
    const directory = newDirectory()
    const wanted = await outputs(npmModels.wakeWord, wakeWordFeeds)
    for (const mode of ['never', 'always'] as const) {
      for (const spooled of [false, true]) {
        const loaded = loadModel(npmModels.wakeWord)
        const outPath = path.join(directory, `${mode}-${spooled}.onnx`)
        const temporaries = new Temporaries()
        const spool = spooled ? new Spool(outPath, temporaries) : undefined
        const payloads = new Map(
          [...loaded.payloads].map(([tensor, payload]) => [
            tensor,
            spool ? spool.append(readPayload(payload)) : payload,
          ]),
        )
        saveModel(
          loaded.proto,
          payloads,
          outPath,
          save({ externalData: mode, temporaries, ...(spool ? { spool } : {}) }),
        )
        expect(await outputs(outPath, wakeWordFeeds)).toEqual(wanted)
      }
    }
    expect(namesIn(directory)).toHaveLength(6)
  })

  test('every place: initializers, branches, constants and 4-bit tensors load in onnxruntime with external data', async () => {
    const proto = chain([floats('w', [32, 32])], { node: [branches(floats('tw', [32, 32]), floats('', [32, 32]))] })
    const graph = proto.graph!
    const codes = makeTensor({
      name: 'q',
      dims: [64n, 64n],
      dataType: DataType.UINT4,
      rawData: new Uint8Array(2048).fill(0x53),
    })
    const scale = floats('s', [], () => 0.5)
    graph.initializer.push(codes, scale)
    graph.node.push(makeNode('DequantizeLinear', ['q', 's'], ['d']), constant('k', floats('', [300])))
    graph.node.push(makeNode('Identity', ['k'], ['k2']))
    proto.opsetImport[0]!.version = 21n
    graph.input.push(...model({ input: [value('c', [], DataType.BOOL)] }).graph!.input)
    graph.output.push(
      ...model({ output: [value('z', [1, 32]), value('d', [64, 64]), value('k2', [300])] }).graph!.output,
    )
    const directory = newDirectory()
    const source = path.join(directory, 's.onnx')
    fs.writeFileSync(source, encodeModel(proto))
    const loaded = loadModel(source)
    expect(loaded.payloads.size).toBe(5)
    const outPath = path.join(directory, 'o.onnx')
    saveModel(loaded.proto, loaded.payloads, outPath, save({ externalData: 'always' }))
    expect(fs.statSync(outPath).size).toBeLessThan(3000)
    for (const c of [true, false]) {
      const feeds = { x: ones([1, 32]), c: new ort.Tensor('bool', [c], []) }
      expect(await outputs(outPath, feeds)).toEqual(await outputs(source, feeds))
    }
  })
})

describe('layout', () => {
  const sized = (name: string, bytes: number) => makeTensor({ name, dims: [BigInt(bytes)], dataType: DataType.UINT8 })
  const memory = (byteLength: number, fill = 1): Payload => {
    const bytes = new Uint8Array(byteLength).fill(fill)
    return { kind: 'memory', byteLength, bytes }
  }
  const withTensors = (tensors: TensorProto[]): ModelProto => model({ initializer: tensors })

  test('planned sizes are the sizes of what is saved', () => {
    // Hundreds of files: waiting for the disk would take most of the time and prove nothing here.
    vi.spyOn(fs, 'fsyncSync').mockImplementation(() => {})
    const sizes = fc.array(
      fc.oneof(fc.integer({ min: 0, max: 3000 }), fc.constantFrom(1024, 1025, 4096, 4097, 20_000)),
      {
        minLength: 1,
        maxLength: 12,
      },
    )
    fc.assert(
      fc.property(
        sizes,
        sizes,
        fc.constantFrom<ExternalDataMode>('auto', 'always', 'never'),
        fc.boolean(),
        (made, kept, mode, shuffled) => {
          const directory = newDirectory()
          const outPath = path.join(directory, 'm.onnx')
          const madeTensors = made.map((bytes, i) => sized(`made${i}`, bytes))
          const keptTensors = kept.map((bytes, i) => sized(`kept${i}`, bytes))
          const all = [...keptTensors, ...madeTensors]
          // onnx-buf copies what it is given, so the payloads belong to the copies.
          const proto = withTensors(shuffled ? all.reverse() : all)
          const find = (name: string) => proto.graph!.initializer.find((tensor) => tensor.name === name)!
          const untouched = keptTensors.map((t, i) => [find(t.name), memory(kept[i]!, i)] as const)
          const planned = madeTensors.map(
            (t, i) => [find(t.name), { kind: 'planned', byteLength: made[i]! } as const] as const,
          )
          const plan = planOutput(proto, new Map<TensorProto, Payload>([...untouched, ...planned]), outPath, mode)

          const temporaries = new Temporaries()
          const spool = new Spool(outPath, temporaries)
          const spooled = madeTensors.map(
            (t, i) => [find(t.name), spool.append(new Uint8Array(made[i]!).fill(200 + i))] as const,
          )
          const payloads = new Map<TensorProto, Payload>([...untouched, ...spooled])
          const files = saveModel(proto, payloads, outPath, save({ externalData: mode, spool, temporaries }))
          expect(files).toEqual(plan.files)
          expect(files.map((file) => fs.statSync(file.path).size)).toEqual(files.map((file) => file.bytes))
          expect(plan.external).toBe(mode === 'always' && [...made, ...kept].some((bytes) => bytes > 1024))
          const loaded = new Map(contents(loadModelLoosely(outPath)))
          made.forEach((bytes, i) => {
            expect(loaded.get(`made${i}`)).toEqual(Buffer.alloc(bytes, 200 + i))
          })
          kept.forEach((bytes, i) => {
            expect(loaded.get(`kept${i}`)).toEqual(Buffer.alloc(bytes, i))
          })
          expect(namesIn(directory)).toHaveLength(files.length)
          fs.rmSync(directory, { recursive: true })
        },
      ),
      { numRuns: 25, seed: 5 },
    )
  })
  const loadModelLoosely = (file: string): OnnxModel => loadModel(file)

  test('equal payloads and equal file ranges are stored once', () => {
    const directory = newDirectory()
    fs.writeFileSync(path.join(directory, 'w.bin'), new Uint8Array(8192).fill(3))
    const entries = { location: 'w.bin', offset: '4096' }
    const source = chain([external('a', [32, 32], entries), external('b', [32, 32], entries)])
    fs.writeFileSync(path.join(directory, 's.onnx'), encodeModel(source))
    const loaded = loadModel(path.join(directory, 's.onnx'))
    const outPath = path.join(directory, 'o.onnx')
    const files = saveModel(loaded.proto, loaded.payloads, outPath, save({ externalData: 'always' }))
    expect(files[1]!.bytes).toBe(4096)
    expectSameContents(outPath, loaded)
  })

  test('auto goes external above 256 MiB, and only then; never has a limit of 2 GiB', () => {
    const proto = withTensors([sized('a', 1), sized('b', 1)])
    const [a, b] = proto.graph!.initializer
    const plan = (bytes: number, mode: ExternalDataMode) => {
      const payloads = new Map<TensorProto, Payload>([
        [a!, { kind: 'planned', byteLength: bytes }],
        [b!, { kind: 'planned', byteLength: 2000 }],
      ])
      return planOutput(proto, payloads, 'dir/m.onnx', mode)
    }
    let largest = INLINE_MODEL_LIMIT - 4096
    largest += INLINE_MODEL_LIMIT - plan(largest, 'never').onnxBytes
    expect(plan(largest, 'auto')).toMatchObject({
      external: false,
      onnxBytes: INLINE_MODEL_LIMIT,
      dataBytes: 0,
    })
    const above = plan(largest + 1, 'auto')
    expect(above.external).toBe(true)
    expect(above.dataBytes).toBe(INLINE_MODEL_LIMIT + 2000)
    expect(above.files.map((file) => file.path)).toEqual(['dir/m.onnx', 'dir/m.onnx_data'])
    expect(plan(5 * 2 ** 30, 'always').dataBytes).toBe(5 * 2 ** 30 + 2000)
    expect(plan(2 ** 31 - 3000, 'never').external).toBe(false)
    const error = expectQtoolError('usage', () => plan(2 ** 31, 'never'), 'm.onnx', '2147483647')
    expect(error.hint).toContain('external data')
  })

  test('the spool becomes the data file: nothing of it is read again', () => {
    const directory = newDirectory()
    const outPath = path.join(directory, 'm.onnx')
    const proto = withTensors([sized('kept', 5000), sized('a', 6000), sized('b', 7000), sized('tiny', 10)])
    const [kept, a, b, tiny] = proto.graph!.initializer
    const spool = new Spool(outPath, new Temporaries())
    const bytes = new Uint8Array(10)
    const spooledB = spool.append(new Uint8Array(7000).fill(2))
    // The order in the spool counts, not that in the map.
    const payloads = new Map<TensorProto, Payload>([
      [kept!, memory(5000, 9)],
      [a!, spool.append(new Uint8Array(6000).fill(1))],
      [b!, spooledB],
      [tiny!, spool.append(bytes)],
    ])
    expect(payloads.get(a!)).toEqual({ kind: 'file', path: spool.path, byteLength: 6000, offset: 8192 })
    expect(payloads.get(tiny!)).toEqual({ kind: 'memory', byteLength: 10, bytes })
    const reads = vi.spyOn(fs, 'readSync')
    saveModel(proto, payloads, outPath, save({ externalData: 'always', spool }))
    expect(reads).not.toHaveBeenCalled()
    const data = fs.readFileSync(`${outPath}_data`)
    const expected = Buffer.alloc(16384 + 5000)
    expected.fill(2, 0, 7000).fill(1, 8192, 14192).fill(9, 16384)
    expect(data.equals(expected)).toBe(true)
    expect(namesIn(directory)).toEqual(['m.onnx', 'm.onnx_data'])
  })

  test('what the spool holds in vain does not reach the output', () => {
    const directory = newDirectory()
    const outPath = path.join(directory, 'm.onnx')
    const proto = withTensors([sized('a', 5000), sized('b', 5000)])
    const [a, b] = proto.graph!.initializer
    const spool = new Spool(outPath, new Temporaries())
    const first = spool.append(new Uint8Array(5000).fill(1))
    spool.append(new Uint8Array(9000).fill(77))
    const payloads = new Map([
      [a!, first],
      [b!, spool.append(new Uint8Array(5000).fill(2))],
    ])
    saveModel(proto, payloads, outPath, save({ externalData: 'always', spool }))
    const data = fs.readFileSync(`${outPath}_data`)
    expect(data.length).toBe(8192 + 5000)
    expect(data.includes(77)).toBe(false)
    expect(namesIn(directory)).toEqual(['m.onnx', 'm.onnx_data'])
  })

  test('attributes of other operators stay inline', () => {
    const node = makeNode('ConstantOfShape', ['x'], ['y'], { attributes: { value: floats('', [400]) } })
    const directory = newDirectory()
    fs.writeFileSync(path.join(directory, 's.onnx'), encodeModel(model({ node: [node], input: [value('x', [1])] })))
    const loaded = loadModel(path.join(directory, 's.onnx'))
    expect(loaded.payloads.size).toBe(1)
    const outPath = path.join(directory, 'o.onnx')
    expect(saveModel(loaded.proto, loaded.payloads, outPath, save({ externalData: 'always' }))).toHaveLength(1)
    expect(decodeIndependently(fs.readFileSync(outPath)).graph!.node![0]!.attribute![0]!.t!.rawData).toHaveLength(1600)
  })

  test('an unusual name of the output is the name in the entries', () => {
    const directory = newDirectory()
    const outPath = path.join(directory, `${'ü '.repeat(40)}'"%.onnx`)
    const loaded = loadModel(npmModels.wakeWord)
    saveModel(loaded.proto, loaded.payloads, outPath, save({ externalData: 'always' }))
    expectSameContents(outPath, loaded)
  })
})

describe('output that may not be written', () => {
  const loaded = loadModel(npmModels.wakeWord)
  const write = (outPath: string, extra: Partial<SaveOptions> = {}) =>
    saveModel(loaded.proto, loaded.payloads, outPath, save({ externalData: 'always', ...extra }))

  test('exists: without force an error, with force replaced', () => {
    const directory = newDirectory()
    const outPath = path.join(directory, 'm.onnx')
    fs.writeFileSync(`${outPath}_data`, 'mine')
    const error = expectQtoolError('output', () => write(outPath), `${outPath}_data exists`)
    expect(error.hint).toContain('force')
    expect(fs.readFileSync(`${outPath}_data`, 'utf8')).toBe('mine')
    expect(namesIn(directory)).toEqual(['m.onnx_data'])
    write(outPath, { force: true })
    expectQtoolError('output', () => write(outPath), `${outPath} exists`)
    write(outPath, { force: true, externalData: 'never' })
    expectSameContents(outPath, loaded)
  })

  test('a source: also by links, also the data file, also with force', () => {
    const directory = newDirectory()
    const source = path.join(directory, 'source.onnx')
    write(source)
    const sources = [source, `${source}_data`]
    fs.symlinkSync('source.onnx', path.join(directory, 'link.onnx'))
    fs.linkSync(`${source}_data`, path.join(directory, 'hard.onnx_data'))
    fs.symlinkSync(directory, path.join(directory, 'dir'))
    const before = sources.map((file) => fs.readFileSync(file))
    for (const name of ['source.onnx', 'link.onnx', 'hard.onnx', 'dir/source.onnx', './dir/../source.onnx']) {
      const outPath = path.join(directory, name)
      expectQtoolError('output', () => write(outPath, { sources, force: true }), 'is the file being read')
    }
    // Only the data file would be hit.
    const inline = path.join(directory, 'hard.onnx')
    write(inline, { sources, force: true, externalData: 'never' })
    expect(sources.map((file) => fs.readFileSync(file))).toEqual(before)
  })

  test('missing directory, file as directory, directory as file, no permission', () => {
    const directory = newDirectory()
    fs.writeFileSync(path.join(directory, 'file'), '')
    fs.mkdirSync(path.join(directory, 'd.onnx'))
    const error = expectQtoolError(
      'output',
      () => write(path.join(directory, 'new/m.onnx')),
      'no such file or directory',
    )
    expect(error.hint).toContain('create')
    expectQtoolError('output', () => write(path.join(directory, 'file/m.onnx')), 'not a directory')
    expectQtoolError('output', () => write(path.join(directory, 'd.onnx'), { force: true }), 'is a directory')
    expectQtoolError('output', () => write(path.join(directory, 'x'.repeat(300))), 'too long')
    expect(namesIn(directory)).toEqual(['d.onnx', 'file'])
    vi.spyOn(fs, 'accessSync').mockImplementation(() => {
      throw Object.assign(new Error('EACCES'), { code: 'EACCES' })
    })
    expectQtoolError('output', () => write(path.join(directory, 'm.onnx')), directory, 'permission denied')
  })

  /** Let `method` of fs fail with `code` at call number `after`. */
  function failing(method: 'writeSync' | 'fsyncSync' | 'renameSync', code: string, after: number): void {
    const original = fs[method] as (...args: unknown[]) => unknown
    let calls = 0
    vi.spyOn(fs, method as 'writeSync').mockImplementation(((...args: unknown[]) => {
      if (calls++ === after) throw Object.assign(new Error(`${code}: simulated`), { code })
      return original(...args)
    }) as typeof fs.writeSync)
  }

  test.each([
    ['writeSync', 'ENOSPC', 0, 'the disk is full'],
    ['writeSync', 'ENOSPC', 2, 'the disk is full'],
    ['writeSync', 'EIO', 1, 'input/output error'],
    ['fsyncSync', 'ENOSPC', 0, 'the disk is full'],
    ['fsyncSync', 'EIO', 1, 'input/output error'],
    ['renameSync', 'EPERM', 0, 'does not permit'],
    ['renameSync', 'EPERM', 1, 'does not permit'],
  ] as const)('%s fails with %s at call %i: one message, nothing left', (method, code, after, message) => {
    for (const spooled of [false, true]) {
      const directory = newDirectory()
      const outPath = path.join(directory, 'm.onnx')
      const temporaries = new Temporaries()
      failing(method, code, after)
      const error = expectQtoolError(
        'output',
        () => {
          const spool = spooled ? new Spool(outPath, temporaries) : undefined
          try {
            const payloads = new Map(
              [...loaded.payloads].map(([tensor, payload]) => [
                tensor,
                spool ? spool.append(readPayload(payload)) : payload,
              ]),
            )
            const options = save({ externalData: 'always', temporaries, ...(spool ? { spool } : {}) })
            saveModel(loaded.proto, payloads, outPath, options)
          } finally {
            temporaries.removeAll()
          }
        },
        /cannot write .*m\.onnx/,
        message,
      )
      expect(error.hint).toBeTruthy()
      vi.restoreAllMocks()
      expect(namesIn(directory)).toEqual([])
    }
  })

  test('a source that disappears or shrinks while saving', () => {
    const directory = newDirectory()
    const source = path.join(directory, 'm.onnx')
    fs.copyFileSync(npmModels.wakeWord, source)
    const byRange = loadModel(source, { wholeFileLimit: 0 })
    fs.truncateSync(source, 200_000)
    const outPath = path.join(directory, 'o.onnx')
    expectQtoolError('model', () => saveModel(byRange.proto, byRange.payloads, outPath, save()), source, 'ends after')
    expect(namesIn(directory)).toEqual(['m.onnx'])
  })

  test('an abort between chunks', () => {
    const directory = newDirectory()
    const outPath = path.join(directory, 'm.onnx')
    const controller = new AbortController()
    const options = save({ externalData: 'always', signal: controller.signal, onProgress: () => controller.abort() })
    expectQtoolError('interrupted', () => saveModel(loaded.proto, loaded.payloads, outPath, options))
    expect(namesIn(directory)).toEqual([])
  })

  test('progress ends at its total', () => {
    const outPath = path.join(newDirectory(), 'm.onnx')
    const spool = new Spool(outPath, new Temporaries())
    const payloads = new Map(
      [...loaded.payloads].map(([tensor, payload]) => [tensor, spool.append(readPayload(payload))]),
    )
    const events: { done: number; total: number }[] = []
    saveModel(
      loaded.proto,
      payloads,
      outPath,
      save({ externalData: 'always', spool, onProgress: (event) => events.push(event) }),
    )
    expect(events.at(-1)!.done).toBe(events.at(-1)!.total)
  })
})

describe('staged output', () => {
  const loaded = loadModel(npmModels.wakeWord)

  test('loads in onnxruntime before it is committed; then it appears, or goes', async () => {
    const directory = newDirectory()
    const outPath = path.join(directory, 'm.onnx')
    const options = save({ externalData: 'always' })
    const discarded = stageModel(loaded.proto, loaded.payloads, outPath, options)
    expect(fs.existsSync(outPath)).toBe(false)
    expect(namesIn(directory)).toEqual([
      expect.stringMatching(new RegExp(`^\\.m\\.onnx\\.${process.pid}\\.[0-9a-f]+\\.tmp$`)),
    ])
    expect(await outputs(discarded.path, wakeWordFeeds)).toEqual(await outputs(npmModels.wakeWord, wakeWordFeeds))
    discarded.discard()
    expect(namesIn(directory)).toEqual([])
    const staged = stageModel(loaded.proto, loaded.payloads, outPath, options)
    staged.commit()
    expect(namesIn(directory)).toEqual(['m.onnx', 'm.onnx_data'])
  })

  test('what appears meanwhile is not overwritten', () => {
    const directory = newDirectory()
    const outPath = path.join(directory, 'm.onnx')
    const staged = stageModel(loaded.proto, loaded.payloads, outPath, save())
    fs.writeFileSync(outPath, 'mine')
    expectQtoolError('output', () => staged.commit(), 'exists')
    expect(namesIn(directory)).toEqual(['m.onnx'])
    expect(fs.readFileSync(outPath, 'utf8')).toBe('mine')
  })

  test('one call removes what is unfinished', () => {
    const directory = newDirectory()
    const temporaries = new Temporaries()
    const outPath = path.join(directory, 'm.onnx')
    new Spool(outPath, temporaries).append(new Uint8Array(5000))
    stageModel(loaded.proto, loaded.payloads, outPath, save({ temporaries }))
    expect(namesIn(directory)).toHaveLength(2)
    temporaries.removeAll()
    expect(namesIn(directory)).toEqual([])
  })
})

describe('copies', () => {
  function externalModel(directory: string): OnnxModel {
    fs.mkdirSync(path.join(directory, 'weights'), { recursive: true })
    fs.writeFileSync(path.join(directory, 'weights/w.bin'), new Uint8Array(8192).fill(3))
    fs.writeFileSync(path.join(directory, 'v.bin'), new Uint8Array(4096).fill(4))
    const proto = chain([
      external('w', [32, 32], { location: 'weights/w.bin', offset: '4096' }),
      external('v', [32, 32], { location: 'v.bin' }),
    ])
    fs.writeFileSync(path.join(directory, 's.onnx'), encodeModel(proto))
    return loadModel(path.join(directory, 's.onnx'))
  }

  test('a single file', () => {
    const outPath = path.join(newDirectory(), 'o.onnx')
    expect(copyModel(loadModel(npmModels.silero), outPath, { force: false })).toEqual([
      { path: outPath, bytes: fs.statSync(npmModels.silero).size },
    ])
    expect(Buffer.compare(fs.readFileSync(outPath), fs.readFileSync(npmModels.silero))).toBe(0)
    expectQtoolError('output', () => copyModel(loadModel(npmModels.silero), outPath, { force: false }), 'exists')
    const own = loadModel(outPath)
    expectQtoolError('output', () => copyModel(own, outPath, { force: true }), 'is the file being read')
  })

  test('data files go along under their names', () => {
    const source = externalModel(newDirectory())
    const directory = newDirectory()
    const files = copyModel(source, path.join(directory, 'o.onnx'), { force: false })
    expect(files.map((file) => path.relative(directory, file.path))).toEqual(['o.onnx', 'weights/w.bin', 'v.bin'])
    files.forEach((file, i) => {
      expect(Buffer.compare(fs.readFileSync(file.path), fs.readFileSync(source.files[i]!.path))).toBe(0)
    })
    expectSameContents(files[0]!.path, source)
    expectQtoolError(
      'output',
      () => copyModel(source, path.join(directory, 'p.onnx'), { force: false }),
      'w.bin exists',
    )
    expect(namesIn(directory)).toEqual(['o.onnx', 'v.bin', 'weights'])
  })

  test('beside the source the data files are in the way', () => {
    const directory = newDirectory()
    const source = externalModel(directory)
    const outPath = path.join(directory, 'o.onnx')
    expectQtoolError('output', () => copyModel(source, outPath, { force: true }), 'is the file being read')
    expect(namesIn(directory)).toEqual(['s.onnx', 'v.bin', 'weights'])
  })

  test('a model reached by a link takes the data from beside its target; a staged copy loads', () => {
    const directory = newDirectory()
    externalModel(path.join(directory, 'real'))
    fs.symlinkSync('real/s.onnx', path.join(directory, 'alias.onnx'))
    const out = newDirectory()
    const staged = stageCopy(loadModel(path.join(directory, 'alias.onnx')), path.join(out, 'o.onnx'), { force: false })
    expect(loadModel(staged.path).payloads.size).toBe(2)
    expect(staged.files.map((file) => path.relative(out, file.path))).toEqual(['o.onnx', 'weights/w.bin', 'v.bin'])
    staged.discard()
    expect(namesIn(out)).toEqual([])
  })
})

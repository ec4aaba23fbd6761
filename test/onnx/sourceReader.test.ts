import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { afterEach, expect, test, vi } from 'vitest'
import { loadModel } from '../../src/onnx/load.ts'
import type { Payload } from '../../src/onnx/model.ts'
import { SourceReader } from '../../src/onnx/sourceReader.ts'
import { makeRandom } from '../../src/random.ts'
import { npmModels } from '../helpers/npmModels.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()
const digest = (file: string) => createHash('sha256').update(fs.readFileSync(file)).digest('hex')

/** A model of two files, 5 MiB of noise and 1000 bytes, and payloads in the first. */
function noiseModel(name: string) {
  const random = makeRandom(5)
  const paths = [path.join(temp, `${name}.a`), path.join(temp, `${name}.b`)]
  fs.writeFileSync(
    paths[0]!,
    Buffer.from(Uint32Array.from({ length: 1.25 * 2 ** 20 }, () => random.below(2 ** 32)).buffer),
  )
  fs.writeFileSync(paths[1]!, Buffer.alloc(1000, 7))
  const files = paths.map((file) => ({ path: file, bytes: fs.statSync(file).size }))
  const payload = (offset: number, byteLength: number): Payload => ({
    kind: 'file',
    path: paths[0]!,
    offset,
    byteLength,
  })
  return { files, payload, bytes: fs.readFileSync(paths[0]!) }
}

afterEach(() => {
  vi.restoreAllMocks()
})

test('in file order: right bytes, right digests, no byte read twice', () => {
  const { files, payload, bytes } = noiseModel('order')
  const wanted = files.map((file) => ({ path: file.path, sha256: digest(file.path) }))
  const reads = vi.spyOn(fs, 'readSync')
  const reader = new SourceReader({ files })
  for (const [offset, length] of [
    [100, 5000],
    [5100, 1],
    [2_000_000, 1_500_000],
  ] as const) {
    const into = new Uint8Array(length)
    reader.read(payload(offset, length), into)
    expect(Buffer.compare(into, bytes.subarray(offset, offset + length))).toBe(0)
  }
  expect(reader.sha256()).toEqual(wanted)
  const total = files.reduce((sum, file) => sum + file.bytes, 0)
  const readByReader = reads.mock.results.reduce((sum, result) => sum + (result.value as number), 0)
  expect(readByReader).toBe(total)
})

test('in any order, overlapping included', () => {
  const { files, payload, bytes } = noiseModel('any')
  const random = makeRandom(9)
  const reader = new SourceReader({ files })
  for (let i = 0; i < 40; i++) {
    const offset = random.below(bytes.length - 70_000)
    const into = new Uint8Array(random.below(70_000))
    reader.read(payload(offset, into.length), into)
    expect(Buffer.compare(into, bytes.subarray(offset, offset + into.length))).toBe(0)
  }
  expect(reader.sha256().map(({ sha256 }) => sha256)).toEqual(files.map((file) => digest(file.path)))
})

test.each([0, Number.POSITIVE_INFINITY])('real models, whole-file limit %d', (wholeFileLimit) => {
  for (const file of [npmModels.silero, npmModels.wakeWord]) {
    const model = loadModel(file, { wholeFileLimit })
    const reader = new SourceReader(model)
    for (const payload of model.payloads.values()) reader.read(payload, new Uint8Array(payload.byteLength))
    expect(reader.sha256()).toEqual([{ path: file, sha256: digest(file) }])
  }
})

test('memory payloads are hashed from memory: the file may be gone', () => {
  const file = path.join(temp, 'gone.onnx')
  fs.copyFileSync(npmModels.wakeWord, file)
  const model = loadModel(file)
  fs.rmSync(file)
  expect(new SourceReader(model).sha256()[0]!.sha256).toBe(digest(npmModels.wakeWord))
})

test('a file that has become shorter, and payloads of other files', () => {
  const { files, payload } = noiseModel('short')
  fs.truncateSync(files[0]!.path, 3000)
  const reader = new SourceReader({ files })
  expectQtoolError(
    'model',
    () => reader.read(payload(2000, 2000), new Uint8Array(2000)),
    files[0]!.path,
    'ends after 1000',
  )
  expectQtoolError('model', () => reader.sha256(), files[0]!.path)
  const other: Payload = { kind: 'file', path: files[1]!.path, offset: 1, byteLength: 2 }
  const into = new Uint8Array(2)
  new SourceReader({ files: [] }).read(other, into)
  expect([...into]).toEqual([7, 7])
})

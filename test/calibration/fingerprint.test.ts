import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  dataFingerprint,
  differences,
  modelFingerprint,
  settingsFingerprint,
} from '../../src/calibration/fingerprint.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { encodeModel } from '../../src/onnx/proto.ts'
import { makeRandom } from '../../src/random.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { chain, external, floats } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()
const at = (name: string) => path.join(temp, name)
const of = (file: string, wholeFileLimit?: number) =>
  modelFingerprint(loadModel(file, wholeFileLimit === undefined ? {} : { wholeFileLimit }))

/** Change one byte of a file in place. */
function touch(file: string, offset: number): void {
  const fd = fs.openSync(file, 'r+')
  const byte = Buffer.alloc(1)
  fs.readSync(fd, byte, 0, 1, offset)
  fs.writeSync(fd, Buffer.of(byte[0]! ^ 1), 0, 1, offset)
  fs.closeSync(fd)
}

function inlineModel(name: string): string {
  fs.writeFileSync(at(name), encodeModel(chain([floats('w', [32, 32]), floats('v', [32, 32])])))
  return at(name)
}

/** Two tensors in a data file of `megabytes`. */
function externalModel(name: string, megabytes: number): { model: string; data: string; tensorBytes: number } {
  const cols = (megabytes * 2 ** 20) / 2 / 4 / 32
  const tensorBytes = 32 * cols * 4
  fs.mkdirSync(at(name))
  const place = (i: number) => ({ location: 'w.bin', offset: `${i * tensorBytes}`, length: `${tensorBytes}` })
  const data = path.join(at(name), 'w.bin')
  const model = path.join(at(name), 'm.onnx')
  fs.writeFileSync(
    model,
    encodeModel(chain([external('w', [32, cols], place(0)), external('v', [cols, 32], place(1))])),
  )
  const noise = Uint32Array.from({ length: (2 * tensorBytes) / 4 }, (_, i) => Math.imul(i + 1, 0x9e3779b1) >>> 8)
  fs.writeFileSync(data, new Uint8Array(noise.buffer))
  return { model, data, tensorBytes }
}

/** Is a byte in one of 64 evenly spaced chunks of 64 KiB? */
function isSampled(offset: number, size: number): boolean {
  const starts = Array.from({ length: 64 }, (_, i) => Math.floor((i * (size - 65536)) / 63))
  return starts.some((start) => start <= offset && offset < start + 65536)
}

test('a model in one file: any byte counts, its name does not', () => {
  const file = inlineModel('a.onnx')
  const before = of(file)
  expect(before).toMatch(/^[0-9a-f]{64}$/)
  fs.copyFileSync(file, at('copy.onnx'))
  expect(of(at('copy.onnx'))).toBe(before)
  for (const offset of [fs.statSync(file).size - 40, fs.readFileSync(file).indexOf('mm1'), 700]) {
    touch(file, offset)
    expect(of(file)).not.toBe(before)
    touch(file, offset)
  }
  expect(of(file)).toBe(before)
})

test('a model in one large file: what is not a large tensor counts in full', () => {
  const file = at('large.onnx')
  const large = (name: string, cols: number) => floats(name, [1024, cols], () => 1)
  fs.writeFileSync(file, encodeModel(chain([large('w', 700), floats('tiny', [4]), large('v', 700)])))
  const { size } = fs.statSync(file)
  const tiny = fs.readFileSync(file).lastIndexOf('tiny') + 8 // in its values
  expect(isSampled(tiny, size)).toBe(false)
  const before = of(file, 100)
  expect(of(file, 100)).toBe(before)
  touch(file, tiny)
  expect(of(file, 100)).not.toBe(before)
})

test('external data up to 4 MiB counts in full, wherever the model lies', () => {
  const { model, data, tensorBytes } = externalModel('small', 1)
  const before = of(model)
  fs.cpSync(at('small'), at('moved'), { recursive: true })
  expect(of(path.join(at('moved'), 'm.onnx'))).toBe(before)
  for (const offset of [0, 123_457, tensorBytes, 2 * tensorBytes - 1]) {
    touch(data, offset)
    expect(of(model)).not.toBe(before)
    touch(data, offset)
  }
  expect(of(model)).toBe(before)
})

test('of larger external data its size, 64 places and the middle of every tensor count', () => {
  const { model, data, tensorBytes } = externalModel('big', 8)
  const size = 2 * tensorBytes
  const before = of(model)
  const step = (size - 65536) / 63
  const sampled = [0, 65535, Math.floor(step), Math.floor(62 * step) + 65535, size - 1]
  const middles = [tensorBytes / 2, tensorBytes * 1.5]
  // Otherwise the places would say nothing about the middles.
  expect(middles.some((offset) => !isSampled(offset, size))).toBe(true)
  for (const offset of [...sampled, ...middles]) {
    touch(data, offset)
    expect(of(model), `byte ${offset}`).not.toBe(before)
    touch(data, offset)
  }
  fs.truncateSync(data, 0)
  fs.truncateSync(data, size)
  const zeros = of(model)
  expect(zeros).not.toBe(before)
  fs.truncateSync(data, size + 1)
  expect(of(model)).not.toBe(zeros)
})

test('data: sizes, contents and order count, names do not', () => {
  const write = (name: string, text: string) => {
    fs.writeFileSync(at(name), text)
    return at(name)
  }
  const [a, b, c] = [write('a', 'some'), write('b', 'text'), write('c', 'some')]
  expect(dataFingerprint([a])).toBe(dataFingerprint([c]))
  expect(dataFingerprint([a, b])).toBe(dataFingerprint([c, b]))
  const all = [[a], [b], [a, b], [b, a], [write('ab', 'sometext')], [write('d', 'somet'), write('e', 'ext')], []]
  expect(new Set(all.map(dataFingerprint)).size).toBe(all.length)
})

test('data: a directory is its files in name order, below it too', () => {
  fs.mkdirSync(at('dir/deep'), { recursive: true })
  for (const name of ['dir/2', 'dir/10', 'dir/deep/1']) fs.writeFileSync(at(name), name)
  expect(dataFingerprint([at('dir')])).toBe(dataFingerprint(['dir/10', 'dir/2', 'dir/deep/1'].map(at)))
})

test('data: of a file above 64 MiB the size and 64 places count', () => {
  const file = at('huge')
  const size = 65 * 2 ** 20
  fs.writeFileSync(file, '')
  fs.truncateSync(file, size)
  const before = dataFingerprint([file])
  for (const offset of [0, Math.floor((size - 65536) / 63) + 5, size - 1]) {
    touch(file, offset)
    expect(dataFingerprint([file])).not.toBe(before)
    touch(file, offset)
  }
  fs.truncateSync(file, size + 1)
  expect(dataFingerprint([file])).not.toBe(before)
  fs.truncateSync(file, 60 * 2 ** 20)
  const smaller = dataFingerprint([file])
  touch(file, 500_000)
  expect(dataFingerprint([file])).not.toBe(smaller)
  fs.rmSync(file)
})

test('data that cannot be read is named', () => {
  expectQtoolError('data', () => dataFingerprint([at('missing')]), /data file .*missing: there is no such file/)
})

test('settings: the same text for equal settings in any order, another for others', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.nat(1000), (settings, seed) => {
      const random = makeRandom(seed)
      const shuffled = Object.entries(settings)
        .map((entry) => [random.uniform(), entry] as const)
        .sort(([a], [b]) => a - b)
        .map(([, entry]) => entry)
      const text = settingsFingerprint(Object.fromEntries(shuffled))
      expect(text).toBe(settingsFingerprint(settings))
      expect(settingsFingerprint({ ...settings, added: undefined })).toBe(text)
      expect(settingsFingerprint({ ...settings, more: { a: [1] } })).not.toBe(text)
    }),
  )
  expect(settingsFingerprint({ b: { d: 1, c: [2, 1] }, a: 'x' })).toBe('{"a":"x","b":{"c":[2,1],"d":1}}')
  const odd = [Number.NaN, Infinity, -Infinity, null].map((value) => settingsFingerprint({ value }))
  expect(new Set(odd).size).toBe(4)
})

test('differences: parts by name, settings with both values', () => {
  const parts = { model: createHash('sha256').digest('hex'), settings: settingsFingerprint({ a: 1, b: 'x' }) }
  expect(differences(parts, { ...parts })).toEqual([])
  expect(differences(parts, { ...parts, model: 'b' })).toEqual(['model'])
  expect(differences(parts, { ...parts, settings: settingsFingerprint({ a: 1, b: 'y', c: Infinity }) })).toEqual([
    'b (x instead of y)',
    'c (not set instead of Infinity)',
  ])
})

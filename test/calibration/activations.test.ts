import fs from 'node:fs'
import path from 'node:path'
import { expect, it } from 'vitest'
import { Activations } from '../../src/calibration/activations.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()

const TENSORS: readonly FeedTensor[] = [
  { type: 'float', dims: [2, 2], data: Float32Array.of(1.5, Number.NaN, -0, Infinity) },
  { type: 'double', dims: [2], data: Float64Array.of(Math.PI, -1e300) },
  { type: 'float16', dims: [3], data: Uint16Array.of(0x3c00, 0x7e01, 0xfc00) },
  { type: 'int8', dims: [3], data: Int8Array.of(-128, 0, 127) },
  { type: 'uint8', dims: [3], data: Uint8Array.of(0, 128, 255) },
  { type: 'int16', dims: [2], data: Int16Array.of(-32768, 32767) },
  { type: 'uint16', dims: [2], data: Uint16Array.of(1, 65535) },
  { type: 'int32', dims: [2], data: Int32Array.of(-(2 ** 31), 2 ** 31 - 1) },
  { type: 'uint32', dims: [2], data: Uint32Array.of(1, 2 ** 32 - 1) },
  { type: 'int64', dims: [1, 2], data: BigInt64Array.of(-(2n ** 63n), 5n) },
  { type: 'uint64', dims: [2], data: BigUint64Array.of(2n ** 64n - 1n, 5n) },
  { type: 'bool', dims: [2], data: Uint8Array.of(0, 1) },
  { type: 'float', dims: [], data: Float32Array.of(7) },
  { type: 'float', dims: [0, 4], data: new Float32Array(0) },
  // Part of a larger buffer, not at its start.
  { type: 'float', dims: [2], data: Float32Array.of(1, 2, 3, 4).subarray(1, 3) },
]
const bytes = (tensor: FeedTensor) => tensor.data.byteLength
const total = TENSORS.reduce((sum, tensor) => sum + bytes(tensor), 0)

function store(name: string, memoryLimit?: number): { folder: string; kept: Activations } {
  const folder = path.join(temp, name)
  return { folder, kept: new Activations(() => folder, memoryLimit) }
}

it.each([0, 20, total - 1])('every type comes back from memory and from disk: %i bytes of memory', (memory) => {
  const { folder, kept } = store(`types ${memory}`, memory)
  for (const [i, tensor] of TENSORS.entries()) kept.put('float', i, 'a', tensor)
  for (const [i, tensor] of TENSORS.entries()) {
    const { type, dims, data } = kept.get('float', i, 'a')
    expect({ type, dims, data }).toEqual(tensor)
    expect(kept.shapeOf('float', i, 'a')).toMatchObject({ type, dims, bytes: bytes(tensor) })
  }
  expect(fs.readdirSync(folder).length).toBeGreaterThan(0)
  kept.close()
  expect(fs.existsSync(folder)).toBe(false)
})

it('what fits stays in memory, and no directory is made', () => {
  const { folder, kept } = store('memory', total)
  for (const [i, tensor] of TENSORS.entries()) kept.put('float', i, 'a', tensor)
  for (const [i, tensor] of TENSORS.entries()) expect(kept.get('float', i, 'a')).toEqual(tensor)
  kept.close()
  expect(fs.existsSync(folder)).toBe(false)
})

it('names, batches and sides are apart; what is put again or dropped leaves its memory and its file to others', () => {
  const { folder, kept } = store('drop', 8)
  const at = (value: number): FeedTensor => ({ type: 'float', dims: [2], data: Float32Array.of(value, value) })
  kept.put('float', 0, 'a', at(1))
  kept.put('quantized', 0, 'a', at(2))
  kept.put('float', 1, 'a', at(3))
  kept.put('float', 1, 'b', at(4))
  const places = [
    ['float', 0],
    ['quantized', 0],
    ['float', 1],
  ] as const
  expect(places.map(([side, batch]) => kept.get(side, batch, 'a').data[0])).toEqual([1, 2, 3])
  expect(fs.readdirSync(folder).length).toBe(3)
  kept.put('float', 1, 'a', at(5))
  expect(kept.get('float', 1, 'a').data[0]).toBe(5)
  expect(fs.readdirSync(folder).length).toBe(3)
  kept.drop(0, 'a')
  kept.drop(1, 'a')
  expect([kept.has('float', 0, 'a'), kept.has('quantized', 0, 'a'), kept.has('float', 1, 'a')]).toEqual(
    new Array(3).fill(false),
  )
  expect(kept.get('float', 1, 'b').data[0]).toBe(4)
  // There is room in memory again; then files that are there are written over, by shorter and by longer tensors.
  kept.put('float', 0, 'c', at(6))
  const wide: FeedTensor = { type: 'float', dims: [4], data: Float32Array.of(7, 8, 9, 10) }
  const narrow: FeedTensor = { type: 'float', dims: [1], data: Float32Array.of(11) }
  kept.put('float', 1, 'c', wide)
  kept.put('float', 0, 'd', narrow)
  expect(fs.readdirSync(folder).length).toBe(3)
  expect(kept.get('float', 1, 'c')).toEqual(wide)
  expect(kept.get('float', 0, 'd')).toEqual(narrow)
  expect(kept.get('float', 1, 'b').data[0]).toBe(4)
  const sizes = fs.readdirSync(folder).map((file) => fs.statSync(path.join(folder, file)).size)
  expect(sizes.sort()).toEqual([16, 4, 8])
  expect(() => kept.get('float', 0, 'a')).toThrow(RangeError)
  expect(() => kept.shapeOf('quantized', 1, 'b')).toThrow(RangeError)
  kept.close()
})

it('a directory that cannot be made is an error that says what to do; closing is none', () => {
  const file = path.join(temp, 'a file')
  fs.writeFileSync(file, 'precious')
  const kept = new Activations(() => path.join(file, 'scratch'), 0)
  const error = expectQtoolError(
    'output',
    () => kept.put('float', 0, 'a', TENSORS[0]!),
    /cannot write activations to .*a file/,
  )
  expect(error.hint).toContain('--scratch')
  kept.close()
  expect(fs.readFileSync(file, 'utf8')).toBe('precious')
})

it('a scratch file that became shorter is an error', () => {
  const { folder, kept } = store('shorter', 0)
  kept.put('float', 0, 'a', TENSORS[0]!)
  fs.truncateSync(path.join(folder, fs.readdirSync(folder)[0]!), 6)
  expectQtoolError('output', () => kept.get('float', 0, 'a'), /became shorter/)
  kept.close()
})

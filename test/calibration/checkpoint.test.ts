import fs from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { afterEach, expect, test, vi } from 'vitest'
import { openCheckpoint, type SolvedRecord } from '../../src/calibration/checkpoint.ts'
import { settingsFingerprint } from '../../src/calibration/fingerprint.ts'
import { type Coding, lanesOf, tableLength } from '../../src/quant/codebookWeight.ts'
import { BITS, type GridWeight } from '../../src/quant/quantizedWeight.ts'
import { makeRandom } from '../../src/random.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()
const at = (name: string) => path.join(temp, name)
const RUN = { model: 'a1', data: 'd1', settings: settingsFingerprint({ bits: 4, order: 'greedy' }) }

afterEach(() => {
  vi.restoreAllMocks()
})

/** Hundreds of files need not outlive a power failure. */
function withoutSyncs(): void {
  vi.spyOn(fs, 'fsyncSync').mockImplementation(() => {})
  vi.spyOn(fs, 'fdatasyncSync').mockImplementation(() => {})
}

interface Shape {
  readonly rows: number
  readonly cols: number
  readonly groupSize: number
  readonly bits: (typeof BITS)[number]
  readonly hasZeroPoints: boolean
  readonly bias: number | undefined
  readonly isHalf: boolean
}

function record(
  layer: string,
  shape: Shape,
  info: unknown = { won: 'greedy', loss: 1 / 3 },
): SolvedRecord & { weight: GridWeight } {
  const { rows, cols, groupSize, bits, hasZeroPoints, bias, isHalf } = shape
  const random = makeRandom(rows * 1000 + cols)
  const codes = (length: number) => Uint8Array.from({ length }, () => random.below(2 ** bits))
  const floats = (length: number) => Float32Array.from({ length }, () => random.normal())
  const groups = rows * Math.ceil(cols / groupSize)
  const weight = {
    rows,
    cols,
    bits,
    groupSize,
    codes: codes(rows * cols),
    scales: floats(groups),
    zeroPoints: hasZeroPoints ? codes(groups) : undefined,
    scaleType: isHalf ? 'float16' : 'float32',
  } as const
  return { layer, info, weight, bias: bias === undefined ? undefined : floats(bias) }
}

const shape: fc.Arbitrary<Shape> = fc.record({
  rows: fc.integer({ min: 1, max: 5 }),
  cols: fc.integer({ min: 1, max: 40 }),
  groupSize: fc.integer({ min: 1, max: 40 }),
  bits: fc.constantFrom(...BITS),
  hasZeroPoints: fc.boolean(),
  bias: fc.option(fc.integer({ min: 0, max: 5 }), { nil: undefined }),
  isHalf: fc.boolean(),
})
interface TableShape {
  readonly rows: number
  readonly cols: number
  readonly groupSize: number
  readonly bits: 2 | 3 | 4
  readonly coding: Coding
  readonly tables: number
}

/** A layer whose levels come from tables; every table, code and level can occur. */
function tableRecord(layer: string, shape: TableShape) {
  const { rows, cols, groupSize, bits, coding, tables } = shape
  const random = makeRandom(rows * 1000 + cols)
  const isVector = coding.kind === 'vector'
  const weight = {
    ...{ rows, cols, bits, coding, groupSize },
    codes: Uint8Array.from({ length: (isVector ? lanesOf(coding, rows) : rows) * cols }, () =>
      random.below(isVector ? 256 : 2 ** bits),
    ),
    tables: Int8Array.from({ length: tables * tableLength(coding, bits) }, () => random.below(255) - 127),
    tableOf: Uint16Array.from({ length: rows }, () => 65535 - random.below(tables)),
    scales: Float32Array.from({ length: rows * Math.ceil(cols / groupSize) }, () => random.normal()),
    scaleType: 'float16',
  } as const
  return { layer, info: {}, weight, bias: undefined } satisfies SolvedRecord
}

const tableShape: fc.Arbitrary<TableShape> = fc.record({
  rows: fc.integer({ min: 1, max: 9 }),
  cols: fc.integer({ min: 1, max: 20 }),
  groupSize: fc.integer({ min: 1, max: 20 }),
  bits: fc.constantFrom(2, 3, 4),
  coding: fc.constantFrom<Coding>(
    { kind: 'scalar' },
    { kind: 'vector', dim: 2 },
    { kind: 'vector', dim: 4 },
    { kind: 'trellis', window: 8 },
    { kind: 'trellis', window: 12 },
  ),
  tables: fc.integer({ min: 1, max: 5 }),
})
const PLAIN: Shape = { rows: 2, cols: 3, groupSize: 2, bits: 4, hasZeroPoints: true, bias: 2, isHalf: true }
const PLAIN_RECORDS = ['l0', 'l1', 'l2'].map((layer) => record(layer, PLAIN))

/** A file with PLAIN_RECORDS, and its length after each. */
function threeLayers(name: string): { file: string; lengths: number[] } {
  const file = at(name)
  fs.rmSync(file, { force: true })
  const checkpoint = openCheckpoint(file, RUN)
  const lengths = [fs.statSync(file).size]
  for (const one of PLAIN_RECORDS) {
    checkpoint.append(one)
    lengths.push(fs.statSync(file).size)
  }
  checkpoint.close()
  return { file, lengths }
}

test('layers read as they were appended, in the same run and in the next', () => {
  fc.assert(
    fc.property(fc.array(shape, { maxLength: 4 }), fc.json(), fc.nat(4), (shapes, json, reopenAt) => {
      const file = at('round')
      fs.rmSync(file, { force: true })
      const records = shapes.map((one, i) => record(`layer ${i} ü`, one, JSON.parse(json)))
      let checkpoint = openCheckpoint(file, RUN)
      for (const [i, one] of records.entries()) {
        if (i === reopenAt) {
          checkpoint.close()
          checkpoint = openCheckpoint(file, RUN)
        }
        checkpoint.append(one)
        expect(checkpoint.read(one.layer)).toEqual(one)
      }
      checkpoint.close()
      const next = openCheckpoint(file, RUN)
      expect([...next.solved]).toEqual(records.map(({ layer }) => layer))
      expect(next.cutOff).toBe(0)
      for (const one of records) expect(next.read(one.layer)).toEqual(one)
      next.close()
    }),
    { numRuns: 40 },
  )
})

test('layers with tables read as they were appended, between others, in the same run and in the next', () => {
  withoutSyncs()
  fc.assert(
    fc.property(fc.array(tableShape, { minLength: 1, maxLength: 3 }), (shapes) => {
      const file = at('tables')
      fs.rmSync(file, { force: true })
      const records = [...shapes.map((one, i) => tableRecord(`t${i}`, one)), ...PLAIN_RECORDS]
      const checkpoint = openCheckpoint(file, RUN)
      for (const one of records) {
        checkpoint.append(one)
        expect(checkpoint.read(one.layer)).toEqual(one)
      }
      checkpoint.close()
      const next = openCheckpoint(file, RUN)
      for (const one of records) expect(next.read(one.layer)).toEqual(one)
      next.close()
    }),
    { numRuns: 10 },
  )
})

test('infos may have numbers that JSON lacks; codes may lie in shared memory', () => {
  const shared = new Uint8Array(new SharedArrayBuffer(6))
  shared.set(PLAIN_RECORDS[0]!.weight.codes)
  const info = { losses: [Number.NaN, Infinity, -Infinity, 1e-300], won: null, sum: '$number' }
  const one = { ...PLAIN_RECORDS[0]!, info, weight: { ...PLAIN_RECORDS[0]!.weight, codes: shared } }
  const checkpoint = openCheckpoint(at('numbers'), RUN)
  checkpoint.append(one)
  expect(checkpoint.read('l0').info).toEqual(info)
  expect([...checkpoint.read('l0').weight.codes]).toEqual([...shared])
  checkpoint.close()
})

test('a record torn at any byte is cut off, and only it; the next one takes its place', () => {
  const { file, lengths } = threeLayers('torn')
  withoutSyncs()
  const whole = fs.readFileSync(file)
  for (let length = lengths[1]!; length < whole.length; length++) {
    fs.writeFileSync(file, whole.subarray(0, length))
    const checkpoint = openCheckpoint(file, RUN)
    const intact = lengths.filter((end) => end <= length).length - 1
    expect([...checkpoint.solved]).toEqual(['l0', 'l1', 'l2'].slice(0, intact))
    expect(checkpoint.cutOff).toBe(length - lengths[intact]!)
    expect(fs.statSync(file).size).toBe(lengths[intact])
    for (const one of PLAIN_RECORDS.slice(intact)) checkpoint.append(one)
    checkpoint.close()
    expect(Buffer.compare(fs.readFileSync(file), whole)).toBe(0)
  }
})

test('blocks of the last record that never reached the disk: zeros are no record', () => {
  const { file, lengths } = threeLayers('zeros')
  const whole = fs.readFileSync(file)
  for (const from of [lengths[2]!, lengths[2]! + 5, lengths[3]! - 20]) {
    fs.writeFileSync(file, Buffer.from(whole).fill(0, from))
    const checkpoint = openCheckpoint(file, RUN)
    expect([...checkpoint.solved]).toEqual(['l0', 'l1'])
    checkpoint.close()
  }
})

test('any one byte changed: only whole records before it are used, or the file is refused and left as it is', () => {
  const { file, lengths } = threeLayers('bit')
  withoutSyncs()
  const whole = fs.readFileSync(file)
  for (let byte = 0; byte < whole.length; byte++) {
    if (byte === lengths[1]) byte = lengths[2]! // the second record is like the first
    const changed = Buffer.from(whole)
    changed[byte]! ^= 0x10
    fs.writeFileSync(file, changed)
    if (byte < lengths[0]!) {
      expectQtoolError('usage', () => openCheckpoint(file, RUN), file)
      expect(Buffer.compare(fs.readFileSync(file), changed)).toBe(0)
      continue
    }
    const checkpoint = openCheckpoint(file, RUN)
    expect(checkpoint.solved.size).toBe(lengths.filter((end) => end <= byte).length - 1)
    expect(checkpoint.cutOff).toBeGreaterThan(0)
    checkpoint.close()
  }
})

test('damage while it is open is found when the layer is read', () => {
  const { file, lengths } = threeLayers('later')
  const checkpoint = openCheckpoint(file, RUN)
  const fd = fs.openSync(file, 'r+')
  fs.writeSync(fd, Buffer.of(99), 0, 1, lengths[2]! - 5)
  fs.closeSync(fd)
  expect(checkpoint.read('l0')).toEqual(PLAIN_RECORDS[0])
  expectQtoolError('usage', () => checkpoint.read('l1'), /truncated or damaged/)
  checkpoint.close()
})

/** Have `before` called at every write. */
function watchWrites(before: () => void): void {
  const real = fs.writeSync
  const watched = new Proxy(real, {
    apply(target, self, parameters) {
      before()
      return Reflect.apply(target, self, parameters)
    },
  })
  vi.spyOn(fs, 'writeSync').mockImplementation(watched)
}

test('a record is on the disk before append returns', () => {
  const checkpoint = openCheckpoint(at('durable'), RUN)
  const order: string[] = []
  watchWrites(() => order.push('write'))
  vi.spyOn(fs, 'fdatasyncSync').mockImplementation(() => void order.push('sync'))
  checkpoint.append(PLAIN_RECORDS[0]!)
  expect(order.indexOf('sync')).toBeGreaterThan(0)
  expect(order.at(-1)).toBe('sync')
  checkpoint.close()
})

test('a full disk is an error, and the file still ends with a whole record', () => {
  const { file, lengths } = threeLayers('full')
  const checkpoint = openCheckpoint(file, RUN)
  let writes = 0
  watchWrites(() => {
    if (++writes === 3) throw Object.assign(new Error('no space'), { code: 'ENOSPC' })
  })
  expectQtoolError('output', () => checkpoint.append(record('l3', PLAIN)), /the disk is full/)
  vi.restoreAllMocks()
  expect(fs.statSync(file).size).toBe(lengths[3])
  checkpoint.append(record('l4', PLAIN))
  expect([...checkpoint.solved]).toEqual(['l0', 'l1', 'l2', 'l4'])
  checkpoint.close()
})

test('a checkpoint of another run says what differs and stays', () => {
  const { file } = threeLayers('other')
  const before = fs.readFileSync(file)
  const open = (part: Partial<typeof RUN>) => () => openCheckpoint(file, { ...RUN, ...part })
  const error = expectQtoolError('usage', open({ model: 'b', data: 'e' }), /another run; what differs: model, data$/)
  expect(error.hint).toContain('delete the file')
  const settings = settingsFingerprint({ order: 'natural', bits: 4, alpha: [0, 0.5] })
  expectQtoolError(
    'usage',
    open({ settings }),
    /order \(greedy instead of natural\), alpha \(not set instead of \[0,0.5\]\)/,
  )
  expect(Buffer.compare(fs.readFileSync(file), before)).toBe(0)
})

test('other files are refused and stay: another kind, another version, a directory; an empty one is begun', () => {
  fs.writeFileSync(at('model.onnx'), 'not a checkpoint but precious')
  expectQtoolError('usage', () => openCheckpoint(at('model.onnx'), RUN), /model\.onnx is another kind of file/)
  expect(fs.readFileSync(at('model.onnx'), 'utf8')).toBe('not a checkpoint but precious')
  const { file } = threeLayers('version')
  fs.writeFileSync(file, fs.readFileSync(file).fill(9, 12, 13))
  expectQtoolError('usage', () => openCheckpoint(file, RUN), /version 9 of its format, wanted version 1/)
  expectQtoolError('usage', () => openCheckpoint(temp, RUN), /not a plain file/)
  expectQtoolError('output', () => openCheckpoint(at('no/where'), RUN), /cannot write .*no\/where/)
  fs.writeFileSync(at('empty'), '')
  openCheckpoint(at('empty'), RUN).remove()
})

test('no other file is made, and remove leaves none', () => {
  const directory = fs.mkdtempSync(at('clean-'))
  const checkpoint = openCheckpoint(path.join(directory, 'run.ckpt'), RUN)
  checkpoint.append(PLAIN_RECORDS[0]!)
  expect(fs.readdirSync(directory)).toEqual(['run.ckpt'])
  checkpoint.remove()
  expect(fs.readdirSync(directory)).toEqual([])
  checkpoint.close()
})

test('misuse is found: a layer twice, one that is not there, wrong lengths, a closed checkpoint', () => {
  const checkpoint = openCheckpoint(at('misuse'), RUN)
  checkpoint.append(PLAIN_RECORDS[0]!)
  expect(() => checkpoint.append(PLAIN_RECORDS[0]!)).toThrow(RangeError)
  expect(() => checkpoint.read('l1')).toThrow(RangeError)
  const bad = record('bad', PLAIN)
  for (const part of ['codes', 'scales', 'zeroPoints'] as const) {
    const weight = { ...bad.weight, [part]: bad.weight[part]!.subarray(1) }
    expect(() => checkpoint.append({ ...bad, weight })).toThrow(RangeError)
  }
  const coding = { kind: 'vector', dim: 2 } as const
  const tables = tableRecord('bad', { rows: 3, cols: 3, groupSize: 2, bits: 4, coding, tables: 2 })
  for (const part of ['codes', 'scales', 'tables', 'tableOf'] as const) {
    const weight = { ...tables.weight, [part]: tables.weight[part].subarray(1) }
    expect(() => checkpoint.append({ ...tables, weight })).toThrow(RangeError)
  }
  const none = { ...tables.weight, tables: new Int8Array(0) }
  expect(() => checkpoint.append({ ...tables, weight: none })).toThrow(RangeError)
  checkpoint.close()
  expect(() => checkpoint.append(PLAIN_RECORDS[1]!)).toThrow(RangeError)
})

import fs from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { openStatistics } from '../../src/calibration/openStatistics.ts'
import {
  createStatistics,
  type StatisticsEntry,
  type StatsFingerprint,
  writeStatistics,
} from '../../src/calibration/statsFile.ts'
import type { InputStatistics } from '../../src/hessian/statistics.ts'
import { Temporaries } from '../../src/onnx/temporaries.ts'
import { makeRandom } from '../../src/random.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()
const at = (name: string) => path.join(temp, name)
const FINGERPRINT: StatsFingerprint = {
  model: 'a1',
  data: 'd1',
  settings: '{"seqLen":256}',
  samples: 8,
  heldOut: 2,
}
type Entries = readonly (readonly [string, StatisticsEntry])[]

/** Random statistics; every bit of a float64 is in use. */
function block(cols: number, seed: number, isSymmetric = true): InputStatistics {
  const random = makeRandom(seed)
  const gram = Float64Array.from({ length: cols * cols }, () => random.normal() / 3)
  if (isSymmetric) for (let i = 0; i < cols; i++) for (let j = 0; j < i; j++) gram[i * cols + j] = gram[j * cols + i]!
  const sum = Float64Array.from({ length: cols }, () => random.normal() * 1e3)
  return { cols, weight: random.uniform() * 1e6, gram, sum, cross: undefined, crossSum: undefined }
}

function save(name: string, entries: Entries, fingerprint: Partial<StatsFingerprint> = {}): string {
  const writer = createStatistics(at(name), { ...FINGERPRINT, ...fingerprint }, new Temporaries())
  for (const [key, entry] of entries) writer.append(key, entry)
  writer.finish()
  return at(name)
}

function readAll(...files: string[]): Entries {
  const open = openStatistics(files)
  try {
    return open.keys.map((key) => [key, open.read(key)] as const)
  } finally {
    open.close()
  }
}

/** Element by element, the obvious way. */
function sumOf(a: InputStatistics, b: InputStatistics): InputStatistics {
  const add = (x: Float64Array, y: Float64Array) => x.map((value, i) => value + y[i]!)
  return { ...a, weight: a.weight + b.weight, gram: add(a.gram, b.gram), sum: add(a.sum, b.sum) }
}

const shape = fc.record({ cols: fc.integer({ min: 1, max: 9 }), isSymmetric: fc.boolean() })
const taps = fc.array(fc.record({ fit: fc.array(shape, { maxLength: 3 }), held: fc.array(shape, { maxLength: 2 }) }), {
  maxLength: 4,
})
type Taps = typeof taps extends fc.Arbitrary<infer T> ? T : never
const entriesOf = (of: Taps, seed: number, flip = false): Entries =>
  of.map(({ fit, held }, t) => {
    const make = (blocks: typeof fit, from: number) =>
      blocks.map(({ cols, isSymmetric }, b) =>
        block(cols, seed + 100 * t + from + b, isSymmetric !== (flip && b === 0)),
      )
    return [`tap ${t} ü`, { fit: make(fit, 0), held: make(held, 50) }] as const
  })

test('what is read is what was written, bit for bit', () => {
  fc.assert(
    fc.property(taps, fc.nat(1e6), (of, seed) => {
      const entries = entriesOf(of, seed)
      expect(readAll(save('round.stats', entries))).toEqual(entries)
    }),
    { numRuns: 40 },
  )
})

test('blocks larger than the pieces in which they are copied', () => {
  const entries: Entries = [['t', { fit: [block(600, 1), block(3, 2), block(400, 3, false)], held: [block(129, 4)] }]]
  const all = (some: Entries) => some.flatMap(([, { fit, held }]) => [...fit, ...held])
  for (const [b, one] of all(readAll(save('large.stats', entries))).entries()) {
    const wanted = all(entries)[b]!
    expect([one.cols, one.weight, one.sum]).toEqual([wanted.cols, wanted.weight, wanted.sum])
    // Far faster than toEqual.
    expect(one.gram.findIndex((value, i) => !Object.is(value, wanted.gram[i]))).toBe(-1)
    expect(one.gram).toHaveLength(wanted.gram.length)
  }
})

test('numbers at the edges: NaN, infinities, -0, the smallest', () => {
  const odd = {
    ...block(2, 1),
    weight: -0,
    gram: Float64Array.of(NaN, -0, -0, Infinity),
    sum: Float64Array.of(5e-324, -0),
  }
  expect(readAll(save('odd.stats', [['t', { fit: [odd], held: [] }]]))[0]![1].fit[0]).toEqual(odd)
})

test('a symmetric matrix takes half the space', () => {
  const size = (isSymmetric: boolean) =>
    fs.statSync(save('half.stats', [['t', { fit: [block(100, 1, isSymmetric)], held: [] }]])).size
  expect(size(false) - size(true)).toBe(8 * 4950 - 2) // "square" is shorter than "triangle" by two letters
})

test('several files are their sum, in any order', () => {
  fc.assert(
    fc.property(taps, fc.boolean(), (of, flip) => {
      // flip: a block that is symmetric in one file is not in the other
      const [a, b] = [entriesOf(of, 1), entriesOf(of, 7777, flip)]
      const files = [save('a.stats', a, { data: 'da' }), save('b.stats', b, { data: 'db' })] as const
      const wanted = a.map(([key, { fit, held }], t) => {
        const other = b[t]![1]
        const add = (blocks: readonly InputStatistics[], others: readonly InputStatistics[]) =>
          blocks.map((one, i) => sumOf(one, others[i]!))
        return [key, { fit: add(fit, other.fit), held: add(held, other.held) }] as const
      })
      expect(readAll(...files)).toEqual(wanted)
      expect(readAll(files[1], files[0])).toEqual(wanted)
    }),
    { numRuns: 25 },
  )
  const three = [0, 1, 2].map((i) => save(`${i}.stats`, [['t', { fit: [block(5, i)], held: [] }]], { data: `d${i}` }))
  const [x, y, z] = three as [string, string, string]
  for (const order of [
    [x, z, y],
    [z, y, x],
  ] as const)
    expect(readAll(...order)).toEqual(readAll(x, y, z))
})

test('fingerprints come in the order of the paths', () => {
  const files = ['z', 'y'].map((data) => save(`${data}.stats`, [], { data, samples: data.charCodeAt(0) }))
  const open = openStatistics(files)
  expect(open.fingerprints.map(({ data, samples }) => [data, samples])).toEqual([
    ['z', 122],
    ['y', 121],
  ])
  open.close()
})

const SMALL: Entries = [
  ['first', { fit: [block(2, 1)], held: [] }],
  ['second', { fit: [block(1, 2)], held: [block(1, 3)] }],
]

test('a file that was cut anywhere is an error that names it', () => {
  const whole = fs.readFileSync(save('cut.stats', SMALL))
  for (let length = 0; length < whole.length; length++) {
    fs.writeFileSync(at('cut.stats'), whole.subarray(0, length))
    expectQtoolError('data', () => readAll(at('cut.stats')), at('cut.stats'))
  }
  fs.writeFileSync(at('cut.stats'), Buffer.concat([whole, Buffer.of(0)]))
  expectQtoolError('data', () => readAll(at('cut.stats')), /cut\.stats: .* truncated or damaged at byte \d+/)
})

test('a file with any one byte changed is an error that names it', () => {
  const whole = fs.readFileSync(save('bit.stats', SMALL))
  for (let byte = 0; byte < whole.length; byte++) {
    const changed = Buffer.from(whole)
    changed[byte]! ^= 1 << (byte % 8)
    fs.writeFileSync(at('bit.stats'), changed)
    expectQtoolError('data', () => readAll(at('bit.stats')), at('bit.stats'))
  }
})

test('other files: missing, a directory, another kind, another version', () => {
  expectQtoolError('data', () => openStatistics([at('none')]), /cannot read .*none: there is no such file/)
  expectQtoolError('data', () => openStatistics([temp]), /is not a plain file/)
  fs.writeFileSync(at('text'), 'some text that is longer than a prologue')
  expectQtoolError('data', () => openStatistics([at('text')]), /another kind of file, wanted calibration statistics/)
  const bytes = fs.readFileSync(save('version.stats', SMALL))
  bytes.writeUInt32LE(2, 12)
  fs.writeFileSync(at('version.stats'), bytes)
  expectQtoolError('data', () => openStatistics([at('version.stats')]), /in version 2 of its format, wanted version 1/)
})

test('files that cannot be added up, or used in this run', () => {
  const a = save('m.stats', SMALL)
  const open = (entries: Entries, fingerprint: Partial<StatsFingerprint>) => () =>
    openStatistics([a, save('n.stats', entries, { data: 'd2', ...fingerprint })])
  expectQtoolError(
    'data',
    open(SMALL, { model: 'b2' }),
    /n\.stats: statistics of another model than those of .*m\.stats/,
  )
  expectQtoolError('data', open(SMALL, { data: 'd1' }), /n\.stats and .*m\.stats hold .* same data/)
  expectQtoolError('data', open(SMALL, { settings: '{"seqLen":512}' }), /n\.stats: .*seqLen \(512 instead of 256\)/)
  expectQtoolError('data', open(SMALL.slice(0, 1), {}), /n\.stats: lacks second, which .*m\.stats has/)
  expectQtoolError('data', open([...SMALL, ['third', SMALL[0]![1]]], {}), /n\.stats: has third, which .*m\.stats lacks/)
  const other: Entries = [SMALL[0]!, ['second', { ...SMALL[1]![1], held: [block(2, 3)] }]]
  expectQtoolError('data', open(other, {}), /n\.stats: second has other sizes than in .*m\.stats/)
  const wanted = (part: Partial<StatsFingerprint>) => () => openStatistics([a], { ...FINGERPRINT, ...part }).close()
  expect(wanted({})).not.toThrow()
  expect(() => openStatistics([a], { model: FINGERPRINT.model }).close()).not.toThrow()
  expectQtoolError('data', wanted({ model: 'x' }), /m\.stats: statistics of another model than this run's/)
  expectQtoolError(
    'data',
    wanted({ settings: '{"seqLen":1}' }),
    /m\.stats: .* than this run's: seqLen \(256 instead of 1\)/,
  )
})

test('a file appears whole or not at all, and nothing temporary stays', async () => {
  const directory = fs.mkdtempSync(at('whole-'))
  const file = path.join(directory, 's.stats')
  async function* failing() {
    yield SMALL[0]!
    expect(fs.readdirSync(directory)).toEqual([expect.stringMatching(/^\.s\.stats\.\d+\.[0-9a-f]+\.tmp$/)])
    throw new Error('no more samples')
  }
  await expect(writeStatistics(file, FINGERPRINT, failing(), new Temporaries())).rejects.toThrow('no more samples')
  expect(fs.readdirSync(directory)).toEqual([])
  await writeStatistics(file, FINGERPRINT, SMALL, new Temporaries())
  expect(fs.readdirSync(directory)).toEqual(['s.stats'])
  expect(readAll(file)).toEqual(SMALL)
  fs.mkdirSync(path.join(directory, 'taken'))
  const taken = writeStatistics(path.join(directory, 'taken'), FINGERPRINT, SMALL, new Temporaries())
  await expect(taken).rejects.toMatchObject({ code: 'output' })
  expect(fs.readdirSync(directory)).toEqual(['s.stats', 'taken'])
})

test('misuse is found: a tap twice, drift, wrong lengths, a tap that is not there, a closed file', () => {
  const writer = createStatistics(at('misuse.stats'), FINGERPRINT, new Temporaries())
  const entry = (fit: InputStatistics): StatisticsEntry => ({ fit: [fit], held: [] })
  writer.append('t', entry(block(2, 1)))
  expect(() => writer.append('t', entry(block(2, 1)))).toThrow(RangeError)
  expect(() => writer.append('u', entry({ ...block(2, 1), cross: new Float64Array(4) }))).toThrow(RangeError)
  expect(() => writer.append('v', entry({ ...block(2, 1), cols: 3 }))).toThrow(RangeError)
  expect(() => writer.append('w', entry({ ...block(2, 1), gram: new Float64Array(3) }))).toThrow(RangeError)
  writer.discard()
  const open = openStatistics([save('misuse.stats', SMALL)])
  expect(() => open.read('nowhere')).toThrow(RangeError)
  open.close()
  expect(() => open.read('first')).toThrow(RangeError)
})

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Dtype, isDtype, type NdArray } from '../../src/data/ndArray.ts'
import { decodeNpy, encodeNpy } from '../../src/data/npy.ts'
import { npyFile, writeNpy } from '../oracles/npy.ts'
import { allocatedBy, expectError, onlyDataErrors } from './expectError.ts'

const CODES: Record<string, Dtype> = {
  b1: 'bool',
  i1: 'int8',
  u1: 'uint8',
  i2: 'int16',
  u2: 'uint16',
  i4: 'int32',
  u4: 'uint32',
  i8: 'int64',
  u8: 'uint64',
  f2: 'float16',
  f4: 'float32',
  f8: 'float64',
}

/** A value of the type, from 64 random bits. */
function numberOf(code: string, bits: bigint): number | bigint {
  const size = Number(code[1]) * 8
  if (code === 'b1') return bits & 1n
  if (code[0] === 'i') return BigInt.asIntN(size, bits)
  if (code[0] === 'u' || code === 'f2') return BigInt.asUintN(size, bits)
  return Number(BigInt.asIntN(24, bits)) / 64
}

const arrays = fc
  .record({
    code: fc.constantFrom(...Object.keys(CODES)),
    shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }),
    version: fc.constantFrom(1 as const, 2 as const, 3 as const),
    bigEndian: fc.boolean(),
    fortranOrder: fc.boolean(),
    seed: fc.bigInt({ min: 1n, max: 2n ** 64n - 1n }),
  })
  .map(({ seed, ...rest }) => {
    const count = rest.shape.reduce((a, b) => a * b, 1)
    const values = Array.from({ length: count }, (_, i) =>
      numberOf(rest.code, BigInt.asUintN(64, seed * BigInt(2 * i + 1) * 0x9e3779b97f4a7c15n)),
    )
    return { ...rest, values }
  })

function valuesOf(array: NdArray): string[] {
  return Array.from(array.data as Float64Array, String)
}

describe('decodeNpy', () => {
  it('reads literal bytes as numpy writes them', () => {
    // numpy.save of numpy.array([[1, 2], [3, 4]], '<i2')
    const hex =
      '934e554d505901007600' +
      Buffer.from(`${"{'descr': '<i2', 'fortran_order': False, 'shape': (2, 2), }".padEnd(117)}\n`).toString('hex') +
      '0100020003000400'
    const array = decodeNpy(Buffer.from(hex, 'hex'), 'x.npy')
    expect(array).toEqual({ dtype: 'int16', shape: [2, 2], data: Int16Array.of(1, 2, 3, 4) })
  })

  it('equals the oracle for every type, byte order, axis order and version', () => {
    fc.assert(
      fc.property(arrays, ({ code, shape, values, ...options }) => {
        const array = decodeNpy(writeNpy(code, shape, values, options), 'x.npy')
        expect(array.dtype).toBe(CODES[code])
        expect(array.shape).toEqual(shape)
        expect(valuesOf(array)).toEqual(values.map(String))
      }),
      { numRuns: 500 },
    )
  })

  it('reads a scalar, long ints of Python 2, and entries in any order', () => {
    expect(decodeNpy(writeNpy('f8', [], [2.5]), 'x').data).toEqual(Float64Array.of(2.5))
    const odd = npyFile('{"shape": (2L,), "fortran_order": False, "descr": "|u1"}', Uint8Array.of(7, 8))
    expect(decodeNpy(odd, 'x')).toMatchObject({ shape: [2], data: Uint8Array.of(7, 8) })
  })

  it('reads at any alignment', () => {
    const file = writeNpy('f8', [3], [1, 2, 3])
    const shifted = Buffer.concat([Buffer.from([0]), file]).subarray(1)
    expect(decodeNpy(shifted, 'x').data).toEqual(Float64Array.of(1, 2, 3))
  })

  it('takes any byte but 0 for true', () => {
    expect(decodeNpy(writeNpy('b1', [3], [0, 1, 255]), 'x').data).toEqual(Uint8Array.of(0, 1, 1))
  })

  it('refuses what a model cannot be fed, and says what it is', () => {
    const dict = (descr: string) =>
      npyFile(`{'descr': ${descr}, 'fortran_order': False, 'shape': (1,), }`, Buffer.alloc(8))
    expectError(() => decodeNpy(dict("'|O'"), 'a.npy'), 'data', 'a.npy', 'Python objects')
    expectError(() => decodeNpy(dict("'<U2'"), 'a.npy'), 'data', 'a.npy', 'text')
    expectError(() => decodeNpy(dict("'|S8'"), 'a.npy'), 'data', 'a.npy', 'byte strings')
    expectError(() => decodeNpy(dict("'<c8'"), 'a.npy'), 'data', 'a.npy', 'complex')
    expectError(() => decodeNpy(dict("'<M8[ns]'"), 'a.npy'), 'data', 'a.npy', 'dates')
    expectError(() => decodeNpy(dict("'<f16'"), 'a.npy'), 'data', 'a.npy', 'f16')
    expectError(() => decodeNpy(dict("[('x', '<f4'), ('y', '<f4')]"), 'a.npy'), 'data', 'a.npy', 'structured')
  })

  it('refuses damaged files', () => {
    const file = writeNpy('f4', [2, 3], [1, 2, 3, 4, 5, 6])
    expectError(() => decodeNpy(file.subarray(0, -1), 'a.npy'), 'data', 'a.npy', '24 bytes, but 23')
    expectError(() => decodeNpy(Buffer.concat([file, Buffer.from([0])]), 'a.npy'), 'data', '24 bytes, but 25')
    expectError(() => decodeNpy(file.subarray(0, 40), 'a.npy'), 'data', 'header')
    expectError(() => decodeNpy(file.subarray(0, 9), 'a.npy'), 'data', 'not a .npy')
    expectError(() => decodeNpy(Buffer.alloc(0), 'a.npy'), 'data', 'not a .npy')
    expectError(() => decodeNpy(Buffer.from('PK\x03\x04 something else'), 'a.npy'), 'data', 'not a .npy')
    expectError(() => decodeNpy(npyFile("{'descr': '<f4'}", Buffer.alloc(0)), 'a.npy'), 'data', 'fortran_order')
    expectError(() => decodeNpy(npyFile('import os', Buffer.alloc(0)), 'a.npy'), 'data', 'no dict')
    const version = Buffer.from(file)
    version[6] = 9
    expectError(() => decodeNpy(version, 'a.npy'), 'data', '9.0')
  })

  it('allocates nothing for a header that promises more than there is', () => {
    for (const order of ['False', 'True']) {
      for (const shape of [
        '(268435456,)',
        '(16384, 16384)',
        '(9007199254740991, 9007199254740991)',
        '(0, 99999999999999999999)',
      ]) {
        const lie = npyFile(`{'descr': '>f8', 'fortran_order': ${order}, 'shape': ${shape}, }`, Buffer.alloc(8))
        expect(allocatedBy(() => expectError(() => decodeNpy(lie, 'a.npy'), 'data', 'a.npy'))).toBeLessThan(2 ** 20)
      }
    }
    const lie = Buffer.from(writeNpy('f4', [1], [1], { version: 2 }))
    lie.writeUInt32LE(0xfffffff0, 8)
    expect(allocatedBy(() => expectError(() => decodeNpy(lie, 'a.npy'), 'data', 'truncated'))).toBeLessThan(2 ** 20)
    const deep = npyFile(
      `{'descr': '|u1', 'fortran_order': True, 'shape': (${'1, '.repeat(20000)}), }`,
      Buffer.alloc(1),
    )
    expectError(() => decodeNpy(deep, 'a.npy'), 'data', 'shape')
  })

  it('meets mutated bytes with nothing but QtoolError data', () => {
    fc.assert(
      fc.property(
        arrays,
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        fc.nat(200),
        ({ code, shape, values, ...options }, changes, cut) => {
          const file = Buffer.from(writeNpy(code, shape, values, options))
          for (const [at, byte] of changes) file[at % Math.min(file.length, 140)] = byte
          onlyDataErrors(() => decodeNpy(cut < 50 ? file.subarray(0, file.length - cut) : file, 'a.npy'))
        },
      ),
      { numRuns: 3000 },
    )
  })
})

describe('encodeNpy', () => {
  it('writes the bytes of the oracle, and reads back', () => {
    fc.assert(
      fc.property(arrays, ({ code, shape, values }) => {
        const expected = writeNpy(code, shape, values)
        const array = decodeNpy(expected, 'x.npy')
        const written = encodeNpy(array)
        expect(Buffer.from(written).equals(expected)).toBe(true)
        expect(decodeNpy(written, 'x.npy')).toEqual(array)
      }),
    )
  })
})

it('knows its types by name', () => {
  for (const dtype of Object.values(CODES)) expect(isDtype(dtype)).toBe(true)
  expect(isDtype('toString')).toBe(false)
})

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { checkConvertible, convertElements } from '../../src/data/convert.ts'
import { layOut } from '../../src/data/layout.ts'
import type { Dtype, NdArray, NdData } from '../../src/data/ndArray.ts'
import { channelTransform, checkNormalization } from '../../src/data/normalize.ts'
import { expectError } from './expectError.ts'

function vector(dtype: Dtype, data: NdData): NdArray {
  return { dtype, shape: [data.length], data }
}

function convert(from: Dtype, data: NdData, to: Dtype): NdData {
  const array = vector(from, data)
  checkConvertible(array, to, 'x')
  return convertElements(array, 0, data.length, to)
}

describe('convertElements', () => {
  it('converts between the types', () => {
    expect(convert('float64', Float64Array.of(0.1, -3), 'float32')).toEqual(Float32Array.of(0.1, -3))
    expect(convert('uint8', Uint8Array.of(0, 255), 'float32')).toEqual(Float32Array.of(0, 255))
    expect(convert('int32', Int32Array.of(-1, 7), 'int64')).toEqual(BigInt64Array.of(-1n, 7n))
    expect(convert('int64', BigInt64Array.of(-1n, 7n), 'float32')).toEqual(Float32Array.of(-1, 7))
    expect(convert('int64', BigInt64Array.of(-128n, 127n), 'int8')).toEqual(Int8Array.of(-128, 127))
    expect(convert('uint64', BigUint64Array.of(3n), 'int64')).toEqual(BigInt64Array.of(3n))
    expect(convert('float32', Float32Array.of(2, -5), 'int64')).toEqual(BigInt64Array.of(2n, -5n))
    expect(convert('float32', Float32Array.of(1, -2, 65504, Infinity), 'float16')).toEqual(
      Uint16Array.of(0x3c00, 0xc000, 0x7bff, 0x7c00),
    )
    expect(convert('float16', Uint16Array.of(0x3c00, 0xc000, 0x0001), 'float32')).toEqual(
      Float32Array.of(1, -2, 2 ** -24),
    )
    expect(convert('float16', Uint16Array.of(0x3c00, 0xc000), 'int32')).toEqual(Int32Array.of(1, -2))
    expect(convert('int64', BigInt64Array.of(0n, 1n), 'bool')).toEqual(Uint8Array.of(0, 1))
    expect(convert('bool', Uint8Array.of(0, 1), 'float32')).toEqual(Float32Array.of(0, 1))
    expect(convert('int64', BigInt64Array.of(1n), 'float16')).toEqual(Uint16Array.of(0x3c00))
  })

  it('is a view where nothing changes', () => {
    const data = Float32Array.of(1, 2, 3, 4)
    const part = convertElements(vector('float32', data), 1, 3, 'float32')
    expect(part).toEqual(Float32Array.of(2, 3))
    expect(part.buffer).toBe(data.buffer)
  })

  it('refuses values that the type does not have, and shows the first', () => {
    expectError(() => convert('float32', Float32Array.of(1, 1.5), 'int64'), 'data', 'x', '1.5', 'element 1')
    expectError(() => convert('float32', Float32Array.of(Number.NaN), 'int32'), 'data', 'NaN')
    expectError(() => convert('int64', BigInt64Array.of(2n ** 31n), 'int32'), 'data', '2147483648')
    expectError(() => convert('int32', Int32Array.of(-1), 'uint8'), 'data', '-1')
    expectError(() => convert('int32', Int32Array.of(256), 'uint8'), 'data', '256')
    expectError(() => convert('int64', BigInt64Array.of(2n), 'bool'), 'data', '2')
    expectError(() => convert('uint64', BigUint64Array.of(2n ** 63n), 'int64'), 'data', '9223372036854775808')
    expectError(() => convert('int64', BigInt64Array.of(-1n), 'uint64'), 'data', '-1')
    expectError(() => convert('float64', Float64Array.of(2 ** 60), 'int64'), 'data', 'element 0')
    expectError(() => convert('float64', Float64Array.of(1e39), 'float32'), 'data', '1e+39')
    expectError(() => convert('float64', Float64Array.of(65520), 'float16'), 'data', '65520')
    expectError(() => convert('int32', Int32Array.of(-65520), 'float16'), 'data', '-65520')
    expect(convert('float64', Float64Array.of(65519), 'float16')).toEqual(Uint16Array.of(0x7bff))
  })

  it('keeps every integer that the target type has, and refuses every other', () => {
    const types = {
      int8: [-128n, 127n],
      uint8: [0n, 255n],
      int16: [-32768n, 32767n],
      uint32: [0n, 2n ** 32n - 1n],
    } as const
    fc.assert(
      fc.property(
        fc.constantFrom('int8', 'uint8', 'int16', 'uint32'),
        fc.bigInt({ min: -(2n ** 34n), max: 2n ** 34n }),
        fc.nat(34),
        (type, big, shift) => {
          const value = big >> BigInt(shift)
          const [low, high] = types[type]
          const run = () => convert('int64', BigInt64Array.of(value), type)
          if (value < low || value > high) expectError(run, 'data', String(value))
          else expect(run()[0]).toBe(Number(value))
        },
      ),
    )
  })
})

describe('normalization', () => {
  const image = { name: 'image', elementType: 'float', dims: ['batch', 3, 2, 2] }
  const normalization = { scale: 1 / 255, mean: [0.5, 0.25, 0], std: [0.5, 1, 2] }
  const pixels = Uint8Array.from({ length: 24 }, (_, i) => i * 10)
  /** (x · scale − mean) / std with the channel that the index names. */
  const expected = (channel: (i: number) => number) =>
    Float32Array.from(pixels, (x, i) => (x / 255 - normalization.mean[channel(i)]!) / normalization.std[channel(i)]!)

  const normalized = (input: typeof image, shape: number[]) => {
    const array: NdArray = { dtype: 'uint8', shape, data: pixels }
    const column = layOut(new Map([[input, array]]), 'x').columns[0]!
    const transform = channelTransform(normalization, column)
    const whole = convertElements(array, 0, 24, 'float32', transform)
    expect(convertElements(array, 12, 24, 'float32', transform)).toEqual(whole.subarray(12))
    return whole as Float32Array
  }
  const expectClose = (found: Float32Array, wanted: Float32Array) => {
    for (const [i, value] of wanted.entries()) expect(found[i]).toBeCloseTo(value, 6)
  }

  it('rescales channels along axis 1', () => {
    expectClose(
      normalized(image, [2, 3, 2, 2]),
      expected((i) => Math.floor(i / 4) % 3),
    )
    expectClose(
      normalized(image, [1, 2, 3, 2, 2]),
      expected((i) => Math.floor(i / 4) % 3),
    )
  })

  it('rescales channels along the last axis when only that fits', () => {
    expectClose(
      normalized({ ...image, dims: ['batch', 2, 2, 3] }, [2, 2, 2, 3]),
      expected((i) => i % 3),
    )
  })

  it('refuses what makes no sense', () => {
    expectError(() => normalized({ ...image, dims: ['batch', 4, 6] }, [1, 4, 6]), 'data', 'image', '3 numbers')
    expectError(() => checkNormalization({ ...image, elementType: 'int64' }, {}), 'usage', 'image')
    expectError(() => checkNormalization(image, { std: [1, 0] }), 'usage', 'std')
    expectError(() => checkNormalization(image, { scale: Number.NaN }), 'usage', 'finite')
    expectError(() => checkNormalization(image, { mean: [1, 2], std: [1, 2, 3] }), 'usage', 'mean has 2')
    checkNormalization(image, { mean: [1, 2, 3], std: [2] })
  })
})

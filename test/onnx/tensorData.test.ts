import { describe, expect, test } from 'vitest'
import type { Payload } from '../../src/onnx/model.ts'
import { DataType, type TensorProto } from '../../src/onnx/proto.ts'
import {
  elementBits,
  elementBytes,
  elementCount,
  elementTypeName,
  readPayload,
  tensorByteLength,
  tensorBytes,
} from '../../src/onnx/tensorData.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { makeTensor } from '../helpers/smallModels.ts'

const bytesOf = (tensor: TensorProto) => [...tensorBytes({ payloads: new Map() }, tensor)]

describe('element types', () => {
  test('names and sizes', () => {
    expect(elementTypeName(DataType.FLOAT8E4M3FN)).toBe('float8e4m3fn')
    expect(elementTypeName(99)).toBe('type 99')
    const types = Object.values(DataType).filter((type) => typeof type === 'number')
    const sizeless = types.filter((type) => elementBits(type) === undefined)
    expect(sizeless).toEqual([DataType.UNDEFINED, DataType.STRING])
    const sizes = { bool: 1, double: 8, complex128: 16, bfloat16: 2, uint4: 0.5, int2: 0.25, float4e2m1: 0.5 }
    for (const [name, size] of Object.entries(sizes)) {
      expect(elementBytes(types.find((type) => elementTypeName(type) === name)!), name).toBe(size)
    }
  })

  test('elements and bytes of a tensor', () => {
    const tensor = (dims: bigint[], dataType: number = DataType.FLOAT) => makeTensor({ name: 't', dims, dataType })
    expect(elementCount(tensor([]))).toBe(1)
    expect(elementCount(tensor([3n, 0n, 2n ** 62n, 2n ** 62n]))).toBe(0)
    expect(tensorByteLength(tensor([3n, 5n]))).toBe(60)
    expect(tensorByteLength(tensor([3n, 3n], DataType.UINT4))).toBe(5)
    expect(tensorByteLength(tensor([3n, 3n], DataType.INT2))).toBe(3)
    expectQtoolError('model', () => elementCount(tensor([2n, -1n])), "tensor 't'", 'negative dimension -1')
    expectQtoolError('model', () => elementCount(tensor([2n ** 31n, 2n ** 31n])), 'too large')
    expectQtoolError('model', () => tensorByteLength(tensor([2n ** 52n])), 'too large')
    expectQtoolError('model', () => tensorByteLength(tensor([1n], DataType.STRING)), 'string')
  })
})

describe('raw bytes of typed fields', () => {
  test.each<[string, Parameters<typeof makeTensor>[0], number[]]>([
    ['float', { dataType: DataType.FLOAT, floatData: [1, -2] }, [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]],
    ['double', { dataType: DataType.DOUBLE, doubleData: [1] }, [0, 0, 0, 0, 0, 0, 0xf0, 0x3f]],
    ['complex64', { dataType: DataType.COMPLEX64, floatData: [1, -2] }, [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]],
    ['int32', { dataType: DataType.INT32, int32Data: [-2] }, [0xfe, 0xff, 0xff, 0xff]],
    ['int16', { dataType: DataType.INT16, int32Data: [-2, 258] }, [0xfe, 0xff, 2, 1]],
    ['float16', { dataType: DataType.FLOAT16, int32Data: [0x3c00] }, [0, 0x3c]],
    ['bfloat16', { dataType: DataType.BFLOAT16, int32Data: [0xbf80] }, [0x80, 0xbf]],
    ['int8', { dataType: DataType.INT8, int32Data: [-1, 127] }, [0xff, 0x7f]],
    ['uint8', { dataType: DataType.UINT8, int32Data: [255, 1] }, [0xff, 1]],
    ['bool', { dataType: DataType.BOOL, int32Data: [1, 0] }, [1, 0]],
    ['uint4, two to a number', { dataType: DataType.UINT4, int32Data: [0x21, 0x03] }, [0x21, 0x03]],
    ['int64', { dataType: DataType.INT64, int64Data: [-1n] }, Array(8).fill(0xff)],
    ['uint64', { dataType: DataType.UINT64, uint64Data: [2n ** 63n] }, [0, 0, 0, 0, 0, 0, 0, 0x80]],
    ['uint32', { dataType: DataType.UINT32, uint64Data: [2n ** 32n - 2n] }, [0xfe, 0xff, 0xff, 0xff]],
  ])('%s', (_, fields, bytes) => {
    expect(bytesOf(makeTensor(fields))).toEqual(bytes)
  })

  test('raw_data and payloads come as they are', () => {
    const rawData = Uint8Array.of(1, 2, 3, 4)
    const tensor = makeTensor({ dataType: DataType.FLOAT, rawData })
    expect(tensorBytes({ payloads: new Map() }, tensor)).toBe(rawData)
    const bytes = Uint8Array.of(9, 9)
    const payload: Payload = { kind: 'memory', byteLength: 2, bytes }
    expect(tensorBytes({ payloads: new Map([[tensor, payload]]) }, tensor)).toBe(bytes)
  })
})

test('readPayload fills what it is given, and nothing else', () => {
  const payload: Payload = { kind: 'memory', byteLength: 3, bytes: Uint8Array.of(1, 2, 3) }
  const into = new Uint8Array(3)
  expect(readPayload(payload, into)).toBe(into)
  expect([...into]).toEqual([1, 2, 3])
  expect(() => readPayload(payload, new Uint8Array(4))).toThrow(RangeError)
  expect(() => readPayload({ kind: 'planned', byteLength: 3 })).toThrow(/planned/)
  const missing: Payload = { kind: 'file', byteLength: 3, path: 'no/such/file', offset: 0 }
  expectQtoolError('model', () => readPayload(missing), 'cannot read no/such/file', 'no such file')
})

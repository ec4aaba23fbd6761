import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { QtoolError } from '../../src/errors.ts'
import { encodeModel } from '../../src/onnx/proto.ts'
import { openSession } from '../../src/runtime/session.ts'
import { buildModel, constant, DataType, floatWeight, makeNode, tensor, valueInfo, writeModel } from '../eval/models.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const directory = useTempDir()
const threads = { threads: 1 }

async function errorOf(promise: Promise<unknown>): Promise<QtoolError> {
  const error = await promise.then(
    () => undefined,
    (e: unknown) => e,
  )
  expect(error).toBeInstanceOf(QtoolError)
  const { message } = error as QtoolError
  expect(message).not.toMatch(/\n|onnxruntime_src|\.cc:|\.h:|::/)
  return error as QtoolError
}

/** y = reshape(x · w, [2, 3]): runs with a batch of two only. */
const product = buildModel({
  inputs: [valueInfo('x', ['batch', 4])],
  outputs: [valueInfo('y', [2, 3])],
  initializers: [floatWeight('w', [4, 3], 1), constant('shape', [2], BigInt64Array.of(2n, 3n), DataType.INT64)],
  nodes: [
    makeNode('MatMul', ['x', 'w'], ['h'], { name: 'mm' }),
    makeNode('Reshape', ['h', 'shape'], ['y'], { name: 'to 2x3' }),
  ],
})

describe('openSession', () => {
  it('describes inputs and outputs in ONNX terms', async () => {
    const types = [DataType.FLOAT, DataType.FLOAT16, DataType.DOUBLE, DataType.INT64, DataType.BOOL] as const
    const model = buildModel({
      inputs: types.map((type, i) => valueInfo(`i${i}`, ['batch', '', 3], type)),
      outputs: types.map((type, i) => valueInfo(`o${i}`, ['batch', '', 3], type)),
      nodes: types.map((_, i) => makeNode('Identity', [`i${i}`], [`o${i}`])),
    })
    const session = await openSession({ bytes: encodeModel(model), path: 'm.onnx' }, threads)
    expect(session.inputs.map((i) => i.elementType)).toEqual(['float', 'float16', 'double', 'int64', 'bool'])
    expect(session.outputs.map((o) => o.elementType)).toEqual(['float', 'float16', 'double', 'int64', 'bool'])
    expect(session.inputs[0]).toEqual({ name: 'i0', elementType: 'float', dims: ['batch', undefined, 3] })
    await session.dispose()
    await session.dispose()
  })

  it('carries numbers of every type through unchanged, views of a larger array too', async () => {
    const cases = [
      tensor('float', [2], new Float32Array([9, 1.5, -2]).subarray(1)),
      tensor('float16', [2], new Uint16Array([0, 0x3e00, 0xc000]).subarray(1)),
      tensor('double', [2], new Float64Array([9, 1e300, -0]).subarray(1)),
      tensor('int64', [2], new BigInt64Array([0n, 2n ** 60n, -1n]).subarray(1)),
      tensor('uint64', [2], BigUint64Array.of(2n ** 64n - 1n, 0n)),
      tensor('int32', [2], Int32Array.of(-5, 7)),
      tensor('uint32', [2], Uint32Array.of(4e9, 7)),
      tensor('int16', [2], Int16Array.of(-5, 7)),
      tensor('uint16', [2], Uint16Array.of(65535, 7)),
      tensor('int8', [2], Int8Array.of(-5, 7)),
      tensor('uint8', [2], Uint8Array.of(255, 7)),
      tensor('bool', [2], Uint8Array.of(1, 0)),
    ]
    const onnxType = [1, 10, 11, 7, 13, 6, 12, 5, 4, 3, 2, 9]
    const model = buildModel({
      inputs: cases.map((_, i) => valueInfo(`i${i}`, [2], onnxType[i])),
      outputs: cases.map((_, i) => valueInfo(`o${i}`, [2], onnxType[i])),
      nodes: cases.map((_, i) => makeNode('Identity', [`i${i}`], [`o${i}`])),
    })
    const session = await openSession({ bytes: encodeModel(model), path: 'm.onnx' }, threads)
    const feeds = new Map(cases.map((value, i) => [`i${i}`, value]))
    const results = await session.run(feeds)
    cases.forEach((value, i) => {
      const { type, dims, data } = results.get(`o${i}`)!
      expect({ type, dims, data: [...data] }).toEqual({ type: value.type, dims: [2], data: [...value.data] })
      expect(data.constructor).toBe(value.data.constructor)
    })
    expect([...(await session.run(feeds, ['o3'])).keys()]).toEqual(['o3'])
    await session.dispose()
  })

  it('reads external data of bytes from the folder it is told', async () => {
    const w = Float32Array.of(1, 2, 3, 4)
    fs.writeFileSync(path.join(directory, 'weights.bin'), w)
    const model = buildModel({
      inputs: [valueInfo('x', [1, 2])],
      outputs: [valueInfo('y', [1, 2])],
      initializers: [floatWeight('w', [2, 2], 1)],
      nodes: [makeNode('MatMul', ['x', 'w'], ['y'])],
    })
    const [weight] = model.graph!.initializer
    weight!.rawData = new Uint8Array(0)
    weight!.dataLocation = 1
    weight!.externalData = [{ $typeName: 'onnx.StringStringEntryProto', key: 'location', value: 'weights.bin' }]
    const source = { bytes: encodeModel(model), path: 'm.onnx', folder: directory }
    const session = await openSession(source, threads)
    const results = await session.run(new Map([['x', tensor('float', [1, 2], Float32Array.of(1, 1))]]))
    expect([...results.get('y')!.data]).toEqual([4, 6])
    await session.dispose()
  })

  it('leaves out outputs that are not tensors of numbers', async () => {
    const sequence = { case: 'sequenceType' as const, value: { elemType: valueInfo('', []).type } }
    const model = buildModel({
      inputs: [valueInfo('x', [2])],
      outputs: [valueInfo('y', [2]), { name: 's', type: { value: sequence } } as never],
      nodes: [makeNode('Relu', ['x'], ['y']), makeNode('SequenceConstruct', ['x'], ['s'])],
    })
    const session = await openSession({ bytes: encodeModel(model), path: 'm.onnx' }, threads)
    expect(session.otherOutputs).toEqual(['s'])
    const results = await session.run(new Map([['x', tensor('float', [2], Float32Array.of(-1, 1))]]))
    expect([...results.keys()]).toEqual(['y'])
    await session.dispose()
  })

  it.each([
    ['missing', undefined, /exist/],
    ['garbage', Buffer.from('no model at all'), /Protobuf|parsing/],
    ['empty', Buffer.alloc(0), /graph/],
  ])('says in one line why a %s file does not load', async (name, content, pattern) => {
    const file = path.join(directory, `${name}.onnx`)
    if (content) fs.writeFileSync(file, content)
    const error = await errorOf(openSession(file, threads))
    expect(error.code).toBe('model')
    expect(error.message).toContain(file)
    expect(error.message).toMatch(pattern)
  })

  it('names the node that the runtime rejects', async () => {
    const model = buildModel({
      inputs: [valueInfo('x', [2])],
      outputs: [valueInfo('y', [2])],
      nodes: [makeNode('NoSuchOperator', ['x'], ['y'], { name: 'odd one' })],
    })
    const error = await errorOf(openSession(writeModel(directory, 'odd.onnx', model), threads))
    expect(error.message).toContain('odd one')
  })

  it('explains a type that does not reach JavaScript', async () => {
    const model = buildModel({
      inputs: [valueInfo('x', [2])],
      outputs: [valueInfo('y', [2], DataType.BFLOAT16)],
      nodes: [makeNode('Cast', ['x'], ['y'], { attributes: { to: DataType.BFLOAT16 } })],
    })
    const error = await errorOf(openSession({ bytes: encodeModel(model), path: 'm.onnx' }, threads))
    expect(error.code).toBe('model')
    expect(error.message).toMatch(/element type 16/)
  })
})

describe('run', () => {
  const x = (dims: number[], type: 'float' | 'double' = 'float') => {
    const size = dims.reduce((a, b) => a * b, 1)
    return new Map([['x', tensor(type, dims, type === 'float' ? new Float32Array(size) : new Float64Array(size))]])
  }

  it.each([
    ['a missing input', new Map(), /input x is needed/],
    ['a wrong element type', x([2, 4], 'double'), /input x wants float, got double/],
    ['a wrong dimension', x([2, 5]), /x.*Got: 5 Expected: 4/],
    ['a wrong rank', x([4]), /rank.*x/],
    [
      'data that is not as long as its shape says',
      new Map([['x', tensor('float', [2, 4], new Float32Array(3))]]),
      /input x/,
    ],
    ['a node that fails', x([3, 4]), /node to 2x3 \(Reshape\) failed/],
  ])('blames the data for %s', async (_, feeds, pattern) => {
    const session = await openSession({ bytes: encodeModel(product), path: 'm.onnx' }, threads)
    const error = await errorOf(session.run(feeds))
    expect(error.code).toBe('data')
    expect(error.message).toMatch(pattern)
    expect((await session.run(x([2, 4]))).get('y')!.dims).toEqual([2, 3])
    await session.dispose()
  })
})

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { OnnxModel } from '../../src/onnx/model.ts'
import { DataType, makeModel, makeTensor, type TensorProto } from '../../src/onnx/proto.ts'
import { floatToBfloat16, floatToHalf } from '../../src/quant/float16.ts'
import { dotVectors, editVectors, readVectors, writeVectors } from '../../src/rsq/constantVectors.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'

const empty = (): OnnxModel => ({ path: 'm', proto: makeModel({}), payloads: new Map(), files: [] })

function doubles(dims: readonly number[], at: (i: number) => number = (i) => Math.sin(i)): TensorProto {
  const count = dims.reduce((a, b) => a * b, 1)
  return makeTensor({
    name: 't',
    dims: dims.map(BigInt),
    dataType: DataType.DOUBLE,
    doubleData: Array.from({ length: count }, (_, i) => at(i)),
  })
}

/** Flat index of element k of vector j, by counting through all places. */
function placeOf(dims: readonly number[], axis: number, j: number, k: number): number {
  const rest = dims.filter((_, i) => i !== axis)
  const index: number[] = []
  let left = j
  for (const dim of [...rest].reverse()) {
    index.unshift(left % dim)
    left = Math.floor(left / dim)
  }
  index.splice(axis, 0, k)
  return index.reduce((flat, at, i) => flat * dims[i]! + at, 0)
}

const shapes = fc
  .array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 })
  .chain((dims) => fc.record({ dims: fc.constant(dims), axis: fc.nat(dims.length - 1) }))

describe('vectors of a constant', () => {
  it('are those along the axis, and go back to their places', () => {
    fc.assert(
      fc.property(shapes, ({ dims, axis }) => {
        const model = empty()
        const tensor = doubles(dims)
        const vectors = readVectors(model, tensor, axis)
        const width = dims[axis]!
        vectors.forEach((value, at) => {
          if (value !== Math.sin(placeOf(dims, axis, Math.floor(at / width), at % width))) throw new Error(`at ${at}`)
        })
        const target = makeTensor({ name: 'u', dims: tensor.dims, dataType: DataType.DOUBLE })
        writeVectors(model, target, axis, vectors)
        expect(readVectors(model, target, 0)).toEqual(readVectors(model, tensor, 0))
      }),
      { numRuns: 60 },
    )
  })

  it('are the same in slabs as whole, first axis and last', () => {
    const model = empty()
    for (const axis of [0, 1, 2]) {
      const dims = [2, 3, 4]
      dims[axis] = 70_000
      const tensor = doubles(dims, (i) => (i * 7919) % 1009)
      const target = makeTensor({ name: 'u', dims: tensor.dims, dataType: DataType.DOUBLE })
      let seen = 0
      editVectors(model, tensor, target, axis, (vectors) => {
        seen += vectors.length / 70_000
        for (let at = 0; at < vectors.length; at += 70_000) vectors[at]! += 1
      })
      expect(seen).toBe(dims.reduce((a, b) => a * b, 1) / 70_000)
      const before = readVectors(model, tensor, axis)
      for (let at = 0; at < before.length; at += 70_000) before[at]! += 1
      expect(Buffer.compare(Buffer.from(readVectors(model, target, axis).buffer), Buffer.from(before.buffer))).toBe(0)
    }
  })

  it.each([
    [DataType.FLOAT, Math.fround],
    [DataType.FLOAT16, (x: number) => decoded(DataType.FLOAT16, floatToHalf(x))],
    [DataType.BFLOAT16, (x: number) => decoded(DataType.BFLOAT16, floatToBfloat16(x))],
  ])('are rounded once to element type %i', (dataType, round) => {
    const model = empty()
    const vectors = Float64Array.from({ length: 1200 }, (_, i) => Math.sin(i) * 1.0000001 ** i)
    const tensor = makeTensor({ name: 't', dims: [30n, 40n], dataType })
    writeVectors(model, tensor, 0, vectors)
    expect(model.payloads.get(tensor)?.byteLength).toBe(1200 * (dataType === DataType.FLOAT ? 4 : 2))
    expect([...readVectors(model, tensor, 0)]).toEqual([...vectors].map(round))
  })

  it('have inner products', () => {
    const model = empty()
    const tensor = doubles([3, 4])
    const dots = dotVectors(model, tensor, 0, Float64Array.of(1, 10, 100))
    for (let j = 0; j < 4; j++) {
      expect(dots[j]).toBeCloseTo(Math.sin(j) + 10 * Math.sin(4 + j) + 100 * Math.sin(8 + j), 12)
    }
  })

  it('must fit the type, the tensor, and be there', () => {
    const model = empty()
    const half = makeTensor({ name: 'w', dims: [2n], dataType: DataType.FLOAT16 })
    writeVectors(model, half, 0, Float64Array.of(65519, -65519))
    expectQtoolError('numeric', () => writeVectors(model, half, 0, Float64Array.of(1, 65520)), /'w'.*65520/)
    expectQtoolError('numeric', () => writeVectors(model, half, 0, Float64Array.of(1, Number.NaN)), /NaN/)
    expect(() => writeVectors(model, half, 0, new Float64Array(3))).toThrow(RangeError)
    expect(() => readVectors(model, half, 1)).toThrow(RangeError)
    expect(() => readVectors(model, makeTensor({ dims: [2n], dataType: DataType.INT8 }), 0)).toThrow(RangeError)
  })
})

function decoded(dataType: number, bits: number): number {
  const rawData = new Uint8Array(Uint16Array.of(bits).buffer)
  return readVectors(empty(), makeTensor({ dims: [1n], dataType, rawData }), 0)[0]!
}

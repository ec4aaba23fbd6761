import { describe, expect, it } from 'vitest'
import { layOut } from '../../src/data/layout.ts'
import type { ModelInput } from '../../src/data/modelInput.ts'
import type { NdArray } from '../../src/data/ndArray.ts'
import { expectError } from './expectError.ts'

function zeros(...shape: number[]): NdArray {
  return { dtype: 'float32', shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) }
}

function input(name: string, ...dims: ModelInput['dims']): ModelInput {
  return { name, elementType: 'float', dims }
}

function single(dims: ModelInput['dims'], shape: number[]) {
  const {
    perSample,
    count,
    dims: sample,
  } = layOut(new Map([[input('x', ...dims), zeros(...shape)]]), 'd.npy').columns[0]!
  return [perSample, count, [...sample]]
}

describe('layOut', () => {
  it('decides by rank what axis 0 means', () => {
    const image = ['batch', 3, 8, 8]
    expect(single(image, [5, 3, 8, 8])).toEqual(['row', 5, [3, 8, 8]])
    expect(single(image, [3, 8, 8])).toEqual(['row', 1, [3, 8, 8]])
    expect(single(image, [5, 1, 3, 8, 8])).toEqual(['row', 5, [3, 8, 8]])
    expect(single(image, [5, 2, 3, 8, 8])).toEqual(['tensor', 5, [2, 3, 8, 8]])
    expect(single([undefined, undefined], [5, 7])).toEqual(['row', 5, [7]])
    expect(single([undefined, undefined], [7])).toEqual(['row', 1, [7]])
    expect(single(['batch'], [])).toEqual(['row', 1, []])
  })

  it('takes a fixed axis 0 for the batch when it is 1, or when all inputs share it', () => {
    expect(single([1, 3, 8, 8], [5, 3, 8, 8])).toEqual(['row', 5, [3, 8, 8]])
    expect(single([4, 3, 8, 8], [10, 3, 8, 8])).toEqual(['row', 10, [3, 8, 8]])
    expect(single([512], [1024])).toEqual(['tensor', 2, [512]])
    expect(single([512], [3, 512])).toEqual(['tensor', 3, [512]])
  })

  it('takes an initial state beside rows for a whole tensor', () => {
    const audio = input('audio', 'batch', 512)
    const state = input('state', 2, 'batch', 128)
    const one = layOut(
      new Map([
        [audio, zeros(1, 512)],
        [state, zeros(2, 1, 128)],
      ]),
      'd.npz',
    )
    expect(one.columns.map((column) => [column.perSample, column.dims])).toEqual([
      ['row', [512]],
      ['tensor', [2, 1, 128]],
    ])
    const many = layOut(
      new Map([
        [audio, zeros(6, 512)],
        [state, zeros(6, 2, 1, 128)],
      ]),
      'd.npz',
    )
    expect(many.count).toBe(6)
  })

  it('shares a single number among all samples', () => {
    for (const [dims, shape] of [
      [[], []],
      [[], [1]],
      [[1], []],
      [[1], [1]],
    ] as const) {
      const block = layOut(
        new Map([
          [input('x', 'batch', 4), zeros(6, 4)],
          [input('sr', ...dims), zeros(...shape)],
        ]),
        'd.npz',
      )
      expect(block.count).toBe(6)
      expect(block.columns[1]).toMatchObject({ perSample: 'shared', dims })
    }
    expect(
      layOut(
        new Map([
          [input('x', 'batch', 4), zeros(6, 4)],
          [input('sr'), zeros(6)],
        ]),
        'd',
      ).columns[1],
    ).toMatchObject({
      perSample: 'tensor',
      dims: [],
    })
  })

  it('refuses other shapes and shows those that fit', () => {
    expectError(() => single(['batch', 3, 8, 8], [5, 8, 8, 3]), 'data', 'd.npy', '[5, 8, 8, 3]', '[samples, 3, 8, 8]')
    expectError(() => single(['batch', 3, 8, 8], [8, 8]), 'data', '[samples, 3, 8, 8]')
    expectError(() => single(['batch', 3, 8, 8], [2, 2, 2, 3, 8, 8]), 'data')
    expectError(() => single(['batch', 3, 8, 8], [2, 2, 3, 8, 9]), 'data')
    expectError(() => single([512], [500]), 'data', '[512]')
    expectError(() => single([512], [3, 500]), 'data', '[samples, 512]')
  })

  it('refuses inputs with different numbers of samples', () => {
    const arrays = new Map([
      [input('a', 'batch', 4), zeros(6, 4)],
      [input('b', 'batch', 4), zeros(5, 4)],
    ])
    expectError(() => layOut(arrays, 'd.npz'), 'data', '6 samples of a', '5 of b')
  })
})

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { readJsonDocument, readJsonLines } from '../../src/data/jsonLines.ts'
import { expectError, onlyDataErrors } from './expectError.ts'

const lines = (text: string) => [...readJsonLines(Buffer.from(text), 'd.jsonl')]
const first = (text: string, name = '') => lines(text)[0]!.arrays.get(name)!()

/** Every number of a nested list in order. */
function flatten(value: unknown): number[] {
  return Array.isArray(value) ? value.flatMap(flatten) : [Number(value)]
}

describe('readJsonLines', () => {
  it('reads objects, bare lists and numbers, skipping empty lines, with or without a last newline', () => {
    const records = lines('{"ids": [[1, 2], [3, 4]], "sr": 5}\n\n  \r\n[1.5, true]\n7')
    expect(records.map((record) => record.place)).toEqual(['d.jsonl, line 1', 'd.jsonl, line 4', 'd.jsonl, line 5'])
    expect(records[0]!.arrays.get('ids')!()).toMatchObject({ shape: [2, 2], data: Float64Array.of(1, 2, 3, 4) })
    expect(records[0]!.arrays.get('sr')!()).toMatchObject({ shape: [], data: Float64Array.of(5) })
    expect(records[1]!.arrays.get('')!()).toMatchObject({ shape: [2], data: Float64Array.of(1.5, 1) })
    expect(records[2]!.arrays.get('')!()).toMatchObject({ shape: [], data: Float64Array.of(7) })
  })

  it('reads data with a shape and an element type', () => {
    const array = first('{"x": {"data": [1, 2, 3, 4, 5, 6], "shape": [2, 3], "dtype": "uint8"}}', 'x')
    expect(array).toEqual({ dtype: 'uint8', shape: [2, 3], data: Uint8Array.of(1, 2, 3, 4, 5, 6) })
    expect(first('{"data": [[1], [2]]}')).toMatchObject({ shape: [2, 1] })
    expect(first('{"x": []}', 'x')).toMatchObject({ shape: [0] })
  })

  it('keeps shape and order of nested lists', () => {
    const nested = fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 4 }).map((shape) => {
      let next = 0
      const build = (axis: number): unknown =>
        axis === shape.length ? next++ : Array.from({ length: shape[axis]! }, () => build(axis + 1))
      return { shape, value: build(0) }
    })
    fc.assert(
      fc.property(nested, ({ shape, value }) => {
        const array = first(JSON.stringify({ x: value }), 'x')
        expect(array.shape).toEqual(shape)
        expect([...array.data]).toEqual(flatten(value))
      }),
    )
  })

  it('leaves alone what is not asked for', () => {
    expect([...lines('{"x": 1, "text": "hello", "tokens": ["a"]}')[0]!.arrays.keys()]).toEqual(['x', 'text', 'tokens'])
  })

  it('names file and line of what it cannot read', () => {
    expectError(() => lines('[1]\n[1, 2\n'), 'data', 'd.jsonl, line 2', 'not JSON')
    expectError(
      () => [...readJsonLines(Uint8Array.of(0x31, 10, 0xff, 10), 'd.jsonl')],
      'data',
      'd.jsonl, line 2',
      'UTF-8',
    )
    expectError(() => first('[[1, 2], [3]]'), 'data', 'd.jsonl, line 1', 'ragged')
    expectError(() => first('[[1, 2], 3]'), 'data', 'ragged')
    expectError(() => first('{"x": "hello"}', 'x'), 'data', 'line 1, x', '"hello"')
    expectError(() => first('{"x": [1, null]}', 'x'), 'data', 'line 1, x', 'null')
    expectError(() => first('{"x": {"values": [1]}}', 'x'), 'data', 'line 1, x')
    expectError(() => first('{"x": {"data": [1, 2], "shape": [3]}}', 'x'), 'data', '[3]', '2')
    expectError(() => first('{"x": {"data": [1, 2], "shape": [-1, 2]}}', 'x'), 'data', 'shape')
    expectError(() => first('{"x": {"data": [1, 2], "dtype": "int7"}}', 'x'), 'data', 'int7')
    expectError(() => first('{"x": {"data": [256], "dtype": "uint8"}}', 'x'), 'data', '256')
    expectError(() => first('{"x": {"data": [0.5], "dtype": "int64"}}', 'x'), 'data', '0.5')
    expectError(() => first(`${'['.repeat(100000)}${']'.repeat(100000)}`), 'data', 'nested deeper')
    expectError(() => first(`{"x": {"values": ${'['.repeat(100000)}${']'.repeat(100000)}}}`, 'x'), 'data', 'values')
  })

  it('meets any text with nothing but QtoolError data', () => {
    const texts = fc.oneof(
      fc.json(),
      fc.string(),
      fc.json().map((text) => text.slice(1)),
    )
    fc.assert(
      fc.property(fc.array(texts), (parts) => {
        onlyDataErrors(() => {
          for (const record of lines(parts.join('\n')))
            for (const array of record.arrays.values()) onlyDataErrors(array)
        })
      }),
      { numRuns: 1000 },
    )
  })
})

describe('readJsonDocument', () => {
  const samples = (text: string) => [...readJsonDocument(Buffer.from(text), 'd.json')]

  it('takes a list for samples and an object for one', () => {
    expect(samples('[{"x": 1}, {"x": 2}]').map((record) => record.place)).toEqual([
      'd.json, sample 0',
      'd.json, sample 1',
    ])
    expect(samples('[[1, 2], [3]]')[1]!.arrays.get('')!()).toMatchObject({ shape: [1] })
    expect(samples('{"x": [1]}')).toHaveLength(1)
  })

  it('names file and sample', () => {
    expectError(() => samples('[1,'), 'data', 'd.json', 'not JSON')
    expectError(() => samples('[1, {"x": "a"}]')[1]!.arrays.get('x')!(), 'data', 'd.json, sample 1, x')
  })
})

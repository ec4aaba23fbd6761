import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { zipSync } from 'fflate'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type DatasetOptions, openDataset } from '../../src/data/dataset.ts'
import { readLabels } from '../../src/data/labels.ts'
import type { ModelInput } from '../../src/data/modelInput.ts'
import { writeNpy } from '../oracles/npy.ts'
import { expectError, expectRejection } from './expectError.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'qtool-data-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

let made = 0
/** Write a file, in a directory of its own unless told which. */
function file(name: string, bytes: Uint8Array | string, directory = `case${made++}`): string {
  mkdirSync(join(folder, directory), { recursive: true })
  const path = join(folder, directory, name)
  writeFileSync(path, bytes)
  return path
}

function counting(code: string, ...shape: number[]): Buffer {
  const count = shape.reduce((a, b) => a * b, 1)
  return writeNpy(
    code,
    shape,
    Array.from({ length: count }, (_, i) => i),
  )
}

function npz(arrays: Record<string, Buffer>): Uint8Array {
  return zipSync(Object.fromEntries(Object.entries(arrays).map(([name, bytes]) => [`${name}.npy`, bytes])))
}

function input(name: string, elementType: string, ...dims: ModelInput['dims']): ModelInput {
  return { name, elementType, dims }
}

const ids = input('ids', 'int64', 'batch', 'seq')
const image = input('image', 'float', 'batch', 3, 2, 2)

/** All batches as plain numbers. */
async function read(paths: string | string[], inputs: ModelInput[], batchSize: number, options: DatasetOptions = {}) {
  const dataset = await openDataset([paths].flat(), inputs, options)
  const batches = [...dataset.batches(batchSize)].map(({ feeds, count, start }) => ({
    start,
    count,
    feeds: Object.fromEntries(
      [...feeds].map(([name, { dims, data }]) => [
        name,
        { dims: [...dims], data: Array.from(data as Float32Array, Number) },
      ]),
    ),
  }))
  expect(batches.reduce((sum, batch) => sum + batch.count, 0)).toBe(dataset.count)
  return { ...dataset, batches }
}

describe('openDataset', () => {
  it('reads one .npy for the one input that needs data, and fills the others', async () => {
    const path = file('any.npy', counting('i4', 5, 2))
    const mask = input('attention_mask', 'int64', 'batch', 'seq')
    const tokens = { ...ids, name: 'input_ids' }
    const { count, notes, filled, batches } = await read(path, [tokens, mask], 2)
    expect(count).toBe(5)
    expect(filled).toEqual(['attention_mask: ones'])
    expect(notes).toEqual(['input_ids: int32 data is fed as int64'])
    expect(batches.map((batch) => [batch.start, batch.count])).toEqual([
      [0, 2],
      [2, 2],
      [4, 1],
    ])
    expect(batches[2]!.feeds).toEqual({
      input_ids: { dims: [1, 2], data: [8, 9] },
      attention_mask: { dims: [1, 2], data: [1, 1] },
    })
    await expectRejection(() => read(path, [ids, image], 1), 'data', 'ids', 'image', 'without a name')
  })

  it('reads a .npz by name, by renaming, or by being the only one; labels are no input', async () => {
    const both = file(
      'a.npz',
      npz({ ids: counting('i8', 2, 3), image: counting('f4', 2, 3, 2, 2), id: counting('u1', 2) }),
    )
    expect(await read(both, [ids, image], 2)).toMatchObject({ count: 2, notes: ['not used as inputs: id'], filled: [] })
    const other = file('b.npz', npz({ words: counting('i8', 2, 3), scores: counting('f4', 2) }))
    await expectRejection(() => read(other, [ids], 2), 'data', 'b.npz', 'ids', 'words, scores', '--rename')
    expect((await read(other, [ids], 2, { rename: { ids: 'words' } })).count).toBe(2)
    await expectRejection(() => read(other, [ids], 2, { rename: { ids: 'word' } }), 'data', 'b.npz', 'word', 'scores')
    const single = file('c.npz', npz({ words: counting('i8', 2, 3), labels: counting('u1', 2) }))
    expect((await read(single, [ids], 2)).notes[0]).toContain('words is used as input ids')
    await expectRejection(() => read(both, [ids, input('sr', 'int64')], 1), 'data', 'sr', 'a.npz', '--set sr=')
    expect((await read(both, [ids, input('sr', 'int64')], 1, { constants: { sr: 8000 } })).filled).toEqual([
      'sr: constant 8000',
    ])
  })

  it('joins a directory of .npz in name order, across batch borders', async () => {
    for (const [name, from] of [
      ['b', 10],
      ['a', 0],
      ['c', 20],
    ] as const) {
      const array = writeNpy('i8', [3, 1], [from, from + 1, from + 2])
      file(`${name}.npz`, npz({ ids: array }), 'parts')
    }
    const { batches } = await read(join(folder, 'parts'), [ids], 4)
    expect(batches.map((batch) => batch.feeds.ids!.data)).toEqual([[0, 1, 2, 10], [11, 12, 20, 21], [22]])
    expect(batches.map((batch) => batch.start)).toEqual([0, 4, 8])
    expect((await read(join(folder, 'parts'), [ids], 4, { samples: 5 })).batches.map((b) => b.feeds.ids!.data)).toEqual(
      [[0, 1, 2, 10], [11]],
    )
    file('d.npz', npz({ other: counting('i8', 3, 1), third: counting('i8', 3, 1) }), 'parts')
    await expectRejection(() => read(join(folder, 'parts'), [ids], 4), 'data', 'd.npz')
  })

  it('reads a directory of .npy as inputs when their names say so, else as samples', async () => {
    file('ids.npy', counting('i8', 2, 3), 'inputs')
    file('image.npy', counting('f4', 2, 3, 2, 2), 'inputs')
    file('labels.npy', counting('u1', 2), 'inputs')
    expect(await read(join(folder, 'inputs'), [ids, image], 2)).toMatchObject({
      count: 2,
      notes: ['not used as inputs: labels'],
    })
    file('s02.npy', counting('i8', 2), 'samples')
    file('s01.npy', counting('i8', 3), 'samples')
    file('s03.npy', counting('i8', 1, 2), 'samples')
    const { batches } = await read(join(folder, 'samples'), [ids], 8)
    expect(batches).toEqual([
      { start: 0, count: 1, feeds: { ids: { dims: [1, 3], data: [0, 1, 2] } } },
      { start: 1, count: 2, feeds: { ids: { dims: [2, 2], data: [0, 1, 0, 1] } } },
    ])
    expect(
      (await read([join(folder, 'inputs/ids.npy'), join(folder, 'inputs/image.npy')], [ids, image], 2)).count,
    ).toBe(2)
  })

  it('feeds whole tensors one at a time, and a fixed batch size exactly', async () => {
    const tensors = file('t.npy', counting('f4', 3, 2, 3, 2, 2))
    expect((await read(tensors, [image], 8)).batches.map((batch) => [batch.count, batch.feeds.image!.dims])).toEqual([
      [1, [2, 3, 2, 2]],
      [1, [2, 3, 2, 2]],
      [1, [2, 3, 2, 2]],
    ])
    const memory = input('state', 'float', 1, undefined, 8)
    const [first] = (await read(tensors, [{ ...image, dims: [undefined, 3, 2, 2] }, memory], 8)).batches
    expect(first!.feeds.state!.dims).toEqual([1, 2, 8])
    const rows = file('r.npy', counting('f4', 5, 3, 2, 2))
    const fixed = { ...image, dims: [2, 3, 2, 2] }
    const { count, notes, batches } = await read(rows, [fixed], 100)
    expect(count).toBe(4)
    expect(batches.map((batch) => batch.feeds.image!.dims)).toEqual([
      [2, 3, 2, 2],
      [2, 3, 2, 2],
    ])
    expect(notes).toEqual(['1 samples are left out: the model takes exactly 2 of equal shape at a time'])
    expect((await read(rows, [{ ...image, dims: [1, 3, 2, 2] }], 100)).batches).toHaveLength(5)
    await expectRejection(() => read(rows, [{ ...image, dims: [6, 3, 2, 2] }], 1), 'data', '5 samples', 'exactly 6')
    const state = input('state', 'float', 1, 4, 8)
    expect((await read(rows, [image, state], 1)).batches.map((batch) => batch.count)).toEqual([4])
  })

  it('says that uint8 is not rescaled, or rescales it', async () => {
    const path = file('u8.npy', counting('u1', 2, 3, 2, 2))
    const raw = await read(path, [image], 2)
    expect(raw.notes.join()).toContain('NOT rescaled')
    expect(raw.batches[0]!.feeds.image!.data).toEqual(Array.from({ length: 24 }, (_, i) => i))
    const { notes, batches } = await read(path, [image], 1, {
      normalize: { image: { scale: 0.5, mean: [1, 2, 3], std: [1, 2, 4] } },
    })
    expect(notes.join()).not.toContain('NOT')
    const expected = (i: number) => (i * 0.5 - [1, 2, 3][Math.floor(i / 4) % 3]!) / [1, 2, 4][Math.floor(i / 4) % 3]!
    expect(batches[1]!.feeds.image!.data).toEqual(Array.from({ length: 12 }, (_, i) => expected(i + 12)))
  })

  it('reads labels and keeps them in step with the samples', async () => {
    const path = file('l.npz', npz({ ids: counting('i8', 4, 1), labels: writeNpy('u1', [4], [3, 1, 2, 0]) }))
    expect(await read(path, [ids], 3, { labels: path, samples: 2 })).toMatchObject({
      count: 2,
      labels: Int32Array.of(3, 1, 2, 0),
    })
    file('a.npz', npz({ ids: counting('i8', 3, 1) }), 'labelled')
    file('b.npz', npz({ ids: counting('i8', 1, 1) }), 'labelled')
    expect(await read(join(folder, 'labelled'), [ids], 3, { labels: path, samples: 2 })).toMatchObject({ count: 2 })
    const short = file('short.npy', counting('i8', 3))
    await expectRejection(() => read(path, [ids], 3, { labels: short }), 'data', '3 labels', '4 samples')
  })

  it('refuses options that name no input or contradict the data', async () => {
    const path = file('x.npy', counting('i8', 2, 3))
    await expectRejection(() => read(path, [ids], 1, { rename: { idz: 'x' } }), 'usage', 'rename', 'idz', 'ids')
    await expectRejection(() => read(path, [ids], 1, { constants: { idz: 1 } }), 'usage', 'constants')
    await expectRejection(() => read(path, [ids], 1, { normalize: { ids: {} } }), 'usage', 'ids', 'int64')
    const both = file('x.npz', npz({ ids: counting('i8', 2, 3), sr: counting('i8', 2) }))
    await expectRejection(() => read(both, [ids, input('sr', 'int64')], 1, { constants: { sr: 1 } }), 'usage', 'sr')
    await expectRejection(() => read(path, [ids], 0), 'usage', 'batch size')
    await expectRejection(() => read(path, [input('text', 'string', 'batch')], 1), 'data', 'text', 'string')
  })

  it('refuses paths that hold no data', async () => {
    await expectRejection(() => read(join(folder, 'nowhere.npy'), [ids], 1), 'data', 'nowhere.npy', 'no such file')
    await expectRejection(() => read(file('x.csv', '1,2'), [ids], 1), 'data', 'x.csv', '.npz')
    await expectRejection(() => read(file('notes.txt', '1', 'bare').replace('notes.txt', ''), [ids], 1), 'data', 'bare')
    await expectRejection(() => read(file('e.jsonl', '\n'), [ids], 1), 'data', 'e.jsonl', 'no samples')
    await expectRejection(() => read(file('e.npy', counting('i8', 0, 3)), [ids], 1), 'data', 'no samples')
    await expectRejection(
      () => read([file('a.npy', counting('i8', 2, 3)), file('b.jsonl', '[1]')], [ids], 1),
      'data',
      'b.jsonl',
    )
    await expectRejection(() => openDataset([], [ids]), 'data')
    await expectRejection(() => read(file('f.npy', writeNpy('f4', [1, 2], [1, 1.5])), [ids], 1), 'data', 'ids', '1.5')
    const lines = file('g.jsonl', '{"ids": [1], "image": 1}\n{"ids": [1]}')
    await expectRejection(() => read(lines, [ids, input('image', 'float', 'batch')], 1), 'data', 'image', 'line 2')
  })

  it('batches JSON lines by runs of equal shape: all samples, in order, none padded', async () => {
    const samples = fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 20 })
    await fc.assert(
      fc.asyncProperty(samples, fc.integer({ min: 1, max: 5 }), fc.nat(25), async (lengths, batchSize, limit) => {
        const rows = lengths.map((length, i) => Array.from({ length }, (_, k) => i * 10 + k))
        const path = file('d.jsonl', rows.map((row) => JSON.stringify({ ids: row })).join('\n'), 'property')
        const { count, batches, notes } = await read(path, [ids], batchSize, { samples: limit })
        const kept = limit ? rows.slice(0, limit) : rows
        expect(notes).toEqual([])
        expect(count).toBe(kept.length)
        const seen: number[][] = []
        for (const { feeds, start, count: size } of batches) {
          const { dims, data } = feeds.ids!
          expect(start).toBe(seen.length)
          expect(dims[0]).toBe(size)
          expect(size).toBeLessThanOrEqual(batchSize)
          for (let r = 0; r < size; r++) seen.push(data.slice(r * dims[1]!, (r + 1) * dims[1]!))
        }
        expect(seen).toEqual(kept)
        // As few batches as runs of equal length allow.
        const runs = kept.reduce<number[]>((all, row, i) => {
          if (i > 0 && row.length === kept[i - 1]!.length) all[all.length - 1]!++
          else all.push(1)
          return all
        }, [])
        expect(batches.length).toBe(runs.reduce((sum, run) => sum + Math.ceil(run / batchSize), 0))
      }),
    )
  })

  it('does not stack samples that have different shared values', async () => {
    const path = file('s.jsonl', '{"ids": [1], "sr": 8}\n{"ids": [2], "sr": 8}\n{"ids": [3], "sr": 16}')
    const { batches } = await read(path, [ids, input('sr', 'int64')], 8)
    expect(batches.map((batch) => [batch.count, batch.feeds.sr])).toEqual([
      [2, { dims: [], data: [8] }],
      [1, { dims: [], data: [16] }],
    ])
  })
})

describe('readLabels', () => {
  it('finds them by file, by name, or by being called labels', () => {
    const path = file('n.npz', npz({ x: counting('f4', 3, 2), y: counting('i8', 3), other: counting('f4', 3) }))
    expect(readLabels(path)).toEqual(Int32Array.of(0, 1, 2))
    expect(readLabels(`${path}:other`)).toEqual(Int32Array.of(0, 1, 2))
    expect(readLabels(file('l.npy', counting('u2', 2)))).toEqual(Int32Array.of(0, 1))
  })

  it('refuses what is not one axis of integers', () => {
    const path = file('m.npz', npz({ x: counting('f4', 3, 2), half: writeNpy('f4', [1], [0.5]) }))
    expectError(() => readLabels(path), 'data', 'm.npz', 'x, half')
    expectError(() => readLabels(`${path}:x`), 'data', '[3, 2]')
    expectError(() => readLabels(`${path}:half`), 'data', '0.5')
    expectError(() => readLabels(`${path}:nothing`), 'data', 'nothing')
    expectError(() => readLabels('labels.txt'), 'data', 'labels.txt')
  })
})

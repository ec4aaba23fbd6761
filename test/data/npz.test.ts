import fc from 'fast-check'
import { zipSync } from 'fflate'
import { describe, expect, it } from 'vitest'
import { openNpz } from '../../src/data/npz.ts'
import { writeNpy } from '../oracles/npy.ts'
import { allocatedBy, expectError, onlyDataErrors } from './expectError.ts'

const ids = writeNpy('i8', [4, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
const noise = writeNpy(
  'f4',
  [50],
  Array.from({ length: 50 }, (_, i) => (i * 0x9e3779b1) % 1000),
)

function archive(level: 0 | 9, extra: Record<string, Uint8Array> = {}): Buffer {
  return Buffer.from(zipSync({ 'ids.npy': ids, 'noise.npy': noise, ...extra }, { level, mtime: '2020-01-01' }))
}

/** Offset of the first central directory entry. */
function directoryOf(zip: Buffer): number {
  return zip.readUInt32LE(zip.length - 22 + 16)
}

describe('openNpz', () => {
  for (const level of [0, 9] as const) {
    it(`reads ${level ? 'deflated' : 'stored'} arrays by name`, () => {
      const npz = openNpz(archive(level, { 'README.txt': Buffer.from('hello') }), 'x.npz')
      expect(npz.names).toEqual(['ids', 'noise'])
      expect(npz.read('ids')).toMatchObject({ dtype: 'int64', shape: [4, 3] })
      expect(npz.read('ids').data[11]).toBe(12n)
      expect(npz.read('noise').shape).toEqual([50])
      expectError(() => npz.read('labels'), 'data', 'x.npz', 'labels', 'ids, noise')
    })

    it(`meets mutated ${level ? 'deflated' : 'stored'} bytes with nothing but QtoolError data, never with other numbers`, () => {
      const file = archive(level)
      const bare = openNpz(file, 'x.npz')
      const expected = { ids: bare.read('ids'), noise: bare.read('noise') }
      fc.assert(
        fc.property(
          fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 3 }),
          fc.nat(2000),
          (changes, cut) => {
            const bytes = Buffer.from(file)
            for (const [at, byte] of changes) bytes[at % bytes.length] = byte
            onlyDataErrors(() => {
              const npz = openNpz(cut < bytes.length ? bytes.subarray(0, bytes.length - cut) : bytes, 'x.npz')
              for (const name of npz.names) {
                const array = npz.read(name)
                // The checksum leaves no other way than a changed name in the directory.
                expect([expected.ids, expected.noise]).toContainEqual(array)
              }
            })
          },
        ),
        { numRuns: 3000 },
      )
    })
  }

  it('finds the directory behind a comment', () => {
    const comment = Buffer.from('made by hand')
    const file = Buffer.concat([archive(0), comment])
    file.writeUInt16LE(comment.length, file.length - comment.length - 2)
    expect(openNpz(file, 'x.npz').names).toEqual(['ids', 'noise'])
  })

  it('says what is wrong with the archive', () => {
    expectError(() => openNpz(Buffer.alloc(0), 'x.npz'), 'data', 'x.npz', 'not a whole .npz')
    expectError(() => openNpz(archive(9).subarray(0, 200), 'x.npz'), 'data', 'x.npz', 'not a whole .npz')
    const text = Buffer.from(zipSync({ 'a.txt': Buffer.from('hello') }))
    expectError(() => openNpz(text, 'x.npz'), 'data', 'x.npz', 'no array')
    const empty = Buffer.from(zipSync({}))
    expectError(() => openNpz(empty, 'x.npz'), 'data', 'x.npz', 'no array')
  })

  it('names the array whose bytes are damaged', () => {
    const stored = archive(0)
    stored[stored.indexOf(ids) + ids.length - 1]! ^= 1
    const npz = openNpz(stored, 'x.npz')
    expectError(() => npz.read('ids'), 'data', 'x.npz', 'array ids', 'checksum')
    expect(npz.read('noise').shape).toEqual([50])
  })

  it('refuses encryption, other methods and zip64', () => {
    const at = (offset: number, value: number, bytes: 2 | 4) => {
      const file = archive(9)
      file.writeUIntLE(value, directoryOf(file) + offset, bytes)
      return openNpz(file, 'x.npz')
    }
    expectError(() => at(8, 1, 2).read('ids'), 'data', 'encrypted')
    expectError(() => at(10, 14, 2).read('ids'), 'data', 'method 14')
    expectError(() => at(24, 0xffffffff, 4).read('ids'), 'data', 'zip64')
    expectError(() => at(20, 0xffffffff, 4).read('ids'), 'data', 'zip64')
    const many = archive(9)
    many.writeUInt16LE(0xffff, many.length - 12)
    expectError(() => openNpz(many, 'x.npz'), 'data', 'zip64')
  })

  it('allocates no more than the compressed bytes can hold', () => {
    const file = archive(9)
    file.writeUInt32LE(0x7fffffff, directoryOf(file) + 24)
    const allocated = allocatedBy(() => expectError(() => openNpz(file, 'x.npz').read('ids'), 'data', 'cannot hold'))
    expect(allocated).toBeLessThan(2 ** 20)
    file.writeUInt32LE(0x7ffffff0, directoryOf(file) + 20)
    const again = allocatedBy(() => expectError(() => openNpz(file, 'x.npz').read('ids'), 'data', 'past the end'))
    expect(again).toBeLessThan(2 ** 20)
  })
})

/** Solved candidates come back as they were kept, from memory and from disk. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { CandidateStore, type Solved } from '../../src/analyze/candidateStore.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()

const common = { rows: 3, cols: 2, groupSize: 2, scaleType: 'float16' } as const
const scales = Float32Array.of(1, 2, 3)
const grid: Solved = {
  weight: { ...common, bits: 8, codes: Uint8Array.of(1, 2, 3, 4, 5, 255), scales, zeroPoints: Uint8Array.of(7, 8, 9) },
  correction: Float64Array.of(0.5, -0.5, 1e-300),
}
const symmetric: Solved = {
  weight: { ...grid.weight, zeroPoints: undefined } as Solved['weight'],
  correction: undefined,
}
const tables: Solved = {
  weight: {
    ...{ ...common, bits: 2, scales, coding: { kind: 'scalar' } },
    codes: Uint8Array.of(0, 1, 2, 3, 0, 1),
    tables: Int8Array.of(-127, -1, 0, 127, 1, 2, 3, 4),
    tableOf: Uint16Array.of(1, 0, 1),
  },
  correction: Float64Array.of(1, 2, 3),
}
const vectors: Solved = {
  weight: {
    ...{ ...common, bits: 4, scales, coding: { kind: 'vector', dim: 2 } },
    codes: Uint8Array.of(255, 0, 3, 9),
    tables: Int8Array.from({ length: 512 }, (_, i) => (i % 255) - 127),
    tableOf: new Uint16Array(3),
  },
  correction: undefined,
}

describe.each([
  ['memory', 2 ** 20],
  ['disk', 0],
])('a candidate in %s', (place, memoryBytes) => {
  it('comes back as it was, whatever kind its neighbours are', () => {
    const store = new CandidateStore(() => path.join(temp, place), memoryBytes)
    const all = [grid, tables, symmetric, vectors]
    for (const [option, one] of all.entries()) {
      store.put(0, option, one)
      store.put(1, all.length - 1 - option, one)
    }
    for (const [option, one] of all.entries()) {
      expect(store.get(0, option)).toEqual(one)
      expect(store.get(1, all.length - 1 - option)).toEqual(one)
    }
    expect(store.has(0, 4)).toBe(false)
    expect(() => store.get(2, 0)).toThrow(RangeError)
    expect(fs.existsSync(path.join(temp, place))).toBe(place === 'disk')
    store.close()
    expect(fs.existsSync(path.join(temp, place))).toBe(false)
  })
})

/** Channels dealt out to tables by their rows in several layers at once. */
import { describe, expect, it } from 'vitest'
import { chooseTables } from '../../src/codebook/chooseTables.ts'
import { joinedGroups } from '../../src/codebook/joinedGroups.ts'
import { startCodebook } from '../../src/codebook/startCodebook.ts'
import { makeRandom } from '../../src/random.ts'

const ROWS = 24
const LEVELS = [
  [-2, -1, 1, 2],
  [-8, -1, 1, 8],
] as const

/** Rows made of the four levels of their kind, all of them alike often, each row at a scale of its own. */
function planted(cols: number, kindOf: (row: number) => 0 | 1) {
  const target = Float32Array.from({ length: ROWS * cols }, (_, i) => {
    const [row, k] = [Math.floor(i / cols), i % cols]
    return 2 ** (row % 5) * LEVELS[kindOf(row)]![(k + row) % 4]!
  })
  return { target, cols }
}
const none = () => 0
const halves = planted(32, (row) => (row % 2 === 0 ? 0 : 1))
const thirds = planted(48, (row) => (row % 3 === 0 ? 1 : 0))

describe('groups for several layers', () => {
  it('tell channels apart that differ in any of them', () => {
    const both = joinedGroups([halves, thirds], ROWS, 2, 4, none)
    // Rows 0 … 5: kinds (0, 1), (1, 0), (0, 0), (1, 1), (0, 0), (1, 0), numbered by their first rows.
    expect([...both]).toEqual(Array.from({ length: ROWS }, (_, row) => [0, 1, 2, 3, 2, 1][row % 6]))
    expect([...joinedGroups([halves], ROWS, 2, 4, none)]).toEqual(Array.from({ length: ROWS }, (_, row) => row % 2))
    const second = planted(32, () => 0)
    expect(joinedGroups([second, thirds], ROWS, 2, 2, none)).toEqual(joinedGroups([thirds], ROWS, 2, 2, none))
  })

  it('are as many as pay for themselves in all layers together', () => {
    expect(joinedGroups([halves, thirds], ROWS, 2, 'auto', none)).toEqual(
      joinedGroups([halves, thirds], ROWS, 2, 4, none),
    )
    const random = makeRandom(2)
    const normal = (cols: number) => ({
      target: Float32Array.from({ length: ROWS * cols }, () => random.normal()),
      cols,
    })
    expect(joinedGroups([normal(64), normal(32)], ROWS, 2, 'auto', none)).toEqual(new Uint16Array(ROWS))
    // Heavier tails in a third of the rows: worth some bytes, not any number of them.
    const tails = normal(64)
    tails.target.forEach((value, i) => {
      if (Math.floor(i / 64) % 3 === 0) tails.target[i] = value ** 5
    })
    const counts = [0, 1e6].map((bytes) => Math.max(...joinedGroups([tails], ROWS, 2, 'auto', () => bytes)) + 1)
    expect(counts[0]).toBeGreaterThan(1)
    expect(counts[1]).toBe(1)
  })

  it('leave out numbers of tables that a small layer has no room for', () => {
    const small = planted(2, () => 0)
    const tables = joinedGroups([thirds, small], ROWS, 2, 'auto', none)
    // Two tables of 4 levels are 8 bytes, its codes 12: four would be 16.
    expect(Math.max(...tables)).toBeLessThan(2)
  })

  it('are counted without an index for each row', () => {
    const random = makeRandom(2)
    const counts = [8, 12, 16, 24, 32, 48].map((cols) => {
      const target = Float32Array.from({ length: ROWS * cols }, (_, i) => {
        const value = random.normal()
        return Math.floor(i / cols) % 3 === 0 ? value ** 3 : value
      })
      const joined = Math.max(...joinedGroups([{ target, cols }], ROWS, 2, 'auto', none)) + 1
      return { joined, own: chooseTables({ target, rows: ROWS, cols, bits: 2, seed: 0 }).tables }
    })
    expect(counts.every(({ joined, own }) => joined >= own)).toBe(true)
    expect(counts.filter(({ joined, own }) => joined > own).length).toBeGreaterThan(0)
  })

  it('are no more than rows', () => {
    expect(Math.max(...joinedGroups([halves], ROWS, 2, 1000, none))).toBeLessThan(ROWS)
    expect([...joinedGroups([halves], ROWS, 2, 1, none)]).toEqual(new Array(ROWS).fill(0))
  })
})

describe('runs of rows', () => {
  it('are the tables that the solver starts from, whatever the rows look like', () => {
    const runs = [5, 1, 18]
    const form = { coding: { kind: 'scalar' }, tables: 3, shared: false, permuted: false, runs } as const
    const start = startCodebook({ ...halves, rows: ROWS }, { bits: 2, groupSize: 32, form })
    expect([...start.tableOf]).toEqual([0, 0, 0, 0, 0, 1, ...new Array(18).fill(2)])
    expect(start.tables).toHaveLength(12)
  })
})

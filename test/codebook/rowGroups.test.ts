/** Groups of rows with the same shape, and how many of them pay. */
import { describe, expect, it } from 'vitest'
import { chooseTables, offerTables, rowScales } from '../../src/codebook/chooseTables.ts'
import { groupRows } from '../../src/codebook/rowGroups.ts'
import { weightedKMeans } from '../../src/codebook/weightedKMeans.ts'
import { makeRandom, type Random } from '../../src/random.ts'
import { nearestError } from '../oracles/partitionOracle.ts'

const normal = (random: Random) => random.normal()
const laplace = (random: Random) => Math.log(1 - random.uniform()) * (random.uniform() < 0.5 ? 1 : -1)
const uniform = (random: Random) => random.uniform() - 0.5
/** Two spikes and little between. */
const twoSpikes = (random: Random) => (random.uniform() < 0.5 ? 1 : -1) + 0.05 * random.normal()
const rising = (random: Random) => random.uniform()
const falling = (random: Random) => -random.uniform()

/** Row n of kind n mod kinds, and of a size of its own. */
function planted(rows: number, cols: number, kinds: readonly ((random: Random) => number)[], seed = 3): Float32Array {
  const random = makeRandom(seed)
  const target = new Float32Array(rows * cols)
  for (let row = 0; row < rows; row++) {
    const size = 0.01 + random.uniform()
    for (let k = 0; k < cols; k++) target[row * cols + k] = size * kinds[row % kinds.length]!(random)
  }
  return target
}

function normalized(target: Float32Array, rows: number, cols: number): Float32Array {
  const scales = rowScales(target, rows, cols)
  return target.map((value, i) => value / scales[Math.floor(i / cols)]!)
}

/** Share of rows whose group is that of most rows of their kind. */
function purity(tableOf: Uint16Array, kinds: number): number {
  let right = 0
  for (let kind = 0; kind < kinds; kind++) {
    const own = [...tableOf].filter((_, row) => row % kinds === kind)
    right += Math.max(...Array.from({ length: kinds }, (_, table) => own.filter((t) => t === table).length))
  }
  return right / tableOf.length
}

describe('groupRows', () => {
  it.each([
    ['normal and Laplace', [normal, laplace]],
    ['normal, Laplace and uniform', [normal, laplace, uniform]],
  ])('separates %s rows', (_, kinds) => {
    const [rows, cols] = [240, 512]
    const tableOf = groupRows(
      normalized(planted(rows, cols, kinds), rows, cols),
      rows,
      cols,
      kinds.length,
      makeRandom(1),
    )
    expect(new Set(tableOf).size).toBe(kinds.length)
    expect(purity(tableOf, kinds.length)).toBeGreaterThanOrEqual(0.95)
  })

  it('separates rows of two kinds that take turns, where it samples rows and columns', () => {
    for (const [rows, cols] of [
      [4096, 16],
      [16, 4096],
    ] as const) {
      const values = normalized(planted(rows, cols, [rising, falling]), rows, cols)
      expect(purity(groupRows(values, rows, cols, 2, makeRandom(1)), 2)).toBeGreaterThanOrEqual(0.95)
    }
  })

  it('numbers groups by their first rows and uses all of them', () => {
    const [rows, cols] = [40, 64]
    const tableOf = groupRows(normalized(planted(rows, cols, [normal]), rows, cols), rows, cols, 8, makeRandom(1))
    const firsts = [...new Set(tableOf)]
    expect(firsts).toEqual(firsts.map((_, i) => i))
    expect(firsts.length).toBeGreaterThan(4)
  })

  it('makes no more groups than there are different rows', () => {
    const row = planted(1, 32, [normal])
    const target = Float32Array.from({ length: 6 * 32 }, (_, i) => (i % 64 < 32 ? row[i % 32]! : -(row[i % 32]! ** 2)))
    expect([...groupRows(target, 6, 32, 5, makeRandom(1))]).toEqual([0, 1, 0, 1, 0, 1])
    expect([...groupRows(target, 6, 32, 1, makeRandom(1))]).toEqual([0, 0, 0, 0, 0, 0])
  })

  it('handles rows of zeros and more tables than rows', () => {
    expect([...groupRows(new Float32Array(12), 3, 4, 2, makeRandom(1))]).toEqual([0, 0, 0])
    expect(groupRows(planted(3, 8, [normal]), 3, 8, 16, makeRandom(1))).toHaveLength(3)
  })
})

describe('offerTables', () => {
  const [rows, cols] = [64, 128]
  const target = planted(rows, cols, [normal, laplace])
  const diagonal = Float64Array.from({ length: cols }, (_, k) => 1 + (k % 7))

  it('of one table is the single codebook', () => {
    const scales = rowScales(target, rows, cols)
    const values = normalized(target, rows, cols)
    const weights = values.map((_, i) => scales[Math.floor(i / cols)]! ** 2 * diagonal[i % cols]!)
    const [one] = offerTables({ target, rows, cols, diagonal, bits: 3, seed: 1 })
    expect(one!.tables).toBe(1)
    expect([...one!.tableOf].every((table) => table === 0)).toBe(true)
    const centres = weightedKMeans(values, weights, 8)
    for (const [i, centre] of one!.centres.entries()) expect(centre).toBeCloseTo(centres[i]!, 6)
    expect(nearestError(values, weights, one!.centres) / one!.error).toBeCloseTo(1, 4)
  })

  it('counts the weighted error of every group and the bytes', () => {
    const scales = rowScales(target, rows, cols)
    for (const offer of offerTables({ target, rows, cols, diagonal, bits: 2, seed: 1, rowBytes: 2 })) {
      let error = 0
      for (let row = 0; row < rows; row++) {
        const centres = offer.centres.subarray(offer.tableOf[row]! * 4, offer.tableOf[row]! * 4 + 4)
        const own = target.subarray(row * cols, (row + 1) * cols)
        error += nearestError(
          own,
          diagonal,
          centres.map((centre) => centre * scales[row]!),
        )
      }
      expect(error / offer.error).toBeCloseTo(1, 4)
      expect(offer.bytes).toBe(offer.tables * 4 + (offer.tables > 1 ? 2 * rows : 0))
    }
  })
})

describe('chooseTables', () => {
  it.each([2, 3, 4] as const)('takes one table for rows of one kind at %d bits', (bits) => {
    expect(chooseTables({ target: planted(64, 512, [normal]), rows: 64, cols: 512, bits, seed: 1 }).tables).toBe(1)
  })

  it('takes two for two kinds, where the layer is large enough', () => {
    const target = planted(96, 512, [normal, twoSpikes])
    const chosen = chooseTables({ target, rows: 96, cols: 512, bits: 2, seed: 1 })
    expect(chosen.tables).toBe(2)
    expect(purity(chosen.tableOf, 2)).toBe(1)
    expect(chosen.price).toBeLessThan(4)
    const small = planted(8, 4, [normal, twoSpikes])
    expect(chooseTables({ target: small, rows: 8, cols: 4, bits: 2, seed: 1 }).tables).toBe(1)
  })

  it('pays for bytes by the slope of error against bits', () => {
    const target = planted(64, 256, [normal, laplace])
    for (const rowBytes of [0, 1, 8]) {
      const problem = { target, rows: 64, cols: 256, bits: 3, seed: 1, rowBytes } as const
      const [one, two] = offerTables(problem)
      const extra = (8 * (two!.bytes - one!.bytes)) / target.length
      expect(two!.price < one!.price).toBe(two!.error < one!.error * 2 ** (-2 * extra))
    }
  })
})

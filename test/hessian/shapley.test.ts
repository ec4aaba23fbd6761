import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { predictShapley, shapleyTable, shapleyValues } from '../../src/hessian/shapley.ts'
import { makeRandom } from '../../src/random.ts'
import { type Game, members, shapleyByEnumeration } from '../oracles/sensitivityOracle.ts'

const LAYERS = 7
const ALL = (1 << LAYERS) - 1

/** A random game with interactions of pairs, and of triples times `triples`. */
function randomGame(seed: number, triples = 0): { game: Game; pair: (i: number, j: number) => number } {
  const random = makeRandom(seed)
  const alone = Array.from({ length: LAYERS }, () => random.normal())
  const pairs = Array.from({ length: LAYERS * LAYERS }, () => random.normal())
  const pair = (i: number, j: number) => pairs[Math.min(i, j) * LAYERS + Math.max(i, j)]!
  const game = (set: number) => {
    const inside = members(set)
    let loss = 0
    for (const i of inside) {
      loss += alone[i]!
      for (const j of inside) {
        if (j > i) loss += pair(i, j)
        for (const k of inside) if (j > i && k > j) loss += triples * pairs[i]! * pairs[j]! * pairs[k]!
      }
    }
    return loss
  }
  return { game, pair }
}

function valuesOf(game: Game): Float64Array {
  const layers = Array.from({ length: LAYERS }, (_, i) => i)
  return shapleyValues(
    layers.map((i) => game(1 << i)),
    game(ALL),
    layers.map((i) => game(ALL & ~(1 << i))),
  )
}

describe('Shapley values from 2L + 1 runs', () => {
  test('are those of all subsets in games of pairs, and add up to the loss of all', () => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const { game } = randomGame(seed)
        const values = valuesOf(game)
        shapleyByEnumeration(game, LAYERS).forEach((expected, i) => {
          expect(values[i]).toBeCloseTo(expected, 10)
        })
        expect(predictShapley(values)).toBeCloseTo(game(ALL), 10)
      }),
      { numRuns: 40 },
    )
  })

  test('predict a set but for half of its interactions with the rest', () => {
    const { game, pair } = randomGame(3)
    const values = valuesOf(game)
    for (let set = 0; set <= ALL; set++) {
      const inside = members(set)
      let across = 0
      for (const i of inside) for (const j of members(ALL & ~set)) across += pair(i, j)
      expect(predictShapley(inside.map((i) => values[i]!))).toBeCloseTo(game(set) + across / 2, 10)
    }
  })

  test('are not exact with triples: the oracle can tell', () => {
    const { game } = randomGame(4, 1)
    const values = valuesOf(game)
    const off = shapleyByEnumeration(game, LAYERS).map((expected, i) => Math.abs(expected - values[i]!))
    expect(Math.max(...off)).toBeGreaterThan(0.01)
  })

  test('go with their layers', () => {
    const values = shapleyValues([1, 2, 3], 7, [5, 4, 3])
    expect([...shapleyValues([3, 1, 2], 7, [3, 5, 4])]).toEqual([values[2], values[0], values[1]])
  })
})

describe('several candidates', () => {
  test('each has its own game', () => {
    const table = shapleyTable(
      [
        [1, 10],
        [2, 20],
      ],
      [4, 50],
      [
        [2.5, 25],
        [1.5, 15],
      ],
    )
    expect(table.map((row) => row[0])).toEqual([...shapleyValues([1, 2], 4, [2.5, 1.5])])
    expect(table.map((row) => row[1])).toEqual([...shapleyValues([10, 20], 50, [25, 15])])
  })

  test('lengths must agree', () => {
    expect(() => shapleyValues([1, 2], 3, [1])).toThrow(RangeError)
    expect(() => shapleyTable([[1, 2]], [1], [[1]])).toThrow(RangeError)
    expect(() => shapleyTable([[1]], [1], [[1, 2]])).toThrow(RangeError)
    expect(() => shapleyTable([[1]], [1], [])).toThrow(RangeError)
  })
})

/** When a variant of a model counts as better than another one: sample by sample, and by more than chance. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { compareLosses } from '../../src/quantize/variants.ts'

describe('comparing losses', () => {
  it('is by pairs: a small fall of every sample counts beside large differences between samples', () => {
    const before = [1, 10, 100, 1000, 3, 30]
    const after = before.map((loss) => loss - 0.5)
    const { change, standardError, isBetter } = compareLosses(after, before)
    expect(isBetter).toBe(true)
    expect(change).toBeCloseTo(-0.5 / (1144 / 6), 12)
    expect(standardError).toBeCloseTo(0, 12)
    // The same numbers for other samples say nothing.
    expect(compareLosses([...after.slice(3), ...after.slice(0, 3)], before).isBetter).toBe(false)
  })

  it('says what the textbook says', () => {
    const before = [4, 5, 6, 5]
    const after = [3, 5, 4, 5]
    // Differences −1, 0, −2, 0: mean −.75, variance 2.75 / 3.
    const { change, standardError, isBetter } = compareLosses(after, before)
    expect(change).toBeCloseTo(-0.15, 12)
    expect(standardError).toBeCloseTo(Math.sqrt(2.75 / 3 / 4) / 5, 12)
    expect(isBetter).toBe(true)
  })

  it('wants more than one standard error: exactly one is not enough', () => {
    // Differences −2, 0, −2, 0, …: mean −1, standard error 2/√4·√(4/3)/2 = 1.1547/… > or < 1 by their number.
    const pairs = (count: number) => Array.from({ length: count }, (_, i) => (i % 2 === 0 ? 8 : 10))
    const base = (count: number) => Array<number>(count).fill(10)
    expect(compareLosses(pairs(4), base(4)).isBetter).toBe(true)
    const [one, two] = [6, 10.5]
    const mixed = (rise: number) => [10 - rise, 10, 10, 10, 10]
    // One sample alone: mean −r/5, standard error r/5, exactly.
    for (const rise of [1, 4]) expect(compareLosses(mixed(rise), base(5)).isBetter).toBe(false)
    expect(compareLosses([one, two, 10, 10, 10], base(5)).isBetter).toBe(false)
  })

  it('of fewer than four samples takes a clear fall, of 2 %', () => {
    for (const count of [1, 2, 3]) {
      const before = Array.from({ length: count }, (_, i) => i + 1)
      const scaled = (share: number) =>
        compareLosses(
          before.map((loss) => loss * share),
          before,
        )
      expect(scaled(0.975).isBetter, `${count}`).toBe(true)
      expect(scaled(0.985).isBetter, `${count}`).toBe(false)
      expect(scaled(1.1).isBetter, `${count}`).toBe(false)
    }
    // Four that all fall by less are enough.
    expect(compareLosses([0.99, 1.98, 2.97, 3.96], [1, 2, 3, 4]).isBetter).toBe(true)
    expect(compareLosses([0.9], [1]).standardError).toBeNaN()
  })

  it.each([
    [
      [Number.NaN, 0, 0, 0],
      [1, 1, 1, 1],
    ],
    [
      [Number.POSITIVE_INFINITY, 0, 0, 0],
      [1, 1, 1, 1],
    ],
    [
      [0, 0, 0, 0],
      [Number.NaN, 1, 1, 1],
    ],
    [
      [0, 0, 0, 0],
      [Number.POSITIVE_INFINITY, 1, 1, 1],
    ],
    [
      [Number.POSITIVE_INFINITY, 0, 0, 0],
      [Number.POSITIVE_INFINITY, 1, 1, 1],
    ],
    [[Number.NaN], [1]],
    [[0], [Number.POSITIVE_INFINITY]],
    [
      [0, 0, 0, 0],
      [0, 0, 0, 0],
    ],
    [[], []],
    [
      [1, 2, 3],
      [1, 2, 3],
    ],
  ])('%j is not better than %j', (losses, before) => {
    expect(compareLosses(losses, before).isBetter).toBe(false)
  })

  it('never finds both of two better than each other, nor one better than itself', () => {
    const loss = fc.double({ min: 0, max: 1e6 })
    const pairs = fc.array(fc.tuple(loss, loss), { minLength: 1, maxLength: 12 })
    fc.assert(
      fc.property(pairs, (drawn) => {
        const [a, b] = [drawn.map(([x]) => x), drawn.map(([, y]) => y)]
        expect(compareLosses(a, a).isBetter).toBe(false)
        expect(compareLosses(a, b).isBetter && compareLosses(b, a).isBetter).toBe(false)
      }),
    )
  })
})

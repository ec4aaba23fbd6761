import { describe, expect, test } from 'vitest'
import type { Analysis, MeasuredLayer, Sensitivity } from '../../src/analyze/analysis.ts'
import { lossTable, predict } from '../../src/analyze/losses.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { shapleyByEnumeration } from '../oracles/sensitivityOracle.ts'
import {
  additiveGame,
  coverageGame,
  everyChoice,
  plantedAnalysis,
  plantedSingles,
  plantedVectors,
  quadraticGame,
} from './analyses.ts'

const [L, B] = [3, 3]
const singles = plantedSingles(L, B)
const additive = plantedAnalysis({ game: additiveGame(singles), layers: L, candidates: B })
const vectors = plantedVectors(L, B, 6)
const quadratic = plantedAnalysis({ game: quadraticGame(vectors), layers: L, candidates: B, sketches: vectors })
const choices = everyChoice([B, B, B])

const closeTo = (expected: readonly (readonly number[])[]) =>
  expected.map((own) => own.map((value) => expect.closeTo(value, 10) as number))
const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, d) => sum + value * b[d]!, 0)
const withLayers = (
  analysis: Analysis,
  change: (layer: MeasuredLayer, l: number) => Partial<MeasuredLayer>,
): Analysis => ({
  ...analysis,
  layers: analysis.layers.map((layer, l) => ({ ...layer, ...change(layer, l) })),
})
const withLosses = (analysis: Analysis, losses: readonly (readonly number[])[]): Analysis =>
  withLayers(analysis, ({ candidates }, l) => ({
    candidates: candidates.map((candidate, k) => ({
      ...candidate,
      loss: { mean: losses[l]![k]!, standardError: null },
    })),
  }))

describe('losses of candidates', () => {
  test('kl: as measured, noise below 0 too', () => {
    expect(lossTable(additive, 'kl').losses).toEqual(singles)
    const noisy = singles.map((own) => own.with(0, -1e-4))
    expect(lossTable(withLosses(additive, noisy), 'kl').losses).toEqual(noisy)
  })

  test.each([
    ['saturating', 0.2],
    ['building up', -0.2],
  ])('coverage: −ln(1 − u·s)/u with the planted u, %s', (_, c) => {
    const analysis = plantedAnalysis({ game: coverageGame(singles, c), layers: L, candidates: B })
    const expected = singles.map((own) => own.map((s) => -c * Math.log(1 - s / c)))
    const { losses } = lossTable(analysis, 'coverage')
    losses.forEach((own, l) => {
      for (const [k, cost] of own.entries()) expect(cost / expected[l]![k]!).toBeCloseTo(1, 6)
    })
  })

  test('shapley: the values by enumeration at each level, for pairs', () => {
    const { losses } = lossTable(quadratic, 'shapley')
    const game = quadraticGame(vectors)
    for (let k = 0; k < B; k++) {
      const values = shapleyByEnumeration(
        (set) => game(Array.from({ length: L }, (_, l) => (set & (1 << l) ? k : undefined))),
        L,
      )
      expect(losses.map((own) => own[k])).toEqual(values.map((value) => expect.closeTo(value, 10) as number))
    }
  })

  test('hessian, mse, proxy: the formulas', () => {
    const tableOf = (lossOf: (layer: MeasuredLayer, k: number) => number) =>
      closeTo(additive.layers.map((layer) => layer.candidates.map((_, k) => lossOf(layer, k))))
    expect(lossTable(additive, 'hessian').losses).toEqual(
      tableOf(({ trace, weights, candidates }, k) => (0.5 * trace!.value * candidates[k]!.squaredError) / weights),
    )
    expect(lossTable(additive, 'mse').losses).toEqual(tableOf(({ candidates }, k) => candidates[k]!.relativeError))
    // Layer 0 has no statistics.
    expect(lossTable(additive, 'proxy').losses).toEqual(
      tableOf(({ candidates, place }, k) => (place ? candidates[k]!.proxy! : candidates[k]!.relativeError)),
    )
  })

  test('lim and zd: by the rank of the block, others as the most important', () => {
    const analysis = plantedAnalysis({ game: () => 0, layers: 6, candidates: 2 })
    const blocks = [
      { name: 'a', layers: ['layer 0', 'layer 1'], lim: -0.9, zd: 0.15 },
      { name: 'b', layers: ['layer 1', 'layer 2', 'layer 5'], lim: -0.5, zd: 0.17 },
      { name: 'c', layers: ['layer 2', 'layer 3'], lim: -0.95, zd: null },
    ]
    const expected = (ranks: readonly number[]) =>
      closeTo(
        analysis.layers.map(({ weights, candidates }, l) =>
          candidates.map(({ relativeError }) => (ranks[l]! * weights * relativeError) / 2100),
        ),
      )
    expect(lossTable({ ...analysis, blocks }, 'lim').losses).toEqual(expected([2 / 3, 1, 1, 1 / 3, 1, 1]))
    expect(lossTable({ ...analysis, blocks }, 'zd').losses).toEqual(expected([1, 1, 1, 1, 1, 0.5]))
    const equal = blocks.map((block) => ({ ...block, lim: -0.9 }))
    expect(lossTable({ ...analysis, blocks: equal }, 'lim').losses).toEqual(
      expected([2 / 3, 2 / 3, 2 / 3, 2 / 3, 1, 2 / 3]),
    )
  })

  test('pairwise and clado: inner products beside the singles', () => {
    const flat = vectors.flat()
    for (const sensitivity of ['pairwise', 'clado'] as const) {
      const { losses, gram } = lossTable(quadratic, sensitivity)
      expect(losses).toEqual(closeTo(vectors.map((own) => own.map((u) => dot(u, u) / 2))))
      for (const [i, u] of flat.entries()) {
        for (const [j, v] of flat.entries()) {
          if (Math.floor(i / B) !== Math.floor(j / B)) expect(gram![i * flat.length + j]).toBeCloseTo(dot(u, v), 10)
        }
      }
    }
  })
})

describe('shapley values between levels', () => {
  /** One layer at error 1, 4, 16, 64; levels are the first and the last one, that add `excess` to its singles. */
  const excessAt = (excess: readonly [number, number], squaredErrors: readonly number[] = [1, 4, 16, 64]) => {
    const base = plantedAnalysis({ game: () => 0.5, layers: 2, candidates: 4 })
    const analysis = withLayers(base, ({ candidates }) => ({
      candidates: candidates.map((candidate, k) => ({ ...candidate, squaredError: squaredErrors[k]! })),
      leaveOneOut: excess.map((e) => 1 - (2 * e + 0.5)),
    }))
    const levels = [0, 3].map((k) => ({ choice: [k, k], loss: 1 }))
    return lossTable({ ...analysis, levels }, 'shapley').losses[0]!.map((loss) => loss - 0.5)
  }

  test('geometric in the logarithm of the error where signs agree', () => {
    expect(excessAt([1, 8])).toEqual([1, 2, 4, 8].map((e) => expect.closeTo(e, 10) as number))
    expect(excessAt([-1, -8])).toEqual([-1, -2, -4, -8].map((e) => expect.closeTo(e, 10) as number))
  })

  test('linear where they do not', () => {
    expect(excessAt([-1, 2])).toEqual([-1, 0, 1, 2].map((e) => expect.closeTo(e, 10) as number))
  })

  test('the nearest beyond the outermost levels, nothing for exact weights', () => {
    expect(excessAt([1, 8], [4, 2, 128, 64])).toEqual([1, 1, 8, 8].map((e) => expect.closeTo(e, 10) as number))
    expect(excessAt([1, 8], [4, 0, 8, 64])[1]).toBe(0)
  })

  test('a candidate of several levels has their mean', () => {
    const fixed = plantedAnalysis({ game: quadraticGame(vectors), layers: L, candidates: B })
    const pinned = { ...fixed, levels: fixed.levels!.map((level) => ({ ...level, choice: level.choice.with(0, 1) })) }
    const { mean } = fixed.layers[0]!.candidates[1]!.loss
    const values = pinned.levels.map(({ loss }, k) => (mean + loss - fixed.layers[0]!.leaveOneOut![k]!) / 2)
    const expected = values.reduce((a, b) => a + b, 0) / values.length
    expect(lossTable(pinned, 'shapley').losses[0]![1]).toBeCloseTo(expected, 10)
  })
})

describe('predicted losses of configurations', () => {
  const additiveLike: readonly Sensitivity[] = ['kl', 'shapley', 'hessian', 'mse', 'proxy', 'lim', 'zd']
  test.each(additiveLike)('%s: the sum of its losses', (sensitivity) => {
    const { losses } = lossTable(quadratic, sensitivity)
    for (const choice of choices) {
      expect(predict(quadratic, sensitivity, choice)).toBeCloseTo(additiveGame(losses)(choice), 10)
    }
  })

  test('coverage: the planted game', () => {
    const game = coverageGame(singles, 0.2)
    const analysis = plantedAnalysis({ game, layers: L, candidates: B })
    for (const choice of choices) expect(predict(analysis, 'coverage', choice)).toBeCloseTo(game(choice), 8)
  })

  test.each(['pairwise', 'clado'] as const)('%s: the planted game, and what an allocator minimises', (sensitivity) => {
    const game = quadraticGame(vectors)
    const { losses, gram } = lossTable(quadratic, sensitivity)
    const size = L * B
    for (const choice of choices) {
      const taken = choice.map((k, l) => l * B + k)
      let loss = additiveGame(losses)(choice)
      for (const i of taken) for (const j of taken) if (i !== j) loss += gram![i * size + j]! / 2
      expect(predict(quadratic, sensitivity, choice)).toBeCloseTo(game(choice), 9)
      expect(loss).toBeCloseTo(game(choice), 9)
    }
  })

  test('a configuration that there is not is refused', () => {
    expect(() => predict(additive, 'kl', [0, 0])).toThrow(RangeError)
    expect(() => predict(additive, 'kl', [0, 0, B])).toThrow(RangeError)
  })
})

describe('candidates without a finite loss', () => {
  const game = (choice: readonly (number | undefined)[]) =>
    choice[1] === 2 ? Number.POSITIVE_INFINITY : quadraticGame(vectors)(choice)
  const broken = vectors.map((own, l) => (l === 1 ? own.with(2, new Float32Array(6).fill(Number.NaN)) : own))
  const analysis = plantedAnalysis({ game, layers: L, candidates: B, sketches: broken })

  test.each(['kl', 'coverage', 'shapley', 'pairwise', 'clado'] as const)('%s: worse than all others', (sensitivity) => {
    const { losses, gram } = lossTable(analysis, sensitivity)
    expect(losses.flat().every(Number.isFinite)).toBe(true)
    expect(gram?.every(Number.isFinite) ?? true).toBe(true)
    const lossOf = (choice: readonly number[]) => {
      const taken = choice.map((k, l) => l * B + k)
      let loss = additiveGame(losses)(choice)
      if (gram) for (const i of taken) for (const j of taken) if (i !== j) loss += gram[i * L * B + j]! / 2
      return loss
    }
    const usable = choices.filter((choice) => choice[1] !== 2)
    const unusable = choices.filter((choice) => choice[1] === 2)
    expect(Math.min(...unusable.map(lossOf))).toBeGreaterThan(Math.max(...usable.map(lossOf)))
    expect(predict(analysis, sensitivity, [0, 2, 0])).toBe(Number.POSITIVE_INFINITY)
    expect(Number.isFinite(predict(analysis, sensitivity, [0, 1, 0]))).toBe(true)
  })

  test('pairwise: also where the sketch is finite', () => {
    const finite = plantedAnalysis({ game, layers: L, candidates: B, sketches: vectors })
    expect(lossTable(finite, 'pairwise').gram!.every(Number.isFinite)).toBe(true)
    expect(predict(finite, 'pairwise', [0, 2, 0])).toBe(Number.POSITIVE_INFINITY)
  })

  test('a pair that fails where neither single does', () => {
    const failing = quadratic.pairs!.map((pair) =>
      pair[0] === 0 && pair[1] === 2 ? ([...pair.slice(0, 4), Infinity] as const) : pair,
    )
    const pairs = failing as unknown as NonNullable<Analysis['pairs']>
    const table = lossTable({ ...quadratic, pairs }, 'clado')
    expect(table.gram!.every(Number.isFinite)).toBe(true)
    expect(table.gram![2 * L * B + B]).toBeGreaterThan(2 * Math.max(...choices.map(quadraticGame(vectors))))
  })
})

describe('an analysis that lacks what is needed', () => {
  const none = withLayers({ ...additive, levels: null, pairs: null, blocks: null }, ({ candidates }) => ({
    trace: null,
    sketches: null,
    leaveOneOut: null,
    candidates: candidates.map((candidate) => ({ ...candidate, proxy: null })),
  }))

  test.each([
    ['coverage', 'losses of all layers together'],
    ['shapley', 'all layers but one'],
    ['hessian', 'traces'],
    ['pairwise', 'sketches'],
    ['clado', 'pairs'],
    ['proxy', 'output errors'],
    ['lim', 'lim of any block'],
    ['zd', 'zd of any block'],
  ] as const)('%s says what, and how to measure it', (sensitivity, what) => {
    const error = expectQtoolError('usage', () => lossTable(none, sensitivity), what, sensitivity)
    expect(error.hint).toContain(`--sensitivity ${sensitivity}`)
    expectQtoolError('usage', () => predict(none, sensitivity, [0, 0, 0]), what)
  })

  test('kl and mse are always there', () => {
    expect(lossTable(none, 'kl').losses).toEqual(singles)
    expect(lossTable(none, 'mse').losses).toHaveLength(L)
  })

  test('levels without runs that leave one out are not enough for shapley', () => {
    expectQtoolError('usage', () => lossTable({ ...none, levels: additive.levels }, 'shapley'), 'all layers but one')
  })

  test('a shard is refused', () => {
    expect(() => lossTable({ ...additive, shard: { index: 0, count: 2 } }, 'kl')).toThrow(RangeError)
  })
})

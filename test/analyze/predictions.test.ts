import { describe, expect, test } from 'vitest'
import type { Sensitivity } from '../../src/analyze/analysis.ts'
import { predict } from '../../src/analyze/losses.ts'
import { type Agreement, agreements } from '../../src/analyze/predictions.ts'
import { spearmanByCounting } from '../oracles/sensitivityOracle.ts'
import {
  additiveGame,
  coverageGame,
  type Game,
  plantedAnalysis,
  plantedSingles,
  plantedVectors,
  quadraticGame,
} from './analyses.ts'

const [L, B] = [4, 3]
const singles = plantedSingles(L, B)
const vectors = plantedVectors(L, B, 8)
const planted = (game: Game) => plantedAnalysis({ game, layers: L, candidates: B, drawn: 30, sketches: vectors })
const of = (found: readonly Agreement[], sensitivity: Sensitivity) =>
  found.find((agreement) => agreement.sensitivity === sensitivity)!

describe('a planted game is predicted by its own model', () => {
  test.each([
    ['additive', additiveGame(singles), ['kl', 'coverage', 'shapley', 'clado']],
    ['saturating', coverageGame(singles, 0.2), ['coverage']],
    ['building up', coverageGame(singles, -0.05), ['coverage']],
    ['of pairs', quadraticGame(vectors), ['pairwise', 'clado']],
  ] as const)('%s', (_, game, exact) => {
    const found = agreements(planted(game))
    for (const sensitivity of exact) {
      expect(of(found, sensitivity).rSquared).toBeCloseTo(1, 8)
      expect(of(found, sensitivity).spearman).toBeCloseTo(1, 12)
    }
  })

  test('and not by another one', () => {
    expect(of(agreements(planted(quadraticGame(vectors))), 'kl').rSquared).toBeLessThan(0.95)
    expect(of(agreements(planted(coverageGame(singles, 0.1))), 'kl').rSquared).toBeLessThan(0.95)
  })
})

describe('agreement', () => {
  const analysis = planted(quadraticGame(vectors))

  test('is of predictions with measured losses, by the definitions', () => {
    const measured = analysis.configurations.map(({ loss }) => loss)
    const mean = measured.reduce((a, b) => a + b, 0) / measured.length
    const total = measured.reduce((sum, m) => sum + (m - mean) ** 2, 0)
    for (const { sensitivity, rSquared, spearman } of agreements(analysis)) {
      const predicted = analysis.configurations.map(({ choice }) => predict(analysis, sensitivity, choice))
      expect(spearman).toBeCloseTo(spearmanByCounting(predicted, measured), 10)
      const residual = measured.reduce((sum, m, i) => sum + (m - predicted[i]!) ** 2, 0)
      if (['mse', 'proxy', 'outputs', 'labels', 'lim', 'zd'].includes(sensitivity)) expect(rSquared).toBeUndefined()
      else expect(rSquared).toBeCloseTo(1 - residual / total, 8)
    }
  })

  test('is given for what the analysis has figures for', () => {
    const all = agreements(analysis).map(({ sensitivity }) => sensitivity)
    expect(all).toEqual([
      'kl',
      'hessian',
      'coverage',
      'shapley',
      'pairwise',
      'clado',
      'lim',
      'zd',
      'mse',
      'proxy',
      'outputs',
      'labels',
    ])
    const few = agreements({ ...analysis, levels: null, blocks: null, pairs: null })
    expect(few.map(({ sensitivity }) => sensitivity)).toEqual([
      ...['kl', 'hessian', 'pairwise', 'mse', 'proxy', 'outputs', 'labels'],
    ])
  })

  test('is undefined where it means nothing', () => {
    expect(agreements({ ...analysis, configurations: [] })).toEqual([])
    const one = agreements({ ...analysis, configurations: analysis.configurations.slice(0, 1) })
    expect(one[0]).toEqual({ sensitivity: 'kl', rSquared: undefined, spearman: undefined })
  })

  test('leaves failed runs out of R², and ranks them last', () => {
    const game: Game = (choice) =>
      choice.every((k) => k === 2) ? Number.POSITIVE_INFINITY : additiveGame(singles)(choice)
    const failed = planted(game)
    const worst = { choice: [2, 2, 2, 2], loss: Number.POSITIVE_INFINITY }
    const found = agreements({ ...failed, configurations: [worst, ...failed.configurations] })
    expect(of(found, 'kl').rSquared).toBeCloseTo(1, 10)
    expect(of(found, 'kl').spearman).toBeCloseTo(1, 10)
    const predicted: Game = (choice) => (choice[0] === 0 ? Number.POSITIVE_INFINITY : additiveGame(singles)(choice))
    const wrong = planted(predicted)
    const finite = wrong.configurations.map(({ choice }) => ({ choice, loss: additiveGame(singles)(choice) }))
    expect(of(agreements({ ...wrong, configurations: finite }), 'kl').rSquared).toBeUndefined()
  })
})

/** Bounds on accuracy in whole samples, allocations that keep them, losses by labels without luck, and what configurations refuse. */
import { describe, expect, it } from 'vitest'
import { type AllocationTask, allocate } from '../../src/analyze/allocate.ts'
import { itemsOf, limitsOfBudgets } from '../../src/analyze/allocationProblem.ts'
import { type Bounds, coarseWarning, samplesToLose, strainOf } from '../../src/analyze/bounds.ts'
import { smallestAllocation } from '../../src/analyze/lossBound.ts'
import { lossTable } from '../../src/analyze/losses.ts'
import { layerOptions } from '../../src/analyze/measuredLayers.ts'
import { QUANTIZE_DEFAULTS } from '../../src/config.ts'
import { resolveAnalyzeConfig, resolveQuantizeConfig } from '../../src/configRules.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { freedomOf } from '../../src/quantize/planModel.ts'
import { makeRandom } from '../../src/random.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { smallModel } from '../quantize/calibratedModels.ts'
import { additiveGame, plantedAnalysis } from './analyses.ts'
import { writeModel } from './measuredModels.ts'

const SAMPLES = 100
const lossesOf = (lost: number): Bounds['accuracyOf'] => {
  return () => ({ samples: SAMPLES, floatRight: 90, right: 90 - lost, standardError: 0 })
}

describe('a bound', () => {
  it('allows whole samples, to the last one', () => {
    // In floating point 0.29 · 100 is a little below 29, and 0.07 · 100 a little above 7.
    for (const [share, samples, lost] of [
      ...([
        [0.29, 100, 29],
        [0.07, 100, 7],
        [0.1, 30, 3],
        [0.001, 999, 0],
        [0.001, 1000, 1],
        [1, 5, 5],
      ] as const),
      ...([
        [1 / 3, 3, 1],
        [0.0999999, 30, 2],
      ] as const),
    ] as const) {
      expect(samplesToLose(share, samples), `${share} of ${samples}`).toBe(lost)
    }
  })

  it('is kept at the boundary and not beyond it, each by itself and both together', () => {
    const strain = (bounds: Bounds, lost: number, loss: number) =>
      strainOf({ ...bounds, accuracyOf: lossesOf(lost) }, [], loss)
    expect(strain({ maxDrop: 0.07 }, 7, 99)).toBe(1)
    expect(strain({ maxDrop: 0.07 }, 8, 0)).toBeGreaterThan(1)
    expect(strain({ maxDrop: 0.001 }, 0, 0)).toBe(0)
    expect(strain({ maxDrop: 0.001 }, -3, 0)).toBe(0)
    expect(strain({ maxDrop: 0.001 }, 1, 0)).toBeGreaterThan(1)
    expect(strain({ maxKl: 0.1 }, 99, 0.1)).toBe(1)
    // One step of a double above.
    expect(strain({ maxKl: 0.1 }, 0, 0.1 + 2 ** -56)).toBeGreaterThan(1)
    expect(strain({ maxKl: 0.1 }, 0, Number.NaN)).toBeGreaterThan(1)
    expect(strain({ maxKl: 0.1, maxDrop: 0.07 }, 8, 0.05)).toBeGreaterThan(1)
    expect(strain({ maxKl: 0.1, maxDrop: 0.07 }, 7, 0.11)).toBeGreaterThan(1)
    expect(strain({ maxKl: 0.1, maxDrop: 0.07 }, 7, 0.1)).toBe(1)
    expectQtoolError('usage', () => strainOf({ maxDrop: 0.1 }, [], 0), 'needs labels')
  })

  it('finer than the samples is warned of', () => {
    expect(coarseWarning(0.001, 1000)).toBeUndefined()
    expect(coarseWarning(undefined, 5)).toBeUndefined()
    expect(coarseWarning(0.001, 50)).toMatch(/^one of 50 .* is 2 % .* \(0.1 %\).*; 1000 would be needed$/)
  })
})

const model = loadModel(writeModel(useTempDir(), smallModel('MLP').proto).model)
const found = modelLayers(model.proto)
const layers = layerOptions(found.layers, freedomOf(model, found, QUANTIZE_DEFAULTS), QUANTIZE_DEFAULTS, undefined)
const every = layers.map(({ options }) => options.map((_, k) => k))
const items = itemsOf(layers, every, [])
const singles = layers.map((_, l) => [0, 1, 2, 3, 4, 5].map((k) => (0.01 + 0.004 * l) * 4 ** (k - 3)))
const game = additiveGame(singles)
const task: Omit<AllocationTask, 'limits'> = {
  ...{ analysis: plantedAnalysis({ game, layers: 3, candidates: 6 }), layers, items, sensitivities: ['kl'] as const },
  ...{ solver: 'ilp' as const, evaluate: async (options: readonly (number | undefined)[]) => game(options), run: {} },
  evaluations: 0,
}
const accuracyBy = (lostOf: (options: readonly (number | undefined)[]) => number): Bounds['accuracyOf'] => {
  return (options) => lossesOf(lostOf(options))!(options)
}
const sum = (options: readonly (number | undefined)[]) => options.reduce<number>((all, k) => all + k!, 0)

describe('an allocation', () => {
  it.each([true, false])('is lowered until one more sample would be lost (in order: %s)', async (inOrder) => {
    // A sample for each step down of a layer.
    const accuracyOf = accuracyBy(sum)
    for (const maxDrop of [0.04, 0.07, 0.15]) {
      const { options, measured } = await smallestAllocation(
        { ...task, evaluations: 50 },
        [],
        { maxDrop, accuracyOf },
        inOrder,
      )
      expect(sum(options)).toBeLessThanOrEqual(100 * maxDrop)
      if (inOrder) expect(sum(options)).toBe(Math.round(100 * maxDrop))
      else expect(sum(options)).toBeGreaterThan(100 * maxDrop - 2)
      expect(measured).toBe(game(options))
    }
    const never = accuracyBy((options) => sum(options) + 2)
    await expect(smallestAllocation(task, [], { maxDrop: 0.01, accuracyOf: never }, inOrder)).rejects.toMatchObject({
      code: 'infeasible',
      message:
        "the most precise candidates come to an accuracy 2 % below the float model's (88 of 100 samples right, the float model 90), more than 1 %",
    })
  })

  it('that keeps the bounds goes before one that loses less, also among exchanges', async () => {
    const limits = limitsOfBudgets([{ kind: 'meanBits', bits: 4 }], layers, items, {
      byteLimit: undefined,
      otherBytes: 0,
    })
    const free = await allocate({ ...task, limits, sensitivities: ['kl', 'mse'], evaluations: 20 })
    // All that loses as little as the best one gets samples wrong.
    const accuracyOf = accuracyBy((options) => (game(options) <= 1.2 * free.measured! ? 5 : 0))
    const bounds = { maxDrop: 0.01, accuracyOf }
    const kept = await allocate({ ...task, limits, bounds, sensitivities: ['kl', 'mse'], evaluations: 20 })
    expect(kept.measured).toBeGreaterThan(1.2 * free.measured!)
    expect(accuracyOf!(kept.options)!.right).toBe(90)
    expect(kept.limits[0]!.used).toBeLessThanOrEqual(kept.limits[0]!.limit)
  })
})

describe('losses by labels', () => {
  it('are the least-squares fit that does not fall with the error, and at least 0', () => {
    const random = makeRandom(8)
    const analysis = plantedAnalysis({ game, layers: 3, candidates: 6 })
    for (let round = 0; round < 20; round++) {
      const noisy = {
        ...analysis,
        layers: analysis.layers.map((layer) => ({
          ...layer,
          candidates: layer.candidates.map((one) => ({ ...one, labels: { mean: random.normal(), standardError: 1 } })),
        })),
      }
      const { losses } = lossTable(noisy, 'labels')
      for (const [l, { candidates }] of noisy.layers.entries()) {
        const means = candidates.map(({ labels }) => labels.mean)
        // Isotonic regression by its minimax formula, in the order of candidates, which is that of errors.
        for (const [k, loss] of losses[l]!.entries()) {
          const mean = (from: number, to: number) =>
            means.slice(from, to + 1).reduce((a, b) => a + b, 0) / (to + 1 - from)
          const upTo = Array.from({ length: k + 1 }, (_, i) =>
            Math.min(...Array.from({ length: 6 - k }, (_, j) => mean(i, k + j))),
          )
          expect(loss).toBeCloseTo(Math.max(0, ...upTo), 10)
        }
      }
    }
    const none = {
      ...analysis,
      layers: analysis.layers.map((layer) => ({
        ...layer,
        candidates: layer.candidates.map((one) => ({ ...one, labels: null })),
      })),
    }
    expectQtoolError('usage', () => lossTable(none, 'labels'), 'the analysis has no losses by labels')
  })
})

describe('a configuration', () => {
  it.each([
    [{ labels: 'l.npy', budget: '4bit' }, /labels is given without data/],
    [{ data: ['x'], labels: 'l.npy' }, /labels is given without a budget/],
    [{ data: ['x'], labels: 'l.npy', budget: '4bit', solver: 'uniform' }, /labels is given, but solver uniform/],
    [{ data: ['x'], labels: 'l.npy', maxDrop: 0.01, holdout: 0 }, /maxDrop is given, but nothing is held out/],
    [{ data: ['x'], labels: 'l.npy', maxDrop: 0.01, holdout: 0, analysis: 'a' }, /maxDrop is given without held-out/],
    [{ data: ['x'], labels: 'l.npy', budget: '4bit', holdout: 0, analysis: 'a' }, /labels is given without held-out/],
    [{ data: ['x'], maxDrop: 0.01 }, /maxDrop is given without labels/],
    [{ maxDrop: 0.01 }, /maxDrop is given without data or an analysis/],
    [{ analysis: 'a', maxDrop: 0.01 }, /maxDrop is given without labels/],
    [{ data: ['x'], labels: 'l.npy', maxDrop: 0 }, /maxDrop: wanted a share above 0, at most 1 \(0.001, or 0.1%/],
    [{ data: ['x'], labels: 'l.npy', maxDrop: 1.01 }, /maxDrop: wanted a share/],
    [{ data: ['x'], labels: 'l.npy', maxDrop: 0.1, bits: 4 }, /both maxDrop \(0.1\) and a width/],
    [
      { data: ['x'], labels: 'l.npy', budget: '4bit', solver: 'bisection' },
      /bisection is given without maxKl or maxDrop/,
    ],
    [{ data: ['x'], budget: '4bit', sensitivity: ['kl', 'labels'] }, /sensitivity labels is given without labels/],
    [{ plan: 'p', data: ['x'], labels: 'l.npy' }, /labels is given beside a plan/],
  ])('%j is refused', (values, message) => {
    expectQtoolError('usage', () => resolveQuantizeConfig(values as never), message)
  })

  it.each([
    [{ labels: 'l.npy' }, /labels is given without data/],
    [{ data: ['x'], sensitivity: ['kl', 'labels'] }, /sensitivity labels is given without labels/],
    [{ data: ['x'], labels: 'l.npy', holdout: 0 }, /nothing is held out/],
    [{ merge: ['a'], output: 'b', labels: 'l.npy' }, /labels is given beside merge/],
  ])('%j is refused by analyze', (values, message) => {
    expectQtoolError('usage', () => resolveAnalyzeConfig(values as never), message)
  })

  it.each([
    [{ data: ['x'], labels: 'l.npy', maxDrop: 0.001 }, 'ilp'],
    [{ data: ['x'], labels: 'l.npy', maxDrop: 0.001, maxKl: 1, budget: '4bit', solver: 'dp' }, 'dp'],
    [{ data: ['x'], labels: 'l.npy', maxDrop: 1, solver: 'bisection', sensitivity: ['labels'] }, 'bisection'],
    [{ data: ['x'], labels: 'l.npy', maxDrop: 1, analysis: 'a' }, 'ilp'],
    [{ analysis: 'a', budget: '4bit', sensitivity: ['labels'] }, 'ilp'],
  ])('%j is allocated by %s, and so is a copy of what it becomes', (values, solver) => {
    const config = resolveQuantizeConfig(values as never)
    expect(config.solver).toBe(solver)
    expect(resolveQuantizeConfig(structuredClone(config))).toEqual(config)
  })
})

/** Budgets as limits, layers as items: against sums over every allocation of a small model. */
import { describe, expect, it } from 'vitest'
import { gramOfItems, itemsOf, limitsOfBudgets, problemOf, spread } from '../../src/analyze/allocationProblem.ts'
import { layerOptions } from '../../src/analyze/measuredLayers.ts'
import { parseBudgets } from '../../src/bitalloc/budget.ts'
import { evaluateChoice } from '../../src/bitalloc/problem.ts'
import { QUANTIZE_DEFAULTS } from '../../src/config.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { freedomOf } from '../../src/quantize/planModel.ts'
import { makeRandom } from '../../src/random.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { smallModel } from '../quantize/calibratedModels.ts'
import { everyChoice } from './analyses.ts'
import { writeModel } from './measuredModels.ts'

const model = loadModel(writeModel(useTempDir(), smallModel('MLP').proto).model)
const found = modelLayers(model.proto)
const layers = layerOptions(found.layers, freedomOf(model, found, QUANTIZE_DEFAULTS), QUANTIZE_DEFAULTS, undefined)
const all = layers.map(({ options }) => options.map((_, k) => k))
const random = makeRandom(1)
const losses = layers.map(({ options }) => options.map(() => random.uniform()))
const counts = layers.map(({ options }) => options.length)

describe('candidates', () => {
  it('fall in stored bytes, one for each width, and others where scales count', () => {
    for (const { options } of layers) expect(options.map(({ choice }) => choice.bits)).toEqual([8, 6, 5, 4, 3, 2])
    const [budget] = parseBudgets('4bpw')
    const many = layerOptions(found.layers, freedomOf(model, found, QUANTIZE_DEFAULTS), QUANTIZE_DEFAULTS, budget)
    for (const { options } of many) {
      expect(options.length).toBe(6 * 3 * 2)
      for (const [k, { storedBytes }] of options.entries()) {
        if (k > 0) expect(storedBytes).toBeLessThanOrEqual(options[k - 1]!.storedBytes)
      }
    }
  })

  it('are those that overrides leave', () => {
    const setting = [
      { pattern: 'h1', bits: 3 },
      { pattern: 'y', bits: 'skip' },
    ] as const
    const freedom = freedomOf(model, found, { ...QUANTIZE_DEFAULTS, layers: setting })
    const own = layerOptions(found.layers, freedom, QUANTIZE_DEFAULTS, undefined)
    expect(own.map(({ layer, options }) => [layer.name, options.length])).toEqual([
      ['h1', 1],
      ['m2', 6],
    ])
  })
})

describe('limits', () => {
  it('are exact for every allocation: it is within them exactly when it is within the budgets', () => {
    const weights = layers.reduce((sum, { layer }) => sum + layer.weights, 0)
    const items = itemsOf(layers, all, [])
    const budgets = parseBudgets('3.7bit, 4.3bpw, 5kB')
    const limits = limitsOfBudgets(budgets, layers, items, { byteLimit: 5000, otherBytes: 700 })
    const problem = problemOf(items, limits, losses)
    let kept = 0
    for (const choice of everyChoice(counts)) {
      const { costs, loss } = evaluateChoice(problem, choice)
      const chosen = choice.map((k, l) => layers[l]!.options[k]!)
      const bits = chosen.reduce((sum, { choice: own }, l) => sum + own.bits * layers[l]!.layer.weights, 0)
      const bytes = chosen.reduce((sum, { storedBytes }) => sum + storedBytes, 0)
      const within = [bits / weights <= 3.7, (8 * bytes) / weights <= 4.3, bytes + 700 <= 5000]
      expect(costs.map((cost, c) => cost <= limits[c]!.limit)).toEqual(within)
      expect(loss).toBeCloseTo(
        choice.reduce((sum, k, l) => sum + losses[l]![k]!, 0),
        12,
      )
      if (within.every(Boolean)) kept++
    }
    expect(kept).toBeGreaterThan(10)
  })

  it('that are a whole number but for rounding are that number', () => {
    const items = itemsOf(layers, all, [])
    const weights = layers.reduce((sum, { layer }) => sum + layer.weights, 0)
    for (let total = 2 * weights; total < 5 * weights; total += 7) {
      const budget = { kind: 'meanBits', bits: total / weights } as const
      const [limit] = limitsOfBudgets([budget], layers, items, { byteLimit: undefined, otherBytes: 0 })
      expect(limit!.limit).toBe(total)
    }
  })
})

describe('items', () => {
  it('are layers, those of a pattern together, those of patterns that meet all together', () => {
    const layersOf = (patterns: readonly string[]) => itemsOf(layers, all, patterns).map((item) => item.layers)
    expect(layersOf([])).toEqual([[0], [1], [2]])
    expect(layersOf(['{h1,y}'])).toEqual([[0, 2], [1]])
    expect(layersOf(['{h1,y}', 'w3', 'nothing'])).toEqual([[0, 2], [1]])
    expect(layersOf(['{m2,y}', '{h1,m2}'])).toEqual([[0, 1, 2]])
    expect(layersOf(['{h1,m2}', '{w2,w3}'])).toEqual([[0, 1, 2]])
  })

  it('leave out layers without a choice, and layers that are tied must have the same ones', () => {
    const skipped = [all[0]!, [], all[2]!]
    expect(itemsOf(layers, skipped, ['*']).map((item) => item.layers)).toEqual([[0, 2]])
    expect(spread(itemsOf(layers, skipped, ['*']), [3], 3)).toEqual([3, undefined, 3])
    const fixed = [all[0]!, [2], all[2]!]
    const error = expectQtoolError('usage', () => itemsOf(layers, fixed, ['*']), '--tie *: h1 and m2 cannot be tied')
    expect(error.hint).toMatch(/--layer/)
    expect(itemsOf(layers, fixed, ['{h1,y}'])).toEqual([
      { layers: [0, 2], allowed: all[0] },
      { layers: [1], allowed: [2] },
    ])
  })

  it('have the losses, costs and cross terms of their layers', () => {
    const n = counts.reduce((a, b) => a + b, 0)
    const starts = [0, counts[0]!, counts[0]! + counts[1]!]
    const gram = Float64Array.from({ length: n * n }, () => random.normal())
    for (let a = 0; a < n; a++) for (let b = 0; b < a; b++) gram[a * n + b] = gram[b * n + a]!
    const items = itemsOf(layers, [[1, 4], all[1]!, [1, 4]], ['{h1,y}'])
    const limits = limitsOfBudgets(parseBudgets('4bit'), layers, items, { byteLimit: undefined, otherBytes: 0 })
    const problem = problemOf(items, limits, losses)
    const own = gramOfItems(items, gram, counts)
    const places = [0, 2]
    for (const choice of everyChoice([2, counts[1]!])) {
      const options = spread(items, choice, 3) as number[]
      expect(options).toEqual([[1, 4][choice[0]!], choice[1], [1, 4][choice[0]!]])
      const { loss, costs } = evaluateChoice(problem, choice)
      expect(loss).toBeCloseTo(
        options.reduce((sum, k, l) => sum + losses[l]![k]!, 0),
        12,
      )
      expect(costs[0]).toBe(
        options.reduce((sum, k, l) => sum + layers[l]!.options[k]!.plan.bits * layers[l]!.layer.weights, 0),
      )
      // xᵀGx over the layers is that over the items.
      const quadratic = (at: readonly number[], g: Float64Array, size: number) =>
        at.reduce((sum, a) => sum + at.reduce((row, b) => row + g[a * size + b]!, 0), 0)
      const ofLayers = quadratic(
        options.map((k, l) => starts[l]! + k),
        gram,
        n,
      )
      const size = 2 + counts[1]!
      expect(
        quadratic(
          choice.map((k, i) => places[i]! + k),
          own,
          size,
        ),
      ).toBeCloseTo(ofLayers, 9)
    }
  })
})

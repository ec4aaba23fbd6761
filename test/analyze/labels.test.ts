/** Labels of held-out samples: losses and accuracy of the edited model, bounds that real runs keep, and what is refused. */
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { accuracyReport } from '../../src/analyze/allocationReport.ts'
import { parseAnalysis } from '../../src/analyze/analysisFields.ts'
import { readAnalysis } from '../../src/analyze/analysisFile.ts'
import { Configurations } from '../../src/analyze/configurations.ts'
import { mixedPlan } from '../../src/analyze/mixedPlan.ts'
import { openMixed } from '../../src/analyze/openMixed.ts'
import { sweepLayers } from '../../src/analyze/sweep.ts'
import { allocationText } from '../../src/commands/allocationText.ts'
import type { QuantizeConfig } from '../../src/config.ts'
import { encodeNpy } from '../../src/data/npy.ts'
import { analyzeModel, quantizeModel } from '../../src/pipeline.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { crossEntropy, isRight, meanWithError } from '../oracles/labelOracle.ts'
import { smallModel, writeSamples } from '../quantize/calibratedModels.ts'
import { type Change, heldOutScores, type Opened, openMeasured, withOutput, writeModel } from './measuredModels.ts'

const directory = useTempDir()
const SAMPLES = 90
const small = smallModel('MLP')
// Nothing in its name says that it holds class scores: the labels do.
const proto = withOutput(small.proto, 'y')
let model: string
let folder: string
let data: string[]
/** Of all samples: the class of the original, and every fifth time another one. */
let labels: number[]
let labelFile: string
let heldNumbers: Set<number>

const at = (file: string) => path.join(folder, file)
const written = (name: string, values: readonly number[]) => {
  fs.writeFileSync(at(name), encodeNpy({ shape: [values.length], dtype: 'int32', data: Int32Array.from(values) }))
  return at(name)
}
const open = (setting: Partial<QuantizeConfig> = {}) =>
  openMeasured(model, data, { method: 'gptq', holdout: 0.5, samples: 0, labels: labelFile, ...setting })

beforeAll(async () => {
  ;({ model, folder } = writeModel(directory, proto))
  data = [writeSamples(at('x.npy'), small.draw(SAMPLES, 100))]
  const parts = await openMeasured(model, data, { holdout: 0.5, samples: 0 })
  const { fit, held } = parts.data
  labels = new Array<number>(SAMPLES).fill(0)
  for (const part of [fit, held]) {
    for (const { values, number } of await heldOutScores(proto, { ...parts.data, held: part }, [])) {
      const best = values.indexOf(Math.max(...values))
      labels[number] = number % 5 === 4 ? (best + 1) % values.length : best
    }
  }
  heldNumbers = new Set(held.order)
  labels[held.order[3]!] = -1
  labelFile = written('labels.npy', labels)
  await parts.close()
})

/** Of the model with changes, by the definitions; `wins` per labelled sample, 1, 0 or −1. */
async function judged({ data: own }: Opened, changes: readonly Change[]) {
  const [before, after] = [await heldOutScores(proto, own, []), await heldOutScores(proto, own, changes)]
  const pairs = before.flatMap(({ values, number }, i) => {
    const label = labels[number]!
    if (label < 0) return []
    const other = after[i]!.values
    const loss = crossEntropy(other, label) - crossEntropy(values, label)
    return [{ loss, float: isRight(values, label), right: isRight(other, label) }]
  })
  return {
    samples: pairs.length,
    floatRight: pairs.filter(({ float }) => float).length,
    right: pairs.filter(({ right }) => right).length,
    wins: meanWithError(pairs.map(({ float, right }) => Number(right) - Number(float))),
    loss: meanWithError(pairs.map(({ loss }) => loss)),
  }
}

describe('a run with labels', () => {
  it('says of layers alone and of all together what the edited model does, on held-out samples alone', async () => {
    const parts = await open()
    const { layers, grouped, store, source } = parts
    // Several batches, the last one smaller.
    const own = { ...parts.data, batchSize: 7 }
    const common = { ...parts, data: own, damping: 0.05, wanted: () => true, sketch: 0, seed: 0, run: {} }
    const { figures } = await sweepLayers({ ...common, labels: true })
    let below = 0
    for (const [l, options] of layers.entries()) {
      for (const k of [2, options.options.length - 1]) {
        const { loss } = await judged(parts, [{ options, solved: store.get(l, k) }])
        const { mean, standardError } = figures[l]![k]!.labels!
        expect(Math.abs(mean - loss.mean)).toBeLessThan(1e-3 * Math.abs(loss.mean) + 1e-5)
        expect(Math.abs(standardError - loss.standardError)).toBeLessThan(1e-3 * loss.standardError + 1e-5)
      }
      below += figures[l]!.filter((one) => one.labels!.mean < 0).length
    }
    expect(below).toBeGreaterThan(0)
    const configurations = await Configurations.open(source, layers, grouped, own, store, {})
    for (const choice of [layers.map(({ options }) => options.length - 1), layers.map((_, l) => (l === 0 ? 4 : 3))]) {
      const changes = layers.map((options, l) => ({ options, solved: { ...store.get(l, choice[l]!) } }))
      const { samples, floatRight, right, wins } = await judged(parts, changes)
      expect(configurations.accuracyOf(choice)).toBeUndefined()
      await configurations.evaluate(choice)
      const accuracy = configurations.accuracyOf(choice)!
      expect(accuracy).toMatchObject({ samples, floatRight, right })
      expect(samples).toBe(SAMPLES / 2 - 1)
      expect(accuracy.standardError).toBeCloseTo(wins.standardError, 10)
      expect(accuracyReport(accuracy, undefined)!.change).toBeCloseTo(wins.mean, 10)
    }
    await configurations.close()
    await parts.close()
  })

  it('in parts merges to the bytes of the whole, whatever labels fitted samples have, and parts with other labels do not', async () => {
    const analyze = (output: string, shard: string | undefined, own: readonly number[]) =>
      analyzeModel(model, {
        ...{ data, threads: 1, configurations: 0, holdout: 0.5, samples: 0, sensitivity: ['kl', 'labels'], bits: 3 },
        ...{ labels: written('own.npy', own), output: at(output), ...(shard === undefined ? {} : { shard }) },
      })
    const whole = await analyze('whole.json', undefined, labels)
    expect(whole.analysis!.accuracy).toMatchObject({ samples: SAMPLES / 2 - 1 })
    await analyze('1.json', '1/2', labels)
    await analyze('2.json', '2/2', labels)
    await analyzeModel(undefined, { merge: [at('2.json'), at('1.json')], output: at('merged.json') })
    const text = (file: string) => fs.readFileSync(at(file), 'utf8')
    expect(text('merged.json') === text('whole.json')).toBe(true)
    // Classes of what is fitted do not matter.
    const others = labels.map((label, i) => (heldNumbers.has(i) ? label : 0))
    await analyze('others.json', '2/2', others)
    const [here, there] = [readAnalysis(at('2.json')), readAnalysis(at('others.json'))]
    expect(there.layers).toEqual(here.layers)
    expect(there.accuracy).toEqual(here.accuracy)
    const merge = [at('1.json'), at('others.json')]
    await expect(analyzeModel(undefined, { merge, output: at('no.json') })).rejects.toThrow(/differs in: labels/)
    // What was written before there were labels.
    const value = JSON.parse(text('whole.json'))
    delete value.accuracy
    delete value.fingerprint.labels
    for (const layer of value.layers) for (const candidate of layer.candidates) delete candidate.labels
    const old = parseAnalysis('old.json', value)
    expect([old.accuracy, old.layers[0]!.candidates[0]!.labels, 'labels' in old.fingerprint]).toEqual([
      null,
      null,
      false,
    ])
  })
})

describe('a bound on accuracy', () => {
  let parts: Opened
  let opened: Awaited<ReturnType<typeof openMixed>>

  beforeAll(async () => {
    parts = await open({ sensitivity: ['kl', 'labels'], budget: '4bit', maxDrop: 0.5 })
    opened = await openMixed(parts.source, parts.found, parts.config, parts.data, () => at('candidates'), {})
  })

  afterAll(async () => {
    await opened.close()
    await parts.close()
  })

  async function planned(setting: Partial<QuantizeConfig>) {
    const { task } = opened
    const config = { ...task.config, budget: undefined, maxDrop: undefined, ...setting }
    const { allocation } = await mixedPlan({ ...task, config, latency: undefined })
    const { options } = allocation
    const stored = options.reduce<number>((sum, k, l) => sum + task.layers[l]!.options[k!]!.storedBytes, 0)
    return { ...task.accuracyOf!(options)!, stored, allocation }
  }

  it.each(['ilp', 'bisection'] as const)(
    'is kept by the smallest model that %s finds, to the sample',
    async (solver) => {
      const samples = SAMPLES / 2 - 1
      expect(opened.warnings).toEqual([])
      let before = Number.POSITIVE_INFINITY
      for (const lost of [1, 4]) {
        const { floatRight, right, stored } = await planned({
          solver,
          maxDrop: lost / samples,
          evaluations: 4,
        })
        expect(floatRight - right).toBeLessThanOrEqual(lost)
        expect(stored).toBeLessThanOrEqual(before)
        before = stored
      }
      const strict = await planned({ solver, maxDrop: 1 / samples, maxKl: 1e-3, evaluations: 4 })
      expect(strict.floatRight - strict.right).toBeLessThanOrEqual(1)
      expect(strict.allocation.measured).toBeLessThanOrEqual(1e-3)
      expect(strict.stored).toBeGreaterThan(before)
    },
  )

  it('beside a budget is kept as well, and is refused with what is reached where it cannot be', async () => {
    const kept = await planned({ budget: '4bit', maxDrop: 0.2, evaluations: 2 })
    expect(kept.floatRight - kept.right).toBeLessThanOrEqual(0.2 * kept.samples)
    await expect(planned({ budget: '2bit', maxDrop: 0.01, evaluations: 2 })).rejects.toMatchObject({
      code: 'infeasible',
      message: expect.stringMatching(
        /^the budget 2bit comes to an accuracy .* % below .*\(\d+ of 44 samples right, the float model \d+\), more than 1 %$/,
      ),
    })
    const two = [{ pattern: '*', bits: 2 as const }]
    for (const solver of ['ilp', 'bisection'] as const) {
      await expect(planned({ solver, layers: two, maxDrop: 0.01 })).rejects.toMatchObject({
        code: 'infeasible',
        message: expect.stringContaining('the most precise candidates come to an accuracy'),
      })
    }
  })

  it('is reported, with a warning where the samples cannot tell', async () => {
    const report = await quantizeModel(model, at('out.onnx'), {
      ...{ data, labels: labelFile, holdout: 0.5, samples: 0, maxDrop: 0.001, threads: 1, sensitivity: ['kl'] },
      layers: [{ pattern: 'm2', bits: 8 }],
    })
    const { accuracy } = report.allocation!
    expect(accuracy).toMatchObject({ samples: 44, maxDrop: 0.001 })
    expect(accuracy!.right).toBeGreaterThanOrEqual(accuracy!.floatRight)
    expect(report.warnings.join()).toMatch(/one of 44 held-out samples with a label is 2.27 % .* 1000 would be needed/)
    expect(allocationText(report.allocation!)).toMatch(/accuracy on 44 held-out samples with a label: \d+ right/)
  })
})

describe('labels', () => {
  const analyze = (setting: object, file = model) =>
    analyzeModel(file, { data, labels: labelFile, threads: 1, bits: 2, configurations: 0, ...setting })

  it('that do not fit, or that no held-out sample has, are refused', async () => {
    const less = written('less.npy', labels.slice(1))
    await expect(analyze({ labels: less })).rejects.toThrow(/89 labels in .*less.npy, but 90 samples in/)
    await expect(
      analyze({
        labels: written(
          'none.npy',
          labels.map(() => -1),
        ),
      }),
    ).rejects.toMatchObject({
      code: 'data',
      message: 'no held-out sample has a label: all are below 0',
    })
  })

  it('of a model without class scores are refused', async () => {
    const many = written(
      'many.npy',
      labels.map((label) => label + 1000),
    )
    await expect(analyze({ labels: many })).rejects.toMatchObject({
      code: 'data',
      message: `labels are given, but no output of ${model} has class scores for them`,
    })
  })
})

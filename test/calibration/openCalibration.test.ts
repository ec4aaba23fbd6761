import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { declaredInputs, openCalibration } from '../../src/calibration/openCalibration.ts'
import { scoreSamples } from '../../src/calibration/scoreSamples.ts'
import { el2nScore, klScore } from '../../src/calibration/selectSamples.ts'
import { QUANTIZE_DEFAULTS, type QuantizeConfig } from '../../src/config.ts'
import type { Dataset } from '../../src/data/dataset.ts'
import { DataType, encodeModel, type ModelProto, makeModel, makeNode, makeValueInfo } from '../../src/onnx/proto.ts'
import { datasetOf, valueInfo } from '../eval/models.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { writeNpy } from '../oracles/npy.ts'
import { draw, drawn, expectClose, runModel, smallModel, weight } from './tapRuns.ts'
import { inMemory } from './walks.ts'

const temp = useTempDir()

/** A file of `count` samples, each filled with its number. */
function numbered(count: number, shape: readonly number[], code = 'f4'): string {
  const size = shape.reduce((a, b) => a * b, 1)
  const values = Array.from({ length: count * size }, (_, i) => Math.floor(i / size))
  const file = path.join(temp, `${count}x${shape.join('x')}.${code}.npy`)
  fs.writeFileSync(file, writeNpy(code, [count, ...shape], values))
  return file
}

const modelOf = (dims: readonly (number | string)[], elemType = DataType.FLOAT) =>
  inMemory(
    makeModel({
      graph: {
        node: [makeNode('Relu', ['x'], ['y'])],
        input: [valueInfo('x', dims, elemType)],
        output: [{ name: 'y' }],
      },
    }),
  )

const noScores = () => Promise.reject(new Error('no scores are needed'))
const open = (
  config: Partial<QuantizeConfig>,
  model = modelOf(['n', 4]),
  score: Parameters<typeof openCalibration>[3] = noScores,
) => openCalibration({ ...QUANTIZE_DEFAULTS, ...config }, model, () => path.join(temp, 'scratch'), score)

/** What each sample is filled with, in the order in which they are fed. */
const contents = (dataset: Dataset) =>
  [...dataset.batches(3)].flatMap(({ feeds, count }) => {
    const { data } = feeds.get('x')!
    return Array.from({ length: count }, (_, i) => Number(data[(i * data.length) / count]))
  })
const sorted = (values: Iterable<number>) => [...values].sort((a, b) => a - b)
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i)

describe('calibration data', () => {
  it('is split into disjoint parts, whose order says which samples they are', async () => {
    const { fit, held, source, notes } = await open({ data: [numbered(20, [4])], samples: 0 })
    expect([fit.count, held.count]).toEqual([16, 4])
    expect(sorted([...contents(fit), ...contents(held)])).toEqual(upTo(20))
    expect(contents(fit)).toEqual([...fit.order])
    expect(contents(held)).toEqual([...held.order])
    expect(source).toContain('20x4')
    expect(notes).toEqual([])
  })

  it('is drawn by the seed: as many as wanted, from the whole data', async () => {
    const take = async (seed: number) => {
      const { fit, held } = await open({ data: [numbered(60, [4])], samples: 10, holdout: 0.3, seed })
      expect([fit.count, held.count]).toEqual([7, 3])
      return [...contents(fit), ...contents(held)]
    }
    const [one, again, other] = [await take(1), await take(1), await take(2)]
    expect(again).toEqual(one)
    expect(new Set(one).size).toBe(10)
    expect(sorted(other)).not.toEqual(sorted(one))
    expect(Math.max(...one)).toBeGreaterThan(10)
  })

  it('may hold out nothing', async () => {
    const { fit, held } = await open({ data: [numbered(20, [4])], holdout: 0 })
    expect([fit.count, held.count]).toEqual([20, 0])
  })

  it.each([
    ['few numbers', [4], 'f4', 64],
    ['the largest batch of large samples', [2 ** 16], 'f4', 16],
    ['samples larger than a batch', [2 ** 20 + 1], 'f4', 1],
    ['tokens', [512], 'i8', 8],
    ['uint8 images count as numbers', [2 ** 18], 'u1', 4],
  ] as const)('has batches by the size of a sample: %s', async (_what, shape, code, batchSize) => {
    const type = { f4: DataType.FLOAT, i8: DataType.INT64, u1: DataType.UINT8 }[code]
    const found = await open({ data: [numbered(1, shape, code)], holdout: 0 }, modelOf(['n', ...shape], type))
    expect(found.batchSize).toBe(batchSize)
  })

  it('can be selected by scores of a larger pool, of which nothing is held out', async () => {
    const pools: number[][] = []
    const score = async (pool: Dataset) => {
      pools.push(contents(pool))
      return Float64Array.from(contents(pool), (number) => (number >= 50 ? 1 : 0))
    }
    const { fit, held } = await open(
      { data: [numbered(100, [4])], samples: 20, holdout: 0.2, select: 'el2n' },
      modelOf(['n', 4]),
      score,
    )
    expect([fit.count, held.count]).toEqual([16, 4])
    const [pool] = pools
    // Four samples are scored for each that is used, held-out ones apart.
    expect(pool!.length).toBe(80 - 4)
    expect(new Set([...pool!, ...contents(held)]).size).toBe(80)
    expect(contents(fit).every((number) => pool!.includes(number))).toBe(true)
    expect(contents(fit).filter((number) => number >= 50).length).toBeGreaterThanOrEqual(8)
  })

  it('is used whole, without scores, where there is no more', async () => {
    const { fit, held, notes } = await open({ data: [numbered(20, [4])], samples: 256, select: 'kl' })
    expect([fit.count, held.count]).toEqual([16, 4])
    expect(notes).toContain('all 16 samples are used: there are no more to select from')
  })
})

it('inputs are as the model declares them, defaults apart', () => {
  const model = smallModel({
    nodes: [makeNode('MatMul', ['x', 'w'], ['y'])],
    weights: [weight('w', [4, 4], draw([4, 4], 1))],
    inputs: { x: [1, 4], w: [4, 4] },
  })
  model.graph!.input.push(
    valueInfo('ids', ['batch', 0, ''], DataType.INT64) as ReturnType<typeof makeValueInfo>,
    makeValueInfo('untyped'),
    makeValueInfo('ranked', DataType.FLOAT16),
  )
  expect(declaredInputs(inMemory(model))).toEqual([
    { name: 'x', elementType: 'float', dims: [1, 4] },
    { name: 'ids', elementType: 'int64', dims: ['batch', undefined, undefined] },
    { name: 'untyped', elementType: 'other', dims: [] },
    { name: 'ranked', elementType: 'float16', dims: [] },
  ])
})

describe('scores of samples', () => {
  const w = draw([4, 6], 1)
  const written = (name: string, model: ModelProto) => {
    const file = path.join(temp, name)
    fs.writeFileSync(file, encodeModel(model))
    return file
  }
  const logits = (weights: Float32Array, output = 'logits') =>
    smallModel({
      nodes: [makeNode('MatMul', ['x', 'w'], [output])],
      weights: [weight('w', [4, 6], weights)],
      inputs: { x: [undefined, 3, 4] },
      outputs: [output],
    })
  const classes = (weights: Float32Array) =>
    smallModel({
      nodes: [makeNode('MatMul', ['x', 'w'], ['z']), makeNode('Softmax', ['z'], ['y'])],
      weights: [weight('w', [4, 6], weights)],
      inputs: { x: [undefined, 3, 4] },
    })
  const other = w.map((value, i) => value + 0.1 * Math.sin(i))
  const x = drawn([5, 3, 4], 2)
  const samples = datasetOf({ x })

  it.each(['el2n', 'kl'] as const)('a student that is the model scores 0: %s', async (by) => {
    // Far apart, so that the smallest probabilities are 0.
    const sharp = written('sharp.onnx', classes(w.map((value) => 200 * value)))
    for (const model of [written('same.onnx', classes(w)), sharp]) {
      expect([...(await scoreSamples(samples, 2, model, model, by, {}))]).toEqual([0, 0, 0, 0, 0])
    }
  })

  it.each([
    ['el2n', el2nScore],
    ['kl', klScore],
  ] as const)('are those of each sample alone, in the order of the data set: %s', async (by, score) => {
    const [model, student] = [written('m.onnx', classes(w)), written('s.onnx', classes(other))]
    const picked = samples.subset([3, 0, 4, 1])
    const found = await scoreSamples(picked, 3, model, student, by, {})
    const logs = async (weights: Float32Array) =>
      (await runModel(classes(weights), { x })).get('y')!.data as Float32Array
    const [p, q] = [(await logs(w)).map(Math.log), (await logs(other)).map(Math.log)]
    const own = [3, 0, 4, 1].map((n) => score(p.slice(18 * n, 18 * n + 18), q.slice(18 * n, 18 * n + 18), 6))
    expectClose(found, own, by, 1e-4)
    expect(Math.min(...found)).toBeGreaterThan(0)
  })

  it('do not count padding', async () => {
    const mask = { type: 'int64', dims: [2, 3], data: BigInt64Array.from([1, 1, 0, 1, 1, 1], BigInt) } as const
    const damaged = drawn([2, 3, 4], 2)
    ;(damaged.data as Float32Array).fill(1e3, 8, 12)
    const [model, student] = [written('lm.onnx', logits(w)), written('ls.onnx', logits(other))]
    const score = async (feeds: Parameters<typeof datasetOf>[0]) => [
      ...(await scoreSamples(datasetOf(feeds), 2, model, student, 'kl', {})),
    ]
    const masked = await score({ x: drawn([2, 3, 4], 2), attention_mask: mask })
    expect(await score({ x: damaged, attention_mask: mask })).toEqual(masked)
    expect(await score({ x: damaged })).not.toEqual(masked)
    expect(masked.every((value) => value > 0)).toBe(true)
  })

  it('need an output of class scores', async () => {
    const model = written('numbers.onnx', logits(w, 'embedding'))
    const scored = scoreSamples(samples, 2, model, model, 'kl', {})
    await expect(scored).rejects.toMatchObject({ code: 'usage', hint: 'use --select random' })
  })

  it('stop when told to', async () => {
    const model = written('stop.onnx', classes(w))
    const scored = scoreSamples(samples, 2, model, model, 'kl', { signal: AbortSignal.abort() })
    await expect(scored).rejects.toMatchObject({ code: 'interrupted' })
  })
})

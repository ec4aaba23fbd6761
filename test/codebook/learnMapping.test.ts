/** The mapping learned by gradients as a step of the solver. */
import { describe, expect, it } from 'vitest'
import { laneOrder, makeCodebookLayer } from '../../src/codebook/codebookLayer.ts'
import { codebookOptions, draftOf } from '../../src/codebook/codebookOptions.ts'
import { learnMapping } from '../../src/codebook/learnMapping.ts'
import { softMapping } from '../../src/codebook/softMapping.ts'
import { solveCodebook } from '../../src/codebook/solveCodebook.ts'
import { lossOf, startDescent } from '../../src/gptq/descent.ts'
import type { LayerProblem } from '../../src/gptq/startLayer.ts'
import { prepareHessian } from '../../src/hessian/prepare.ts'
import type { CodebookForm, CodebookWeight } from '../../src/quant/codebookWeight.ts'
import { dequantize } from '../../src/quant/quantizedWeight.ts'
import { makeRandom } from '../../src/random.ts'
import { means, problem } from '../gptq/problems.ts'

const MAPPINGS = ['descent', 'proximal', 'softmax'] as const
const LEARNED = ['proximal', 'softmax'] as const
const form: CodebookForm = { coding: { kind: 'scalar' }, tables: 3, shared: false, permuted: true }

/** E·H·Eᵀ in float64. */
function lossBy(target: Float32Array, weight: CodebookWeight, hessian: Float32Array): number {
  const { rows, cols } = weight
  const errors = Float64Array.from(dequantize(weight), (value, i) => target[i]! - value)
  let loss = 0
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < cols; k++) {
      for (let l = 0; l < cols; l++) loss += errors[row * cols + k]! * hessian[k * cols + l]! * errors[row * cols + l]!
    }
  }
  return loss
}

/** Columns that share three factors and have as much of their own: steps by gradients find something there. */
async function weakProblem(rows: number, cols: number): Promise<LayerProblem> {
  const random = makeRandom(7)
  const factor = Float64Array.from({ length: 3 * cols }, () => random.normal())
  const hessian = Float64Array.from({ length: cols * cols }, (_, at) => {
    const [i, j] = [Math.floor(at / cols), at % cols]
    let sum = i === j ? 0.1 * cols : 0
    for (let f = 0; f < 3; f++) sum += factor[f * cols + i]! * factor[f * cols + j]!
    return sum
  })
  const prepared = await prepareHessian(hessian, cols, { damping: 0.01, order: 'activation' }, means.products)
  if ('failed' in prepared) throw new Error(prepared.failed)
  return { target: Float32Array.from({ length: rows * cols }, () => random.normal()), rows, cols, hessian: prepared }
}

describe.each([24, 16])('in groups of %d columns', (groupSize) => {
  const solve = async (mapping: (typeof MAPPINGS)[number] | undefined, rounds?: number) => {
    const asked = await weakProblem(30, 24)
    const options = { bits: 2, groupSize, form, mapping, ...(rounds === undefined ? {} : { rounds }) } as const
    return { asked, ...(await solveCodebook(asked, options, means)) }
  }

  it.each(LEARNED)('%s lowers the loss of the recurrence, and says what it came to', async (mapping) => {
    const start = await solve('descent', 0)
    const { asked, weight, loss, trace } = await solve(mapping, 0)
    expect(trace).toEqual([start.loss, loss])
    expect(loss).toBeLessThan(start.loss)
    expect(lossBy(asked.target, weight, asked.hessian.damped) / loss).toBeCloseTo(1, 4)
    expect(weight.tables).not.toEqual(start.weight.tables)
    expect(weight.scales).toEqual(start.weight.scales)
    expect(Math.max(...weight.tables.map(Math.abs))).toBeLessThanOrEqual(127)
    const whole = await solve(mapping)
    expect(whole.weight.codes).toEqual(weight.codes)
    expect(whole.loss).toBeLessThan(loss)
    for (let i = 1; i < whole.trace.length; i++) expect(whole.trace[i]!).toBeLessThanOrEqual(whole.trace[i - 1]!)
  })

  it('each mapping ends elsewhere; left out it is descent', async () => {
    const [none, descent, proximal, softmax] = await Promise.all([undefined, ...MAPPINGS].map((one) => solve(one)))
    expect(softmax!.weight.codes).not.toEqual(descent!.weight.codes)
    expect(proximal!.weight.codes).not.toEqual(descent!.weight.codes)
    expect(proximal!.weight.codes).not.toEqual(softmax!.weight.codes)
    expect(none!.weight).toEqual(descent!.weight)
  })
})

it.each(LEARNED)('%s leaves a layer as it is where its loss would rise', async (mapping) => {
  const { hessian } = await weakProblem(6, 24)
  const random = makeRandom(3)
  const codes = Uint8Array.from({ length: 6 * 24 }, () => random.below(4))
  const tables = Float32Array.of(-120, -118, 110, 120)
  const start = {
    ...({ rows: 6, cols: 24, bits: 2, groupSize: 24, scaleType: 'float32' } as const),
    ...{ form: { ...form, tables: 1 }, tables },
    ...{ target: Float32Array.from(codes, (code) => tables[code]!), tableOf: new Uint16Array(6) },
    scales: new Float32Array(6).fill(1),
  }
  const layer = makeCodebookLayer(start, laneOrder(form.coding, 6))
  layer.codes.set(codes)
  const descent = startDescent(layer, hessian.damped, new Float32Array(24 * 6), means, 24)
  expect(await learnMapping(descent, mapping)).toBe(false)
  expect([...layer.codes]).toEqual([...codes])
  expect([...layer.tables]).toEqual([...tables])
  expect(lossOf(descent)).toBe(0)
})

it('is for codes of one weight', async () => {
  const asked = await problem(8, 8, 1)
  const pairs = { ...form, coding: { kind: 'vector', dim: 2 }, tables: 1 } as const
  const solving = solveCodebook(asked, { bits: 4, groupSize: 8, form: pairs, mapping: 'softmax' }, means)
  await expect(solving).rejects.toThrow(RangeError)
})

it('stops when it is told to', async () => {
  const asked = await problem(8, 8, 1)
  const signal = AbortSignal.abort()
  const { target, rows, cols, hessian } = asked
  const shape = {
    target,
    hessian: hessian.damped,
    rows,
    cols,
    entries: 2,
    tableOf: new Uint16Array(rows),
    groupSize: cols,
  }
  const asking = { ...shape, scales: new Float32Array(rows).fill(1), tables: Float64Array.of(-1, 1) }
  const run = softMapping(asking, { flavour: 'plain', steps: 9, rate: 0.1 }, { products: means.products, signal })
  await expect(run).rejects.toMatchObject({ code: 'interrupted' })
})

describe('options of a layer', () => {
  const plan = (weights: number) => ({ bits: 3, groupSize: 32, codebook: form, layer: { weights } })

  it('are learned where memory holds the mixtures, and compared by descent', () => {
    const fits = codebookOptions(plan(2 ** 21), 'proximal')!
    expect(fits.mapping).toBe('proximal')
    expect(draftOf(fits)).toEqual({ ...fits, mapping: 'descent' })
    const large = codebookOptions(plan(2 ** 21 + 1), 'proximal')!
    expect(large).toEqual(codebookOptions(plan(2 ** 21 + 1)))
    expect(large.mapping).toBe('descent')
    expect(draftOf(large)).toBe(large)
    expect(codebookOptions({ ...plan(1), codebook: undefined }, 'proximal')).toBeUndefined()
  })
})

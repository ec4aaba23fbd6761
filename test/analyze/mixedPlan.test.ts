/** Budgets of every kind on one measured model: kept to the byte, used up as far as few layers allow, and infeasible ones refused with the least. */
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { checkReachable, type MixedTask, mixedPlan } from '../../src/analyze/mixedPlan.ts'
import { openMixed } from '../../src/analyze/openMixed.ts'
import { paretoCurve } from '../../src/analyze/paretoFile.ts'
import type { QuantizeConfig } from '../../src/config.ts'
import { planFigures } from '../../src/quantize/planFigures.ts'
import type { ModelPlan } from '../../src/quantize/planModel.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { smallModel, writeSamples } from '../quantize/calibratedModels.ts'
import { type Opened, openMeasured, withOutput, writeModel } from './measuredModels.ts'

const directory = useTempDir()
let parts: Opened
let opened: Awaited<ReturnType<typeof openMixed>>
/** Without `evaluate`: what is allocated is all that counts here. */
let base: MixedTask

beforeAll(async () => {
  const small = smallModel('transformer')
  const { model, folder } = writeModel(directory, withOutput(small.proto, 'logits'))
  const data = writeSamples(path.join(folder, 'x.npy'), small.draw(16, 100))
  // Group sizes and grids compete, as for a budget in bytes.
  parts = await openMeasured(model, [data], { budget: '0.3x', sensitivity: ['kl'], symmetric: 'yes', method: 'gptq' })
  const { source, found, config } = parts
  opened = await openMixed(source, found, config, parts.data, () => path.join(folder, 'candidates'), {})
  base = { ...opened.task, latency: undefined, evaluate: undefined }
})

afterAll(async () => {
  await opened.close()
  await parts.close()
})

const taskFor = (config: Partial<QuantizeConfig>): MixedTask => ({ ...base, config: { ...base.config, ...config } })

const figuresOf = (plan: ModelPlan) => planFigures(base.model, base.found, plan, plan.settled)

describe('a budget', () => {
  const sourceBytes = () => base.model.files.reduce((sum, { bytes }) => sum + bytes, 0)

  it.each(['2.2bit', '2.75bit', '3bit', '4bit', '5.3bit'])(
    'of a mean width of %s is kept and used up',
    async (budget) => {
      const { plan, allocation } = await mixedPlan(taskFor({ budget }))
      const { meanBits } = figuresOf(plan)
      const limit = Number.parseFloat(budget)
      expect(meanBits).toBeLessThanOrEqual(limit)
      expect(meanBits).toBeGreaterThan(0.97 * limit)
      expect(allocation.limits[0]!.used).toBeLessThanOrEqual(allocation.limits[0]!.limit)
    },
  )

  it.each(['3bpw', '4bpw', '5.5bpw'])('of %s is kept, zero points and scales included', async (budget) => {
    const { storedBits } = figuresOf((await mixedPlan(taskFor({ budget }))).plan)
    const limit = Number.parseFloat(budget)
    expect(storedBits).toBeLessThanOrEqual(limit)
    expect(storedBits).toBeGreaterThan(0.98 * limit)
  })

  it.each(['18kB', '20kB', '24kB', '30kB'])('of %s is kept by the whole file', async (budget) => {
    const { outputBytes } = figuresOf((await mixedPlan(taskFor({ budget }))).plan)
    const limit = 1000 * Number.parseFloat(budget)
    expect(outputBytes).toBeLessThanOrEqual(limit)
    expect(outputBytes).toBeGreaterThan(0.97 * limit)
  })

  it.each(['0.2x', '-70%'])('of %s is kept by the whole file', async (budget) => {
    const { outputBytes } = figuresOf((await mixedPlan(taskFor({ budget }))).plan)
    const limit = (budget === '0.2x' ? 0.2 : 0.3) * sourceBytes()
    expect(outputBytes).toBeLessThanOrEqual(limit)
    expect(outputBytes).toBeGreaterThan(0.97 * limit)
  })

  it('that is larger loses less, and the exact bytes of a plan are a budget that it keeps', async () => {
    let before = Number.POSITIVE_INFINITY
    for (const budget of [18_000, 19_000, 21_000, 25_000]) {
      const { plan, allocation } = await mixedPlan(taskFor({ budget: `${budget}B` }))
      const loss = allocation.proposals[0]!.predicted!
      expect(loss).toBeLessThanOrEqual(before)
      before = loss
      const exact = await mixedPlan(taskFor({ budget: `${figuresOf(plan).outputBytes}B` }))
      expect(figuresOf(exact.plan).outputBytes).toBeLessThanOrEqual(figuresOf(plan).outputBytes)
      expect(exact.allocation.proposals[0]!.predicted!).toBeLessThanOrEqual(1.1 * loss)
    }
  })

  it('in bytes is never exceeded', async () => {
    for (let limit = 16_500; limit < 31_000; limit += 1003) {
      const { outputBytes } = figuresOf((await mixedPlan(taskFor({ budget: `${limit}B`, solver: 'dp' }))).plan)
      expect(outputBytes).toBeLessThanOrEqual(limit)
      expect(outputBytes).toBeGreaterThan(0.96 * limit)
    }
  })

  it('is lowered by what earlier plans came out larger', async () => {
    const [bytes, bpw] = [taskFor({ budget: '20kB' }), taskFor({ budget: '4bpw' })]
    expect(figuresOf((await mixedPlan(bytes, 1500)).plan).outputBytes).toBeLessThanOrEqual(18_500)
    const { storedBits, weightBytes } = figuresOf((await mixedPlan(bpw, 1000)).plan)
    expect(weightBytes + 1000).toBeLessThanOrEqual((4 * 8 * weightBytes) / storedBits / 8)
  })

  it('is kept with others at the same time', async () => {
    const { plan, allocation } = await mixedPlan(taskFor({ budget: '3.2bit,20kB,3.9bpw' }))
    const { meanBits, outputBytes, storedBits } = figuresOf(plan)
    expect(meanBits).toBeLessThanOrEqual(3.2)
    expect(outputBytes).toBeLessThanOrEqual(20_000)
    expect(storedBits).toBeLessThanOrEqual(3.9)
    expect(allocation.limits.map(({ name }) => name)).toEqual(['bits of codes', 'bytes', 'stored bits'])
    expect(plan).toMatchObject({ byteLimit: 20_000, bitsPerWeightLimit: 3.9 })
  })

  it('comes to the same loss by dp as by ilp', async () => {
    for (const budget of ['2.75bit', '3.5bpw', '21kB']) {
      const [dp, ilp] = await Promise.all(
        (['dp', 'ilp'] as const).map(async (solver) => (await mixedPlan(taskFor({ budget, solver }))).allocation),
      )
      expect(dp!.proposals[0]!.predicted).toBeCloseTo(ilp!.proposals[0]!.predicted!, 12)
    }
  })

  it('that runs allocations takes one that uniform and the first proposal do not beat', async () => {
    let runs = 0
    const evaluate: MixedTask['evaluate'] = async (options) => {
      runs++
      return opened.task.evaluate!(options)
    }
    for (const budget of ['2.2bit', '3bit', '20kB']) {
      runs = 0
      const { allocation } = await mixedPlan({ ...taskFor({ budget, evaluations: 12 }), evaluate })
      const { measured, proposals, options, evaluations } = allocation
      expect(proposals.map(({ from }) => from)).toEqual(['kl', 'uniform'])
      for (const proposal of proposals) {
        expect(measured).toBeLessThanOrEqual(proposal.measured!)
        expect(proposal.measured).toBe(await opened.task.evaluate!(proposal.options))
      }
      expect(measured).toBe(await opened.task.evaluate!(options))
      expect(evaluations).toBeLessThanOrEqual(runs)
      expect(evaluations).toBeGreaterThan(1)
    }
  })
})

describe('a bound on the loss', () => {
  it.each(['ilp', 'bisection'] as const)('is kept, with less bytes than one width for all: %s', async (solver) => {
    const { evaluate } = opened.task
    const maxKl = 0.003
    const config = { budget: undefined, maxKl, solver, evaluations: 20 }
    const { plan, allocation } = await mixedPlan({ ...taskFor(config), evaluate })
    expect(allocation.measured).toBeLessThanOrEqual(maxKl)
    expect(await evaluate!(allocation.options)).toBe(allocation.measured)
    // The first width whose loss, with all layers alike at groups of 32, keeps the bound.
    const widths = [2, 3, 4, 5, 6, 8]
    let width: number | undefined
    let alike: number[] = []
    for (const bits of widths) {
      alike = base.layers.map(({ options }) =>
        options.findIndex(({ choice }) => choice.bits === bits && choice.groupSize === 32),
      )
      if ((await evaluate!(alike)) > maxKl) continue
      width = bits
      break
    }
    expect(width).toBeDefined()
    const stored = base.layers.reduce((sum, { options }, l) => sum + options[alike[l]!]!.storedBytes, 0)
    expect(figuresOf(plan).weightBytes).toBeLessThan(stored)
    await expect(mixedPlan({ ...taskFor({ ...config, maxKl: 1e-12 }), evaluate })).rejects.toMatchObject({
      code: 'infeasible',
    })
  })

  it('and a budget that cannot be had together are infeasible', async () => {
    const task = { ...taskFor({ budget: '2.1bit', maxKl: 1e-6, evaluations: 2 }), evaluate: opened.task.evaluate }
    await expect(mixedPlan(task)).rejects.toMatchObject({
      code: 'infeasible',
      message: expect.stringMatching(/budget 2\.1bit comes to a loss of/),
    })
  })
})

describe('a curve', () => {
  it('falls with the bytes, and has the allocation that was asked for on it', async () => {
    const task = { ...taskFor({ budget: '3bpw', evaluations: 0 }), evaluate: opened.task.evaluate }
    const { allocation } = await mixedPlan(task)
    const points = await paretoCurve(task, allocation)
    expect(points.length).toBeGreaterThan(8)
    expect(points.find(({ budget }) => budget === '3bpw')?.measured).toBe(allocation.measured)
    for (const [i, { bytes }] of points.entries()) expect(bytes).toBeGreaterThanOrEqual(points[i - 1]?.bytes ?? 0)
    const solved = points.filter(({ budget }) => budget !== '3bpw')
    const limits = solved.map(({ budget }) => Number.parseFloat(budget))
    const byLimit = solved.map((_, i) => i).sort((a, b) => limits[a]! - limits[b]!)
    for (const [i, at] of byLimit.entries()) {
      if (i > 0) expect(solved[at]!.predicted).toBeLessThanOrEqual(solved[byLimit[i - 1]!]!.predicted)
    }
    expect(points.at(-1)!.measured).toBeLessThan(0.05 * points[0]!.measured!)
  })
})

describe('the choice of a layer', () => {
  it('is shared by ties, fixed by a width, and left out by skip', async () => {
    const task = taskFor({
      budget: '4.5bit',
      tie: ['{q,k}', '{k,v}', 'o'],
      layers: [
        { pattern: 'u', bits: 8 },
        { pattern: 'd', bits: 'skip' },
      ],
    })
    const { plan, allocation } = await mixedPlan(task)
    const choiceOf = new Map(
      plan.plans.map(({ layer, bits, groupSize, symmetric }) => [layer.name, `${bits} ${groupSize} ${symmetric}`]),
    )
    expect(choiceOf.get('k')).toBe(choiceOf.get('q'))
    expect(choiceOf.get('k')).toBe(choiceOf.get('v'))
    expect(choiceOf.get('u')).toMatch(/^8 /)
    expect(choiceOf.has('d')).toBe(false)
    expect(plan.skipped.find(({ layer }) => layer.name === 'd')?.byUser).toBe(true)
    expect(allocation.options.filter((option) => option === undefined).length).toBe(1)
    // Budgets count the weights that are quantized.
    expect(figuresOf(plan).meanBits).toBeLessThanOrEqual(4.5)
    expect(figuresOf(plan).meanBits).toBeGreaterThan(4.2)
  })

  it('cannot be shared by layers with other choices', async () => {
    const task = taskFor({ budget: '3.5bit', tie: ['{q,k}'], layers: [{ pattern: 'q', bits: 3 }] })
    await expect(mixedPlan(task)).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringMatching(/--tie \{q,k\}: q and k cannot be tied/),
    })
  })

  it('is one of those that were measured', async () => {
    const { layers, analysis } = base
    const only4 = {
      ...taskFor({ budget: '4bit', layers: [{ pattern: 'q', bits: 5 }] }),
      layers: layers.map((own) => ({ ...own, options: own.options.filter(({ choice }) => choice.bits === 4) })),
      analysis,
    }
    await expect(mixedPlan(only4)).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining('measured at 4'),
    })
  })
})

describe('a budget below the least', () => {
  it.each([
    ['1.5bit', /1\.5bit cannot be kept: the least is 2bit/],
    ['1.9bpw', /1\.9bpw cannot be kept: the least is 2\.\d+bpw/],
    ['9kB', /9kB cannot be kept: the least is \d+ bytes/],
    ['0.02x', /0\.02x cannot be kept: the least is \d+ bytes/],
    ['4bit, 9kB', /budget 9kB cannot be kept: the least is \d+ bytes/],
  ])('is refused with the least: %s', (budget, message) => {
    expect(expectQtoolError('infeasible', () => checkReachable(taskFor({ budget })), message).hint).toBeDefined()
  })

  it('counts layers that are set', () => {
    const task = taskFor({ budget: '3bit', layers: [{ pattern: '*', bits: 6 }] })
    expectQtoolError('infeasible', () => checkReachable(task), /the least is 6bit/)
    const some = taskFor({ budget: '2.1bit', layers: [{ pattern: 'd', bits: 8 }] })
    expectQtoolError('infeasible', () => checkReachable(some), /the least is \d\.\d+bit/)
  })

  it('is one that is kept, when it is the least that was named', async () => {
    for (const [budget, unit] of [
      ['1.9bpw', 'bpw'],
      ['9kB', ' bytes'],
    ] as const) {
      const { message } = expectQtoolError('infeasible', () => checkReachable(taskFor({ budget })))
      const least = new RegExp(`least is ([\\d.]+)${unit}`).exec(message)![1]!
      const exact = taskFor({ budget: `${least}${unit.trim()}` })
      checkReachable(exact)
      const { outputBytes, storedBits } = figuresOf((await mixedPlan(exact)).plan)
      expect(unit === 'bpw' ? storedBits : outputBytes).toBeLessThanOrEqual(Number(least))
    }
  })

  it('together with another is refused by the solver', async () => {
    const slow = base.layers.map(({ options }) => options.map(({ plan }) => 10 - plan.bits))
    const latency = { name: 'time', limit: 30, costs: slow }
    await expect(mixedPlan({ ...taskFor({ budget: '3bit' }), latency })).rejects.toMatchObject({
      code: 'infeasible',
      message: expect.stringContaining('together'),
    })
  })
})

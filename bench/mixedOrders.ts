/**
 * @file What each sensitivity is worth on its own: how well it predicts the losses of configurations, what allocations by it
 * alone come to, and how many blocks LIM and ZD can lower to 2 bits. Random orders beside all of them.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Analysis, Sensitivity } from '../src/analyze/analysis.ts'
import { readAnalysis, writeAnalysis } from '../src/analyze/analysisFile.ts'
import type { LayerChoice } from '../src/onnx/represent/plan.ts'
import { analyzeModel, quantizeModel } from '../src/pipeline.ts'
import type { Bits } from '../src/quant/quantizedWeight.ts'
import { makeRandom, type Random } from '../src/random.ts'
import type { Agreement, BlockFigures } from '../src/report.ts'
import {
  type Arm,
  failed,
  folderOf,
  keep,
  measureArm,
  progressOf,
  readKept,
  type Subject,
  WEIGHTS_ALONE,
} from './mixedRun.ts'

const COMPARED: readonly Sensitivity[] = [
  ...(['kl', 'hessian', 'coverage', 'shapley', 'pairwise'] as const),
  ...(['lim', 'zd', 'mse', 'proxy'] as const),
]
const SEEDS: readonly number[] = [1, 2, 3]
/** Blocks are lowered until the task's metric is worse by more than this share than with all layers at the width above. */
export const MOST_FALL = 0.05
/** Budgets that one width for all uses up. */
const UNIFORM: Readonly<Record<string, Bits>> = { '4bit': 4, '3bit': 3 }
const [USUAL_BITS, LOWERED_BITS] = [4, 2] as const

/** An allocation by one sensitivity, by a random one, or with one width for all. */
export interface OrderedAllocation {
  readonly budget: string
  /** 'random 2' is the second draw. */
  readonly order: string
  readonly arm: Arm
}

/** Blocks lowered one after the other. */
export interface LoweredBlocks {
  readonly order: string
  /** The task's metric with no block lowered, one, two, …, up to the first that falls too far. */
  readonly tasks: readonly number[]
  /** Blocks that can be lowered before that. */
  readonly kept: number
}

export interface Orders {
  readonly state: string
  readonly budgets: readonly string[]
  readonly agreements: readonly Agreement[]
  readonly allocations: readonly OrderedAllocation[]
  readonly blocks: number
  readonly lowered: readonly LoweredBlocks[]
}

/** Name of a layer → what becomes of it. */
type Plan = Readonly<Record<string, LayerChoice>>

/** Measure one model. @param state of the source, which results are kept for. */
export async function measureOrders(subject: Subject, budgets: readonly string[], state: string): Promise<Orders> {
  const { model } = subject
  const file = join(folderOf(model), 'analysis.json')
  const measured = await analyse(subject, file)
  const analysis = readAnalysis(file)
  const judgePlan = planJudge(subject, state)
  const drawn = SEEDS.map((seed) => {
    const path = join(folderOf(model), `random-${seed}.json`)
    writeAnalysis(path, randomAnalysis(analysis, seed), true)
    return { order: `random ${seed}`, path, sensitivity: 'kl' as const }
  })
  const orders = [...COMPARED.map((sensitivity) => ({ order: sensitivity, path: file, sensitivity })), ...drawn]
  const allocations: OrderedAllocation[] = []
  for (const budget of budgets) {
    const bits = UNIFORM[budget]
    if (bits !== undefined) {
      const arm = await judgePlan(
        `${budget} uniform`,
        planOf(analysis, () => bits),
      )
      allocations.push({ budget, order: 'uniform', arm })
    }
    for (const { order, path, sensitivity } of orders) {
      const label = `${budget} by ${order}`
      const plan = await allocationBy(subject, label, { path, sensitivity, budget })
      allocations.push({ budget, order, arm: 'failure' in plan ? plan : await judgePlan(label, plan.plan) })
    }
  }
  const blocks = measured.blocks.filter(({ layers }) => layers.length > 0)
  const lowered: LoweredBlocks[] = []
  for (const { order, sorted } of blockOrders(blocks)) {
    lowered.push(await lowerBlocks(subject, order, sorted, analysis, judgePlan))
  }
  return { state, budgets, agreements: measured.agreements, allocations, blocks: blocks.length, lowered }
}

async function analyse({ model, bench }: Subject, output: string) {
  const { analysis } = await analyzeModel(
    bench.path,
    {
      ...model.calibration(),
      ...{ groupSize: model.groupSize, symmetric: 'no', sensitivity: COMPARED },
      ...{ probes: 8, configurations: 24, output, force: true },
    },
    { onProgress: progressOf(`${model.name} analysis`) },
  )
  const { agreements } = analysis!
  for (const { sensitivity, rSquared, spearman } of agreements) {
    console.error(
      `${model.name} ${sensitivity}: R² ${rSquared?.toFixed(3) ?? '–'}, Spearman ${spearman?.toFixed(3) ?? '–'}`,
    )
  }
  return analysis!
}

/**
 * The analysis with random losses in place of those of single layers: rank drawn × share of the weights × relative error,
 * as LIM and ZD rank blocks. So random orders go through the same solver as all others.
 */
function randomAnalysis(analysis: Analysis, seed: number): Analysis {
  const { layers } = analysis
  const ranks = shuffled(
    layers.map((_, i) => (i + 1) / layers.length),
    makeRandom(seed),
  )
  const total = layers.reduce((sum, { weights }) => sum + weights, 0)
  return {
    ...analysis,
    layers: layers.map((layer, l) => ({
      ...layer,
      candidates: layer.candidates.map((candidate) => ({
        ...candidate,
        loss: { mean: ranks[l]! * (layer.weights / total) * candidate.relativeError, standardError: null },
      })),
    })),
  }
}

/** Fisher and Yates. */
function shuffled<T>(items: readonly T[], random: Random): T[] {
  const result = [...items]
  for (let i = result.length - 1; i > 0; i--) {
    const j = random.below(i + 1)
    ;[result[i], result[j]] = [result[j]!, result[i]!]
  }
  return result
}

/** What one cost vector alone comes to: the solver's allocation, neither run nor improved. */
async function allocationBy(
  { model, bench }: Subject,
  label: string,
  by: { readonly path: string; readonly sensitivity: Sensitivity; readonly budget: string },
): Promise<{ readonly plan: Plan } | { readonly failure: string }> {
  const savePlan = join(folderOf(model), 'plan.json')
  try {
    await quantizeModel(bench.path, undefined, {
      ...{ analysis: by.path, sensitivity: [by.sensitivity], budget: by.budget },
      // Only the plan is wanted: no data, and the fastest method.
      ...{ ...WEIGHTS_ALONE, method: 'rtn', dryRun: true, savePlan },
    })
  } catch (error) {
    return failed(`${model.name} ${label}`, error)
  }
  return { plan: (JSON.parse(readFileSync(savePlan, 'utf8')) as { layers: Plan }).layers }
}

/** Judges plans; equal plans once, also those of earlier runs of the same source. */
function planJudge(subject: Subject, state: string): (label: string, plan: Plan) => Promise<Arm> {
  const { model } = subject
  const old = readKept<{ state: string; arms: Record<string, Arm> }>(model, 'plans')
  const arms = old?.state === state ? old.arms : {}
  return async (label, plan) => {
    const key = JSON.stringify(Object.values(plan).map(({ bits, groupSize }) => [bits, groupSize]))
    if (!arms[key]) {
      const path = join(folderOf(model), 'plan.json')
      writeFileSync(path, JSON.stringify({ kind: 'plan', layers: plan }))
      arms[key] = await measureArm(subject, label, { plan: path })
      keep(model, 'plans', { state, arms })
    }
    return arms[key]
  }
}

/** Least important first: LIM and ZD as in layerImportance.ts, blocks without a figure last. */
function blockOrders(blocks: readonly BlockFigures[]): { order: string; sorted: readonly BlockFigures[] }[] {
  const by = (importance: (block: BlockFigures) => number | undefined) =>
    blocks.toSorted((a, b) => (importance(a) ?? Infinity) - (importance(b) ?? Infinity) || 0)
  if (blocks.length === 0) return []
  return [
    { order: 'lim', sorted: by(({ lim }) => lim) },
    { order: 'zd', sorted: by(({ zd }) => (zd === undefined ? undefined : -zd)) },
    ...SEEDS.map((seed) => ({ order: `random ${seed}`, sorted: shuffled(blocks, makeRandom(seed)) })),
  ]
}

/** @throws Error when the tool refuses a plan that it has measured itself. */
async function lowerBlocks(
  { judge }: Subject,
  order: string,
  blocks: readonly BlockFigures[],
  analysis: Analysis,
  judgePlan: (label: string, plan: Plan) => Promise<Arm>,
): Promise<LoweredBlocks> {
  const tasks: number[] = []
  const low = new Set<string>()
  const bitsOf = (layer: string) => (low.has(layer) ? LOWERED_BITS : USUAL_BITS)
  for (let count = 0; count <= blocks.length; count++) {
    if (count > 0) for (const layer of blocks[count - 1]!.layers) low.add(layer)
    const arm = await judgePlan(`${count} blocks at ${LOWERED_BITS} bits by ${order}`, planOf(analysis, bitsOf))
    if ('failure' in arm) throw new Error(arm.failure)
    tasks.push(arm.task)
    const ratio = arm.task / tasks[0]!
    const fall = judge.task === 'perplexity' ? ratio - 1 : 1 - ratio
    if (!(fall <= MOST_FALL)) return { order, tasks, kept: count - 1 }
  }
  return { order, tasks, kept: blocks.length }
}

/** @throws Error for a width that a layer was not measured at. */
function planOf({ layers }: Analysis, bitsOf: (layer: string) => Bits): Plan {
  return Object.fromEntries(
    layers.map(({ name, candidates }) => {
      const wanted = bitsOf(name)
      const found = candidates.find(({ bits }) => bits === wanted)
      if (!found) throw new Error(`${name} was not measured at ${wanted} bits`)
      return [name, { bits: found.bits, groupSize: found.groupSize, symmetric: found.symmetric }]
    }),
  )
}

/**
 * @file Each layer alone at each of its candidates: solved from the float network's statistics, and the model's outputs
 * compared with the float model's on held-out samples. Runs start where the changed layer is.
 */

import type { LayerGroup } from '../calibration/groups.ts'
import { judgingBatches } from '../calibration/judgingBatches.ts'
import type { CalibrationData } from '../calibration/openCalibration.ts'
import type { StatisticsEntry, StatisticsSum } from '../calibration/statsFile.ts'
import type { Trial, Walk } from '../calibration/walk.ts'
import type { Mapping } from '../codebook/codebookForms.ts'
import type { LabelLoss } from '../eval/labelLoss.ts'
import { type LossSummary, type OutputLoss, summarize } from '../eval/outputLoss.ts'
import { OutputPerturbation } from '../eval/perturbation.ts'
import type { WeightedLayer } from '../onnx/layers.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { BITS, squaredErrors } from '../quant/quantizedWeight.ts'
import { type GroupedLayers, isFeedable } from '../quantize/layerGroups.ts'
import { type Member, readMember, withPlan } from '../quantize/members.ts'
import { candidateValues } from '../quantize/networkJudge.ts'
import { entryOf, gatherAhead, openNetworkWalk } from '../quantize/networkWalk.ts'
import type { LayerSource } from '../quantize/readWeight.ts'
import { BYTES_PER_WEIGHT, GroupHessians, meanError, type SolverTools, solveMember } from '../quantize/solveMember.ts'
import type { CandidateStore, Solved } from './candidateStore.ts'
import type { LayerOptions } from './measuredLayers.ts'
import { proxyError } from './proxies.ts'
import { openReferences, type References, referenceErrors } from './references.ts'

/** What is known of one candidate of one layer. */
interface CandidateFigures {
  /** ‖W − Ŵ‖² / ‖W‖². */
  readonly relativeError: number
  readonly squaredError: number
  /** tr(E·H·Eᵀ) / tr(W·H·Wᵀ) on the fitted samples, E = W − Ŵ; undefined without statistics. */
  readonly proxy: number | undefined
  /** Loss of the model with only this layer changed, in the end. */
  readonly loss: LossSummary
  /** Relative squared error of its outputs; undefined when not measured. */
  readonly outputs: LossSummary | undefined
  /** Cross entropy of labels above the float model's, below 0 too; undefined when not measured. */
  readonly labels: LossSummary | undefined
}

export interface SweepOptions {
  readonly source: Omit<LayerSource, 'workspace'>
  readonly grouped: GroupedLayers
  readonly layers: readonly LayerOptions[]
  readonly data: CalibrationData
  readonly damping: number
  /** Of codebooks; descent when absent. */
  readonly mapping?: Mapping | undefined
  /** Which layers are measured, by place in `layers`. */
  readonly wanted: (layer: number) => boolean
  readonly store: CandidateStore
  readonly tools: SolverTools
  /** Numbers in a sketch of what a candidate does to the outputs; 0: none is made. */
  readonly sketch: number
  readonly seed: number
  /** Whether the relative error of outputs is measured beside a loss of another kind. */
  readonly outputs?: boolean
  /** Whether the cross entropy of the held-out samples' labels is measured too; they must have some. */
  readonly labels?: boolean
  /** False: candidates are solved and kept, and no loss is measured. */
  readonly measures?: boolean
  /** More to measure of a layer while the network stands before it. */
  readonly more?: (at: LayerAt) => Promise<void>
  readonly run: RunOptions
}

/** A layer with the network standing before it. */
export interface LayerAt {
  readonly layer: number
  readonly member: Member
  readonly walk: Walk
  readonly trial: Trial
  readonly loss: OutputLoss
}

export interface Sweep {
  /** [layer][option]; undefined for layers that were not wanted. */
  readonly figures: readonly (readonly CandidateFigures[] | undefined)[]
  /** [layer][option], when they were asked for. */
  readonly sketches: readonly (readonly Float32Array[] | undefined)[]
  readonly loss: OutputLoss
  /** What the float model makes of labels; undefined where there are none. */
  readonly labels: LabelLoss | undefined
  /** Reasons why layers have no statistics. */
  readonly notes: ReadonlyMap<string, number>
}

/**
 * Measure.
 * @throws QtoolError `data`, `model`, `interrupted`.
 */
export async function sweepLayers(options: SweepOptions): Promise<Sweep> {
  const { grouped, layers, data, source, run } = options
  const constants = layers.map(({ layer }) => layer)
  const walks: Walk[] = []
  const open = () => {
    const walk = openNetworkWalk(source.model, constants, grouped, data, run)
    walks.push(walk)
    return walk
  }
  try {
    const ahead: Map<LayerGroup, StatisticsSum> = grouped.groups.some((group) => group.ahead)
      ? await gatherAhead(grouped.groups, open(), undefined, run)
      : new Map()
    for (const walk of walks.splice(0)) walk.close()
    const walk = open()
    const references = await openReferences(walk, data.held, run)
    const isOther = references.loss.reference.kinds.some((kind) => kind === 'logits' || kind === 'probabilities')
    const outputs = options.outputs && isOther ? await referenceErrors(walk, run) : undefined
    const sweeper = new Sweeper(options, walk, references, outputs)
    for (const group of grouped.groups) {
      const { tap } = group
      // Also where nothing is wanted: activations do not depend in their last bits on which stages they went through.
      await walk.advance(group.position)
      if (!group.members.some(({ layer }) => sweeper.isWanted(layer))) continue
      const entry: StatisticsEntry | undefined = group.ahead
        ? ahead.get(group)?.entry
        : tap && (await entryOf(walk, tap, run))
      await sweeper.measure(group.members, entry)
      const weights = group.members.reduce((sum, { layer }) => sum + layer.weights, 0)
      await options.tools.pool.collect(BYTES_PER_WEIGHT * weights * BITS.length)
    }
    return sweeper.result()
  } finally {
    for (const walk of walks) walk.close()
  }
}

class Sweeper {
  readonly #options: SweepOptions
  readonly #walk: Walk
  readonly #loss: OutputLoss
  readonly #outputs: OutputLoss | undefined
  readonly #labels: LabelLoss | undefined
  readonly #placeOf: ReadonlyMap<WeightedLayer, number>
  readonly #figures: (CandidateFigures[] | undefined)[]
  readonly #sketches: (Float32Array[] | undefined)[]
  readonly #notes = new Map<string, number>()
  readonly #total: number
  #done = 0

  constructor(options: SweepOptions, walk: Walk, { loss, labels }: References, outputs: OutputLoss | undefined) {
    this.#options = options
    this.#walk = walk
    this.#loss = loss
    this.#labels = labels
    this.#outputs = outputs
    const { layers } = options
    this.#placeOf = new Map(layers.map(({ layer }, i) => [layer, i]))
    this.#figures = layers.map(() => undefined)
    this.#sketches = layers.map(() => undefined)
    this.#total = layers.reduce((sum, { layer, options: own }) => (this.isWanted(layer) ? sum + own.length : sum), 0)
  }

  isWanted(layer: WeightedLayer): boolean {
    const place = this.#placeOf.get(layer)
    return place !== undefined && this.#options.wanted(place)
  }

  /** Measure the members of a group before which the network stands. */
  async measure(
    members: readonly { readonly layer: WeightedLayer; readonly reason: string | undefined }[],
    entry: StatisticsEntry | undefined,
  ): Promise<void> {
    const hessians = entry && new GroupHessians(entry.fit, this.#options.tools)
    const { measures = true } = this.#options
    // What cannot be fed, such as weights of branches, is not run: after the last node there may be nothing to run.
    const isRun = measures && members.some(({ layer }) => this.isWanted(layer) && isFeedable(layer))
    const trial = isRun ? await this.#walk.openTrial(this.#walk.graph.nodes.length) : undefined
    try {
      for (const { layer, reason } of members) {
        if (!this.isWanted(layer)) continue
        if (reason) this.#notes.set(reason, (this.#notes.get(reason) ?? 0) + 1)
        await this.#measureLayer(this.#placeOf.get(layer)!, hessians, trial)
      }
    } finally {
      await trial?.close()
    }
  }

  async #measureLayer(place: number, hessians: GroupHessians | undefined, trial: Trial | undefined): Promise<void> {
    const { source, grouped, layers, store, tools, sketch, seed, more, run } = this.#options
    const { layer, options } = layers[place]!
    const first = await readMember(source, options[0]!.plan, grouped.sites.get(layer), run.signal)
    const figures: CandidateFigures[] = []
    const sketches: Float32Array[] = []
    const perturbation = sketch > 0 ? new OutputPerturbation(this.#loss.reference, sketch, seed) : undefined
    for (const [k, { plan }] of options.entries()) {
      run.onProgress?.({ stage: 'measure', done: this.#done, total: this.#total, item: layer.name })
      const member = k === 0 ? first : await withPlan(source, first, plan, run.signal)
      const solved = await this.#solve(member, hessians)
      store.put(place, k, solved)
      const own = perturbation && new Float32Array(sketch)
      const errorsOfOutputs: number[] = []
      const lossesOfLabels: number[] = []
      const labels = this.#options.labels ? this.#labels : undefined
      const loss = await this.#lossOf(member, solved, trial, (batch, outputs) => {
        if (own) perturbation!.addInPlace(batch, outputs, own)
        if (this.#outputs) errorsOfOutputs.push(...this.#outputs.compare(batch, outputs))
        if (labels) lossesOfLabels.push(...labels.compare(batch, outputs).losses)
      })
      const summaryOf = (own: readonly number[]) => (own.length > 0 ? summarize(own) : undefined)
      const others = { outputs: summaryOf(errorsOfOutputs), labels: summaryOf(lossesOfLabels) }
      const { squaredError, squaredNorm } = squaredErrors(member.rows, solved.weight)
      const relativeError = squaredNorm > 0 ? squaredError / squaredNorm : 0
      const proxy = hessians && (await proxyError(member.rows, solved.weight, hessians, tools.products))
      figures.push({ squaredError, relativeError, proxy, loss, ...others })
      if (own) sketches.push(own)
      this.#done++
    }
    this.#figures[place] = figures
    if (sketch > 0) this.#sketches[place] = sketches
    if (trial && isFeedable(layer))
      await more?.({ layer: place, member: first, walk: this.#walk, trial, loss: this.#loss })
  }

  async #solve(member: Member, hessians: GroupHessians | undefined): Promise<Solved> {
    const { damping, mapping, tools } = this.#options
    if (!hessians) return { weight: member.rounded, correction: undefined }
    const candidate = {
      alpha: 0,
      orders: ['activation' as const],
      grids: [],
      centred: member.site !== undefined,
      damping,
      mapping,
    }
    const weight = (await solveMember(member, hessians, candidate, tools)) ?? member.rounded
    return { weight, correction: member.site && meanError(member.rows, weight, hessians) }
  }

  async #lossOf(
    member: Member,
    { weight, correction }: Solved,
    trial: Trial | undefined,
    visit: (batch: number, outputs: Awaited<ReturnType<Trial['run']>>) => void,
  ): Promise<LossSummary> {
    if (!trial || !isFeedable(member.plan.layer)) return { mean: 0, standardError: Number.NaN }
    const values = candidateValues(this.#walk, [member], [weight], [correction])
    const losses: number[] = []
    for (const batch of judgingBatches(this.#walk)) {
      await nextTurn()
      checkAborted(this.#options.run.signal)
      const outputs = await trial.run('float', batch, { values, place: 'candidate' })
      losses.push(...this.#loss.compare(batch, outputs))
      visit(batch, outputs)
    }
    return summarize(losses)
  }

  result(): Sweep {
    return {
      ...{ figures: this.#figures, sketches: this.#sketches, loss: this.#loss, labels: this.#labels },
      notes: this.#notes,
    }
  }
}

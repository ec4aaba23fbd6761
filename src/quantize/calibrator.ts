/** @file Solves group after group on the network's way through the calibration data. */
import { checkFinite, gatherStatistics } from '../calibration/gather.ts'
import { cutsOf, horizonOf, isSolvedAtCut, type LayerGroup } from '../calibration/groups.ts'
import type { CalibrationData } from '../calibration/openCalibration.ts'
import type { Importance } from '../calibration/positionWeights.ts'
import type { StatisticsSum, StatisticsWriter } from '../calibration/statsFile.ts'
import type { Tap } from '../calibration/taps.ts'
import type { Walk } from '../calibration/walk.ts'
import type { WeightedLayer } from '../onnx/layers.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import { checkAborted, type RunOptions } from '../progress.ts'
import type { CalibratedLayers, CalibrationTask } from './calibratedLayers.ts'
import { type DecidedGroup, decideGroup, type GroupMeans } from './decideGroup.ts'
import type { HeldOutOutputs } from './heldOutOutputs.ts'
import { fittedInPart, type GroupedLayers, isFeedable, otherMapping, withoutCalibration } from './layerGroups.ts'
import { quantizedAsTensor } from './layerRows.ts'
import { type Member, readMember } from './members.ts'
import { candidateValues, openNetworkJudge } from './networkJudge.ts'
import { entryOf } from './networkWalk.ts'
import type { OutputJudge } from './outputJudge.ts'
import type { Decision, SolvedLayers } from './solvedLayers.ts'
import type { Judge } from './solveGroup.ts'
import { BYTES_PER_WEIGHT, GroupHessians, type SolverTools } from './solveMember.ts'
import { heldOutError } from './statisticsJudge.ts'
import type { FormJudge } from './tablesOrGrid.ts'

interface CalibratorParts extends CalibrationTask {
  readonly walk: Walk
  readonly grouped: GroupedLayers
  /** Statistics that are there beforehand; each goes when its group is solved. */
  readonly ahead: Map<LayerGroup, StatisticsSum>
  readonly statistics: StatisticsWriter | undefined
  readonly solved: SolvedLayers
  readonly tools: SolverTools
  readonly run: RunOptions
  /** Decides between tables and grids; undefined where no layer has the choice. */
  readonly outputJudge: OutputJudge | undefined
}

/** Statistics, Hessians and factors of a group, per entry of a K × K matrix. */
const BYTES_PER_PRODUCT = 64

/** What reading and rounding a weight leaves in memory. */
const BYTES_PER_READ_WEIGHT = 8

/** Solves group after group. */
export class Calibrator {
  readonly #parts: CalibratorParts
  readonly #planOf: ReadonlyMap<WeightedLayer, LayerPlan>
  readonly #cuts: readonly number[]
  readonly #warnings: string[] = []
  readonly #notes = new Map<string, number>()
  /** Keys of taps whose statistics are written. */
  readonly #written: ReadonlySet<string>
  readonly #total: number
  #done = 0

  constructor(parts: CalibratorParts) {
    this.#parts = parts
    this.#planOf = new Map(parts.plans.map((plan) => [plan.layer, plan]))
    const { groups } = parts.grouped
    this.#cuts = cutsOf(groups)
    this.#written = new Set(groups.flatMap(({ ahead }) => ahead?.map(({ tap }) => tap.key) ?? []))
    this.#total = Math.max(
      1,
      parts.plans.reduce((sum, { layer }) => sum + layer.weights, 0),
    )
  }

  /** Solve one group and go on with what came out. */
  async solve(group: LayerGroup): Promise<void> {
    const { walk, source, grouped, statistics, tools, run } = this.#parts
    checkAborted(run.signal)
    const [first] = group.members
    run.onProgress?.({ stage: 'calibrate', done: this.#done, total: this.#total, item: first!.layer.name })
    if (isSolvedAtCut(group)) await walk.advance(group.position)
    const { tap } = group
    if (tap && statistics && !this.#written.has(tap.key)) statistics.append(tap.key, await entryOf(walk, tap, run))
    const members: Member[] = []
    for (const { layer } of group.members) {
      members.push(await readMember(source, this.#planOf.get(layer)!, grouped.sites.get(layer), run.signal))
    }
    const weights = members.reduce((sum, { rows }) => sum + rows.length, 0)
    await tools.pool.collect(BYTES_PER_READ_WEIGHT * weights)
    const detail = await this.#decide(group, members)
    this.#parts.ahead.delete(group)
    for (const { layer } of group.members) this.#done += layer.weights
    await tools.pool.collect(BYTES_PER_WEIGHT * weights + BYTES_PER_PRODUCT * (group.tap?.cols ?? 0) ** 2)
    const progress = { stage: 'calibrate', done: this.#done, total: this.#total } as const
    run.onProgress?.(detail === undefined ? progress : { ...progress, detail })
  }

  async #decide(group: LayerGroup, members: readonly Member[]): Promise<string | undefined> {
    const { solved, ahead } = this.#parts
    for (const { reason } of group.members) if (reason) this.#notes.set(reason, (this.#notes.get(reason) ?? 0) + 1)
    const restored = members.flatMap((member) => solved.restored(member) ?? [])
    if (restored.length === members.length) {
      for (const [i, member] of members.entries()) await this.#keep(member, restored[i]!, 0)
      return 'resumed'
    }
    const sum = ahead.get(group)
    const decided = sum
      ? await this.#solveAhead(members, sum)
      : group.tap && (await this.#solveOnNetwork(group, group.tap, members))
    if (decided?.warning) this.#warnings.push(decided.warning)
    for (const [i, member] of members.entries()) {
      const { rounded: weight, grid } = member
      const plain: Decision = { weight, grid, calibration: undefined, bias: undefined }
      await this.#keep(member, decided?.decisions[i] ?? plain, decided?.positions ?? 0)
    }
    return decided?.detail
  }

  async #keep(member: Member, decision: Decision, positions: number): Promise<void> {
    const { walk, solved } = this.#parts
    const { layer } = member.plan
    await solved.keep(member, decision, positions)
    if (isFeedable(layer)) walk.change(layer.constant.name, quantizedAsTensor(layer, decision.weight))
    if (member.site && decision.bias) walk.change(member.site.added, decision.bias)
  }

  async #solveOnNetwork(
    group: LayerGroup,
    tap: Tap,
    members: readonly Member[],
  ): Promise<DecidedGroup & { readonly positions: number }> {
    const { walk, run } = this.#parts
    const importance = this.#importanceOf(members)
    const range = { first: 0, end: walk.fitBatches, side: 'both' } as const
    const statistics = await gatherStatistics(walk, tap, { ...range, run, ...(importance ? { importance } : {}) })
    await checkFinite(walk, tap, { first: walk.fitBatches, end: walk.batches.length })
    const horizon = horizonOf(this.#cuts, group.position, walk.graph.nodes.length)
    const weights = members.map(({ plan }) => plan.layer.constant.name)
    const judge = await openNetworkJudge(walk, tap.reads, weights, horizon, run)
    await this.#parts.tools.pool.collect(
      BYTES_PER_READ_WEIGHT * members.reduce((sum, { rows }) => sum + rows.length, 0),
    )
    try {
      const room: Float32Array[] = []
      const error: Judge = (weights, corrections) =>
        judge.error(candidateValues(walk, members, weights, corrections, room))
      const hessians = new GroupHessians(statistics, this.#parts.tools)
      const decided = await decideGroup(members, hessians, error, this.#means, this.#formJudge(members))
      return { ...decided, positions: statistics[0]!.weight }
    } finally {
      await judge.close()
    }
  }

  #formJudge(members: readonly Member[]): FormJudge | undefined {
    const { outputJudge, walk } = this.#parts
    return (
      outputJudge &&
      ((solutions) =>
        outputJudge.losses(
          solutions.map(({ weights, corrections }) => candidateValues(walk, members, weights, corrections)),
        ))
    )
  }

  /** Weights of tokens, where all members have the same: statistics are those of the tensor that they all read. */
  #importanceOf(members: readonly Member[]): Importance | undefined {
    const all = members.map(({ plan }) => this.#parts.importance?.(plan.layer.constant.name))
    const [first] = all
    return all.every((other) => other?.(0) === first?.(0)) ? first : undefined
  }

  async #solveAhead(
    members: readonly Member[],
    { entry, positions }: StatisticsSum,
  ): Promise<DecidedGroup & { readonly positions: number }> {
    const { tools } = this.#parts
    const { fit, held } = entry!
    const judging = held.length > 0 ? held : fit
    const error: Judge = (weights, corrections) => heldOutError(members, weights, corrections, judging, tools.products)
    return { ...(await decideGroup(members, new GroupHessians(fit, tools), error, this.#means)), positions }
  }

  get #means(): GroupMeans {
    const { config, tools, walk } = this.#parts
    return { config, tools, biasAt: ({ added }) => walk.constant('quantized', added) }
  }

  result(data: CalibrationData, outputs: HeldOutOutputs): CalibratedLayers {
    const { plans, walk, grouped, solved, config } = this.#parts
    const { groups } = grouped
    const notes = [...withoutCalibration(this.#notes), ...otherMapping(plans, config.mapping)]
    const members = groups.flatMap((group) => group.members)
    notes.push(
      ...fittedInPart(
        members.flatMap(({ layer, leftOut }) => leftOut.map((reason) => ({ layer: layer.name, reason }))),
      ),
    )
    const unfed = plans.filter(({ layer }) => !isFeedable(layer)).length
    if (unfed > 0)
      notes.push(
        `the held-out outputs are without the error of ${unfed} layers that cannot be replaced while calibrating`,
      )
    const { batches, fitBatches } = walk
    const samplesOf = (list: typeof batches) => list.reduce((sum, { count }) => sum + count, 0)
    return {
      layers: solved.layers(plans),
      biases: solved.biases(),
      heldOutLosses: outputs.losses(),
      report: {
        source: data.source,
        samples: samplesOf(batches),
        heldOut: samplesOf(batches.slice(fitBatches)),
        positions: solved.positions,
        groups: groups.filter(({ tap, ahead }) => tap || ahead).length,
        stages: this.#cuts.length + 1,
        outputs: outputs.results(),
        notes: [...data.notes, ...notes],
      },
      warnings: this.#warnings,
    }
  }
}

/**
 * @file Weights and calibration data in, stored layers out: walks the network group by group, solves each, and goes on with
 * what was solved, so that later layers make up for the errors of earlier ones.
 */
import { withAddedBias } from '../calibration/biasSites.ts'
import { checkFinite, gatherStatistics } from '../calibration/gather.ts'
import { groupLayers, type LayerGroup } from '../calibration/groups.ts'
import { analyseMainGraph, constantNames, constantUses } from '../calibration/mainGraph.ts'
import type { CalibrationData } from '../calibration/openCalibration.ts'
import type { StatisticsEntry, StatisticsWriter } from '../calibration/statsFile.ts'
import { Walk } from '../calibration/walk.ts'
import type { QuantizeConfig } from '../config.ts'
import type { Layers, WeightedLayer } from '../onnx/layers.ts'
import type { Payload } from '../onnx/model.ts'
import { DataType, type NodeProto } from '../onnx/proto.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import { checkAborted, type RunOptions } from '../progress.ts'
import { dequantize } from '../quant/quantizedWeight.ts'
import type { CalibrationReport } from '../report.ts'
import { openProducts } from '../runtime/products.ts'
import { type BiasEdit, biasSites, zeroBias } from './biasEdits.ts'
import { type DecidedGroup, decideGroup, type GroupMeans } from './decideGroup.ts'
import { HeldOutOutputs } from './heldOutOutputs.ts'
import { rowsAsTensor } from './layerRows.ts'
import { type Member, readMember } from './members.ts'
import { candidateValues, openNetworkJudge } from './networkJudge.ts'
import type { QuantizedLayerData } from './quantizeLayers.ts'
import type { LayerSource } from './readWeight.ts'
import type { Decision, SolvedLayers } from './solvedLayers.ts'
import type { Judge } from './solveGroup.ts'
import { GroupHessians, type SolverTools } from './solveMember.ts'
import { heldOutError } from './statisticsJudge.ts'

export interface CalibratedLayers {
  /** In the order of the plans. */
  readonly layers: readonly QuantizedLayerData[]
  readonly biases: readonly BiasEdit[]
  readonly report: CalibrationReport
  readonly warnings: readonly string[]
}

export interface CalibrationTask {
  readonly source: Omit<LayerSource, 'workspace'>
  readonly found: Layers
  readonly plans: readonly LayerPlan[]
  readonly config: QuantizeConfig
  readonly symmetric: QuantizeConfig['symmetric']
  /** Takes a stored tensor's bytes and says where they are from now on. */
  readonly sink: (bytes: Uint8Array) => Payload
}

/** Cuts after the own one until the networks are compared: the next layers have had their effect then. */
const HORIZON = 2

/**
 * Quantize every planned layer on calibration data.
 * @param statistics where the float network's statistics go as well; undefined for nowhere.
 * @param checkpoint of a run that can be resumed.
 * @throws QtoolError `data` when the network cannot run on the data or computes NaN; `model`; `numeric` with `strict`
 *   where no damping makes a Hessian positive definite; `interrupted`.
 */
export async function calibrateLayers(
  task: CalibrationTask,
  data: CalibrationData,
  { statistics, solved }: { readonly statistics: StatisticsWriter | undefined; readonly solved: SolvedLayers },
  run: RunOptions,
): Promise<CalibratedLayers> {
  const { source, found, plans } = task
  const graph = analyseMainGraph(found.index)
  const sites = biasSites(graph, plans)
  const edited = new Map([...sites.values()].map((site) => [site.node, withAddedBias(site)]))
  const edit = (node: NodeProto) => edited.get(node) ?? node
  const constants = constantNames(graph)
  const layers = plans.map((plan) => plan.layer)
  const groups = groupLayers(graph, constants, constantUses(graph, constants), layers, edit)
  const outputs = new HeldOutOutputs()
  const open = (onOutput: (walk: Walk) => ConstructorParameters<typeof Walk>[0]['onOutput']): Walk => {
    const weights = new Set(layers.flatMap((layer) => (isFeedable(layer) ? [layer.constant.name] : [])))
    const made: Walk = new Walk({
      ...{ model: source.model, graph, ...data, weights, edit, run },
      onOutput: (...output) => onOutput(made)?.(...output),
    })
    for (const site of sites.values()) {
      const { added, original } = site
      made.addInput(added, original === undefined ? zeroBias(site) : made.constant('float', original))
    }
    return made
  }
  const products = openProducts(source.pool.threads)
  const tools: SolverTools = { pool: source.pool, products, signal: run.signal }
  const walks: Walk[] = []
  try {
    const ahead = await gatherAhead(
      groups,
      () => {
        walks.push(open(() => undefined))
        return walks.at(-1)!
      },
      run,
    )
    for (const walk of walks.splice(0)) walk.close()
    const walk = open((own) => (name, batch, float, quantized) => {
      outputs.add(name, { float, quantized, ...own.batches[batch]! })
    })
    walks.push(walk)
    const calibrator = new Calibrator({ ...task, walk, groups, ahead, statistics, solved, tools, run })
    for (const group of groups) await calibrator.solve(group)
    await walk.advance(graph.nodes.length)
    return calibrator.result(data, outputs)
  } finally {
    for (const walk of walks) walk.close()
    await products.dispose()
  }
}

/** Weights of these types can be fed to a session. */
function isFeedable({ constant }: WeightedLayer): boolean {
  const { dataType } = constant.tensor
  const isKnown = dataType === DataType.FLOAT || dataType === DataType.FLOAT16 || dataType === DataType.DOUBLE
  return isKnown && constant.scope.parent === undefined && !constant.scope.fn
}

/**
 * The float network's statistics of layers whose weights are needed before the inputs of their products are known, such as
 * an embedding that is also the output layer: one walk through the float network alone.
 */
async function gatherAhead(
  groups: readonly LayerGroup[],
  open: () => Walk,
  run: RunOptions,
): Promise<Map<LayerGroup, StatisticsEntry>> {
  const later = groups.filter(({ ahead }) => ahead)
  const gathered = new Map<LayerGroup, StatisticsEntry>()
  if (later.length === 0) return gathered
  const walk = open()
  const cuts = [
    ...new Set(groups.flatMap(({ tap, position, ahead }) => (tap ? [position] : ahead ? [ahead.position] : []))),
  ]
  for (const cut of cuts.sort((a, b) => a - b)) {
    const here = later.filter(({ ahead }) => ahead!.position === cut)
    if (cut > Math.max(...later.map(({ ahead }) => ahead!.position))) break
    run.onProgress?.({
      stage: 'calibrate',
      done: 0,
      total: 1,
      item: `statistics for ${later[0]!.members[0]!.layer.name}`,
    })
    await walk.advance(cut)
    for (const group of here) gathered.set(group, await entryOf(walk, group.ahead!.tap, run))
  }
  return gathered
}

/** Statistics of the float network at the walk's position. */
async function entryOf(walk: Walk, tap: NonNullable<LayerGroup['tap']>, run: RunOptions): Promise<StatisticsEntry> {
  const { fitBatches, batches } = walk
  const gather = (first: number, end: number) => gatherStatistics(walk, tap, { first, end, side: 'float', run })
  return {
    fit: await gather(0, fitBatches),
    held: fitBatches < batches.length ? await gather(fitBatches, batches.length) : [],
  }
}

interface CalibratorParts extends CalibrationTask {
  readonly walk: Walk
  readonly groups: readonly LayerGroup[]
  readonly ahead: ReadonlyMap<LayerGroup, StatisticsEntry>
  readonly statistics: StatisticsWriter | undefined
  readonly solved: SolvedLayers
  readonly tools: SolverTools
  readonly run: RunOptions
}

/** Solves group after group. */
class Calibrator {
  readonly #parts: CalibratorParts
  readonly #sites: ReturnType<typeof biasSites>
  readonly #planOf: ReadonlyMap<WeightedLayer, LayerPlan>
  readonly #cuts: readonly number[]
  readonly #warnings: string[] = []
  readonly #notes = new Map<string, number>()
  readonly #total: number
  #done = 0
  #positions = 0

  constructor(parts: CalibratorParts) {
    this.#parts = parts
    this.#sites = biasSites(parts.walk.graph, parts.plans)
    this.#planOf = new Map(parts.plans.map((plan) => [plan.layer, plan]))
    this.#cuts = [...new Set(parts.groups.flatMap(({ tap, position }) => (tap ? [position] : [])))]
    this.#total = Math.max(
      1,
      parts.plans.reduce((sum, { layer }) => sum + layer.weights, 0),
    )
  }

  /** Solve one group and go on with what came out. */
  async solve(group: LayerGroup): Promise<void> {
    const { walk, source, symmetric, statistics, run } = this.#parts
    checkAborted(run.signal)
    const [first] = group.members
    run.onProgress?.({ stage: 'calibrate', done: this.#done, total: this.#total, item: first!.layer.name })
    if (group.tap) {
      await walk.advance(group.position)
      statistics?.append(group.tap.key, await entryOf(walk, group.tap, run))
    }
    const later = this.#parts.ahead.get(group)
    if (later) statistics?.append(group.ahead!.tap.key, later)
    const members: Member[] = []
    for (const { layer } of group.members) {
      members.push(await readMember(source, this.#planOf.get(layer)!, this.#sites.get(layer), symmetric, run.signal))
    }
    const detail = await this.#decide(group, members)
    for (const { layer } of group.members) this.#done += layer.weights
    const progress = { stage: 'calibrate', done: this.#done, total: this.#total } as const
    run.onProgress?.(detail === undefined ? progress : { ...progress, detail })
  }

  async #decide(group: LayerGroup, members: readonly Member[]): Promise<string | undefined> {
    const { solved, ahead } = this.#parts
    for (const { reason } of group.members) if (reason) this.#notes.set(reason, (this.#notes.get(reason) ?? 0) + 1)
    const restored = members.flatMap((member) => solved.restored(member) ?? [])
    if (restored.length === members.length) {
      for (const [i, member] of members.entries()) await this.#keep(member, restored[i]!)
      return 'resumed'
    }
    const entry = ahead.get(group)
    const decided = entry
      ? await this.#solveAhead(members, entry)
      : group.tap && (await this.#solveOnNetwork(group, group.tap, members))
    if (decided?.warning) this.#warnings.push(decided.warning)
    for (const [i, member] of members.entries()) {
      const { rounded: weight, grid } = member
      const plain: Decision = { weight, grid, calibration: undefined, bias: undefined }
      await this.#keep(member, decided?.decisions[i] ?? plain)
    }
    return decided?.detail
  }

  async #keep(member: Member, decision: Decision): Promise<void> {
    const { walk, solved } = this.#parts
    const { layer } = member.plan
    await solved.keep(member, decision)
    if (isFeedable(layer)) walk.change(layer.constant.name, rowsAsTensor(layer, dequantize(decision.weight)))
    if (member.site && decision.bias) walk.change(member.site.added, decision.bias)
  }

  async #solveOnNetwork(
    group: LayerGroup,
    tap: NonNullable<LayerGroup['tap']>,
    members: readonly Member[],
  ): Promise<DecidedGroup> {
    const { walk, run } = this.#parts
    const statistics = await gatherStatistics(walk, tap, { first: 0, end: walk.fitBatches, side: 'both', run })
    await checkFinite(walk, tap, { first: walk.fitBatches, end: walk.batches.length })
    this.#positions = Math.max(this.#positions, statistics[0]!.weight)
    const horizon = this.#cuts[this.#cuts.indexOf(group.position) + HORIZON] ?? walk.graph.nodes.length
    const judge = await openNetworkJudge(walk, tap.reads, horizon, run)
    try {
      const error: Judge = (weights, corrections) => judge.error(candidateValues(walk, members, weights, corrections))
      return await decideGroup(members, new GroupHessians(statistics, this.#parts.tools), error, this.#means)
    } finally {
      await judge.close()
    }
  }

  async #solveAhead(members: readonly Member[], { fit, held }: StatisticsEntry): Promise<DecidedGroup> {
    const { tools } = this.#parts
    const judging = held.length > 0 ? held : fit
    const error: Judge = (weights, corrections) => heldOutError(members, weights, corrections, judging, tools.products)
    return decideGroup(members, new GroupHessians(fit, tools), error, this.#means)
  }

  get #means(): GroupMeans {
    const { config, symmetric, tools, walk } = this.#parts
    return { config, symmetric, tools, biasAt: ({ added }) => walk.constant('quantized', added) }
  }

  result(data: CalibrationData, outputs: HeldOutOutputs): CalibratedLayers {
    const { plans, walk, groups, solved } = this.#parts
    const notes = [...this.#notes].map(
      ([reason, count]) => `${count} ${count === 1 ? 'layer' : 'layers'} quantized without calibration: ${reason}`,
    )
    const shared = groups.flatMap(({ tap, members }) =>
      tap ? members.filter(({ layer }) => layer.uses.length > 1) : [],
    )
    if (shared.length > 0) {
      notes.push(
        `${shared.length} weights with several readers are fitted to the inputs of the first: ${shared[0]!.layer.name}`,
      )
    }
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
      report: {
        source: data.source,
        samples: samplesOf(batches),
        heldOut: samplesOf(batches.slice(fitBatches)),
        positions: this.#positions,
        groups: groups.filter(({ tap, ahead }) => tap || ahead).length,
        stages: this.#cuts.length + 1,
        outputs: outputs.results(),
        notes: [...data.notes, ...notes],
      },
      warnings: this.#warnings,
    }
  }
}

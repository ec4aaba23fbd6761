/**
 * @file Saved statistics in, stored layers out: the same solver without the data and without running the network. Inputs are
 * those of the float network, so errors of earlier layers are not made up for; in return another width takes seconds.
 */
import { modelFingerprint } from '../calibration/fingerprint.ts'
import type { LayerGroup } from '../calibration/groups.ts'
import { type OpenStatistics, openStatistics } from '../calibration/openStatistics.ts'
import { StatisticsSum } from '../calibration/statsFile.ts'
import { feedOfBytes } from '../calibration/tensors.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { tensorBytes } from '../onnx/tensorData.ts'
import type { RunOptions } from '../progress.ts'
import { checkAborted } from '../progress.ts'
import { openProducts } from '../runtime/products.ts'
import { zeroBias } from './biasEdits.ts'
import type { CalibratedLayers, CalibrationTask } from './calibratedLayers.ts'
import { decideGroup } from './decideGroup.ts'
import { fittedInPart, groupedLayers, otherMapping, withoutCalibration } from './layerGroups.ts'
import { type Member, readMember } from './members.ts'
import { SolvedLayers } from './solvedLayers.ts'
import { GroupHessians } from './solveMember.ts'
import { heldOutError } from './statisticsJudge.ts'

/**
 * Quantize every planned layer on the statistics in `config.stats`.
 * @throws QtoolError `data` when a file is damaged or of another model; `numeric`, `interrupted`.
 */
export async function layersFromStatistics(task: CalibrationTask, run: RunOptions): Promise<CalibratedLayers> {
  const { source, found, plans, config } = task
  const layers = plans.map((plan) => plan.layer)
  const { graph, sites, groups } = groupedLayers(found, layers)
  const planOf = new Map(plans.map((plan) => [plan.layer, plan]))
  const statistics = openStatistics(config.stats, { model: modelFingerprint(source.model) })
  const products = openProducts(source.pool.threads)
  const tools = { pool: source.pool, products, signal: run.signal }
  const solved = new SolvedLayers(config, task.sink, undefined)
  const biases = new Map<string, FeedTensor>()
  const warnings: string[] = []
  const notes = new Map<string, number>()
  const total = Math.max(
    1,
    layers.reduce((sum, layer) => sum + layer.weights, 0),
  )
  const leftOut: { layer: string; reason: string }[] = []
  let done = 0
  const biasAt = (site: Parameters<typeof zeroBias>[0]): FeedTensor => {
    const known = biases.get(site.added)
    if (known) return known
    if (site.original === undefined) return zeroBias(site)
    const { tensor } = graph.scope.constants.get(site.original)!
    return feedOfBytes(tensor.dataType, tensor.dims.map(Number), tensorBytes(source.model, tensor))
  }
  try {
    for (const group of groups) {
      checkAborted(run.signal)
      run.onProgress?.({ stage: 'calibrate', done, total, item: group.members[0]!.layer.name })
      const members: Member[] = []
      for (const { layer } of group.members) {
        members.push(await readMember(source, planOf.get(layer)!, sites.get(layer), run.signal))
      }
      const { sum, isWhole } = statisticsOf(group, statistics)
      const { entry, positions } = sum
      if (!entry) {
        const reason = group.members[0]!.reason ?? NOT_IN_FILE
        notes.set(reason, (notes.get(reason) ?? 0) + members.length)
        for (const member of members) {
          const { rounded: weight, grid } = member
          await solved.keep(member, { weight, grid, calibration: undefined, bias: undefined }, 0)
        }
      } else {
        for (const { layer, leftOut: reasons } of group.members) {
          for (const reason of [...reasons, ...(isWhole ? [] : [NOT_IN_FILE])])
            leftOut.push({ layer: layer.name, reason })
        }
        const judging = entry.held.length > 0 ? entry.held : entry.fit
        const { decisions, warning } = await decideGroup(
          members,
          new GroupHessians(entry.fit, tools),
          (weights, corrections) => heldOutError(members, weights, corrections, judging, products),
          { config, tools, biasAt },
        )
        if (warning) warnings.push(warning)
        for (const [i, member] of members.entries()) {
          const decision = decisions[i]!
          await solved.keep(member, decision, positions)
          if (member.site && decision.bias) biases.set(member.site.added, decision.bias)
        }
      }
      done += members.reduce((sum, { plan }) => sum + plan.layer.weights, 0)
    }
    run.onProgress?.({ stage: 'calibrate', done: total, total })
    const { fingerprints } = statistics
    return {
      layers: solved.layers(plans),
      biases: solved.biases(),
      heldOutLosses: [],
      report: {
        source: config.stats.join(', '),
        samples: fingerprints.reduce((sum, { samples, heldOut }) => sum + samples + heldOut, 0),
        heldOut: fingerprints.reduce((sum, { heldOut }) => sum + heldOut, 0),
        positions: solved.positions,
        groups: groups.filter(({ tap, ahead }) => tap || ahead).length,
        stages: 0,
        outputs: [],
        notes: [...withoutCalibration(notes), ...otherMapping(plans, config.mapping), ...fittedInPart(leftOut)],
      },
      warnings,
    }
  } finally {
    statistics.close()
    await products.dispose()
  }
}

const NOT_IN_FILE = 'the statistics do not have it'

/** Those of the group's tap, or the sum over all taps of a weight that several products read. */
function statisticsOf(
  { tap, ahead }: LayerGroup,
  file: OpenStatistics,
): { readonly sum: StatisticsSum; readonly isWhole: boolean } {
  const keys = tap ? [tap.key] : (ahead ?? []).map((placed) => placed.tap.key)
  const there = keys.filter((key) => file.keys.includes(key))
  const sum = new StatisticsSum()
  for (const key of there) sum.add(file.read(key))
  return { sum, isWhole: there.length === keys.length }
}

/** @file The network on calibration data, with its weights and biases as inputs, and the statistics gathered on the way. */
import { gatherStatistics } from '../calibration/gather.ts'
import { cutsOf, type LayerGroup } from '../calibration/groups.ts'
import type { CalibrationData } from '../calibration/openCalibration.ts'
import { type StatisticsEntry, StatisticsSum, type StatisticsWriter } from '../calibration/statsFile.ts'
import type { Tap } from '../calibration/taps.ts'
import { Walk, type WalkOptions } from '../calibration/walk.ts'
import type { WeightedLayer } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import type { RunOptions } from '../progress.ts'
import { zeroBias } from './biasEdits.ts'
import { fedWeights, type GroupedLayers } from './layerGroups.ts'

/** Open a walk from the first node on. */
export function openNetworkWalk(
  model: OnnxModel,
  layers: readonly WeightedLayer[],
  { graph, sites, edit }: GroupedLayers,
  data: CalibrationData,
  run: RunOptions,
  onOutput?: WalkOptions['onOutput'],
): Walk {
  const weights = fedWeights(layers)
  const walk = new Walk({ model, graph, ...data, weights, edit, run, ...(onOutput ? { onOutput } : {}) })
  for (const site of sites.values()) {
    const { added, original } = site
    walk.addInput(added, original === undefined ? zeroBias(site) : walk.constant('float', original))
  }
  return walk
}

/**
 * The float network's statistics of weights that are needed before the inputs of all their products are known: those
 * that several products read, such as shared layers, and an embedding that is also the output layer. One walk through the
 * float network alone.
 * @param statistics where those of each tap go as well.
 * @returns their sums over the taps of each group.
 */
export async function gatherAhead(
  groups: readonly LayerGroup[],
  walk: Walk,
  statistics: StatisticsWriter | undefined,
  run: RunOptions,
): Promise<Map<LayerGroup, StatisticsSum>> {
  const wanted = new Map<string, { tap: Tap; position: number; groups: LayerGroup[] }>()
  for (const group of groups) {
    for (const { tap, position } of group.ahead ?? []) {
      const known = wanted.get(tap.key) ?? { tap, position, groups: [] }
      known.position = Math.min(known.position, position)
      known.groups.push(group)
      wanted.set(tap.key, known)
    }
  }
  const taps = [...wanted.values()]
  const last = Math.max(...taps.map(({ position }) => position))
  const cuts = new Set([...cutsOf(groups), ...taps.map(({ position }) => position)])
  const sums = new Map<LayerGroup, StatisticsSum>()
  for (const cut of [...cuts].filter((at) => at <= last).sort((a, b) => a - b)) {
    const here = taps.filter(({ position }) => position === cut)
    const next = here[0] ?? taps.find(({ position }) => position > cut)!
    const item = `statistics for ${next.groups[0]!.members[0]!.layer.name}`
    run.onProgress?.({ stage: 'calibrate', done: 0, total: 1, item })
    await walk.advance(cut)
    for (const { tap, groups: readers } of here) {
      const entry = await entryOf(walk, tap, run)
      statistics?.append(tap.key, entry)
      for (const group of readers) {
        const sum = sums.get(group) ?? new StatisticsSum()
        sum.add(entry)
        sums.set(group, sum)
      }
    }
  }
  return sums
}

/** Statistics of the float network at the walk's position. */
export async function entryOf(walk: Walk, tap: Tap, run: RunOptions): Promise<StatisticsEntry> {
  const { fitBatches, batches } = walk
  const gather = (first: number, end: number) => gatherStatistics(walk, tap, { first, end, side: 'float', run })
  return {
    fit: await gather(0, fitBatches),
    held: fitBatches < batches.length ? await gather(fitBatches, batches.length) : [],
  }
}

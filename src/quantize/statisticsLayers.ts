/**
 * @file Saved statistics in, stored layers out: the same solver without the data and without running the network. Inputs are
 * those of the float network, so errors of earlier layers are not made up for; in return another width takes seconds.
 */
import { withAddedBias } from '../calibration/biasSites.ts'
import { modelFingerprint } from '../calibration/fingerprint.ts'
import { groupLayers } from '../calibration/groups.ts'
import { analyseMainGraph, constantNames, constantUses } from '../calibration/mainGraph.ts'
import { openStatistics } from '../calibration/openStatistics.ts'
import { feedOfBytes } from '../calibration/tensors.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { tensorBytes } from '../onnx/tensorData.ts'
import type { RunOptions } from '../progress.ts'
import { checkAborted } from '../progress.ts'
import { openProducts } from '../runtime/products.ts'
import { biasSites, zeroBias } from './biasEdits.ts'
import type { CalibratedLayers, CalibrationTask } from './calibratedLayers.ts'
import { decideGroup } from './decideGroup.ts'
import { type Member, readMember } from './members.ts'
import { SolvedLayers } from './solvedLayers.ts'
import { GroupHessians } from './solveMember.ts'
import { heldOutError } from './statisticsJudge.ts'

/**
 * Quantize every planned layer on the statistics in `config.stats`.
 * @throws QtoolError `data` when a file is damaged or of another model; `numeric`, `interrupted`.
 */
export async function layersFromStatistics(task: CalibrationTask, run: RunOptions): Promise<CalibratedLayers> {
  const { source, found, plans, config, symmetric } = task
  const graph = analyseMainGraph(found.index)
  const constants = constantNames(graph)
  const sites = biasSites(graph, plans)
  const edited = new Map([...sites.values()].map((site) => [site.node, withAddedBias(site)]))
  const layers = plans.map((plan) => plan.layer)
  const uses = constantUses(graph, constants)
  const groups = groupLayers(graph, constants, uses, layers, (node) => edited.get(node) ?? node)
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
  let done = 0
  let positions = 0
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
        members.push(await readMember(source, planOf.get(layer)!, sites.get(layer), symmetric, run.signal))
      }
      const key = (group.tap ?? group.ahead?.tap)?.key
      const entry = key !== undefined && statistics.keys.includes(key) ? statistics.read(key) : undefined
      if (!entry) {
        const reason = group.members[0]!.reason ?? 'the statistics do not have it'
        notes.set(reason, (notes.get(reason) ?? 0) + members.length)
        for (const member of members) {
          const { rounded: weight, grid } = member
          await solved.keep(member, { weight, grid, calibration: undefined, bias: undefined })
        }
      } else {
        positions = Math.max(positions, entry.fit[0]!.weight)
        const judging = entry.held.length > 0 ? entry.held : entry.fit
        const { decisions, warning } = await decideGroup(
          members,
          new GroupHessians(entry.fit, tools),
          (weights, corrections) => heldOutError(members, weights, corrections, judging, products),
          { config, symmetric, tools, biasAt },
        )
        if (warning) warnings.push(warning)
        for (const [i, member] of members.entries()) {
          const decision = decisions[i]!
          await solved.keep(member, decision)
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
      report: {
        source: config.stats.join(', '),
        samples: fingerprints.reduce((sum, { samples, heldOut }) => sum + samples + heldOut, 0),
        heldOut: fingerprints.reduce((sum, { heldOut }) => sum + heldOut, 0),
        positions,
        groups: groups.filter(({ tap, ahead }) => tap || ahead).length,
        stages: 0,
        outputs: [],
        notes: [...notes].map(
          ([reason, count]) => `${count} ${count === 1 ? 'layer' : 'layers'} quantized without calibration: ${reason}`,
        ),
      },
      warnings,
    }
  } finally {
    statistics.close()
    await products.dispose()
  }
}

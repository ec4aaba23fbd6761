/** @file The layers to be quantized as calibration sees them: the main graph, where biases can be corrected, and groups. */
import { type BiasSite, withAddedBias } from '../calibration/biasSites.ts'
import { groupLayers, type LayerGroup } from '../calibration/groups.ts'
import { analyseMainGraph, constantNames, constantUses, type MainGraph } from '../calibration/mainGraph.ts'
import { estimateMemory } from '../calibration/memory.ts'
import type { Mapping } from '../codebook/codebookForms.ts'
import { codebookOptions } from '../codebook/codebookOptions.ts'
import type { Layers, WeightedLayer } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { DataType, type NodeProto } from '../onnx/proto.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import { biasSites } from './biasEdits.ts'

export interface GroupedLayers {
  readonly graph: MainGraph
  /** The layers whose mean error a bias can take back. */
  readonly sites: ReadonlyMap<WeightedLayer, BiasSite>
  /** A node as calibration runs it, with added inputs for biases. */
  readonly edit: (node: NodeProto) => NodeProto
  /** In the order in which they are solved. */
  readonly groups: readonly LayerGroup[]
}

/** Group layers of a model. */
export function groupedLayers(found: Layers, layers: readonly WeightedLayer[]): GroupedLayers {
  const graph = analyseMainGraph(found.index)
  const sites = biasSites(graph, layers)
  const edited = new Map([...sites.values()].map((site) => [site.node, withAddedBias(site)]))
  const edit = (node: NodeProto) => edited.get(node) ?? node
  const constants = constantNames(graph)
  const groups = groupLayers(graph, constants, constantUses(graph, constants), layers, edit)
  return { graph, sites, edit, groups }
}

/** Names of the weights that change: they are fed to every stage. */
export function fedWeights(layers: readonly WeightedLayer[]): Set<string> {
  return new Set(layers.flatMap((layer) => (isFeedable(layer) ? [layer.constant.name] : [])))
}

/** Weights of these types can be fed to a session. */
export function isFeedable({ constant }: WeightedLayer): boolean {
  const { dataType } = constant.tensor
  const isKnown = dataType === DataType.FLOAT || dataType === DataType.FLOAT16 || dataType === DataType.DOUBLE
  return isKnown && constant.scope.parent === undefined && !constant.scope.fn
}

/** Sentences on layers that have no statistics. @param counts by reason. */
export function withoutCalibration(counts: ReadonlyMap<string, number>): string[] {
  return [...counts].map(
    ([reason, count]) => `${count} ${count === 1 ? 'layer' : 'layers'} quantized without calibration: ${reason}`,
  )
}

/** A sentence on the layers that are too large for the mapping that is asked for; none where there are none. */
export function otherMapping(plans: readonly LayerPlan[], mapping: Mapping): string[] {
  const count = plans.filter((plan) => (codebookOptions(plan, mapping)?.mapping ?? mapping) !== mapping).length
  if (count === 0) return []
  return [`${count} ${count === 1 ? 'layer is' : 'layers are'} too large for mapping ${mapping}: descent instead`]
}

/** Sentences on weights that are fitted to some of their readers only. @param reasons why others are left out, by layer. */
export function fittedInPart(reasons: readonly { readonly layer: string; readonly reason: string }[]): string[] {
  const layers = new Map<string, Set<string>>()
  for (const { layer, reason } of reasons) layers.set(reason, (layers.get(reason) ?? new Set()).add(layer))
  return [...layers].map(([reason, names]) => {
    const [first] = names
    const who = names.size === 1 ? `${first} is` : `${names.size} weights, such as ${first}, are`
    return `${who} fitted to the inputs of some readers only; left out: ${reason}`
  })
}

/** Below this, what a calibration takes is nothing to plan for. */
const WORTH_SAYING = 1e9

/** Sentences on the memory that a calibration will take, for before it runs, and those that belong into its report. */
export function memoryNotes(
  { content }: Pick<OnnxModel, 'content'>,
  { graph, groups, edit }: GroupedLayers,
  layers: readonly WeightedLayer[],
): { readonly progress: string; readonly notes: readonly string[] } {
  const constants = constantNames(graph)
  const options = { constants, fed: fedWeights(layers), edit }
  const { bytes, at, uncut } = estimateMemory(
    graph,
    groups,
    constantUses(graph, constants),
    options,
    content?.length ?? 0,
  )
  const size = `about ${(bytes / 1e9).toFixed(1)} GB of memory`
  const notes = []
  if (bytes >= WORTH_SAYING || uncut) {
    notes.push(`calibration takes ${size} besides the activations of a batch${at ? `, most of it at ${at}` : ''}`)
  }
  if (uncut) {
    const share = `${Math.round(100 * uncut.share)} %`
    notes.push(`memory follows the model: ${share} of its constants are in one part that cannot be cut; ${uncut.why}`)
  }
  return { progress: size, notes }
}

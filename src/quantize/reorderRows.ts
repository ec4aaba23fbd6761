/**
 * @file Rows of a kind one after the other, before anything is planned: then which table a row has costs nothing in the file.
 *
 * Source: JLCM (Yvinec, Dapogny & Bailly 2023), which re-orders neurons. Ours: layers that are multiplied with each other
 * (gate and up) share one order, from the shapes of their rows side by side, and it is done only where no other layer has to
 * follow a stream of channels, and where it saves bytes.
 */
import { applyOverrides } from '../bitalloc/overrides.ts'
import { analyseMainGraph } from '../calibration/mainGraph.ts'
import { codebookNamed, hasBits } from '../codebook/codebookForms.ts'
import { joinedGroups } from '../codebook/joinedGroups.ts'
import { applyPermutationsInPlace } from '../codebook/permute/applyPermutations.ts'
import type { ChannelSet } from '../codebook/permute/channelSet.ts'
import { findPermutable } from '../codebook/permute/permutable.ts'
import { DEFAULT_BITS, type QuantizeConfig } from '../config.ts'
import { cloneModel } from '../onnx/clone.ts'
import type { Layers, WeightedLayer } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { runsBytes, runsPay } from '../onnx/represent/codebookForm.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import type { Temporaries } from '../onnx/temporaries.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import type { IndexBits } from '../quant/codebookWeight.ts'
import { readTile } from '../quant/storedWeight.ts'
import { Workspace } from '../quant/workspace.ts'
import { onDisk } from './onDisk.ts'
import { type LayerSource, readStored } from './readWeight.ts'

interface ReorderSetting {
  readonly source: Pick<LayerSource, 'reader' | 'pool'>
  readonly config: QuantizeConfig
  readonly run: RunOptions
  /** Names a place for the re-ordered model. */
  readonly scratch: () => string
  readonly temporaries: Temporaries
}

interface Reordered {
  readonly model: OnnxModel
  readonly found: Layers
}

/**
 * Re-order channels so that the rows that share a table follow each other; the layers say so by their `runs`. The model
 * computes the same, up to the order of sums. The original is not changed, and is what is returned where nothing is gained.
 */
export async function reorderRows(original: Reordered, setting: ReorderSetting): Promise<Reordered> {
  const { config, run } = setting
  if (!mayReorder(config)) return original
  const { model, found } = original
  const free = freeLayers(found, config)
  const { sets } = findPermutable(analyseMainGraph(found.index), found.layers)
  const permutations: { readonly set: ChannelSet; readonly order: readonly number[] }[] = []
  const runsOf = new Map<string, readonly number[]>()
  for (const set of sets) {
    // Where a channel is several rows of a layer, the rows of a table do not follow each other.
    const own = set.layers.filter((layer) => free.has(layer) && rowsOf(layer) === set.channels)
    if (own.length === 0 || !runsPay(2, set.channels)) continue
    await nextTurn()
    checkAborted(run.signal)
    run.onProgress?.({ stage: 'plan', done: 0, total: 1, item: `rows of ${own[0]!.name}` })
    const tableOf = tablesOf(own, model, set.channels, setting)
    const runs = tableOf && runLengths(tableOf)
    if (!runs || !runsPay(runs.length, set.channels)) continue
    // Sorting is stable: rows of a table keep their order.
    permutations.push({ set, order: [...tableOf.keys()].sort((a, b) => tableOf[a]! - tableOf[b]!) })
    for (const { constant } of own) runsOf.set(constant.name, runs)
  }
  if (permutations.length === 0) return original
  const permuted = cloneModel(model)
  applyPermutationsInPlace(permuted, permutations)
  const stored = onDisk(permuted, setting.scratch(), setting.temporaries)
  const layers = stored.found.layers.map((layer) => ({ ...layer, runs: runsOf.get(layer.constant.name) }))
  return { model: stored.model, found: { ...stored.found, layers } }
}

/** What is said of it where there is something to say. */
export function reorderNotes(layers: readonly { readonly plan: LayerPlan }[], { codebook }: QuantizeConfig): string[] {
  if (codebookNamed({ codebook }) !== 'jlcm') return []
  const count = (isOne: (plan: LayerPlan) => boolean) => layers.filter(({ plan }) => isOne(plan)).length
  const inRuns = count((plan) => plan.codebook?.runs !== undefined)
  const indexed = count(({ codebook }) => codebook?.permuted === true)
  if (inRuns + indexed === 0) return []
  const layersOf = (n: number) => `${n} ${n === 1 ? 'layer' : 'layers'}`
  return [
    `tables of rows: ${layersOf(inRuns)} re-ordered, so that no row has an index; ${layersOf(indexed)} with an index for each row`,
  ]
}

/**
 * Several tables, and no file that other settings made or will use: statistics and plans are of the model in its own order.
 */
function mayReorder(config: QuantizeConfig): boolean {
  const { method, rowGroups, stats, plan, solver } = config
  const severalTables = method === 'codebook' && codebookNamed(config) === 'jlcm' && rowGroups !== 1
  return severalTables && stats.length === 0 && plan === undefined && solver === 'uniform'
}

function rowsOf({ view }: WeightedLayer): number {
  return view.outer * view.inner
}

/** Layers whose width has tables. */
function freeLayers({ layers }: Layers, config: QuantizeConfig): Set<WeightedLayer> {
  const named = layers.map((layer) => ({ name: layer.name, weight: layer.constant.name }))
  const { choices } = applyOverrides(named, config.layers)
  return new Set(layers.filter((_, i) => choices[i] === undefined || hasBits('jlcm', choices[i] as number)))
}

/** The table of each channel; undefined where weights are no numbers, which others say with the name of the layer. */
function tablesOf(
  layers: readonly WeightedLayer[],
  model: OnnxModel,
  rows: number,
  { config, source }: ReorderSetting,
): Uint16Array | undefined {
  const { bits = DEFAULT_BITS, rowGroups } = config
  const workspace = new Workspace()
  const targets = layers.map((layer) => {
    const cols = layer.view.reduction
    const target = new Float32Array(rows * cols)
    readTile(readStored({ ...source, model, workspace }, layer), 0, rows, 0, cols, target)
    return { target, cols }
  })
  if (targets.some(({ target }) => !target.every(Number.isFinite))) return undefined
  // Under a budget the width is not known yet; how many tables pay hardly depends on it.
  const width = hasBits('jlcm', bits) ? bits : (4 satisfies IndexBits)
  return joinedGroups(targets, rows, width, rowGroups, (tables) => layers.length * runsBytes(tables))
}

/** Rows of each table. */
function runLengths(tableOf: Uint16Array): number[] {
  const runs: number[] = []
  for (const table of tableOf) runs[table] = (runs[table] ?? 0) + 1
  return runs
}

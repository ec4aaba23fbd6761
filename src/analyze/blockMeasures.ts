/**
 * @file LIM and ZD of blocks: how much each changes the residual stream of the float network, and how its weights are
 * distributed.
 *
 * Source: Dumitru et al., 2024 (layer-wise quantization); the formulas and their variants are in `src/hessian`.
 */

import type { Block } from '../calibration/blocks.ts'
import { aliveAt, canCut } from '../calibration/mainGraph.ts'
import type { CalibrationData } from '../calibration/openCalibration.ts'
import { floatsOf, isFloatTensor } from '../calibration/tensors.ts'
import type { Walk } from '../calibration/walk.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { LayerInputModification } from '../hessian/layerInput.ts'
import { zScoreDistribution } from '../hessian/zScores.ts'
import { intAttribute } from '../onnx/attributes.ts'
import type { WeightedLayer } from '../onnx/layers.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { rowsOf } from '../quant/storedWeight.ts'
import { Workspace } from '../quant/workspace.ts'
import type { GroupedLayers } from '../quantize/layerGroups.ts'
import { readRows } from '../quantize/layerRows.ts'
import { openNetworkWalk } from '../quantize/networkWalk.ts'
import { type LayerSource, readStored } from '../quantize/readWeight.ts'
import type { MeasuredBlock } from './analysis.ts'

interface BlockNetwork {
  readonly source: Omit<LayerSource, 'workspace'>
  readonly grouped: GroupedLayers
  /** Those that were grouped. */
  readonly layers: readonly WeightedLayer[]
  readonly data: CalibrationData
  readonly run: RunOptions
}

/**
 * Measure blocks.
 *
 * LIM is the mean over tokens of the held-out samples (all samples where none are held out); padding does not count. The
 * width is the last axis; in blocks of convolutions the channel axis, and every pixel is a token. It costs two runs of
 * the float network: each block is run to see its output beside its input, and once more to go on, so that
 * only what is alive at one cut is kept.
 * @param wanted `zd` needs no data.
 * @returns in the order of `blocks`. `lim` is null where it is not defined: input and output of different shapes, not
 *   floating-point or not finite, or where the graph cannot be cut. `zd` is null where all weights are equal or some not finite.
 * @throws QtoolError `data` when a node fails on a batch, `model`, `interrupted`.
 */
export async function measureBlocks(
  network: BlockNetwork,
  blocks: readonly Block[],
  wanted: { readonly lim: boolean; readonly zd: boolean },
): Promise<MeasuredBlock[]> {
  const lims = wanted.lim && blocks.length > 0 ? await limOf(network, blocks) : new Map<Block, number>()
  const measured: MeasuredBlock[] = []
  for (const block of blocks) {
    checkAborted(network.run.signal)
    const zd = wanted.zd ? await zdOf(network.source, block) : undefined
    const layers = block.layers.map(({ name }) => name)
    measured.push({ name: block.name, layers, lim: lims.get(block) ?? null, zd: zd ?? null })
  }
  return measured
}

/** Share of a block's weights more than one standard deviation above their mean. */
async function zdOf(source: BlockNetwork['source'], { layers }: Block): Promise<number | undefined> {
  const workspace = new Workspace()
  const distribution = await zScoreDistribution((take) => {
    for (const layer of layers) {
      const stored = readStored({ ...source, workspace }, layer)
      const rows = new Float32Array(rowsOf(stored) * layer.view.reduction)
      readRows(stored, rows)
      take(rows)
    }
  })
  return distribution?.oneSided
}

async function limOf(
  { source, grouped, layers, data, run }: BlockNetwork,
  blocks: readonly Block[],
): Promise<Map<Block, number>> {
  const { graph } = grouped
  const cutAfter = (name: string) => (graph.madeAt.get(name) ?? -1) + 1
  const inOrder = [...blocks].sort((a, b) => cutAfter(a.input) - cutAfter(b.input))
  // Samples that are only fitted to need not run.
  const judging = data.held.count > 0 ? data.held : data.fit
  const walk = openNetworkWalk(source.model, layers, grouped, { ...data, fit: judging, held: judging.subset([]) }, run)
  const found = new Map<Block, number>()
  try {
    for (const [done, block] of inOrder.entries()) {
      run.onProgress?.({ stage: 'measure', done, total: blocks.length, item: block.name })
      const [from, to] = [cutAfter(block.input), cutAfter(block.output)]
      if (![from, to].every((cut) => canCut(graph, aliveAt(graph, walk.constants, cut)))) continue
      await walk.advance(from)
      const lim = await limAt(walk, block, to, run)
      if (lim !== undefined && Number.isFinite(lim)) found.set(block, lim)
    }
  } finally {
    walk.close()
  }
  return found
}

/** LIM of the block before which the network stands. @param to the cut after its output. */
async function limAt(walk: Walk, block: Block, to: number, run: RunOptions): Promise<number | undefined> {
  const lim = new LayerInputModification()
  const trial = await walk.openTrial(to)
  try {
    for (const [batch, { weights }] of walk.batches.entries()) {
      await nextTurn()
      checkAborted(run.signal)
      const input = walk.get('float', batch, block.input)
      const output = (await trial.run('float', batch)).get(block.output)
      if (!output || !isFloatTensor(input) || !haveSameShape(input, output)) return undefined
      const axis = widthAxis(block, input.dims)
      const width = input.dims[axis]!
      const tokens = input.data.length / width
      // A mask speaks of these tokens only where there are as many.
      const own = weights?.length === tokens ? weights : undefined
      lim.add(asTokens(input, axis), asTokens(output, axis), width, own)
    }
  } finally {
    await trial.close()
  }
  return lim.value
}

function haveSameShape(a: FeedTensor, b: FeedTensor): boolean {
  return a.type === b.type && a.dims.length === b.dims.length && a.dims.every((size, i) => size === b.dims[i])
}

/**
 * The last axis, or the channel axis where convolutions take the stream: all layers of the block are convolutions, or one of
 * them takes as many channels as axis 1 has, and the last axis has another size.
 */
function widthAxis({ layers }: Block, dims: readonly number[]): number {
  const last = dims.length - 1
  if (last < 2) return last
  const channels = layers.map(({ uses, dims: stored }) => {
    const { node, dims } = uses[0]!
    const isConvolution = node.opType === 'Conv' || node.opType === 'FusedConv'
    return isConvolution ? (dims ?? stored)[1]! * intAttribute(node, 'group', 1) : undefined
  })
  if (channels.every((count) => count !== undefined)) return 1
  return channels.includes(dims[1]!) && dims[1] !== dims[last] ? 1 : last
}

/** Float32 numbers of a tensor as [tokens, width]; a copy where the width is not its last axis. */
function asTokens(tensor: FeedTensor, axis: number): Float32Array {
  const values = floatsOf(tensor)
  const inner = tensor.dims.slice(axis + 1).reduce((a, b) => a * b, 1)
  if (inner === 1) return values
  const width = tensor.dims[axis]!
  const tokens = new Float32Array(values.length)
  for (let i = 0; i < values.length; i++) {
    const [outer, rest] = [Math.floor(i / (width * inner)), i % (width * inner)]
    const [channel, position] = [Math.floor(rest / inner), rest % inner]
    tokens[(outer * inner + position) * width + channel] = values[i]!
  }
  return tokens
}

/**
 * @file Token importance from the float network: one walk through it gives each block's scores, and weights of them.
 *
 * Source: RSQ (Sung et al. 2025, arXiv 2503.01820). There the scores of a block come from the network whose earlier blocks are
 * quantized; here from the float network, before anything is quantized, so that all candidates are given the same
 * weights. Layers in no block (embeddings, the head) have none.
 */
import type { Block } from '../calibration/blocks.ts'
import { aliveAt, canCut } from '../calibration/mainGraph.ts'
import type { Importance } from '../calibration/positionWeights.ts'
import { isFloatTensor } from '../calibration/tensors.ts'
import type { Walk } from '../calibration/walk.ts'
import { tokenIdsInput } from '../data/tokenInputs.ts'
import { QtoolError } from '../errors.ts'
import { numbersOf } from '../eval/numbers.ts'
import type { RunOptions } from '../progress.ts'
import { BlockScores, perToken, type Scores } from './blockScores.ts'
import { type ImportanceName, importanceWeights, type TokenBatch, type WeightOptions } from './importance.ts'
import { type Chunks, chunkScores, FIRST, FIRST_AND_LAST, TokenCounts } from './tokenScores.ts'

export interface ImportanceOptions extends WeightOptions {
  readonly strategy: ImportanceName
  /** For `first` and `first-last`, in place of theirs. */
  readonly chunks?: Chunks | undefined
  /** For `student-kl`: scores [sequences · length] of each fitted batch of the walk, see studentScores.ts. */
  readonly studentScores?: readonly Float64Array[] | undefined
}

export interface BlockImportance {
  /** The block's name. */
  readonly name: string
  /** Names of the constants of its layers. */
  readonly layers: readonly string[]
  /**
   * Of each batch of the walk, [batch · sequence], of mean 1 over the tokens of each sequence that count, 0 for padding.
   * Undefined for batches that are held out, and where the block has no weights.
   */
  readonly weights: readonly (Float32Array | undefined)[]
}

export interface CollectedImportance {
  /** In the order of the blocks. */
  readonly blocks: readonly BlockImportance[]
  /** Sentences for the user: which blocks were weighed otherwise than asked for, or not at all. */
  readonly notes: readonly string[]
}

/**
 * Collect the weights of all blocks. `attention` takes activation norms where it is not seen, and says so; a block without
 * attention of its own (one of feed-forward layers only) takes that of the block before.
 * @param walk an open one at its first node. It goes on to the last block; only its float network counts.
 * @param blocks see `findBlocks`.
 * @throws QtoolError `usage` when the strategy needs token ids, and no input holds them; `data` when a node fails on a batch;
 *   `interrupted`. RangeError when the walk has gone on already, or the student's scores are missing.
 */
export async function collectImportance(
  walk: Walk,
  blocks: readonly Block[],
  options: ImportanceOptions,
  run: RunOptions,
): Promise<CollectedImportance> {
  if (walk.position !== 0) throw new RangeError(`the walk is at node ${walk.position}`)
  const notes: string[] = []
  if (blocks.length === 0) notes.push('tokens are not weighed: the network has no residual stream, so no blocks')
  const { strategy } = options
  const none = walk.batches.map(() => undefined)
  const cutAfter = (name: string) => (walk.graph.madeAt.get(name) ?? -1) + 1
  const order = [...blocks].sort((a, b) => cutAfter(a.input) - cutAfter(b.input))
  const shared = ofTokens(walk, options)
  const stage = new BlockScores(walk, strategy, run, notes)
  const found = new Map<Block, readonly (Float32Array | undefined)[]>()
  for (const [done, block] of order.entries()) {
    run.onProgress?.({ stage: 'calibrate', done, total: order.length, item: `token importance in ${block.name}` })
    const cut = cutAfter(block.input)
    const skip = (why: string) => notes.push(`tokens are not weighed in ${block.name}: ${why}`)
    if (!canCut(walk.graph, aliveAt(walk.graph, walk.constants, cut))) {
      skip('the network cannot be cut before it')
      continue
    }
    await walk.advance(cut)
    const batches = tokensAt(walk, block)
    if (typeof batches === 'string') {
      skip(batches)
      continue
    }
    const scores = shared ? shared(batches) : await stage.scores(block, cutAfter(block.output), batches)
    if (typeof scores === 'string') {
      skip(scores)
      continue
    }
    const corrected = strategy === 'attention' && stage.isOfAttention
    const own: WeightOptions = corrected ? options : { ...options, lengthCorrection: 'none' }
    const weights = batches.map((batch, i) => importanceWeights(scores[i]!, batch, own))
    found.set(block, [...weights, ...none.slice(weights.length)])
  }
  const collected = blocks.map((block) => ({
    name: block.name,
    layers: block.layers.map(({ constant }) => constant.name),
    weights: found.get(block) ?? none,
  }))
  return { blocks: collected, notes }
}

/**
 * The weights of a layer, by the name of its constant. A layer that several blocks use has none: its statistics are sums
 * over blocks.
 */
export function importanceByLayer(blocks: readonly BlockImportance[]): (constant: string) => Importance | undefined {
  const users = new Map<string, BlockImportance[]>()
  for (const block of blocks) for (const name of block.layers) users.set(name, [...(users.get(name) ?? []), block])
  return (constant) => {
    const [own, ...others] = users.get(constant) ?? []
    if (!own || others.length > 0 || own.weights.every((weights) => weights === undefined)) return undefined
    return (batch) => own.weights[batch]
  }
}

/** The tokens of each fitted batch on the stream before a block, or why there are none. */
function tokensAt(walk: Walk, { input }: Block): TokenBatch[] | string {
  const batches: TokenBatch[] = []
  for (let batch = 0; batch < walk.fitBatches; batch++) {
    const { type, dims } = walk.activations.shapeOf('float', batch, input)
    const { count, weights } = walk.batches[batch]!
    const tokens = dims.slice(0, -1).reduce((a, b) => a * b, 1)
    // [sequences · tokens, width] is the only other form whose rows are in the order of the tokens.
    const fits = dims.length === 3 ? dims[0] === count : dims.length === 2 && tokens % count === 0
    if (!fits) return `its input [${dims.join(', ')}] has no row for each token of ${count} sequences`
    if (!isFloatTensor({ type, dims, data: new Float32Array() })) return `its input is ${type}`
    batches.push({ sequences: count, length: tokens / count, counts: weights?.length === tokens ? weights : undefined })
  }
  return batches
}

/** Scores that are the same in all blocks: of places, of ids, of the whole network. Undefined for other strategies. */
function ofTokens(walk: Walk, options: ImportanceOptions): ((batches: readonly TokenBatch[]) => Scores) | undefined {
  const { strategy, chunks, studentScores } = options
  if (strategy === 'first') return (batches) => batches.map((batch) => chunkScores(batch, chunks ?? FIRST))
  if (strategy === 'first-last') {
    return (batches) => batches.map((batch) => chunkScores(batch, chunks ?? FIRST_AND_LAST))
  }
  if (strategy === 'student-kl') {
    if (!studentScores) throw new RangeError('no scores of a student')
    return (batches) => perToken(batches, studentScores)
  }
  if (strategy === 'token-frequency') {
    const ids = tokenIds(walk)
    const counts = new TokenCounts()
    ids.forEach(({ data, batch }) => void counts.add(data, batch))
    const scores = ids.map(({ data, batch }) => counts.scores(data, batch))
    return (batches) => perToken(batches, scores)
  }
  return undefined
}

/** The token ids of all fitted batches. */
function tokenIds(walk: Walk) {
  const { graph, activations, fitBatches } = walk
  const fed = graph.inputs.filter((name) => activations.has('float', 0, name))
  const name = tokenIdsInput(new Map(fed.map((input) => [input, activations.shapeOf('float', 0, input)])))
  if (name === undefined) {
    throw new QtoolError('usage', `${walk.path}: no input is known to hold token ids, which could be counted`, {
      hint: 'use another --token-importance',
    })
  }
  return Array.from({ length: fitBatches }, (_, i) => {
    const tensor = walk.get('float', i, name)
    const [sequences, length] = tensor.dims as [number, number]
    const { weights } = walk.batches[i]!
    const batch = { sequences, length, counts: weights?.length === tensor.data.length ? weights : undefined }
    // What lies on disk comes to the same memory for every batch.
    return { data: Float64Array.from(numbersOf(tensor)), batch }
  })
}

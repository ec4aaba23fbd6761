/** @file Scores of tokens that come from a block of the float network: of its stream before and after, of its attention. */
import type { Block } from '../calibration/blocks.ts'
import { Probe } from '../calibration/probe.ts'
import { isFloatTensor } from '../calibration/tensors.ts'
import type { Walk } from '../calibration/walk.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { numbersOf } from '../eval/numbers.ts'
import { opsetOf } from '../onnx/opset.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { hiddenKeys, type NoAttention, probeAttention } from './attentionProbe.ts'
import type { ImportanceName, TokenBatch } from './importance.ts'
import { attentionScores, differenceScores, normScores, similarityScores } from './tokenScores.ts'

/** Scores by batch, or why there are none. */
export type Scores = readonly Float64Array[] | string

/** Scores of the tokens of batches, where there is one for each. */
export function perToken(batches: readonly TokenBatch[], scores: readonly Float64Array[]): Scores {
  const fits = batches.every(({ sequences, length }, i) => scores[i]?.length === sequences * length)
  return fits ? scores : 'its input has another number of tokens than the sequences'
}

/** The scores of one block after another, in the order of the network. */
export class BlockScores {
  readonly #walk: Walk
  readonly #strategy: ImportanceName
  readonly #run: RunOptions
  readonly #notes: string[]
  /** Of the last block that attends. */
  #received: readonly Float64Array[] | undefined
  /** True when the last scores are sums over queries. */
  isOfAttention = false

  constructor(walk: Walk, strategy: ImportanceName, run: RunOptions, notes: string[]) {
    this.#walk = walk
    this.#strategy = strategy
    this.#run = run
    this.#notes = notes
  }

  /** @param to the cut after the block; the walk is at the one before. */
  async scores(block: Block, to: number, batches: readonly TokenBatch[]): Promise<Scores> {
    const strategy = this.#strategy
    if (strategy === 'activation-difference') return this.#differences(block, to, batches)
    if (strategy === 'attention') {
      const scores = await this.#attention(block, to, batches)
      this.isOfAttention = typeof scores !== 'string'
      if (typeof scores !== 'string') return scores
      this.#notes.push(
        `tokens in ${block.name} are weighed by activation norms, for its attention is not seen: ${scores}`,
      )
    }
    const score = strategy === 'token-similarity' ? similarityScores : normScores
    return this.#each(batches, async (tokens, batch) => score(this.#stream(block, batch), tokens))
  }

  #stream(block: Block, batch: number) {
    return numbersOf(this.#walk.get('float', batch, block.input))
  }

  async #each(
    batches: readonly TokenBatch[],
    score: (tokens: TokenBatch, batch: number) => Promise<Float64Array>,
  ): Promise<Float64Array[]> {
    const scores: Float64Array[] = []
    for (const [batch, tokens] of batches.entries()) {
      await nextTurn()
      checkAborted(this.#run.signal)
      scores.push(await score(tokens, batch))
    }
    return scores
  }

  async #differences(block: Block, to: number, batches: readonly TokenBatch[]): Promise<Scores> {
    const probe = this.#probe()
    probe.fetch(probe.read(block.output))
    return this.#probed(probe, to, batches, (tokens, batch, results) => {
      const before = this.#walk.get('float', batch, block.input)
      const after = results.get(block.output)!
      const fits = isFloatTensor(after) && after.dims.join() === before.dims.join()
      return fits ? differenceScores(numbersOf(before), numbersOf(after), tokens) : 'its output has another shape'
    })
  }

  async #attention(block: Block, to: number, batches: readonly TokenBatch[]): Promise<Scores> {
    const dims = this.#walk.activations.shapeOf('float', 0, block.input).dims
    if (dims.length !== 3) return `its input [${dims.join(', ')}] has no axis for sequences`
    const probe = this.#probe()
    const byQuery = batches.some(({ counts }) => counts !== undefined)
    const attention = probeAttention(this.#walk.graph, block, probe, byQuery)
    if ('reason' in attention) return this.#before(attention, batches)
    const { outputs, hiding } = attention
    const scores = await this.#probed(
      probe,
      to,
      batches,
      (tokens, _, results) =>
        attentionScores(
          outputs.map((name) => ({ dims: results.get(name)!.dims, data: numbersOf(results.get(name)!) })),
          tokens,
        ) ?? 'it is not between the tokens of the stream',
      (tokens) => new Map([...hiding].map(([name, kind]) => [name, hiddenKeys(tokens, kind)])),
    )
    if (typeof scores !== 'string') this.#received = scores
    return scores
  }

  /** The attention of the block before, where this one has none of its own. */
  #before({ reason, absent }: NoAttention, batches: readonly TokenBatch[]): Scores {
    if (!absent || !this.#received) return reason
    return typeof perToken(batches, this.#received) === 'string' ? reason : this.#received
  }

  #probe(): Probe {
    const { index, scope } = this.#walk.graph
    return new Probe(opsetOf(index.model, scope))
  }

  async #probed(
    probe: Probe,
    to: number,
    batches: readonly TokenBatch[],
    score: (tokens: TokenBatch, batch: number, results: ReadonlyMap<string, FeedTensor>) => Float64Array | string,
    valuesOf: (tokens: TokenBatch) => ReadonlyMap<string, FeedTensor> = () => new Map(),
  ): Promise<Scores> {
    const trial = await this.#walk.openTrial(to, probe.probed)
    try {
      const scores: Float64Array[] = []
      for (const [batch, tokens] of batches.entries()) {
        await nextTurn()
        checkAborted(this.#run.signal)
        const results = await trial.run('float', batch, { values: valuesOf(tokens), place: 'probe' })
        const own = score(tokens, batch, results)
        if (typeof own === 'string') return own
        scores.push(own)
      }
      return scores
    } finally {
      await trial.close()
    }
  }
}

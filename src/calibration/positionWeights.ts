/** @file How much each position of a tap counts: nothing where it is padding, and by its importance where that is known. */
import type { FeedTensor } from '../data/modelInput.ts'
import { positionsOf } from './joinBatches.ts'
import type { Tap } from './tap.ts'
import type { Walk } from './walk.ts'

/**
 * Weights [batch · sequence] of the tokens of a batch of the walk, ≥ 0 and in the order of its token weights; undefined
 * where all count alike.
 */
export type Importance = (batch: number) => Float32Array | undefined

/**
 * The weights of a tap's positions in some batches, one batch after the other. Weights of tokens are theirs only where
 * the positions are as many as the tokens.
 * @param joined numbers of batches.
 * @param value what the tap reads first, where there is one batch.
 * @param importance multiplies the weights of the mask.
 * @returns undefined where all positions weigh 1.
 */
export function positionWeights(
  walk: Walk,
  tap: Tap,
  joined: readonly number[],
  value: FeedTensor,
  importance?: Importance,
): Float32Array | undefined {
  if (tap.positions !== 'rows') return undefined
  const [name] = tap.reads
  const parts = joined.map((batch) => {
    const { dims } = joined.length === 1 ? value : walk.activations.shapeOf('float', batch, name!)
    const positions = positionsOf(dims)
    const factors = [walk.batches[batch]!.weights, importance?.(batch)]
    // Statistics without weights are summed in another order: weights of 1 must not make a difference.
    const own = factors.filter((factor) => factor?.length === positions && factor.some((weight) => weight !== 1))
    return { positions, factors: own as Float32Array[] }
  })
  if (parts.every(({ factors }) => factors.length === 0)) return undefined
  const weights = new Float32Array(parts.reduce((sum, { positions }) => sum + positions, 0)).fill(1)
  let at = 0
  for (const { positions, factors } of parts) {
    for (const factor of factors) for (let i = 0; i < positions; i++) weights[at + i]! *= factor[i]!
    at += positions
  }
  return weights
}

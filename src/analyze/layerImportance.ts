/** @file Losses of candidates from figures that are measured for other things: for whole levels (Shapley), for blocks (LIM, ZD), and by labels. */
import { shapleyValues } from '../hessian/shapley.ts'
import type { Analysis, MeasuredBlock } from './analysis.ts'

/** What others add to a layer's single loss, at a candidate that a level has. */
interface Excess {
  readonly candidate: number
  readonly squaredError: number
  readonly excess: number
}

/**
 * Shapley values of candidates. At a candidate that levels have it is the mean over these levels of
 * ½·(f({i}) + f(N) − f(N∖{i})). Others lie between: what the other layers add to the single loss, φ − s, follows the
 * logarithm of ‖ΔW‖², geometrically where both neighbours have one sign (it spans orders of magnitude between
 * widths), linearly where they have not; beyond the outermost levels it is that of the nearest. Their own measured single
 * is added to it. Levels without finite losses say nothing.
 * @returns [layer][candidate]; infinite where the single is.
 */
export function shapleyLosses({ layers, levels }: Analysis): number[][] {
  const columns = levels!.map(({ choice, loss }, k) =>
    shapleyValues(
      layers.map(({ candidates }, l) => candidates[choice[l]!]!.loss.mean),
      loss,
      layers.map(({ leaveOneOut }) => leaveOneOut![k]!),
    ),
  )
  return layers.map(({ candidates }, l) => {
    const known = levels!.flatMap(({ choice }, k): Excess[] => {
      const candidate = choice[l]!
      const { squaredError, loss } = candidates[candidate]!
      const excess = columns[k]![l]! - loss.mean
      return Number.isFinite(excess) ? [{ candidate, squaredError, excess }] : []
    })
    return candidates.map(({ loss, squaredError }, candidate) => {
      const own = known.filter((point) => point.candidate === candidate)
      return loss.mean + (own.length > 0 ? meanExcess(own) : excessBetween(known, squaredError))
    })
  })
}

/** The excess at another squared error. Weights that are kept exactly add nothing. */
function excessBetween(known: readonly Excess[], squaredError: number): number {
  const points = known.filter((point) => point.squaredError > 0)
  if (points.length === 0 || squaredError === 0) return 0
  const below = points.filter((point) => point.squaredError <= squaredError)
  const above = points.filter((point) => point.squaredError >= squaredError)
  const low = below.length > 0 ? Math.max(...below.map((point) => point.squaredError)) : undefined
  const high = above.length > 0 ? Math.min(...above.map((point) => point.squaredError)) : undefined
  const at = (value: number) => meanExcess(points.filter((point) => point.squaredError === value))
  if (low === undefined) return at(high!)
  if (high === undefined || low === high) return at(low)
  const share = Math.log(squaredError / low) / Math.log(high / low)
  const [left, right] = [at(low), at(high)]
  if (left * right > 0) return left * (right / left) ** share
  return left + share * (right - left)
}

function meanExcess(points: readonly Excess[]): number {
  return points.reduce((sum, { excess }) => sum + excess, 0) / points.length
}

/**
 * Losses by the rank of a layer's block: rank × share of all weights × relative error. The papers' scheme (Dumitru et al.,
 * 2024) lowers whole blocks from the least important one on; only the order of blocks counts in it, so ranks do here, 1/n for
 * the least important of n blocks, 1 for the most important one, means for equal ones. With errors of a width about
 * equal in all layers, an allocator that pays by the bit then lowers blocks in that order. Layers outside of all blocks
 * (embedding, head) and in blocks that have no figure are taken for as important as the most important one, as the paper
 * does not lower them; a layer of several blocks has the highest of their ranks.
 * @returns [layer][candidate]
 */
export function blockLosses({ layers, blocks }: Analysis, by: 'lim' | 'zd'): number[][] {
  // LIM: the more a block changes its input, the more it matters. ZD: the fewer large weights, the more.
  const importanceOf = (block: MeasuredBlock) => (by === 'zd' && block.zd !== null ? -block.zd : block[by])
  const ranked = blocks!.filter((block) => block[by] !== null)
  const rankOf = new Map<string, number>()
  for (const block of ranked) {
    const own = importanceOf(block)!
    const less = ranked.filter((other) => importanceOf(other)! < own).length
    const equal = ranked.filter((other) => importanceOf(other)! === own).length
    const rank = (less + (equal + 1) / 2) / ranked.length
    for (const layer of block.layers) rankOf.set(layer, Math.max(rank, rankOf.get(layer) ?? 0))
  }
  for (const block of blocks!) if (block[by] === null) for (const layer of block.layers) rankOf.set(layer, 1)
  const total = layers.reduce((sum, { weights }) => sum + weights, 0)
  return layers.map(({ name, weights, candidates }) => {
    const weight = (rankOf.get(name) ?? 1) * (weights / total)
    return candidates.map(({ relativeError }) => weight * relativeError)
  })
}

/**
 * Losses by labels without what can only be noise. On few samples a label gets more likely with a quantized weight as
 * often as less; an allocator would take the gains of the narrowest widths for real. So within a layer losses do not fall as
 * the error of the weights rises (least squares, by pooling neighbours that violate it), and are at least 0.
 * @returns [layer][candidate]; infinite where measured so.
 */
export function labelLosses({ layers }: Analysis): number[][] {
  return layers.map(({ candidates }) => {
    const byError = candidates
      .map((_, k) => k)
      .sort((a, b) => candidates[a]!.squaredError - candidates[b]!.squaredError)
    const finite = byError.filter((k) => Number.isFinite(candidates[k]!.labels!.mean))
    const losses = candidates.map(() => Number.POSITIVE_INFINITY)
    const pools: { sum: number; members: number[] }[] = []
    for (const k of finite) {
      let pool = { sum: candidates[k]!.labels!.mean, members: [k] }
      for (let last = pools.at(-1); last && meanOf(last) >= meanOf(pool); last = pools.at(-1)) {
        pools.pop()
        pool = { sum: last.sum + pool.sum, members: [...last.members, ...pool.members] }
      }
      pools.push(pool)
    }
    for (const pool of pools) for (const k of pool.members) losses[k] = Math.max(0, meanOf(pool))
    return losses
  })
}

function meanOf({ sum, members }: { readonly sum: number; readonly members: readonly number[] }): number {
  return sum / members.length
}

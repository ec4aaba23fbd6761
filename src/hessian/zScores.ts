/**
 * @file ZD, the z-score distribution of a block's weights: which share of them is much larger than average. Needs no data.
 *
 * Source: Dumitru et al., 2024 (layer-wise quantization), which counts z > 1; community code counts |z| > 1. Both are
 * given, the paper's is used. The smaller the share, the more the block matters.
 */

/** Calls `take` for each weight tensor of a block. It is called twice, and must give the same tensors both times. */
export type WeightVisitor = (take: (weights: ArrayLike<number>) => void) => void | Promise<void>

export interface ZScoreDistribution {
  /** ZD: share of weights with (w − μ)/σ > 1, in [0, 0.5]. 0.1587 for normal weights. */
  readonly oneSided: number
  /** Share with |w − μ|/σ > 1, in [0, 1]. 0.3173 for normal weights. */
  readonly twoSided: number
}

/**
 * ZD over all weights of a block, as if they were one tensor: μ and σ (of the population) are the block's. One tensor is
 * looked at at a time and none is copied.
 * @returns undefined where there is no z: no weights, all equal, or some not finite.
 */
export async function zScoreDistribution(visit: WeightVisitor): Promise<ZScoreDistribution | undefined> {
  let count = 0
  let mean = 0
  let squares = 0
  let least = Number.POSITIVE_INFINITY
  let greatest = Number.NEGATIVE_INFINITY
  await visit((weights) => {
    const size = weights.length
    if (size === 0) return
    let sum = 0
    for (let i = 0; i < size; i++) sum += weights[i]!
    const own = sum / size
    let ownSquares = 0
    for (let i = 0; i < size; i++) {
      const weight = weights[i]!
      ownSquares += (weight - own) ** 2
      if (weight < least) least = weight
      if (weight > greatest) greatest = weight
    }
    // Moments of two parts together (Chan, Golub, LeVeque 1979): no cancellation where μ is far above σ.
    const shift = own - mean
    const both = count + size
    squares += ownSquares + shift * shift * ((count * size) / both)
    mean += shift * (size / both)
    count = both
  })
  const deviation = Math.sqrt(squares / count)
  // Equal weights may leave a deviation of rounding errors.
  if (!(deviation > 0 && deviation < Number.POSITIVE_INFINITY && least < greatest)) return undefined
  let above = 0
  let below = 0
  await visit((weights) => {
    for (let i = 0; i < weights.length; i++) {
      const distance = weights[i]! - mean
      if (distance > deviation) above++
      else if (distance < -deviation) below++
    }
  })
  return { oneSided: above / count, twoSided: (above + below) / count }
}

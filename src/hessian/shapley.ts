/**
 * @file Shapley values of layers from 2L + 1 runs: what a layer costs, averaged over being alone and being the last.
 *
 * In a game with interactions between pairs only, f(S) = Σ a_i + Σ_{i<j} Ω_ij, the Shapley value is a_i + ½ Σ_j Ω_ij. The
 * single run gives a_i, leaving i out of all gives a_i + Σ_j Ω_ij, and their mean is the value, exactly. CoopQ (arXiv
 * 2509.15455) samples permutations instead, which takes L runs for each.
 */

/**
 * φ_i = ½·(f({i}) + f(N) − f(N∖{i})). Exact for games with interactions between at most pairs; then Σ φ_i = f(N).
 * Values may be negative: a layer may repair what others spoil, or its runs are noise.
 * @param singles     f({i}), one per layer
 * @param full        f(N), all layers lowered
 * @param leaveOneOut f(N∖{i}), one per layer: all but layer i lowered
 * @returns one per layer, in the unit of the losses.
 * @throws RangeError when lengths differ.
 */
export function shapleyValues(
  singles: ArrayLike<number>,
  full: number,
  leaveOneOut: ArrayLike<number>,
): Float64Array<ArrayBuffer> {
  if (singles.length !== leaveOneOut.length) {
    throw new RangeError(`Shapley: ${singles.length} singles, but ${leaveOneOut.length} runs that leave one out`)
  }
  return Float64Array.from({ length: singles.length }, (_, i) => 0.5 * (singles[i]! + (full - leaveOneOut[i]!)))
}

/**
 * The same for each of several candidates: φ[layer][candidate], from runs in which the other layers are float or at the
 * same candidate.
 * @param singles     [layer][candidate]
 * @param fulls       [candidate]
 * @param leaveOneOut [layer][candidate]
 * @throws RangeError when lengths differ.
 */
export function shapleyTable(
  singles: readonly ArrayLike<number>[],
  fulls: ArrayLike<number>,
  leaveOneOut: readonly ArrayLike<number>[],
): number[][] {
  for (const row of [...singles, ...leaveOneOut]) {
    if (row.length !== fulls.length) throw new RangeError(`Shapley: want ${fulls.length} candidates, got ${row.length}`)
  }
  const columns = Array.from(fulls, (full, k) =>
    shapleyValues(
      singles.map((row) => row[k]!),
      full,
      leaveOneOut.map((row) => row[k]!),
    ),
  )
  return singles.map((_, layer) => columns.map((column) => column[layer]!))
}

/**
 * Loss of a configuration, Σ φ. In games of pairs it is off by ½ Σ Ω_ij over i in the set and j outside: right for all layers
 * lowered, too high elsewhere where layers make each other worse, too low where losses saturate.
 * @param values φ of its layers at their candidates; layers that stay float are left out
 */
export function predictShapley(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]!
  return sum
}

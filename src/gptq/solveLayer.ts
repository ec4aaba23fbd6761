/**
 * @file The weights of a layer on integer grids that are nearest to their targets on the inputs that the layer sees: J =
 * tr((W* − Ŵ)·H_d·(W* − Ŵ)ᵀ). Static grids, the column recurrence of GPTQ (Frantar et al., 2022) in Babai's form,
 * coordinate descent, and grids refitted for the codes that were found. No step raises J.
 */
import type { GridWeight } from '../quant/quantizedWeight.ts'
import { lossOf, startDescent, sweep } from './descent.ts'
import { gridTask } from './gridColumns.ts'
import { descentBlock, groupsFitBlocks, total } from './layer.ts'
import { refitLongGroups } from './longGroups.ts'
import { decideInOrder, type Means } from './recurrence.ts'
import { type LayerProblem, type SolverOptions, startLayer } from './startLayer.ts'

export interface Solution {
  /** Its arrays lie in shared memory. */
  readonly weight: GridWeight
  /** J in the end. */
  readonly loss: number
  /** What each row adds to it, [N]. Comparable between solutions for one target and one H_d, whatever their orders and grids. */
  readonly rowLoss: Float64Array
  /** J after the recurrence, after each sweep and after each refit; never rises. */
  readonly trace: readonly number[]
}

/** The refits that follow settle the codes as well: four sweeps here gain 0.2 % over one. */
const DESCENT_SWEEPS = 1
const REFITS = 3
/** Rounds that try other scales too: a second one gains 0.3 %. */
const SEARCHES = 1

/**
 * Solve a layer. Nothing that is passed in is modified; the result does not depend on the number of threads.
 *
 * @throws NonFiniteWeightError when a target is NaN or infinite.
 * @throws QtoolError `interrupted` when the signal aborts.
 * @throws RangeError when shapes do not fit together.
 */
export async function solveLayer(problem: LayerProblem, options: SolverOptions, means: Means): Promise<Solution> {
  const { hessian } = problem
  const layer = await startLayer(problem, options, means)
  const errors = await decideInOrder(layer, hessian, means, gridTask)
  const trace = [total(layer.rowLoss)]
  const descent = startDescent(layer, hessian.damped, errors, means, descentBlock(layer))
  const settle = async (sweeps: number): Promise<void> => {
    for (let i = 0; i < sweeps; i++) {
      const { moves } = await sweep(descent, false)
      trace.push(lossOf(descent))
      if (moves === 0) return
    }
  }
  await settle(options.descentSweeps ?? DESCENT_SWEEPS)
  for (let round = 0; round < (options.refits ?? REFITS); round++) {
    const { moves, refits } = groupsFitBlocks(layer)
      ? await sweep(descent, true, round < SEARCHES)
      : { moves: 0, refits: await refitLongGroups(descent) }
    trace.push(lossOf(descent))
    if (moves + refits === 0) break
    await settle(groupsFitBlocks(layer) ? 0 : 2)
  }
  const { rows, cols, bits, groupSize, codes, scales, zeroPoints, scaleType } = layer
  const weight = { rows, cols, bits, groupSize, codes, scales, zeroPoints, scaleType }
  return { weight, loss: trace.at(-1)!, rowLoss: layer.rowLoss, trace }
}

/**
 * @file The weights of a layer as indices into tables, nearest to their targets on the inputs that the layer sees: the
 * column recurrence of the solver with a codebook for the grid, then in turn coordinate descent on the codes, closed-form
 * scales and closed-form tables (alternation as in JLCM and LNQ). No step raises J. Instead of moves by coordinate descent,
 * the mapping can be learned by gradients once, as in JLCM, so that the two can be compared.
 */
import { lossOf, startDescent, visitBlocks } from '../gptq/descent.ts'
import { recurrenceBlock, total } from '../gptq/layer.ts'
import { decideInOrder, type Means } from '../gptq/recurrence.ts'
import type { LayerProblem } from '../gptq/startLayer.ts'
import type { CodebookWeight } from '../quant/codebookWeight.ts'
import { decideTask, descendTask } from './blockTasks.ts'
import { laneOrder, makeCodebookLayer, weightOf } from './codebookLayer.ts'
import type { CodebookOptions } from './codebookOptions.ts'
import { learnMapping } from './learnMapping.ts'
import { refitScales } from './refitScales.ts'
import { refitTables } from './refitTables.ts'
import { startCodebook } from './startCodebook.ts'

export interface CodebookSolution {
  readonly weight: CodebookWeight
  /** J in the end. */
  readonly loss: number
  /** J after the recurrence, after a mapping was learned, and after each step of each round; never rises. */
  readonly trace: readonly number[]
}

/** Rounds of scales, tables, codes. */
const ROUNDS = 3

/**
 * Solve a layer. Nothing that is passed in is modified; the result does not depend on the number of threads.
 *
 * @throws QtoolError `interrupted` when the signal aborts.
 * @throws RangeError when shapes do not fit together.
 */
export async function solveCodebook(
  { target, rows, cols, hessian }: LayerProblem,
  options: CodebookOptions & { readonly rounds?: number },
  means: Means,
): Promise<CodebookSolution> {
  if (target.length !== rows * cols || hessian.cols !== cols) {
    throw new RangeError(`codebook: ${target.length} targets for [${rows}, ${cols}], Hessian of ${hessian.cols}`)
  }
  const diagonal = Float64Array.from({ length: cols }, (_, k) => hessian.damped[k * (cols + 1)]!)
  const order = laneOrder(options.form.coding, rows)
  const layer = makeCodebookLayer(startCodebook({ target, rows, cols, diagonal }, options), order)
  const errors = await decideInOrder(layer, hessian, means, decideTask)
  const trace = [total(layer.rowLoss)]
  const descent = startDescent(layer, hessian.damped, errors, means, recurrenceBlock(layer))
  const { mapping = 'descent' } = options
  if (mapping !== 'descent') {
    await learnMapping(descent, mapping)
    trace.push(lossOf(descent))
  }
  for (let round = 0; round < (options.rounds ?? ROUNDS); round++) {
    let changes = await refitScales(descent)
    trace.push(lossOf(descent))
    if (!options.form.shared) {
      changes += await refitTables(descent)
      trace.push(lossOf(descent))
    }
    if (mapping === 'descent') {
      const [moves] = await visitBlocks(descent, descendTask)
      changes += moves!
      trace.push(lossOf(descent))
    }
    if (changes === 0) break
  }
  return { weight: weightOf(layer, order), loss: trace.at(-1)!, trace }
}

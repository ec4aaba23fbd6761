/**
 * @file Judges what is to be kept of a layer by the model's outputs on held-out samples. That costs a run of the rest of the
 * network, where `networkJudge.ts` stops two cuts later; but what errors do to class scores is not what they are: a few
 * large weights off are worse than many small ones.
 */
import { judgingBatches } from '../calibration/judgingBatches.ts'
import type { Values, Walk } from '../calibration/walk.ts'
import { OutputLoss } from '../eval/outputLoss.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { ENOUGH_REFERENCES } from './networkJudge.ts'

export class OutputJudge {
  readonly #walk: Walk
  readonly #run: RunOptions
  readonly #loss = new OutputLoss('auto')
  readonly #batches: number[] = []

  private constructor(walk: Walk, run: RunOptions) {
    this.#walk = walk
    this.#run = run
  }

  /**
   * Run the float network on held-out samples, until outputs are many.
   * @param walk at its start.
   * @throws QtoolError `data` where outputs hold NaN.
   */
  static async open(walk: Walk, run: RunOptions): Promise<OutputJudge> {
    const judge = new OutputJudge(walk, run)
    const trial = await walk.openTrial(walk.graph.nodes.length)
    let bytes = 0
    try {
      for (const batch of judgingBatches(walk)) {
        if (bytes > ENOUGH_REFERENCES) break
        await judge.#pause()
        for (const [name, tensor] of await trial.run('float', batch)) {
          judge.#loss.addReference(batch, name, tensor, walk.batches[batch]!)
          bytes += tensor.data.length * Float32Array.BYTES_PER_ELEMENT
        }
        judge.#batches.push(batch)
      }
    } finally {
      await trial.close()
    }
    return judge
  }

  /**
   * Losses of candidates, of each sample, at the walk's position: the quantized network up to there, the candidate, and the float layers
   * after it; KL in nats where outputs are class scores, the relative squared error elsewhere.
   * @param candidates weights and biases by name.
   */
  async losses(candidates: readonly Values[]): Promise<number[][]> {
    const trial = await this.#walk.openTrial(this.#walk.graph.nodes.length)
    try {
      const all: number[][] = []
      for (const values of candidates) {
        const losses: number[] = []
        for (const batch of this.#batches) {
          await this.#pause()
          const outputs = await trial.run('quantized', batch, { values, place: 'candidate' })
          losses.push(...this.#loss.compare(batch, outputs))
        }
        all.push(losses)
      }
      return all
    } finally {
      await trial.close()
    }
  }

  async #pause(): Promise<void> {
    await nextTurn()
    checkAborted(this.#run.signal)
  }
}

/**
 * @file Judges what is to be kept of a layer by the model's outputs, all other layers as they were. That costs a run of the rest
 * of the network, where `networkJudge.ts` stops two cuts later; but what errors do to class scores is not what they are: a few
 * large weights off are worse than many small ones. Outputs differ much from sample to sample, so all calibration samples
 * count, the fitted ones too: candidates that differ in form alone have been fitted to the same ones.
 */
import type { Values, Walk } from '../calibration/walk.ts'
import { OutputLoss } from '../eval/outputLoss.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'

/** Outputs are compared until they are this many bytes. */
const ENOUGH_OUTPUTS = 256 * 2 ** 20

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
   * Run the float network on the samples, until outputs are many.
   * @param walk at its start.
   * @throws QtoolError `data` where outputs hold NaN.
   */
  static async open(walk: Walk, run: RunOptions): Promise<OutputJudge> {
    const judge = new OutputJudge(walk, run)
    const trial = await walk.openTrial(walk.graph.nodes.length)
    let bytes = 0
    try {
      for (const batch of walk.batches.keys()) {
        if (bytes > ENOUGH_OUTPUTS) break
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
   * Losses of candidates in the float network, of each sample: KL in nats where outputs are class scores, the relative squared error elsewhere.
   * @param candidates weights and biases by name, of layers that the walk has not passed.
   */
  async losses(candidates: readonly Values[]): Promise<number[][]> {
    const trial = await this.#walk.openTrial(this.#walk.graph.nodes.length)
    try {
      const all: number[][] = []
      for (const values of candidates) {
        const losses: number[] = []
        for (const batch of this.#batches) {
          await this.#pause()
          const outputs = await trial.run('float', batch, { values, place: 'candidate' })
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

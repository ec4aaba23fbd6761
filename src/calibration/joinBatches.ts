/**
 * @file Small batches joined for statistics: K × K numbers leave the runtime each time, and adding them up takes longer
 * than computing them where a batch has few positions.
 */
import type { FeedTensor } from '../data/modelInput.ts'
import type { Tap } from './tap.ts'
import type { Walk } from './walk.ts'

/** Batches are joined until they have this many positions. */
const POSITIONS = 4096

/** Batches [first, end) in runs whose inputs can be joined along their positions. */
export function joinBatches(walk: Walk, tap: Tap, first: number, end: number): number[][] {
  const [name] = tap.reads
  const canJoin = tap.positions === 'rows' && walk.isActivation(name!)
  const runs: number[][] = []
  let positions = POSITIONS
  for (let batch = first; batch < end; batch++) {
    if (!canJoin || positions >= POSITIONS) {
      runs.push([])
      positions = 0
    }
    runs.at(-1)!.push(batch)
    if (canJoin) positions += positionsOf(walk.activations.shapeOf('float', batch, name!).dims)
  }
  return runs
}

/** Rows of a tensor whose last axis is what a layer sums over. */
export function positionsOf(dims: readonly number[]): number {
  return dims.slice(0, -1).reduce((a, b) => a * b, 1)
}

/** Joins tensors as rows [T, K], one run after another into the same memory. */
export class RowJoiner {
  readonly #memory = new Map<string, FeedTensor['data']>()

  /**
   * @param name  tensors of one name are joined in memory of their own.
   * @param count how many there are; a single one is passed on as it is.
   * @param read  the i-th; needed only until the next is read.
   */
  async join(name: string, count: number, read: (i: number) => Promise<FeedTensor>): Promise<FeedTensor> {
    const first = await read(0)
    if (count === 1) return first
    const cols = first.dims.at(-1)!
    let data = this.#memory.get(name)
    let at = 0
    let part = first
    for (let i = 0; ; ) {
      if (!data || data.length < at + part.data.length) {
        const Numbers = part.data.constructor as new (length: number) => FeedTensor['data']
        const larger = new Numbers(Math.max(at + part.data.length, part.data.length * count))
        if (data) larger.set((data as Float32Array).subarray(0, at) as never)
        data = larger
      }
      data.set(part.data as never, at)
      at += part.data.length
      if (++i === count) break
      part = await read(i)
    }
    this.#memory.set(name, data)
    return { type: first.type, dims: [at / cols, cols], data: data.subarray(0, at) }
  }
}

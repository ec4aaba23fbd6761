/**
 * @file The statistics of one block as float64 numbers in a file: weight, sum [K], and the rows of the Gram matrix
 * [K, K], each from its diagonal on where the matrix is symmetric.
 */
import type { InputStatistics } from '../hessian/statistics.ts'
import { type BodyReader, bytesOf } from './recordFile.ts'

/** Numbers copied at once. */
const CHUNK_VALUES = 2 ** 17
const VALUE_BYTES = 8
/** Rows and columns of a square piece of a matrix. */
const TILE = 64

/** How a block lies in the file. */
export interface BlockShape {
  readonly cols: number
  readonly gram: 'triangle' | 'square'
}

/**
 * Shape of a block; products in single precision are not always symmetric to the last bit, and nothing may be lost.
 * @throws RangeError when lengths do not fit `cols`, or there is drift.
 */
export function shapeOf(block: InputStatistics): BlockShape {
  const { cols, gram, sum } = block
  if (gram.length !== cols * cols || sum.length !== cols) {
    throw new RangeError(`statistics of ${cols} inputs: got a sum of ${sum.length} and a Gram matrix of ${gram.length}`)
  }
  if (block.cross || block.crossSum) throw new RangeError('statistics with drift are of one run and are not saved')
  return { cols, gram: isSymmetric(gram, cols) ? 'triangle' : 'square' }
}

function isSymmetric(gram: Float64Array, cols: number): boolean {
  for (let top = 0; top < cols; top += TILE) {
    for (let left = 0; left <= top; left += TILE) {
      for (let i = top; i < Math.min(cols, top + TILE); i++) {
        for (let j = left; j < Math.min(i, left + TILE); j++) {
          if (gram[i * cols + j] !== gram[j * cols + i]) return false
        }
      }
    }
  }
  return true
}

/** Bytes of blocks in the file. */
export function bytesOfBlocks(shapes: readonly BlockShape[]): number {
  return shapes.reduce((sum, { cols, gram }) => {
    return sum + VALUE_BYTES * (1 + cols + (gram === 'triangle' ? (cols * (cols + 1)) / 2 : cols * cols))
  }, 0)
}

/** The numbers of blocks as bytes, in pieces that are overwritten when the next one is asked for. */
export function* partsOf(blocks: readonly InputStatistics[], shapes: readonly BlockShape[]): Generator<Uint8Array> {
  const chunk = new Float64Array(CHUNK_VALUES)
  let used = 0
  for (const [b, block] of blocks.entries()) {
    for (const run of runsOf(block, shapes[b]!)) {
      for (let done = 0; done < run.length; ) {
        const part = run.subarray(done, done + CHUNK_VALUES - used)
        chunk.set(part, used)
        used += part.length
        done += part.length
        if (used < CHUNK_VALUES) continue
        yield bytesOf(chunk)
        used = 0
      }
    }
  }
  if (used > 0) yield bytesOf(chunk.subarray(0, used))
}

function* runsOf({ cols, weight, sum, gram }: InputStatistics, shape: BlockShape): Generator<Float64Array> {
  yield Float64Array.of(weight)
  yield sum
  for (let i = 0; i < cols; i++) {
    yield gram.subarray(i * cols + (shape.gram === 'triangle' ? i : 0), (i + 1) * cols)
  }
}

/** Sums over files: of {@link addBlockInPlace} for each, then {@link completeInPlace}. */
export interface Accumulator {
  readonly cols: number
  weight: number
  readonly sum: Float64Array
  /** Where `isSymmetric`, only the upper triangle until it is completed. */
  readonly gram: Float64Array
  readonly isSymmetric: boolean
}

/**
 * Sums over no file. The neutral element of addition is −0, not 0: adding to it changes nothing, the sign of −0 included.
 * @param isSymmetric the block is a triangle in every file.
 */
export function emptyBlock(cols: number, isSymmetric: boolean): Accumulator {
  const zeros = (count: number) => new Float64Array(count).fill(-0)
  return { cols, weight: -0, sum: zeros(cols), gram: zeros(cols * cols), isSymmetric }
}

/** The float64 numbers of a body, one after another. */
export class Values {
  readonly #body: BodyReader
  readonly #chunk: Float64Array
  #at = 0
  #end = 0

  constructor(body: BodyReader) {
    this.#body = body
    this.#chunk = new Float64Array(Math.min(CHUNK_VALUES, body.left / VALUE_BYTES))
  }

  /** Add the next numbers to those of `run`. */
  addInPlace(run: Float64Array): void {
    for (let done = 0; done < run.length; ) {
      if (this.#at === this.#end) this.#fill()
      const chunk = this.#chunk
      const count = Math.min(run.length - done, this.#end - this.#at)
      for (let i = 0; i < count; i++) run[done + i]! += chunk[this.#at + i]!
      this.#at += count
      done += count
    }
  }

  #fill(): void {
    this.#at = 0
    this.#end = Math.min(this.#chunk.length, this.#body.left / VALUE_BYTES)
    if (this.#end === 0) throw new RangeError('statistics: the body ends before its blocks do')
    this.#body.read(bytesOf(this.#chunk.subarray(0, this.#end)))
  }
}

/** Add the next block of a file to `block`. */
export function addBlockInPlace(block: Accumulator, values: Values, shape: BlockShape): void {
  const { cols, gram, isSymmetric } = block
  const weight = Float64Array.of(block.weight)
  values.addInPlace(weight)
  block.weight = weight[0]!
  values.addInPlace(block.sum)
  const row = new Float64Array(cols)
  for (let i = 0; i < cols; i++) {
    if (shape.gram === 'square') values.addInPlace(gram.subarray(i * cols, (i + 1) * cols))
    else if (isSymmetric) values.addInPlace(gram.subarray(i * cols + i, (i + 1) * cols))
    else {
      values.addInPlace(row.fill(-0, i).subarray(i))
      gram[i * cols + i]! += row[i]!
      for (let j = i + 1; j < cols; j++) {
        gram[i * cols + j]! += row[j]!
        gram[j * cols + i]! += row[j]!
      }
    }
  }
}

/** Fill in the lower triangle, tile by tile: both triangles of a tile fit into the cache. */
export function completeInPlace({ cols, gram, isSymmetric }: Accumulator): void {
  if (!isSymmetric) return
  for (let top = 0; top < cols; top += TILE) {
    for (let left = 0; left <= top; left += TILE) {
      for (let i = top; i < Math.min(cols, top + TILE); i++) {
        for (let j = left; j < Math.min(i, left + TILE); j++) gram[i * cols + j] = gram[j * cols + i]!
      }
    }
  }
}

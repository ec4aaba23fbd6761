/** @file The column recurrence over a whole layer: blocks in the Hessian's order, what crosses blocks as one product each. */
import type { PreparedHessian } from '../hessian/prepare.ts'
import type { Products } from '../runtime/products.ts'
import type { Task } from '../threads/kernel.ts'
import type { KernelPool } from '../threads/pool.ts'
import { recurrenceBlock, type SolvedRows, sharedFloats } from './layer.ts'
import type { RecurrenceBlock } from './recurrenceKernel.ts'

/** Who computes. */
export interface Means {
  readonly pool: KernelPool
  readonly products: Products
  readonly signal?: AbortSignal | undefined
}

/**
 * Decide all codes of `layer` on its present grids or tables, in the order of the Hessian. `layer` is written: codes,
 * rowLoss, rowSquares.
 * @param taskOf `decideColumns` on a block for all rows, with the quantizer of the layer.
 * @param width columns in a block; the codes do not depend on it but for float32 rounding in the products.
 * @returns E = W* − Ŵ, [K, N], natural order.
 */
export async function decideInOrder<L extends SolvedRows, Job>(
  layer: L,
  hessian: PreparedHessian,
  { pool, products, signal }: Means,
  taskOf: (layer: L, block: RecurrenceBlock) => Task<Job>,
  width = recurrenceBlock(layer),
): Promise<Float32Array> {
  const { rows, cols } = layer
  const { permutation, factor } = hessian
  const decided = new Float32Array(cols * rows)
  const place = sharedFloats(rows * width)
  const errors = sharedFloats(width * rows)
  const block = sharedFloats(width * width)
  const panel = new Float32Array(cols > width ? cols * width : 0)
  layer.rowLoss.fill(0)
  layer.rowSquares.fill(0)
  for (let from = 0; from < cols; from += width) {
    const count = Math.min(width, cols - from)
    const earlier = from === 0 ? undefined : place.subarray(0, rows * count)
    if (earlier) {
      for (let i = 0; i < from; i++) {
        panel.set(factor.subarray(i * cols + from, i * cols + from + count), i * count)
      }
      // Left-looking: the errors decided so far stay where they are, and only the block's sums are written.
      await products.multiply({
        a: decided.subarray(0, from * rows),
        aRows: from,
        aCols: rows,
        transA: true,
        b: panel.subarray(0, from * count),
        bRows: from,
        bCols: count,
        out: earlier,
      })
    }
    for (let i = 0; i < count; i++) {
      const start = (from + i) * cols + from
      block.set(factor.subarray(start, start + count), i * count)
    }
    const columns: RecurrenceBlock = {
      columns: permutation.subarray(from, from + count),
      factor: block.subarray(0, count * count),
      earlier,
      errors: errors.subarray(0, count * rows),
    }
    await pool.run(taskOf(layer, columns), signal)
    decided.set(columns.errors, from * rows)
  }
  return hessian.order === 'natural' ? decided : toNaturalOrder(decided, permutation, rows)
}

function toNaturalOrder(decided: Float32Array, permutation: Int32Array, rows: number): Float32Array {
  const natural = new Float32Array(decided.length)
  permutation.forEach((column, place) => {
    natural.set(decided.subarray(place * rows, (place + 1) * rows), column * rows)
  })
  return natural
}

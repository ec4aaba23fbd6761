/**
 * @file What a quantized layer must compute, kept from the moment its codes were chosen: small enough to hold for every
 * layer of a large model until the file is written.
 */
import { createHash } from 'node:crypto'
import { bfloat16ToFloat, floatToBfloat16, roundToHalf } from '../quant/float16.ts'
import { dequantizeRow, type QuantizedWeight } from '../quant/quantizedWeight.ts'
import { makeRandom } from '../random.ts'

/** Values a layer's weights take in the file; see {@link makeReference}. */
export interface LayerReference {
  readonly rows: number
  readonly cols: number
  /** Standard normal activations [cols], and the product with the dequantized weight [rows]. */
  readonly activations: Float32Array
  readonly product: Float64Array
  /** SHA-256 of all dequantized weights, float32 [rows, cols]; undefined unless asked for. */
  readonly sha256: string | undefined
  /** A few rows, dequantized; empty unless asked for. */
  readonly sampledRows: readonly { readonly row: number; readonly values: Float32Array }[]
}

/** Types in which the runtime hands a rebuilt weight on. */
export type Rounding = 'float32' | 'float16' | 'bfloat16'

/** Rows that are compared in a lookup. */
const SAMPLED_ROWS = 32
/** Rows are hashed in slabs of about this many weights. */
const SLAB = 1 << 20

/**
 * @param rounding   type of the rebuilt tensor; each weight is rounded to it after dequantization.
 * @param seed       of the activations.
 * @param keep       what else to keep: a hash of every weight (for tensors that the file rebuilds, compared bit for bit),
 *   sampled rows (for lookups).
 */
export function makeReference(
  weight: QuantizedWeight,
  rounding: Rounding,
  seed: number,
  keep: { readonly hash: boolean; readonly rows: boolean },
): LayerReference {
  const { rows, cols } = weight
  const random = makeRandom(seed)
  const activations = Float32Array.from({ length: cols }, () => random.normal())
  const product = new Float64Array(rows)
  const hash = keep.hash ? createHash('sha256') : undefined
  const wanted = keep.rows ? sampleRows(rows) : new Set<number>()
  const sampledRows: { row: number; values: Float32Array }[] = []
  const slabRows = Math.max(1, Math.min(rows, Math.floor(SLAB / cols)))
  const slab = new Float32Array(slabRows * cols)
  for (let first = 0; first < rows; first += slabRows) {
    const count = Math.min(slabRows, rows - first)
    for (let i = 0; i < count; i++) {
      const values = slab.subarray(i * cols, (i + 1) * cols)
      dequantizeRow(weight, first + i, values)
      roundInPlace(values, rounding)
      let sum = 0
      for (let k = 0; k < cols; k++) sum += values[k]! * activations[k]!
      product[first + i] = sum
      if (wanted.has(first + i)) sampledRows.push({ row: first + i, values: values.slice() })
    }
    hash?.update(new Uint8Array(slab.buffer, 0, count * cols * 4))
  }
  return { rows, cols, activations, product, sha256: hash?.digest('hex'), sampledRows }
}

function sampleRows(rows: number): Set<number> {
  const count = Math.min(rows, SAMPLED_ROWS)
  return new Set(Array.from({ length: count }, (_, i) => Math.floor((i * (rows - 1)) / Math.max(1, count - 1))))
}

function roundInPlace(values: Float32Array, rounding: Rounding): void {
  if (rounding === 'float32') return
  const round = rounding === 'float16' ? roundToHalf : (x: number) => bfloat16ToFloat(floatToBfloat16(x))
  for (let i = 0; i < values.length; i++) values[i] = round(values[i]!)
}

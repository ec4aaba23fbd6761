/**
 * @file What a quantized weight is: integer codes on per-group uniform grids, or indices into tables.
 *
 * On grids, real(r, k) = float32((code(r, k) − zeroPoint(r, g)) · scale(r, g)),  g = ⌊k / groupSize⌋.
 */
import { type CodebookWeight, decodeRow } from './codebookWeight.ts'

/** Widths of a code that qtool can write, in bits. */
export type Bits = 2 | 3 | 4 | 5 | 6 | 8
export const BITS: readonly Bits[] = [8, 6, 5, 4, 3, 2]

/** How scale and zero point follow from the weights of a group; see `grid.ts`. */
export type GridScheme = 'symmetric' | 'symmetric-full' | 'asymmetric'

/** What scales are rounded to. float32 is used only where float16 would overflow or lose precision. */
export type ScaleType = 'float16' | 'float32'

/** How scales are stored: as they are, or as multiples of one step in a byte each; see `byteScales.ts`. */
export type StoredScaleType = ScaleType | 'uint8' | 'int8'

/** A weight as the file stores it. */
export type QuantizedWeight = GridWeight | CodebookWeight

export interface GridWeight {
  /** Output rows N. */
  readonly rows: number
  /** Input columns K. */
  readonly cols: number
  readonly bits: Bits
  /** Input columns that share a scale; the last group of a row may be shorter. */
  readonly groupSize: number
  /** 0 … 2^bits − 1, [rows, cols] row-major, one byte each. */
  readonly codes: Uint8Array
  /** Exactly representable in `scaleType`; [rows, groups]. May be negative (symmetric-full). Never 0, NaN or infinite. */
  readonly scales: Float32Array
  /** 0 … 2^bits − 1, [rows, groups]. Undefined for symmetric grids, whose zero point is 2^(bits−1) everywhere. */
  readonly zeroPoints: Uint8Array | undefined
  readonly scaleType: StoredScaleType
  /** Scales in bytes are float32(1 … 255, or ±1 … ±127, times this); undefined for others. */
  readonly scaleStep?: number | undefined
}

export function isCodebook(weight: QuantizedWeight): weight is CodebookWeight {
  return 'coding' in weight
}

/** Number of groups in a row. */
export function groupsPerRow(cols: number, groupSize: number): number {
  return Math.ceil(cols / groupSize)
}

/** Zero point of a symmetric grid. */
export function symmetricZeroPoint(bits: number): number {
  return 2 ** (bits - 1)
}

/**
 * One row of real weights, with the one rounding that onnxruntime's DequantizeLinear does: each value is
 * fround((code − zeroPoint) · scale).
 * @param into [cols], overwritten.
 */
export function dequantizeRow(weight: QuantizedWeight, row: number, into: Float32Array): void {
  if (isCodebook(weight)) {
    decodeRow(weight, row, into)
    return
  }
  const { cols, groupSize, codes, scales, zeroPoints, bits } = weight
  const groups = groupsPerRow(cols, groupSize)
  for (let g = 0; g < groups; g++) {
    const scale = scales[row * groups + g]!
    const zero = zeroPoints ? zeroPoints[row * groups + g]! : symmetricZeroPoint(bits)
    const end = Math.min(cols, (g + 1) * groupSize)
    for (let k = g * groupSize; k < end; k++) into[k] = (codes[row * cols + k]! - zero) * scale
  }
}

/** All rows of {@link dequantizeRow}, [rows, cols]. */
export function dequantize(weight: QuantizedWeight): Float32Array {
  const { rows, cols } = weight
  const real = new Float32Array(rows * cols)
  for (let r = 0; r < rows; r++) dequantizeRow(weight, r, real.subarray(r * cols, (r + 1) * cols))
  return real
}

/** ‖W − Ŵ‖² and ‖W‖² of some rows. @param rows W from row `first` on, [end − first, cols]. */
export function squaredErrors(
  rows: Float32Array,
  weight: QuantizedWeight,
  first = 0,
  end = weight.rows,
): { readonly squaredError: number; readonly squaredNorm: number } {
  const { cols } = weight
  const real = new Float32Array(cols)
  let squaredError = 0
  let squaredNorm = 0
  for (let row = first; row < end; row++) {
    dequantizeRow(weight, row, real)
    for (let k = 0; k < cols; k++) {
      const value = rows[(row - first) * cols + k]!
      squaredError += (real[k]! - value) ** 2
      squaredNorm += value ** 2
    }
  }
  return { squaredError, squaredNorm }
}

/**
 * @file A weight tensor as it lies in the model, and how blocks of it become float32 rows. The tensor is seen as
 * [outer, reduction, inner]: a Conv weight is [Cout, K, 1], a MatMul's [K, N] is [1, K, N], a batched one [B, K, N]. Row
 * a·inner + c of the quantized weight is (a, ·, c), so K is the last axis after reading, whatever it was before.
 */
import { bfloat16ToFloat, halfToFloat } from './float16.ts'

export type StoredElement = 'float32' | 'float16' | 'bfloat16' | 'float64'

export interface StoredWeight {
  /** Little-endian elements from the first byte on, perhaps more memory than they need; shared, so that worker threads read them in place. */
  readonly bytes: SharedArrayBuffer
  readonly elementType: StoredElement
  /** [outer, reduction, inner]. */
  readonly shape: readonly [outer: number, reduction: number, inner: number]
  /** Factor on every weight before quantization (a Gemm's alpha); 1 when absent. */
  readonly multiplier?: number
}

const ELEMENT_BYTES: Record<StoredElement, number> = { float32: 4, float16: 2, bfloat16: 2, float64: 8 }

/** @throws RangeError when the bytes do not hold the shape. */
export function checkStoredWeight(weight: StoredWeight): void {
  const [outer, reduction, inner] = weight.shape
  const wanted = outer * reduction * inner * ELEMENT_BYTES[weight.elementType]
  if (!(outer > 0 && reduction > 0 && inner > 0) || weight.bytes.byteLength < wanted) {
    throw new RangeError(
      `weight: want ${wanted} bytes of ${weight.elementType} [${outer}, ${reduction}, ${inner}], got ${weight.bytes.byteLength}`,
    )
  }
}

/** Output rows: outer · inner. */
export function rowsOf(weight: StoredWeight): number {
  return weight.shape[0] * weight.shape[2]
}

const tables = new Map<StoredElement, Float32Array>()

/** The 65536 values of a 16-bit format. */
function tableOf(elementType: 'float16' | 'bfloat16'): Float32Array {
  let table = tables.get(elementType)
  if (!table) {
    const decode = elementType === 'float16' ? halfToFloat : bfloat16ToFloat
    table = Float32Array.from({ length: 65536 }, (_, bits) => decode(bits))
    tables.set(elementType, table)
  }
  return table
}

/**
 * Read `count` consecutive elements, from element `from`, as float32 times the multiplier into out[at …]. Numbers beyond
 * float32 become infinite.
 */
function readRun(weight: StoredWeight, from: number, count: number, out: Float32Array, at: number): void {
  const multiplier = weight.multiplier ?? 1
  if (weight.elementType === 'float32') {
    out.set(new Float32Array(weight.bytes, from * 4, count), at)
  } else if (weight.elementType === 'float64') {
    const source = new Float64Array(weight.bytes, from * 8, count)
    for (let i = 0; i < count; i++) out[at + i] = source[i]! * multiplier
    return
  } else {
    const table = tableOf(weight.elementType)
    const source = new Uint16Array(weight.bytes, from * 2, count)
    for (let i = 0; i < count; i++) out[at + i] = table[source[i]!]!
  }
  if (multiplier !== 1) for (let i = at; i < at + count; i++) out[i]! *= multiplier
}

/**
 * to[at + r · cols + k] = from[start + k · stride + r]. Four source rows at a time, so that a visit to a row of the target writes
 * four neighbours: half the time of a loop over single elements, blocked or not.
 */
function transpose(
  from: Float32Array,
  start: number,
  stride: number,
  rows: number,
  cols: number,
  to: Float32Array,
  at: number,
): void {
  let k = 0
  for (; k + 3 < cols; k += 4) {
    const first = start + k * stride
    const second = first + stride
    const third = second + stride
    const fourth = third + stride
    for (let r = 0, target = at + k; r < rows; r++, target += cols) {
      to[target] = from[first + r]!
      to[target + 1] = from[second + r]!
      to[target + 2] = from[third + r]!
      to[target + 3] = from[fourth + r]!
    }
  }
  for (; k < cols; k++) {
    for (let r = 0, target = at + k; r < rows; r++, target += cols) to[target] = from[start + k * stride + r]!
  }
}

let scratch = new Float32Array(0)

function reserveScratch(length: number): Float32Array {
  if (scratch.length < length) scratch = new Float32Array(length)
  return scratch
}

/**
 * Read rows [row, row + rows) and columns [col, col + cols) of the quantized weight's matrix into `out`, [rows, cols]
 * row-major from 0.
 */
export function readTile(
  weight: StoredWeight,
  row: number,
  rows: number,
  col: number,
  cols: number,
  out: Float32Array,
): void {
  const [outer, reduction, inner] = weight.shape
  if (inner === 1) {
    if (cols === reduction) readRun(weight, row * reduction, rows * cols, out, 0)
    else for (let r = 0; r < rows; r++) readRun(weight, (row + r) * reduction + col, cols, out, r * cols)
    return
  }
  const asStored = weight.elementType === 'float32' && (weight.multiplier ?? 1) === 1
  const source = asStored ? new Float32Array(weight.bytes, 0, outer * reduction * inner) : reserveScratch(rows * cols)
  // A tile may end in the middle of one outer index and go on in the next.
  for (let done = 0; done < rows; ) {
    const a = Math.floor((row + done) / inner)
    const c = (row + done) % inner
    const count = Math.min(rows - done, inner - c)
    const first = (a * reduction + col) * inner + c
    if (asStored) {
      transpose(source, first, inner, count, cols, out, done * cols)
    } else {
      for (let k = 0; k < cols; k++) readRun(weight, first + k * inner, count, source, k * count)
      transpose(source, 0, count, count, cols, out, done * cols)
    }
    done += count
  }
}

/** A weight that is NaN, infinite, or too large for float32. The caller knows the tensor's name and tells the user. */
export class NonFiniteWeightError extends Error {
  /** Flat index in the stored tensor. */
  readonly index: number
  /** The weight as float32, after the multiplier. */
  readonly value: number

  constructor(index: number, value: number) {
    super(`weight ${index} is ${value}`)
    this.name = 'NonFiniteWeightError'
    this.index = index
    this.value = value
  }
}

/** The error for the first weight, in storage order, that is not finite; undefined when all are. */
export function findNonFinite(weight: StoredWeight): NonFiniteWeightError | undefined {
  const [outer, reduction, inner] = weight.shape
  const total = outer * reduction * inner
  const run = new Float32Array(Math.min(total, 65536))
  for (let from = 0; from < total; from += run.length) {
    const count = Math.min(run.length, total - from)
    readRun(weight, from, count, run, 0)
    const at = run.subarray(0, count).findIndex((value) => !Number.isFinite(value))
    if (at >= 0) return new NonFiniteWeightError(from + at, run[at]!)
  }
  return undefined
}

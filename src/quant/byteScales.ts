/**
 * @file Scales of a layer in a byte each: whole multiples of one number, which is stored once. Double quantization as in
 * QLoRA (Dettmers et al. 2023, section 3) and the k-quants of llama.cpp, with one step for the layer in place of one for
 * every few hundred scales, as that takes a Cast and a Mul that the runtime folds.
 *
 * A scale off by the factor 1 + e adds e² to the relative error D of its group, which is worth ½·log2(1 + e²/D) bits per
 * weight (D ∝ 2^(−2R)). Bytes are taken where the scales save at least twice what all groups lose.
 */
import {
  dequantizeRow,
  groupsPerRow,
  type QuantizedWeight,
  type ScaleType,
  type StoredScaleType,
} from './quantizedWeight.ts'

/** Bytes on disk of one scale. */
const SCALE_BYTES: Readonly<Record<StoredScaleType, number>> = { float32: 4, float16: 2, uint8: 1, int8: 1 }

/** What the step and the nodes that multiply it take in the file (measured: 90 to 120). */
const NODE_BYTES = 110
/** What is saved over what is lost, at least: the law is one of means, and who asks for 8 bits wants precision. */
const CLEAR_GAIN = 2
/** Scales of a layer in units of the largest, where nothing is known of them yet. */
const USUAL_SHARE = 0.25

/**
 * The same weight with scales in bytes, or the weight as it is where that would cost more precision than bytes. Codes stay
 * as they are: a scale that fits them is within half a step of one that fits the rounded scale. Groups of zeros have any
 * scale. Not modified.
 * @param relativeError D of the layer, ‖W − Ŵ‖² / ‖W‖².
 */
export function withByteScales<W extends QuantizedWeight>(weight: W, relativeError: number): W {
  const { scales, scaleType } = weight
  if (!isFloat(scaleType)) return weight
  const idle = idleGroups(weight)
  let largest = 0
  let isSigned = false
  scales.forEach((scale, i) => {
    if (idle[i]) return
    largest = Math.max(largest, Math.abs(scale))
    isSigned ||= scale < 0
  })
  const top = isSigned ? 127 : 255
  const scaleStep = Math.fround(largest / top)
  if (!(scaleStep >= LEAST_STEP)) return weight
  const rounded = scales.map((scale, i) => {
    const times = idle[i] ? 1 : Math.min(top, Math.max(1, Math.round(Math.abs(scale) / scaleStep)))
    return Math.sign(scale) * Math.fround(times * scaleStep)
  })
  const saved = scales.length * (SCALE_BYTES[scaleType] - 1) - NODE_BYTES
  if (CLEAR_GAIN * lostBytes(weight, rounded, idle, relativeError) >= saved) return weight
  return { ...weight, scales: rounded, scaleType: isSigned ? 'int8' : 'uint8', scaleStep }
}

/**
 * Whether scales are likely to end up in bytes, before any weight is looked at: normal weights, scales a quarter of the largest.
 * @param size columns that share a scale.
 * @param count scales of the layer.
 */
export function expectByteScales(bits: number, size: number, count: number): boolean {
  const squaredError = 1 / (12 * (USUAL_SHARE * 255) ** 2)
  return CLEAR_GAIN * count * (size / 8) * lostBits(squaredError, 2.4 * 4 ** -bits) < count - NODE_BYTES
}

/** Multiples of a smaller step would not be normal float32 numbers. */
const LEAST_STEP = 2 ** -118

const isFloat = (type: StoredScaleType): type is ScaleType => type === 'float16' || type === 'float32'

/** ½·log2(1 + e²/D). */
function lostBits(squaredError: number, relativeError: number): number {
  return squaredError === 0 ? 0 : 0.5 * Math.log2(1 + squaredError / relativeError)
}

function lostBytes(
  { cols, groupSize, scales }: QuantizedWeight,
  rounded: Float32Array,
  idle: Uint8Array,
  relativeError: number,
): number {
  const groups = groupsPerRow(cols, groupSize)
  let lost = 0
  scales.forEach((scale, i) => {
    if (idle[i]) return
    const size = Math.min(groupSize, cols - (i % groups) * groupSize)
    lost += (size / 8) * lostBits((rounded[i]! / scale - 1) ** 2, relativeError)
  })
  return lost
}

/** 1 for groups whose weights are all zero, [rows · groups]. */
function idleGroups(weight: QuantizedWeight): Uint8Array {
  const { rows, cols, groupSize } = weight
  const groups = groupsPerRow(cols, groupSize)
  const idle = new Uint8Array(rows * groups)
  const real = new Float32Array(cols)
  for (let row = 0; row < rows; row++) {
    dequantizeRow(weight, row, real)
    for (let g = 0; g < groups; g++) {
      const end = Math.min(cols, (g + 1) * groupSize)
      let k = g * groupSize
      while (k < end && real[k] === 0) k++
      idle[row * groups + g] = k === end ? 1 : 0
    }
  }
  return idle
}

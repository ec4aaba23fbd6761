/**
 * @file Nodes that turn stored bit planes back into codes. All inputs are constants, so onnxruntime folds them at load.
 *
 * A plane of width w keeps F = 8 / w codes of a row in each byte: byte p holds, in field s, the code of column
 * s · (cols / F) + p. One BitShift pair per plane extracts them: (byte << (8 − w(s + 1))) >> (8 − w).
 */

import type { Emitter } from './emitter.ts'
import type { LayerPlan } from './plan.ts'
import { PLANES } from './plan.ts'
import type { StoredRole } from './stored.ts'

/** Names of a layer's stored tensors as the emitter gave them, and of the `levels` that its indices were turned into. */
export type StoredNames = Readonly<Partial<Record<StoredRole | 'levels', string>>>

/**
 * Unpack one plane.
 * @param plane name of uint8 [rows, 1, bytes] (or [n, 1, bytes] for gathered rows).
 * @returns name of uint8 [rows, 8 / width, bytes], whose flattened last two axes are the columns in order.
 */
function emitUnpackPlane(to: Emitter, step: string, plane: string, width: 1 | 2 | 4): string {
  const fields = 8 / width
  const left = Array.from({ length: fields }, (_, s) => 8 - width * (s + 1))
  const shifted = to.node(`${step}.shl`, 'BitShift', [plane, to.uint8([fields, 1], left)], {
    attributes: { direction: 'LEFT' },
  })
  return to.node(`${step}.shr`, 'BitShift', [shifted, to.uint8([1], [8 - width])], {
    attributes: { direction: 'RIGHT' },
  })
}

/**
 * Codes of `rows` storage, or of `indices` that lie in planes.
 * @param planes  names of the planes, low first: uint8 [n, 1, bytes], or [n, cols] when the width is 8.
 * @returns name of uint8 [n, cols]; n is −1 for a number that is not known.
 */
export function emitCodes(to: Emitter, plan: LayerPlan, planes: readonly string[], n: number): string {
  const widths = PLANES[plan.bits]
  if (widths[0] === 8) return planes[0]!
  const shape = to.int64([n, plan.paddedCols])
  const parts = widths.map((width, i) => {
    const unpacked = emitUnpackPlane(to, i === 0 ? 'low' : 'high', planes[i]!, width as 1 | 2 | 4)
    return to.node(i === 0 ? 'low.codes' : 'high.codes', 'Reshape', [unpacked, shape])
  })
  if (parts.length === 1) return parts[0]!
  const raised = to.node('high.up', 'BitShift', [parts[1]!, to.uint8([1], [widths[0]!])], {
    attributes: { direction: 'LEFT' },
  })
  return to.node('codes', 'BitwiseOr', [parts[0]!, raised])
}

/** Planes of `rows` storage in the order of PLANES. */
export function planeNames(plan: LayerPlan, names: StoredNames): string[] {
  return PLANES[plan.bits].map((_, i) => (i === 0 ? names.low! : names.high!))
}

/** @file The bytes of scales, and the nodes that turn them into what operators take. */
import { floatsToHalfBytes } from '../../quant/pack.ts'
import type { QuantizedWeight } from '../../quant/quantizedWeight.ts'
import { DataType } from '../proto.ts'
import type { Emitter } from './emitter.ts'
import type { StoredNames } from './unpack.ts'

/** Scales in their order, as their type says. */
export function packScales({
  scales,
  scaleType,
  scaleStep,
}: Pick<QuantizedWeight, 'scales' | 'scaleType' | 'scaleStep'>): Uint8Array {
  if (scaleType === 'float16') return floatsToHalfBytes(scales)
  if (scaleType === 'float32') return new Uint8Array(scales.slice().buffer)
  return Uint8Array.from(scales, (scale) => Math.round(scale / scaleStep!) & 255)
}

/** The step of scales in bytes. */
export function packStep({ scaleStep }: Pick<QuantizedWeight, 'scaleStep'>): Uint8Array {
  return new Uint8Array(Float32Array.of(scaleStep!).buffer)
}

/**
 * float32 scales from multiples of a step; folded at load.
 * @returns name of float32 in the shape of the bytes.
 */
export function emitByteScales(to: Emitter, scales: string, step: string): string {
  const multiples = to.node('times', 'Cast', [scales], { attributes: { to: DataType.FLOAT } })
  return to.node('scales', 'Mul', [multiples, step])
}

/** Scales in the element type that an operator wants; folded at load. @param scaleType of `names.scales`. */
export function typedScales(to: Emitter, names: StoredNames, scaleType: number, dataType: number): string {
  if (scaleType === dataType) return names.scales!
  return to.node('scale', 'Cast', [names.scales!], { attributes: { to: dataType } })
}

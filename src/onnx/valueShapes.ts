/** @file Declared shapes of values. */
import type { ValueInfoProto } from './proto.ts'

/** The shape of a tensor value when every dimension is a number, else undefined. */
export function integerShape(value: ValueInfoProto): readonly number[] | undefined {
  const type = value.type?.value
  if (type?.case !== 'tensorType' || !type.value.shape) return undefined
  const dims = type.value.shape.dim.map((dim) => (dim.value.case === 'dimValue' ? Number(dim.value.value) : undefined))
  return dims.every((dim): dim is number => dim !== undefined) ? dims : undefined
}

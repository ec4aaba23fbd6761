/**
 * @file Bytes ↔ ONNX messages. The only importer of the protobuf packages.
 *
 * `onnx-buf` carries ONNX 1.20's schema; fields that it does not know stay in each message's `$unknown` and are
 * written back unchanged.
 */
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf'
import {
  type AttributeProto,
  AttributeProto_AttributeType,
  AttributeProtoSchema,
  TensorProto_DataLocation as DataLocation,
  TensorProto_DataType as DataType,
  type FunctionProto,
  type GraphProto,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from 'onnx-buf'

export type { AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto }
export { AttributeProto_AttributeType as AttributeType, DataLocation, DataType }

/** @throws when the bytes are not a well-formed message. */
export function decodeModel(bytes: Uint8Array): ModelProto {
  return fromBinary(ModelProtoSchema, bytes)
}

export function encodeModel(model: ModelProto): Uint8Array {
  return toBinary(ModelProtoSchema, model)
}

/** Deep copy of a node through its bytes, unknown fields included. */
export function cloneNode(node: NodeProto): NodeProto {
  return fromBinary(NodeProtoSchema, toBinary(NodeProtoSchema, node))
}

export function makeModel(fields: MessageInitShape<typeof ModelProtoSchema>): ModelProto {
  return create(ModelProtoSchema, fields)
}

export function makeTensor(fields: MessageInitShape<typeof TensorProtoSchema>): TensorProto {
  return create(TensorProtoSchema, fields)
}

/**
 * A value of a graph's signature; without an element type, its type is left to be inferred. A dimension that is
 * undefined is unknown.
 */
export function makeValueInfo(name: string, elemType?: number, dims?: readonly (number | undefined)[]): ValueInfoProto {
  if (elemType === undefined) return create(ValueInfoProtoSchema, { name })
  const dim = dims?.map((size) =>
    size === undefined ? {} : { value: { case: 'dimValue' as const, value: BigInt(size) } },
  )
  const value = { elemType, ...(dim ? { shape: { dim } } : {}) }
  return create(ValueInfoProtoSchema, { name, type: { value: { case: 'tensorType', value } } })
}

export function makeOpset(domain: string, version: number) {
  return create(OperatorSetIdProtoSchema, { domain, version: BigInt(version) })
}

export function makeMetadata(key: string, value: string) {
  return create(StringStringEntryProtoSchema, { key, value })
}

/** Attribute values as JavaScript sees them; numbers that are integers become INT, others must be given as `{ float }`. */
export type AttributeValue = number | readonly number[] | string | { readonly float: number } | TensorProto

export function makeAttribute(name: string, value: AttributeValue): AttributeProto {
  if (typeof value === 'number') {
    return create(AttributeProtoSchema, { name, type: AttributeProto_AttributeType.INT, i: BigInt(value) })
  }
  if (typeof value === 'string') {
    return create(AttributeProtoSchema, {
      name,
      type: AttributeProto_AttributeType.STRING,
      s: new TextEncoder().encode(value),
    })
  }
  if (Array.isArray(value)) {
    return create(AttributeProtoSchema, { name, type: AttributeProto_AttributeType.INTS, ints: value.map(BigInt) })
  }
  if ('float' in value) {
    return create(AttributeProtoSchema, { name, type: AttributeProto_AttributeType.FLOAT, f: value.float })
  }
  return create(AttributeProtoSchema, { name, type: AttributeProto_AttributeType.TENSOR, t: value as TensorProto })
}

export function makeNode(
  opType: string,
  inputs: readonly string[],
  outputs: readonly string[],
  options: { name?: string; domain?: string; attributes?: Readonly<Record<string, AttributeValue>> } = {},
): NodeProto {
  return create(NodeProtoSchema, {
    opType,
    input: [...inputs],
    output: [...outputs],
    name: options.name ?? '',
    domain: options.domain ?? '',
    attribute: Object.entries(options.attributes ?? {}).map(([name, value]) => makeAttribute(name, value)),
  })
}

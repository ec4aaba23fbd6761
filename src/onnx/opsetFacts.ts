/** @file What has to be known about the values around a node before the node may move to another opset. */
import { definingScope, type ModelIndex, nodesOf, type Scope } from './graph.ts'
import {
  type AttributeProto,
  AttributeType,
  DataType,
  type ModelProto,
  type NodeProto,
  type TensorProto,
} from './proto.ts'
import { declarations, inferRanks, isDefaultDomain } from './ranks.ts'

/** Facts about the names that one scope sees. */
export interface OpsetFacts {
  /** Number of dimensions, or undefined when the model does not prove it. */
  rank(name: string): number | undefined
  /** True when a value that can only be of a floating type is proved to be float32. */
  isFloat32(name: string): boolean
  /** True when a node reads the name or it leaves its graph. */
  isUsed(name: string): boolean
}

/** @returns a function from a scope of the index to the facts about its names. */
export function opsetFacts(index: ModelIndex): (scope: Scope) => OpsetFacts {
  const rankOf = inferRanks(index)
  const leaving = new Set(index.scopes.flatMap((scope) => [...scope.outputs]))
  const allFloat32 = mentionsNoOtherFloat(index)
  return (scope) => ({
    rank: (name) => rankOf(scope, name),
    isFloat32: (name) => {
      const type = declaredType(scope, name)
      return type === undefined ? allFloat32 : type === DataType.FLOAT
    },
    isUsed: (name) => leaving.has(name) || !!definingScope(scope, name)?.readers.get(name)?.length,
  })
}

function declaredType(scope: Scope, name: string): DataType | undefined {
  const owner = definingScope(scope, name)
  const type = owner && declarations(owner).find((value) => value.name === name)?.type?.value
  if (type?.case === 'tensorType' && type.value.elemType !== 0) return type.value.elemType
  return owner?.constants.get(name)?.tensor.dataType
}

/** Attributes whose value is an element type of the output. */
const TYPE_ATTRIBUTES = new Set(['to', 'dtype', 'output_dtype', 'output_datatype'])

const OTHER_FLOATS: ReadonlySet<number> = new Set([DataType.FLOAT16, DataType.BFLOAT16, DataType.DOUBLE])

/**
 * True when float32 is the only floating type that can occur in the model: no input, declared value, tensor or type
 * attribute names another, and every operator is a standard one or a local function. Standard operators make another
 * floating type only out of these.
 */
function mentionsNoOtherFloat(index: ModelIndex): boolean {
  const { model } = index
  if (model.graph?.input.some((input) => input.type?.value.case !== 'tensorType')) return false
  return index.scopes.every(
    (scope) =>
      declarations(scope).every((v) => v.type?.value.case !== 'tensorType' || !isOther(v.type.value.value.elemType)) &&
      (scope.graph?.initializer ?? []).every((tensor) => !isOther(tensor.dataType)) &&
      (scope.graph?.sparseInitializer ?? []).every((sparse) => !isOther(sparse.values?.dataType ?? 0)) &&
      !namesOtherFloat(scope.fn?.attributeProto ?? []) &&
      nodesOf(scope).every((node) => isKnownOrigin(node, model) && !namesOtherFloat(node.attribute)),
  )
}

function isOther(type: number): boolean {
  return OTHER_FLOATS.has(type)
}

function isKnownOrigin(node: NodeProto, model: ModelProto): boolean {
  return isDefaultDomain(node.domain) || model.functions.some((f) => f.domain === node.domain && f.name === node.opType)
}

function namesOtherFloat(attributes: readonly AttributeProto[]): boolean {
  return attributes.some((a) => {
    if (TYPE_ATTRIBUTES.has(a.name) && (a.refAttrName !== '' || isOther(Number(a.i)))) return true
    const tensors = [a.t, ...a.tensors, a.sparseTensor?.values, ...a.sparseTensors.map((s) => s.values)]
    return (
      tensors.some((t: TensorProto | undefined) => t !== undefined && isOther(t.dataType)) ||
      a.type === AttributeType.TYPE_PROTO
    )
  })
}

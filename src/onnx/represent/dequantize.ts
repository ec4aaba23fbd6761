/**
 * @file Weights as standard DequantizeLinear (opset 21: blocks, int4). In front of MatMul and Gemm onnxruntime fuses it
 * into its low-bit product, provided the weight is [K, N], grouped along axis 0, and has a single reader.
 */
import { intAttribute, setAttributeInPlace } from '../attributes.ts'
import type { WeightUse } from '../layers.ts'
import { DataType, type NodeProto } from '../proto.ts'
import { LEVEL_ZERO } from './codebookForm.ts'
import { type Emitter, emitSlice } from './emitter.ts'
import { levelCols } from './indices.ts'
import { typedScales } from './packScales.ts'
import type { LayerPlan } from './plan.ts'
import { groupsOf, integerLayout, rowsOf } from './stored.ts'
import { emitCodes, planeNames, type StoredNames } from './unpack.ts'

/** Inputs and attributes of one DequantizeLinear. */
interface Operands {
  readonly codes: string
  readonly scales: string
  readonly zeroPoints: string | undefined
  readonly axis: number
  readonly blockSize: number | undefined
}

function emitDequantize(to: Emitter, step: string, operands: Operands, output?: string): string {
  const { codes, scales, zeroPoints, axis, blockSize } = operands
  return to.node(step, 'DequantizeLinear', [codes, scales, ...(zeroPoints ? [zeroPoints] : [])], {
    attributes: { axis, ...(blockSize === undefined ? {} : { block_size: blockSize }) },
    ...(output === undefined ? {} : { output }),
  })
}

/**
 * Rebuild the tensor `output` in its own shape and type. `integer` storage of layers that no product reads directly.
 * float64 and bfloat16, for which onnxruntime has no DequantizeLinear, are cast from float32.
 */
export function emitDequantizedTensor(
  to: Emitter,
  plan: LayerPlan,
  names: StoredNames,
  scaleType: number,
  output: string,
): void {
  const { dims, axis, blockSize } = integerLayout(plan)
  const type = plan.layer.constant.tensor.dataType
  const computed = type === DataType.FLOAT16 ? DataType.FLOAT16 : DataType.FLOAT
  const scales = typedScales(to, names, scaleType, computed)
  const operands = { codes: names.codes!, scales, zeroPoints: names.zeroPoints, axis, blockSize }
  const own = plan.layer.dims
  const sameShape = dims.length === own.length && dims.every((d, i) => d === own[i])
  const steps: ((input: string | undefined, last: { output?: string }) => string)[] = [
    (_, { output: o }) => emitDequantize(to, 'weight', operands, o),
  ]
  if (!sameShape) {
    steps.push((input, last) => to.node('shaped', 'Reshape', [input!, to.int64(own)], last))
  }
  if (type !== computed) {
    steps.push((input, last) => to.node('typed', 'Cast', [input!], { attributes: { to: type }, ...last }))
  }
  let name: string | undefined
  steps.forEach((step, i) => {
    name = step(name, i === steps.length - 1 ? { output } : {})
  })
}

/** Emit a DequantizeLinear [K, N] for one MatMul or Gemm, and the product that reads it. `integer`, `rows` or `indices` storage. Returns its output's name. */
export function emitDequantizedProduct(
  to: Emitter,
  plan: LayerPlan,
  use: WeightUse,
  names: StoredNames,
  scaleType: number,
  product: NodeProto,
): string {
  const scales = typedScales(to, names, scaleType, use.dataType)
  const operands =
    plan.storage === 'integer' ? integerOperands(plan, names, scales) : rowsOperands(to, plan, names, scales)
  const weight = emitDequantize(to, 'weight', operands)
  product.input[1] = weight
  if (product.opType === 'Gemm' || product.opType === 'FusedMatMul') {
    if (intAttribute(product, 'transB', 0) !== 0) setAttributeInPlace(product, 'transB', 0)
  }
  to.push(product)
  return weight
}

function integerOperands(plan: LayerPlan, names: StoredNames, scales: string): Operands {
  const { axis, blockSize } = integerLayout(plan)
  return { codes: names.codes!, scales, zeroPoints: names.zeroPoints, axis, blockSize }
}

/** Widths that have no ONNX type, and codebooks: codes are unpacked to uint8 [K, N]; all of it but the DequantizeLinear is folded. */
function rowsOperands(to: Emitter, plan: LayerPlan, names: StoredNames, scales: string): Operands {
  const rows = rowsOf(plan)
  const groups = groupsOf(plan)
  const turn = (step: string, name: string) => to.node(step, 'Transpose', [name], { attributes: { perm: [1, 0] } })
  let codes = names.levels ?? emitCodes(to, plan, planeNames(plan, names), rows)
  const cols = names.levels ? levelCols(plan) : plan.paddedCols
  if (cols !== plan.layer.view.reduction) codes = emitSlice(to, 'cut', codes, 1, plan.layer.view.reduction)
  const dims = to.int64(groups === 1 ? [rows] : [groups, rows])
  const shaped = (step: string, name: string) =>
    groups === 1 ? to.node(`${step}.row`, 'Reshape', [name, dims]) : turn(`${step}.byBlock`, name)
  const zero =
    names.zeroPoints ??
    to.node('zp', 'Tile', [
      to.uint8([1, 1], [names.levels ? LEVEL_ZERO : 2 ** (plan.bits - 1)]),
      to.int64([rows, groups]),
    ])
  return {
    codes: turn('codes.KN', codes),
    scales: shaped('scale', scales),
    zeroPoints: shaped('zp', zero),
    axis: groups === 1 ? 1 : 0,
    blockSize: groups === 1 ? undefined : plan.groupSize,
  }
}

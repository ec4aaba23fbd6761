/**
 * @file The tensors that hold one quantized layer in the file. The one place that knows stored sizes: budgets, reports
 * and the writer all ask here.
 */
import { groupsPerRow, type ScaleType } from '../../quant/quantizedWeight.ts'
import { DataType } from '../proto.ts'
import { type LayerPlan, PLANES } from './plan.ts'

export type StoredRole = 'codes' | 'low' | 'high' | 'scales' | 'zeroPoints'

export interface StoredTensor {
  readonly role: StoredRole
  readonly dataType: number
  readonly dims: readonly number[]
  readonly bytes: number
}

/** Rows of a layer. */
export function rowsOf(plan: LayerPlan): number {
  return plan.layer.view.outer * plan.layer.view.inner
}

/** Scales per row. */
export function groupsOf(plan: LayerPlan): number {
  return groupsPerRow(plan.layer.view.reduction, plan.groupSize)
}

/** True when some use reads scales as MatMulNBits does: [rows, groups]. */
function hasKernelUse(plan: LayerPlan): boolean {
  return plan.uses.some((use) => use !== 'folded')
}

/**
 * The tensors of a layer, without their contents.
 * @param symmetric no zero points are stored.
 */
export function storedTensors(plan: LayerPlan, symmetric: boolean, scaleType: ScaleType): StoredTensor[] {
  const rows = rowsOf(plan)
  const groups = groupsOf(plan)
  const scale = (dims: readonly number[]) =>
    make('scales', scaleType === 'float16' ? DataType.FLOAT16 : DataType.FLOAT, dims)
  const zero = (dims: readonly number[], type: number = DataType.UINT8) =>
    symmetric ? [] : [make('zeroPoints', type, dims)]
  const bytesFor = (count: number, bits: number) => Math.ceil((count * bits) / 8)
  switch (plan.storage) {
    case 'blocks': {
      const blocks = plan.paddedCols / plan.kernelBlock
      const codes = make('codes', DataType.UINT8, [rows, blocks, bytesFor(plan.kernelBlock, plan.bits)])
      return [codes, scale([rows, groups]), ...zero([rows, bytesFor(groups, plan.bits)])]
    }
    case 'packed': {
      const codes = make('codes', DataType.UINT8, [rows, bytesFor(plan.paddedCols, plan.bits)])
      return [codes, scale([rows, groups]), ...zero([rows, bytesFor(groups, plan.bits)])]
    }
    case 'nibble3': {
      const eighth = plan.paddedCols / 8
      const low = make('low', DataType.UINT8, [rows, 2, 1, eighth])
      const high = make('high', DataType.UINT8, [rows, 1, 1, eighth])
      return [low, high, scale([rows, groups]), ...zero([rows, bytesFor(groups, 4)])]
    }
    case 'rows': {
      const planes = PLANES[plan.bits].map((width, i) => {
        const bytes = (plan.paddedCols * width) / 8
        return make(i === 0 ? 'low' : 'high', DataType.UINT8, width === 8 ? [rows, bytes] : [rows, 1, bytes])
      })
      const perGroup = hasKernelUse(plan) || groups === 1 ? [rows, groups] : [rows, groups, 1]
      return [...planes, scale(perGroup), ...zero(perGroup)]
    }
    case 'integer': {
      const { dims, groupDims } = integerLayout(plan)
      const type =
        plan.bits === 4 ? (symmetric ? DataType.INT4 : DataType.UINT4) : symmetric ? DataType.INT8 : DataType.UINT8
      return [make('codes', type, dims), scale(groupDims), ...zero(groupDims, type)]
    }
  }
}

/** How DequantizeLinear sees an `integer` layer: shape of the codes, of the scales, and the axis that is grouped. */
export interface IntegerLayout {
  readonly dims: readonly number[]
  readonly groupDims: readonly number[]
  readonly axis: number
  /** Undefined for one scale per row (per-axis quantization). */
  readonly blockSize: number | undefined
}

export function integerLayout(plan: LayerPlan): IntegerLayout {
  const { outer, reduction, inner } = plan.layer.view
  const rows = rowsOf(plan)
  const groups = groupsOf(plan)
  if (!plan.decodesTensor) {
    return groups === 1
      ? { dims: [reduction, rows], groupDims: [rows], axis: 1, blockSize: undefined }
      : { dims: [reduction, rows], groupDims: [groups, rows], axis: 0, blockSize: plan.groupSize }
  }
  if (inner === 1 && groups === 1) {
    const own = plan.layer.dims[0] === rows ? plan.layer.dims : [rows, reduction]
    return { dims: own, groupDims: [rows], axis: 0, blockSize: undefined }
  }
  if (inner === 1) return { dims: [rows, reduction], groupDims: [rows, groups], axis: 1, blockSize: plan.groupSize }
  return { dims: [outer, reduction, inner], groupDims: [outer, groups, inner], axis: 1, blockSize: plan.groupSize }
}

/** Bytes on disk of codes, scales, zero points and padding. */
export function storedBytes(plan: LayerPlan, symmetric: boolean, scaleType: ScaleType): number {
  return storedTensors(plan, symmetric, scaleType).reduce((sum, tensor) => sum + tensor.bytes, 0)
}

const TYPE_BITS: Readonly<Record<number, number>> = {
  [DataType.UINT8]: 8,
  [DataType.INT8]: 8,
  [DataType.UINT4]: 4,
  [DataType.INT4]: 4,
  [DataType.FLOAT16]: 16,
  [DataType.FLOAT]: 32,
}

function make(role: StoredRole, dataType: number, dims: readonly number[]): StoredTensor {
  const count = dims.reduce((a, b) => a * b, 1)
  return { role, dataType, dims, bytes: Math.ceil((count * TYPE_BITS[dataType]!) / 8) }
}

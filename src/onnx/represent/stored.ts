/**
 * @file The tensors that hold one quantized layer in the file. The one place that knows stored sizes: budgets, reports
 * and the writer all ask here.
 */

import { expectByteScales } from '../../quant/byteScales.ts'
import { type IndexBits, lanesOf, tableLength } from '../../quant/codebookWeight.ts'
import { groupsPerRow, type StoredScaleType } from '../../quant/quantizedWeight.ts'
import { DataType } from '../proto.ts'
import { looksUpBytes, trellisStream } from './codebookForm.ts'
import { type LayerPlan, PLANES } from './plan.ts'

export type StoredRole = 'codes' | 'low' | 'high' | 'scales' | 'step' | 'zeroPoints' | 'tables' | 'tableOf'

export interface StoredTensor {
  readonly role: StoredRole
  readonly dataType: number
  readonly dims: readonly number[]
  /** What the layer adds to the file for it: 0 for a tensor that it shares. */
  readonly bytes: number
  /** Layers whose tensors have equal keys share one copy of the first; undefined for a tensor of the layer's own. */
  readonly sharedAs?: string
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
export function storedTensors(plan: LayerPlan, symmetric: boolean, scaleType: StoredScaleType): StoredTensor[] {
  const rows = rowsOf(plan)
  const groups = groupsOf(plan)
  const isBytes = scaleType === 'uint8' || scaleType === 'int8'
  const scales = (dims: readonly number[]) => [
    make('scales', SCALE_TYPES[scaleType], dims),
    ...(isBytes ? [make('step', DataType.FLOAT, [])] : []),
  ]
  const zero = (dims: readonly number[], type: number = DataType.UINT8) =>
    symmetric ? [] : [make('zeroPoints', type, dims)]
  const bytesFor = (count: number, bits: number) => Math.ceil((count * bits) / 8)
  switch (plan.storage) {
    case 'blocks': {
      const blocks = plan.paddedCols / plan.kernelBlock
      const codes = make('codes', DataType.UINT8, [rows, blocks, bytesFor(plan.kernelBlock, plan.bits)])
      return [codes, ...scales([rows, groups]), ...zero([rows, bytesFor(groups, plan.bits)])]
    }
    case 'packed': {
      const codes = make('codes', DataType.UINT8, [rows, bytesFor(plan.paddedCols, plan.bits)])
      return [codes, ...scales([rows, groups]), ...zero([rows, bytesFor(groups, plan.bits)])]
    }
    case 'nibble3': {
      const eighth = plan.paddedCols / 8
      const low = make('low', DataType.UINT8, [rows, 2, 1, eighth])
      const high = make('high', DataType.UINT8, [rows, 1, 1, eighth])
      return [low, high, ...scales([rows, groups]), ...zero([rows, bytesFor(groups, 4)])]
    }
    case 'rows': {
      const planes = PLANES[plan.bits].map((width, i) => {
        const bytes = (plan.paddedCols * width) / 8
        return make(i === 0 ? 'low' : 'high', DataType.UINT8, width === 8 ? [rows, bytes] : [rows, 1, bytes])
      })
      const perGroup = hasKernelUse(plan) || groups === 1 ? [rows, groups] : [rows, groups, 1]
      return [...planes, ...scales(perGroup), ...zero(perGroup)]
    }
    case 'integer': {
      const { dims, groupDims } = integerLayout(plan)
      const type =
        plan.bits === 4 ? (symmetric ? DataType.INT4 : DataType.UINT4) : symmetric ? DataType.INT8 : DataType.UINT8
      return [make('codes', type, dims), ...scales(groupDims), ...zero(groupDims, type)]
    }
    case 'indices':
      return [
        ...storedIndices(plan),
        ...scales(hasKernelUse(plan) || groups === 1 ? [rows, groups] : [rows, groups, 1]),
      ]
  }
}

/** Indices and tables of a codebook; see `packCodebook.ts` for their order. */
function storedIndices(plan: LayerPlan): StoredTensor[] {
  const { coding, tables: count, shared, runs } = plan.codebook!
  const rows = rowsOf(plan)
  const cols = plan.paddedCols
  const bits = plan.bits as IndexBits
  const uint8 = (role: StoredRole, dims: readonly number[]) => make(role, DataType.UINT8, dims)
  const tables = (dims: readonly number[]): StoredTensor => {
    const tensor = uint8('tables', dims)
    const key = `${coding.kind} ${bits} ${dims.join(' ')}`
    return shared ? { ...tensor, bytes: 0, sharedAs: key } : tensor
  }
  const entries = tableLength(coding, bits)
  if (coding.kind === 'vector') {
    return [uint8('codes', [lanesOf(coding, rows), cols]), tables([coding.dim, entries / coding.dim])]
  }
  if (coding.kind === 'trellis') {
    const { lanes, bytes, stepsPerByte } = trellisStream(rows, bits, coding.window)
    // Rows that are gathered are rows of a matrix; otherwise the shape is the one that the steps are cut out of.
    if (plan.uses.includes('gather-rows')) return [uint8('codes', [bytes * lanes, cols]), tables([entries])]
    return [uint8('codes', stepsPerByte ? [bytes, 1, lanes, cols] : [bytes, lanes, cols]), tables([entries])]
  }
  if (!looksUpBytes(plan.codebook!)) {
    const planes = PLANES[bits].map((width, i) => uint8(i === 0 ? 'low' : 'high', [rows, 1, (cols * width) / 8]))
    const tableOf = count === rows ? [] : [make('tableOf', count > 256 ? DataType.UINT16 : DataType.UINT8, [rows])]
    return [...planes, tables([count, entries]), ...tableOf]
  }
  // Of whatever rows share a table: an index of 8 bits a row, where a permutation of the rows would take 16.
  const tableOf = (dims: readonly number[]) => (count > 1 && !runs ? [uint8('tableOf', dims)] : [])
  const table = tables(count > 1 ? [count, entries] : [entries])
  if (bits !== 3) return [uint8('codes', [rows, (cols * bits) / 8]), table, ...tableOf([rows, 1])]
  return [uint8('low', [rows, 2, cols / 8]), uint8('high', [rows, 1, cols / 8]), table, ...tableOf([rows, 1, 1])]
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

/** Bytes on disk of codes, tables, scales, zero points and padding; tables that layers share count for none of them. */
export function storedBytes(plan: LayerPlan, symmetric: boolean, scaleType: StoredScaleType): number {
  return storedTensors(plan, symmetric, scaleType).reduce((sum, tensor) => sum + tensor.bytes, 0)
}

/** What scales will probably be stored as, before the weights are known. */
export function plannedScales(plan: LayerPlan): StoredScaleType {
  const count = rowsOf(plan) * groupsOf(plan)
  return plan.byteScales && expectByteScales(plan.bits, plan.groupSize, count) ? 'uint8' : 'float16'
}

/** {@link storedBytes} before the weights are known. */
export function plannedTensorBytes(plan: LayerPlan, symmetric: boolean): number {
  return storedBytes(plan, symmetric, plannedScales(plan))
}

const SCALE_TYPES: Readonly<Record<StoredScaleType, number>> = {
  float16: DataType.FLOAT16,
  float32: DataType.FLOAT,
  uint8: DataType.UINT8,
  int8: DataType.INT8,
}

const TYPE_BITS: Readonly<Record<number, number>> = {
  [DataType.UINT8]: 8,
  [DataType.UINT16]: 16,
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

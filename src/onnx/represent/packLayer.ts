/** @file The bytes of a quantized layer's stored tensors. */
import { type FieldWidth, packNibbleDirect3, packPlaneRows, packRows } from '../../quant/pack.ts'
import { type GridWeight, isCodebook, type QuantizedWeight, symmetricZeroPoint } from '../../quant/quantizedWeight.ts'
import { packIndices } from './packCodebook.ts'
import { packScales, packStep } from './packScales.ts'
import { padRows } from './padRows.ts'
import { type LayerPlan, PLANES } from './plan.ts'
import { groupsOf, rowsOf, type StoredRole, type StoredTensor, storedTensors } from './stored.ts'

export interface PackedTensors {
  readonly tensors: readonly StoredTensor[]
  /** One per tensor, in order; lengths are those of `tensors`. */
  readonly bytes: readonly Uint8Array[]
}

/** Pack a layer as its plan says. `weight` must have the plan's bits and groups. Not modified. */
export function packLayer(plan: LayerPlan, weight: QuantizedWeight): PackedTensors {
  if (isCodebook(weight)) return packIndices(plan, weight)
  const tensors = storedTensors(plan, weight.zeroPoints === undefined, weight.scaleType)
  const bytes = tensors.map((tensor) => packTensor(plan, weight, tensor.role))
  tensors.forEach((tensor, i) => {
    if (tensor.bytes !== bytes[i]!.length) {
      throw new RangeError(
        `${tensor.role} of ${plan.layer.name}: planned ${tensor.bytes} bytes, packed ${bytes[i]!.length}`,
      )
    }
  })
  return { tensors, bytes }
}

function packTensor(plan: LayerPlan, weight: GridWeight, role: StoredRole): Uint8Array {
  if (role === 'scales') {
    const scales = plan.storage === 'integer' ? inStoredOrder(plan, weight.scales, groupsOf(plan)) : weight.scales
    return packScales({ ...weight, scales })
  }
  if (role === 'step') return packStep(weight)
  return role === 'zeroPoints' ? packZeroPoints(plan, weight) : packCodes(plan, weight, role)
}

function packZeroPoints(plan: LayerPlan, weight: GridWeight): Uint8Array {
  const zeros = weight.zeroPoints!
  const groups = groupsOf(plan)
  if (plan.storage === 'rows') return zeros
  if (plan.storage === 'integer') {
    const ordered = inStoredOrder(plan, zeros, groups)
    return plan.bits === 4 ? packRows(ordered, 1, ordered.length, 4) : ordered
  }
  // `blocks` and `packed` hold 2, 4 and 8 bits only.
  const width = plan.storage === 'nibble3' ? 4 : (plan.bits as FieldWidth)
  // A lone zero point of a row is repeated by bytes at load, so its byte holds it in every field.
  const repeats = groups === 1 && plan.paddedCols > plan.kernelBlock
  if (!repeats) return packRows(zeros, rowsOf(plan), groups, width)
  return zeros.map((z) => {
    let byte = 0
    for (let at = 0; at < 8; at += width) byte |= z << at
    return byte
  })
}

function packCodes(plan: LayerPlan, weight: GridWeight, role: StoredRole): Uint8Array {
  const rows = rowsOf(plan)
  const { paddedCols, bits } = plan
  if (plan.storage === 'integer') return packInteger(plan, weight)
  const codes = padRows(weight.codes, rows, weight.cols, paddedCols)
  switch (plan.storage) {
    case 'blocks':
    case 'packed':
      return bits === 8 ? codes : packRows(codes, rows, paddedCols, bits as FieldWidth)
    case 'nibble3': {
      const { low, high } = packNibbleDirect3(codes, rows, paddedCols)
      return role === 'low' ? low : high
    }
    case 'rows': {
      const [low, high] = PLANES[bits]
      if (low === 8) return codes
      const below = 2 ** low! - 1
      if (role === 'low') return packPlaneRows(high ? codes.map((c) => c & below) : codes, rows, paddedCols, low!)
      return packPlaneRows(
        codes.map((c) => c >> low!),
        rows,
        paddedCols,
        high!,
      )
    }
    default:
      throw new RangeError(`${plan.layer.name}: planned ${plan.storage}, got codes on a grid`)
  }
}

/** DequantizeLinear's own tensors: the codes themselves, or centred on zero for the signed types of symmetric grids. */
function packInteger(plan: LayerPlan, weight: GridWeight): Uint8Array {
  const ordered = inStoredOrder(plan, weight.codes, weight.cols)
  const centre = weight.zeroPoints ? 0 : symmetricZeroPoint(plan.bits)
  const fields = plan.bits === 4 ? 15 : 255
  const signed = centre === 0 ? ordered : ordered.map((code) => (code - centre) & fields)
  return plan.bits === 4 ? packRows(signed, 1, signed.length, 4) : signed
}

/** Values [rows, n] in the order in which an `integer` layer lies in the file: [n, rows], or [outer, n, inner]. */
function inStoredOrder<T extends Uint8Array | Float32Array>(plan: LayerPlan, values: T, n: number): T {
  const { outer, inner } = plan.decodesTensor ? plan.layer.view : { outer: 1, inner: rowsOf(plan) }
  if (inner === 1) return values
  const ordered = values.slice() as T
  for (let a = 0; a < outer; a++) {
    for (let c = 0; c < inner; c++) {
      const row = (a * inner + c) * n
      for (let k = 0; k < n; k++) ordered[(a * n + k) * inner + c] = values[row + k]!
    }
  }
  return ordered
}

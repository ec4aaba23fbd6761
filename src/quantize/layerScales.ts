/** @file Whether a layer's scales take a byte each: as its plan allows, and where that pays. */
import type { LayerPlan } from '../onnx/represent/plan.ts'
import { withByteScales } from '../quant/byteScales.ts'
import { type QuantizedWeight, squaredErrors } from '../quant/quantizedWeight.ts'
import { readTile, rowsOf, type StoredWeight } from '../quant/storedWeight.ts'

/** @param rows what the weight approximates, [N, K]. */
export function scalesAsPlanned<W extends QuantizedWeight>(
  { byteScales }: LayerPlan,
  rows: Float32Array,
  weight: W,
): W {
  return byteScales ? withByteScales(weight, relative(squaredErrors(rows, weight))) : weight
}

/** A weight with its ‖W − Ŵ‖² and ‖W‖². */
interface Rounded {
  readonly weight: QuantizedWeight
  readonly squaredError: number
  readonly squaredNorm: number
}

/** The same for a weight that is stored, with the errors that follow. */
export function roundedAsPlanned<R extends Rounded>({ byteScales }: LayerPlan, stored: StoredWeight, rounded: R): R {
  const weight = byteScales ? withByteScales(rounded.weight, relative(rounded)) : rounded.weight
  if (weight === rounded.weight) return rounded
  return { ...rounded, weight, squaredError: storedError(stored, weight) }
}

const relative = ({ squaredError, squaredNorm }: Omit<Rounded, 'weight'>): number =>
  squaredNorm === 0 ? 0 : squaredError / squaredNorm

/** Weights that are read at a time, about. */
const SLAB = 2 ** 18

/** ‖W − Ŵ‖² of a weight that is read slab by slab. */
function storedError(stored: StoredWeight, weight: QuantizedWeight): number {
  const rows = rowsOf(stored)
  const cols = stored.shape[1]
  const slabRows = Math.max(1, Math.floor(SLAB / cols))
  const slab = new Float32Array(slabRows * cols)
  let squaredError = 0
  for (let first = 0; first < rows; first += slabRows) {
    const count = Math.min(slabRows, rows - first)
    readTile(stored, first, count, 0, cols, slab)
    squaredError += squaredErrors(slab, weight, first, first + count).squaredError
  }
  return squaredError
}

/** @file A layer's weight as rows [N, K] of float32, and rows as the tensor that the model's nodes read. */
import { feedOfFloats } from '../calibration/tensors.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import type { WeightedLayer } from '../onnx/layers.ts'
import { readTile, rowsOf, type StoredWeight } from '../quant/storedWeight.ts'

/** All rows of a stored weight, written to `into` [N, K]. */
export function readRows(stored: StoredWeight, into: Float32Array): void {
  readTile(stored, 0, rowsOf(stored), 0, stored.shape[1], into)
}

/** Side of the tiles in which a matrix is transposed: two of them fit in the first-level cache. */
const TILE = 32

/** Rows [N, K] as the stored tensor of the layer. Not modified, but shared where the layout is the same. */
export function rowsAsTensor(layer: WeightedLayer, rows: Float32Array): FeedTensor {
  const { outer, reduction, inner } = layer.view
  const { dataType } = layer.constant.tensor
  if (inner === 1) return feedOfFloats(dataType, layer.dims, rows)
  const stored = new Float32Array(rows.length)
  for (let a = 0; a < outer; a++) {
    const base = a * reduction * inner
    for (let c0 = 0; c0 < inner; c0 += TILE) {
      const c1 = Math.min(inner, c0 + TILE)
      for (let k0 = 0; k0 < reduction; k0 += TILE) {
        const k1 = Math.min(reduction, k0 + TILE)
        for (let k = k0; k < k1; k++) {
          for (let c = c0; c < c1; c++) stored[base + k * inner + c] = rows[base + c * reduction + k]!
        }
      }
    }
  }
  return feedOfFloats(dataType, layer.dims, stored)
}

/** @file A layer's weight as rows [N, K] of float32, and rows as the tensor that the model's nodes read. */
import { feedOfFloats } from '../calibration/tensors.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import type { WeightedLayer } from '../onnx/layers.ts'
import { dequantizeRow, type QuantizedWeight } from '../quant/quantizedWeight.ts'
import { readTile, rowsOf, type StoredWeight } from '../quant/storedWeight.ts'

/** All rows of a stored weight, written to `into` [N, K]. */
export function readRows(stored: StoredWeight, into: Float32Array): void {
  readTile(stored, 0, rowsOf(stored), 0, stored.shape[1], into)
}

/** Side of the tiles in which a matrix is transposed: two of them fit in the first-level cache. */
const TILE = 32

/** Rows [N, K] as the stored tensor of the layer. Not modified, but shared where the layout is the same. */
export function rowsAsTensor(layer: WeightedLayer, rows: Float32Array): FeedTensor {
  const { reduction, inner } = layer.view
  if (inner === 1) return feedOfFloats(layer.constant.tensor.dataType, layer.dims, rows)
  return transposedRows(layer, new Float32Array(rows.length), (first, count) =>
    rows.subarray(first * reduction, (first + count) * reduction),
  )
}

/**
 * A quantized weight as the stored tensor of the layer, dequantized a few rows at a time: a head of a language model
 * takes a hundred megabytes, and each copy of it as much again.
 * @param into what to write over, if it has the size.
 */
export function quantizedAsTensor(layer: WeightedLayer, weight: QuantizedWeight, into?: Float32Array): FeedTensor {
  const { cols, rows } = weight
  const stored = into?.length === rows * cols ? into : new Float32Array(rows * cols)
  if (layer.view.inner === 1) {
    for (let row = 0; row < rows; row++) dequantizeRow(weight, row, stored.subarray(row * cols, (row + 1) * cols))
    return feedOfFloats(layer.constant.tensor.dataType, layer.dims, stored)
  }
  const tile = new Float32Array(TILE * cols)
  return transposedRows(layer, stored, (first, count) => {
    for (let row = 0; row < count; row++) {
      dequantizeRow(weight, first + row, tile.subarray(row * cols, (row + 1) * cols))
    }
    return tile
  })
}

/** @param rowsFrom `count` ≤ {@link TILE} rows from `first` on, [count, K]. */
function transposedRows(
  layer: WeightedLayer,
  stored: Float32Array,
  rowsFrom: (first: number, count: number) => Float32Array,
): FeedTensor {
  const { outer, reduction, inner } = layer.view
  for (let a = 0; a < outer; a++) {
    const base = a * reduction * inner
    for (let c0 = 0; c0 < inner; c0 += TILE) {
      const count = Math.min(TILE, inner - c0)
      const rows = rowsFrom(a * inner + c0, count)
      for (let k0 = 0; k0 < reduction; k0 += TILE) {
        const k1 = Math.min(reduction, k0 + TILE)
        for (let k = k0; k < k1; k++) {
          for (let c = 0; c < count; c++) stored[base + k * inner + c0 + c] = rows[c * reduction + k]!
        }
      }
    }
  }
  return feedOfFloats(layer.constant.tensor.dataType, layer.dims, stored)
}

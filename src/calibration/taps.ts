/** @file Which tensor a use of a weight sums over. */
import type { ModelIndex } from '../onnx/graph.ts'
import type { WeightedLayer, WeightUse } from '../onnx/layers.ts'
import { convTap, convTransposeTap } from './convolution.ts'
import { matrixTap } from './matrix.ts'
import { recurrentTap } from './recurrent.ts'
import { makeTap, type NoTap, type Tap, type TapDraft } from './tap.ts'

export type { Tap } from './tap.ts'

/** Most numbers in the Gram matrices of one tap: 1 GB as float32, and two to four times that where they are summed up. */
const MAX_GRAM_ELEMENTS = 2 ** 28

/**
 * Where the inputs of one use of a layer come from.
 *
 * @param use  one of `layer.uses`; a layer with several uses sums the statistics of those that have a tap.
 * @returns the tap, whose columns are those of `layer.view` in its order; or a reason, that follows the words "quantized
 *   without calibration: ".
 */
export function tapOf(use: WeightUse, layer: WeightedLayer, index: ModelIndex): Tap | NoTap {
  const operator = use.node.opType
  if (operator === 'Gather' || operator === 'EmbedLayerNormalization')
    return { reason: 'each row is looked up, not summed over' }
  if (use.inFunction) return { reason: `the ${operator} that reads it is in a local function` }
  if (use.scope !== index.scopes[0])
    return { reason: `the ${operator} that reads it is in the body of an If, Loop or Scan` }
  if (!use.dims) return { reason: `it is cut up or joined with others before the ${operator} that reads it` }
  if (!use.aligned) return { reason: `its groups do not run along what the ${operator} sums over` }
  const draft = draftOf(use, use.dims, index)
  if ('reason' in draft) return draft
  const { view } = layer
  if ((view.outer * view.inner) % draft.blocks !== 0) return { reason: `its shape does not fit the ${operator}` }
  const bytes = 4 * draft.blocks * view.reduction ** 2
  if (bytes > 4 * MAX_GRAM_ELEMENTS) {
    const size = `${(bytes / 1e9).toFixed(1)} GB`
    return { reason: `statistics of its inputs (${draft.blocks} × ${view.reduction}²) would take ${size}` }
  }
  return makeTap(view.reduction, draft)
}

/** Operators by name: {@link WeightUse} exists only for those of src/onnx/operators.ts, which checks the domain. */
function draftOf(use: WeightUse, dims: readonly number[], index: ModelIndex): TapDraft | NoTap {
  switch (use.node.opType) {
    case 'MatMul':
    case 'Gemm':
    case 'FusedMatMul':
    case 'FusedGemm':
    case 'Attention':
      return matrixTap(use, dims, index)
    case 'Conv':
    case 'FusedConv':
      return convTap(use.node, dims)
    case 'ConvTranspose':
      return convTransposeTap(use.node, dims)
    case 'LSTM':
    case 'GRU':
    case 'RNN':
      return recurrentTap(use, index)
  }
  return { reason: `what ${use.node.opType} sums over is not known` }
}

/** @file Taps of matrix products, and the nodes that lay their inputs out as rows or columns. */
import { intAttribute } from '../onnx/attributes.ts'
import { findConstant, type ModelIndex } from '../onnx/graph.ts'
import type { WeightUse } from '../onnx/layers.ts'
import { inferRanks } from '../onnx/ranks.ts'
import type { NoTap, TapDraft } from './tap.ts'
import type { Positions, TapGraph } from './tapGraph.ts'

const ranksOf = new WeakMap<ModelIndex, ReturnType<typeof inferRanks>>()

/** Number of axes of a value of the main graph, where the model proves it. */
function rankOf(index: ModelIndex, name: string): number | undefined {
  const ranks = ranksOf.get(index) ?? inferRanks(index)
  ranksOf.set(index, ranks)
  return ranks(index.scopes[0]!, name)
}

/**
 * MatMul, Gemm and their fused forms, and com.microsoft Attention: op(A)·op(B), either of which may be the weight. A
 * factor (alpha) scales the output only.
 */
export function matrixTap(use: WeightUse, dims: readonly number[], index: ModelIndex): TapDraft | NoTap {
  const { node, inputIndex } = use
  const isLeft = inputIndex === 0
  const name = node.input[isLeft ? 1 : 0] ?? ''
  if (!name || findConstant(use.scope, name))
    return { reason: `the ${node.opType} multiplies it with a constant, not with data` }
  if (intAttribute(node, 'transBatchA', 0) !== 0 || intAttribute(node, 'transBatchB', 0) !== 0)
    return { reason: `the ${node.opType} that reads it moves batch axes` }
  const rank = rankOf(index, name)
  const isTransposed = intAttribute(node, isLeft ? 'transB' : 'transA', 0) !== 0
  // A vector has one axis only, whichever side it is on.
  const isLast = isLeft === isTransposed || rank === 1
  const batch = dims.slice(0, -2)
  while (batch[0] === 1) batch.shift()
  // A matrix or a vector is multiplied with every matrix of the batch: they share one Gram matrix.
  if (batch.length === 0 || (rank !== undefined && rank <= 2)) {
    if (isLast) return { blocks: 1, reads: [name], positions: 'rows', source: { kind: 'rows' } }
    return { blocks: 1, reads: [name], source: { kind: 'columns' } }
  }
  if (batch.includes(1)) return { reason: `the ${node.opType} that reads it repeats it along a batch axis` }
  return {
    blocks: batch.reduce((a, b) => a * b, 1),
    reads: [name],
    source: { kind: 'batches', batch, transposed: !isLast },
    identity: [batch, isLast ? 'rows' : 'columns'],
  }
}

/** X [T, K] of a tensor [.., K]. */
export function emitRows(graph: TapGraph, tensor: string, cols: number): Positions {
  return { x: graph.reshape(tensor, [-1, cols]), layout: 'TK' }
}

/** X [K, T] of a tensor [.., K, P]. */
export function emitColumns(graph: TapGraph, tensor: string, cols: number): Positions {
  const last = graph.node('Shape', [tensor], { start: -1 })
  const matrices = graph.reshapeTo(tensor, graph.join([graph.ints([-1, cols]), last]))
  return { x: graph.reshape(graph.transpose(matrices, [1, 0, 2]), [cols, -1]), layout: 'KT' }
}

/** X [blocks, T, K] of a tensor [.., K] (transposed: [.., K, P]) that meets a weight with batch axes. */
export function emitBatches(
  graph: TapGraph,
  tensor: string,
  cols: number,
  batch: readonly number[],
  transposed: boolean,
): Positions {
  const blocks = batch.reduce((a, b) => a * b, 1)
  // The product repeats the tensor along the batch axes that it lacks or has once; so do we.
  const full = graph.node('Expand', [tensor, graph.ints([...batch, 1, 1])])
  const shape = graph.node('Shape', [full], { start: -2 })
  const matrices = graph.reshapeTo(full, graph.join([graph.ints([-1, blocks]), shape]))
  const moved = graph.transpose(matrices, transposed ? [1, 0, 3, 2] : [1, 0, 2, 3])
  return { x: graph.reshape(moved, [blocks, -1, cols]), layout: 'TK' }
}

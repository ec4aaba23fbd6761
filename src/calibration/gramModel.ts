/**
 * @file A model that computes the statistics of a tap inside onnxruntime, so that K × K numbers leave it instead of
 * T × K.
 */
import type { ModelIndex } from '../onnx/graph.ts'
import { opsetOf } from '../onnx/opset.ts'
import { DataType, makeTensor } from '../onnx/proto.ts'
import { emitBatches, emitColumns, emitRows } from './matrix.ts'
import { emitStates, emitSteps } from './recurrent.ts'
import type { Tap } from './tap.ts'
import { makeTapGraph, type Positions, type TapGraph } from './tapGraph.ts'
import { emitChannels, emitPatches } from './unfold.ts'

export interface GramOptions {
  /** Also read the tensors of the float model, and relate them to those of the quantized one. */
  readonly cross: boolean
  /** Take `weights` [T] float32 of the positions; only where `tap.positions` is `rows`. */
  readonly weighted: boolean
}

/** What is known of a tensor that a tap reads. */
export interface ReadType {
  /** An onnx DataType. */
  readonly dataType: number
  readonly rank: number
}

/**
 * Inputs `quantized/<name>` for each name of `tap.reads` (`cross`: `float/<name>` too; `weighted`: `weights`), of any
 * shape. Outputs, all float32, sums over positions t of x (quantized) and f (float), weights w:
 *
 * - `gram` [blocks, K, K] Σ w x xᵀ, `sum` [blocks, K] Σ w x, `count` [1] Σ w, or T;
 * - `cross` [blocks, K, K] Σ w f xᵀ (a row for each entry of f), `crossSum` [blocks, K] Σ w f.
 *
 * Positions of weight 0 may hold anything: attention over nothing but padding is 0/0. At others, NaN and infinity are not
 * kept out. Sums over more than 2^24 positions lose count.
 *
 * @param index of the model that the tap is from.
 * @param types of the tensors that are read, in the order of `tap.reads`. Floats become float32 first.
 * @returns the model's bytes.
 * @throws RangeError for weights where they have no place, or a number of types that is not that of the reads.
 */
export function gramModel(tap: Tap, index: ModelIndex, types: readonly ReadType[], options: GramOptions): Uint8Array {
  const { cross, weighted } = options
  if (weighted && tap.positions !== 'rows') throw new RangeError('only positions that are rows can be weighted')
  if (types.length !== tap.reads.length) throw new RangeError(`${types.length} types for ${tap.reads.length} tensors`)
  const graph = makeTapGraph(opsetOf(index.model, index.scopes[0]!))
  const operandsOf = (path: string) =>
    new Map(tap.reads.map((name, i) => [name, graph.input(`${path}/${name}`, types[i]!.dataType)]))
  const { rank } = types[0]!
  const read = emitPositions(graph, tap, operandsOf('quantized'), rank)
  const weights = weighted ? graph.input('weights', DataType.FLOAT) : read.weights
  const x = counting(graph, read, weights)
  const scaled = weigh(graph, x)
  const outputs = new Map([
    ['gram', products(graph, tap, x, scaled)],
    ['sum', total(graph, tap, x)],
    ['count', countOf(graph, x)],
  ])
  if (cross) {
    const float = counting(graph, emitPositions(graph, tap, operandsOf('float'), rank), weights)
    outputs.set('cross', products(graph, tap, float, scaled))
    outputs.set('crossSum', total(graph, tap, float))
  }
  return graph.encode(outputs)
}

function emitPositions(graph: TapGraph, tap: Tap, operands: ReadonlyMap<string, string>, rank: number): Positions {
  const { source, cols } = tap
  const operand = (name: string) => operands.get(name)!
  if (source.kind === 'states') return emitStates(graph, source.node, operand, cols)
  const read = graph.toFloat(operand(tap.reads[0]!))
  switch (source.kind) {
    case 'rows':
      return emitRows(graph, read, cols)
    case 'columns':
      return rank === 1 ? emitRows(graph, read, cols) : emitColumns(graph, read, cols)
    case 'batches':
      return emitBatches(graph, read, cols, source.batch, source.transposed)
    case 'channels':
      return emitChannels(graph, read, source.groups, cols)
    case 'patches':
      return emitPatches(graph, read, source.geometry)
    case 'steps':
      return emitSteps(graph, read, operand(source.lengths), cols)
  }
}

/** The positions with these weights, and zeros where the weight is 0, whatever was there: 0 · NaN would be NaN. */
function counting(graph: TapGraph, { x, layout }: Positions, weights: string | undefined): Positions {
  if (weights === undefined) return { x, layout }
  const zero = graph.constant(makeTensor({ dataType: DataType.FLOAT, dims: [], floatData: [0] }))
  const counts = graph.node('Unsqueeze', [graph.node('Greater', [weights, zero]), graph.ints([1])])
  return { x: graph.node('Where', [counts, x, zero]), layout, weights }
}

/** x, each position times its weight. */
function weigh(graph: TapGraph, { x, weights }: Positions): string {
  return weights === undefined ? x : graph.node('Mul', [x, graph.node('Unsqueeze', [weights, graph.ints([1])])])
}

/** [blocks, K, K]: left · rightᵀ, summed over positions; both have the layout of `left`. */
function products(graph: TapGraph, tap: Tap, left: Positions, right: string): string {
  const byRows = left.layout === 'TK'
  if (tap.blocks === 1) {
    const one = graph.node('Gemm', [left.x, right], byRows ? { transA: 1 } : { transB: 1 })
    return graph.reshape(one, [1, tap.cols, tap.cols])
  }
  const turned = graph.transpose(byRows ? left.x : right, [0, 2, 1])
  return graph.node('MatMul', byRows ? [turned, right] : [left.x, turned])
}

/** [blocks, K]: x summed over positions. */
function total(graph: TapGraph, tap: Tap, { x, layout, weights }: Positions): string {
  const shape = [tap.blocks, tap.cols]
  if (weights !== undefined) {
    // A product with the weights saves a copy of x.
    return graph.reshape(graph.node('MatMul', [graph.reshape(weights, [1, -1]), x]), shape)
  }
  const axis = graph.ints([layout === 'TK' ? -2 : -1])
  return graph.reshape(graph.node('ReduceSum', [x, axis], { keepdims: 0 }), shape)
}

/** [1]: the sum of the weights. */
function countOf(graph: TapGraph, { x, layout, weights }: Positions): string {
  if (weights !== undefined) return graph.node('ReduceSum', [weights], { keepdims: 1 })
  const ends = layout === 'TK' ? { start: -2, end: -1 } : { start: -1 }
  return graph.toFloat(graph.node('Shape', [x], ends))
}

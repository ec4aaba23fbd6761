/** @file Multiply-accumulates of a weighted layer, as far as the model declares shapes. */
import type { ModelIndex, Scope } from './graph.ts'
import type { WeightedLayer, WeightUse } from './layers.ts'
import { integerShape } from './valueShapes.ts'

export interface Macs {
  readonly count: number
  /** The number is per output position (token, pixel): the shape of the layer's output is not declared. */
  readonly perPosition: boolean
}

/** A lookup multiplies nothing; every other weight is used once per output position. */
export function layerMacs(index: ModelIndex, layer: WeightedLayer): Macs | undefined {
  const uses = distinctNodes(layer.uses).filter((use) => use.node.opType !== 'Gather')
  if (uses.length === 0) return { count: 0, perPosition: false }
  let count = 0
  let perPosition = false
  for (const use of uses) {
    const positions = outputPositions(index, use, layer)
    if (positions === undefined) perPosition = true
    count += layer.weights * (positions ?? 1)
  }
  return { count, perPosition }
}

/** Output values per output row of the weight: tokens of a MatMul, pixels of a Conv, steps of an LSTM. */
function outputPositions(index: ModelIndex, use: WeightUse, layer: WeightedLayer): number | undefined {
  const shape = declared(index, use.scope, use.node.output[0] ?? '')
  if (!shape) return undefined
  const values = shape.reduce((a, b) => a * b, 1)
  switch (use.node.opType) {
    case 'MatMul':
    case 'Gemm':
    case 'FusedMatMul':
      return use.dims && use.dims.length === 2 ? values / (layer.weights / layer.view.reduction) : undefined
    case 'Conv':
    case 'FusedConv':
      return shape[0]! * shape.slice(2).reduce((a, b) => a * b, 1) || undefined
    case 'ConvTranspose': {
      // Each weight meets every input position of its channel.
      const input = declared(index, use.scope, use.node.input[0] ?? '')
      return input && input[0]! * input.slice(2).reduce((a, b) => a * b, 1)
    }
    case 'LSTM':
    case 'GRU':
    case 'RNN':
      // Y [steps, directions, batch, hidden]
      return shape.length === 4 ? shape[0]! * shape[2]! : undefined
  }
  return undefined
}

function declared(index: ModelIndex, scope: Scope, name: string): readonly number[] | undefined {
  const graph = scope.graph
  if (!graph || !name) return undefined
  const value = [graph.valueInfo, graph.output, graph.input].flat().find((info) => info.name === name)
  const shape = value && integerShape(value)
  return shape ?? (scope.parent ? declared(index, scope.parent, name) : undefined)
}

function distinctNodes(uses: readonly WeightUse[]): WeightUse[] {
  return uses.filter((use, i) => uses.findIndex((other) => other.node === use.node) === i)
}

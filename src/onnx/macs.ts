/** @file Multiply-accumulates of a weighted layer, as far as shapes are known. */
import { intAttribute } from './attributes.ts'
import type { ModelIndex, Scope } from './graph.ts'
import type { WeightedLayer, WeightUse } from './layers.ts'
import { declaredShape } from './valueShapes.ts'

export interface Macs {
  readonly count: number
  /** The number is per output position (token, pixel, step): how many there are depends on the input. */
  readonly perPosition: boolean
}

/** A shape in which dimensions may be unknown (undefined) or symbolic (a name). */
type Shape = readonly (number | string | undefined)[]

/**
 * Multiply-accumulates for one sample: an unknown first dimension (the batch) counts as 1. A lookup multiplies nothing;
 * every other weight is used once per output position.
 * @param inferred shapes of values of the main graph that the model does not declare, by name.
 */
export function layerMacs(
  index: ModelIndex,
  layer: WeightedLayer,
  inferred: ReadonlyMap<string, Shape> = new Map(),
): Macs {
  const uses = distinctNodes(layer.uses).filter((use) => use.node.opType !== 'Gather')
  if (uses.length === 0) return { count: 0, perPosition: false }
  const shapeOf = (scope: Scope, name: string | undefined): Shape | undefined => {
    if (!name) return undefined
    const known = scope === index.scopes[0] ? inferred.get(name) : undefined
    return known ?? declaredShape(scope, name)
  }
  let positions: number | undefined = 0
  for (const use of uses) {
    const own = outputPositions(use, shapeOf)
    positions = own === undefined || positions === undefined ? undefined : positions + own
  }
  // Where one use is counted for one position, so are all: a sum of both would mean nothing.
  return { count: layer.weights * (positions ?? uses.length), perPosition: positions === undefined }
}

type ShapeOf = (scope: Scope, name: string | undefined) => Shape | undefined

/** Output values per row of the weight: tokens of a MatMul, pixels of a Conv, steps of an LSTM. */
function outputPositions(use: WeightUse, shapeOf: ShapeOf): number | undefined {
  const { scope, node } = use
  const shape = shapeOf(scope, node.output[0])
  switch (node.opType) {
    case 'MatMul':
    case 'Gemm':
    case 'FusedMatMul': {
      // The weight is the right operand [stack…, K, N] of an output […, M, N], or the left one [stack…, M, K].
      if (!use.dims || use.dims.length < 2 || !shape) return undefined
      const isBatched = use.inputIndex === 1 || shape.length > 2
      const others = use.inputIndex === 1 ? shape.slice(0, -1) : [...shape.slice(0, -2), ...shape.slice(-1)]
      const all = product(others, isBatched)
      return all && all / product(use.dims.slice(0, -2), false)!
    }
    case 'Conv':
    case 'FusedConv':
      return shape && product([shape[0], ...shape.slice(2)], true)
    case 'ConvTranspose': {
      // Each weight meets every input position of its channel.
      const input = shapeOf(scope, node.input[0])
      return input && product([input[0], ...input.slice(2)], true)
    }
    case 'LSTM':
    case 'GRU':
    case 'RNN':
      // Y [steps, directions, batch, hidden], or [batch, steps, directions, hidden] with layout 1.
      if (shape?.length !== 4) return undefined
      return product(intAttribute(node, 'layout', 0) === 0 ? [shape[2], shape[0]] : [shape[0], shape[1]], true)
  }
  return undefined
}

/** Product of dimensions, undefined when one is unknown; the first may be an unknown batch, which counts as 1. */
function product(dims: Shape, batchFirst: boolean): number | undefined {
  let total = 1
  for (const [i, dim] of dims.entries()) {
    if (typeof dim === 'number') total *= dim
    else if (!batchFirst || i > 0) return undefined
  }
  return total
}

function distinctNodes(uses: readonly WeightUse[]): WeightUse[] {
  return uses.filter((use, i) => uses.findIndex((other) => other.node === use.node) === i)
}

/** @file What the model proves about shapes that a channel axis passes: ranks, stored numbers, targets of Reshape. */
import type { MainGraph } from '../../calibration/mainGraph.ts'
import { intAttribute, intsAttribute } from '../../onnx/attributes.ts'
import { integerValues } from '../../onnx/integers.ts'
import { DataType, type NodeProto } from '../../onnx/proto.ts'
import { inferRanks } from '../../onnx/ranks.ts'
import { elementCount, tensorBytes } from '../../onnx/tensorData.ts'
import { declaredShape } from '../../onnx/valueShapes.ts'
import { KEEPS_SHAPE } from './operators.ts'

/** A size that is read from a tensor when the model runs. */
interface DimensionOf {
  readonly tensor: string
  readonly axis: number
}

type Size = number | DimensionOf | undefined

const MOST_STEPS = 32

export class Shapes {
  readonly graph: MainGraph
  readonly #ranks: ReturnType<typeof inferRanks>

  constructor(graph: MainGraph) {
    this.graph = graph
    this.#ranks = inferRanks(graph.index)
  }

  rank(name: string): number | undefined {
    return this.#ranks(this.graph.scope, name)
  }

  /** Size of an axis counted from the end, where the model declares it. */
  declared(name: string, axis: number): number | undefined {
    const size = declaredShape(this.graph.scope, name)?.at(axis)
    return typeof size === 'number' && size > 0 ? size : undefined
  }

  /** Product of the sizes behind an axis counted from the end; undefined where the model does not prove it. */
  behind(name: string, axis: number): number | undefined {
    let at = name
    for (let steps = 0; steps < MOST_STEPS && axis < -1; steps++) {
      const sizes = Array.from({ length: -axis - 1 }, (_, i) => this.declared(at, -1 - i))
      if (sizes.every((size) => size !== undefined)) return sizes.reduce<number>((product, size) => product * size!, 1)
      const node = this.graph.scope.producers.get(at)
      if (node?.opType.startsWith('Global')) return 1
      if (node?.opType.startsWith('Reduce') && intAttribute(node, 'keepdims', 1) !== 0) {
        const rank = this.rank(at)
        const gone = this.axes(node)?.map((a) => (a < 0 || rank === undefined ? a : a - rank))
        return gone && sizes.every((_, i) => gone.includes(-1 - i)) ? 1 : undefined
      }
      if (!node || !KEEPS_SHAPE.has(node.opType)) return undefined
      at = node.input[0]!
    }
    return axis === -1 ? 1 : undefined
  }

  /** Axes that a node names, by attribute or by input 1. */
  axes(node: NodeProto): number[] | undefined {
    return intsAttribute(node, 'axes') ?? this.integers(node.input[1])
  }

  /** Integers that the model stores. */
  integers(name: string | undefined): number[] | undefined {
    const { constants, producers } = this.graph.scope
    const constant = constants.get(name ?? '')
    if (constant) return integerValues(constant.tensor)
    const made = producers.get(name ?? '')
    return made?.opType === 'Constant' ? intsAttribute(made, 'value_ints') : undefined
  }

  /** float32 numbers that the model itself stores, as scales of Resize are. */
  floats(name: string | undefined): Float32Array | undefined {
    const tensor = this.graph.scope.constants.get(name ?? '')?.tensor
    if (tensor?.dataType !== DataType.FLOAT) return undefined
    // A copy, since the bytes may start at any address.
    const bytes = new Uint8Array(tensorBytes({ payloads: new Map() }, tensor))
    return bytes.length === 4 * elementCount(tensor) ? new Float32Array(bytes.buffer) : undefined
  }

  /**
   * The shape that a Reshape asks for, −1 and 0 as written; undefined where not even its length is known. It may be put
   * together from stored numbers and sizes of tensors, as tracing exporters do.
   */
  target(node: NodeProto): readonly Size[] | undefined {
    return intsAttribute(node, 'shape') ?? this.#sizes(node.input[1] ?? '')
  }

  #sizes(name: string): readonly Size[] | undefined {
    const stored = this.integers(name)
    if (stored) return stored
    const node = this.graph.scope.producers.get(name)
    if (node?.opType === 'Concat') {
      const parts = node.input.map((input) => this.#sizes(input))
      return parts.every((part) => part !== undefined) ? parts.flat() : undefined
    }
    if (node?.opType === 'Unsqueeze') {
      const [data = ''] = node.input
      // A vector with another axis would be no shape.
      const dimension = this.#dimension(data)
      if (dimension) return [dimension]
      return this.rank(data) === 0 ? [undefined] : undefined
    }
    return undefined
  }

  /** Gather(Shape(tensor), axis). */
  #dimension(name: string): DimensionOf | undefined {
    const { scope } = this.graph
    const gather = scope.producers.get(name)
    if (gather?.opType !== 'Gather') return undefined
    const shape = scope.producers.get(gather.input[0] ?? '')
    const axis = this.integers(gather.input[1])
    const isWhole = shape?.opType === 'Shape' && shape.attribute.length === 0
    return isWhole && axis?.length === 1 ? { tensor: shape.input[0]!, axis: axis[0]! } : undefined
  }
}

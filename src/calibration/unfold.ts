/**
 * @file What the window of a convolution sees at each position (im2col), made by onnxruntime: a convolution with one
 * output channel for each place in the window, whose kernel is one there and zero elsewhere.
 */
import { DataType, makeTensor } from '../onnx/proto.ts'
import type { Tap } from './tap.ts'
import type { Positions, TapGraph } from './tapGraph.ts'

/** A convolution without its weight. Lists have one entry per spatial axis; `pads` the beginnings, then the ends. */
export interface ConvGeometry {
  /** Input channels, of all groups together. */
  readonly channels: number
  readonly groups: number
  readonly kernel: readonly number[]
  readonly strides: readonly number[]
  readonly dilations: readonly number[]
  readonly pads: readonly number[]
  /** SAME_… overrides `pads`; NOTSET otherwise. */
  readonly autoPad: string
}

const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

/**
 * X [K, T] or [groups, K, T] of an image [N, C, …]: K = C/groups · places, channels first, then the places of the window in
 * row-major order, as in Conv's weight. T runs over images, then positions.
 */
export function emitPatches(graph: TapGraph, image: string, geometry: ConvGeometry): Positions {
  const { channels, groups, kernel, strides, dilations, pads, autoPad } = geometry
  const places = product(kernel)
  const identity = Float32Array.from({ length: places * places }, (_, i) => (i % (places + 1) === 0 ? 1 : 0))
  const oneHot = graph.constant(
    makeTensor({
      dataType: DataType.FLOAT,
      dims: [places, 1, ...kernel].map(BigInt),
      rawData: new Uint8Array(identity.buffer),
    }),
  )
  // Channels are taken as images, so that one kernel serves all: a grouped convolution would need a copy for each.
  const spatial = graph.node('Shape', [image], { start: 2 })
  const planes = graph.reshapeTo(image, graph.join([graph.ints([-1, 1]), spatial]))
  const padding = autoPad === 'NOTSET' ? { pads } : { auto_pad: autoPad }
  const seen = graph.node('Conv', [planes, oneHot], { kernel_shape: kernel, strides, dilations, ...padding })
  const flat = graph.reshape(seen, [0, 0, -1])
  const cols = (channels / groups) * places
  const positions = graph.node('Shape', [flat], { start: -1 })
  const grouped = graph.reshapeTo(flat, graph.join([graph.ints([-1, groups, cols]), positions]))
  return imagesLast(graph, grouped, groups, cols)
}

/** X [K, T] or [groups, K, T] of [N, C, …], K = C/groups: what a 1×1 window sees. */
export function emitChannels(graph: TapGraph, image: string, groups: number, cols: number): Positions {
  return imagesLast(graph, graph.reshape(image, [0, groups, cols, -1]), groups, cols)
}

function imagesLast(graph: TapGraph, grouped: string, groups: number, cols: number): Positions {
  const moved = graph.transpose(grouped, [1, 2, 0, 3])
  return { x: graph.reshape(moved, groups === 1 ? [cols, -1] : [groups, cols, -1]), layout: 'KT' }
}

/**
 * Numbers that a tap's model lays out, as float32, for one index along axis 0 of the tensor that it reads; up to three
 * times that, and for each of two paths, where it transposes or weights them.
 *
 * @param shapes dimensions of `tap.reads`, in their order.
 * @returns 0 where the tensor must not be cut along axis 0, because the statistics of the pieces would not add up.
 */
export function unfoldedElements(tap: Tap, shapes: readonly (readonly number[])[]): number {
  const { source, cols, blocks } = tap
  const dims = shapes[0]!
  const rest = product(dims.slice(1))
  switch (source.kind) {
    case 'rows':
      return dims.length > 1 ? rest : 0
    case 'columns':
      return dims.length > 2 ? rest : 0
    case 'channels':
      return rest
    case 'patches':
      return blocks * cols * patchCount(source.geometry, dims.slice(2))
    case 'batches':
      if (dims.length <= source.batch.length + 2) return 0
      // Axes of the batch that the tensor has once are repeated.
      return (
        rest * source.batch.reduce((n, size, i) => (n * size) / dims[dims.length - 2 - source.batch.length + i]!, 1)
      )
    // Steps follow each other along axis 0.
    case 'steps':
    case 'states':
      return 0
  }
}

/** Positions of the window in an image of these spatial dimensions. */
function patchCount(geometry: ConvGeometry, spatial: readonly number[]): number {
  const { kernel, strides, dilations, pads, autoPad } = geometry
  return product(
    spatial.map((size, axis) => {
      const stride = strides[axis]!
      if (autoPad !== 'NOTSET') return Math.ceil(size / stride)
      const window = (kernel[axis]! - 1) * dilations[axis]! + 1
      const padded = size + pads[axis]! + pads[axis + spatial.length]!
      return Math.max(Math.floor((padded - window) / stride) + 1, 0)
    }),
  )
}

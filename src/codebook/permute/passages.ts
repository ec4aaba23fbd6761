/**
 * @file How the axis of channels passes a node, forwards to its output and backwards to its input. What is followed is the
 * place of channels: along one axis, each taking `block` places in a row.
 */
import { intAttribute, intsAttribute } from '../../onnx/attributes.ts'
import type { NodeProto } from '../../onnx/proto.ts'
import { isDefaultDomain } from '../../onnx/ranks.ts'
import { kindOf } from './operators.ts'
import type { Shapes } from './shapes.ts'

/** Where a tensor has its channels. */
export interface Place {
  /** Counted from the end, −1 for the last: broadcasting keeps it. */
  readonly axis: number
  /** Places of one channel; undefined where only the tensors that meet it know (positions behind a Flatten). */
  readonly block: number | undefined
}

/**
 * The place in a node's first output, given that of its first input.
 * @param channels number of channels.
 * @returns undefined where the node mixes channels, cuts them, or the model does not prove that it does not.
 */
export function passForward(shapes: Shapes, node: NodeProto, place: Place, channels: number): Place | undefined {
  if (keepsPlace(shapes, node, place, channels)) return place
  if (!isDefaultDomain(node.domain)) return undefined
  const rank = shapes.rank(node.input[0] ?? '')
  if (node.opType.startsWith('Reduce')) return reduced(shapes, node, place, rank)
  switch (node.opType) {
    case 'Transpose': {
      const perm = intsAttribute(node, 'perm')
      return perm && { ...place, axis: perm.indexOf(perm.length + place.axis) - perm.length }
    }
    case 'Flatten': {
      const axis = intAttribute(node, 'axis', 1)
      if (rank === undefined || place.axis !== (axis < 0 ? axis : axis - rank)) return undefined
      return joined(shapes, node, place)
    }
    case 'Reshape':
      return reshaped(shapes, node, place, channels)
    case 'Squeeze':
      return withoutAxes(shapes.axes(node), place, rank)
    case 'Unsqueeze': {
      const axes = shapes.axes(node)
      if (!axes || rank === undefined) return undefined
      const added = axes.map((axis) => (axis < 0 ? axis : axis - rank - axes.length))
      let axis = -1
      // The old axes, from the last to that of the channels, fill what the new ones leave.
      for (let left = -place.axis; ; axis--) if (!added.includes(axis) && --left === 0) break
      return { ...place, axis }
    }
  }
  return undefined
}

/** The place in a node's first input, given that of its first output. */
export function passBackward(shapes: Shapes, node: NodeProto, place: Place, channels: number): Place | undefined {
  if (keepsPlace(shapes, node, place, channels)) return place
  const perm = isDefaultDomain(node.domain) && node.opType === 'Transpose' ? intsAttribute(node, 'perm') : undefined
  return perm && { ...place, axis: perm[perm.length + place.axis]! - perm.length }
}

/** Modes of Resize that move axes of scale 1 or give them another scale: a crop box, half a pixel, a common scale. */
const MOVES = /^tf_|^not_/

function keepsPlace(shapes: Shapes, node: NodeProto, { axis, block }: Place, channels: number): boolean {
  const kind = kindOf(node)
  if (kind === 'unary') return true
  const rank = shapes.rank(node.input[0] ?? '')
  if (rank === undefined || !isDefaultDomain(node.domain)) return false
  const at = rank + axis
  if (kind === 'pool' || kind === 'batchNorm') return at === 1
  if (node.opType === 'Pad') {
    if (node.input[3]) return false
    const pads = intsAttribute(node, 'pads') ?? shapes.integers(node.input[1])
    return pads?.length === 2 * rank && pads[at] === 0 && pads[at + rank] === 0
  }
  if (node.opType !== 'Resize' && node.opType !== 'Upsample') return false
  if (node.attribute.some(({ name, s }) => name === 'axes' || MOVES.test(new TextDecoder().decode(s)))) return false
  const scales = shapes.floats(node.input.length > 2 ? node.input[2] : node.input[1])
  if (scales && scales.length > 0) return scales[at] === 1
  return block !== undefined && shapes.integers(node.input[3])?.[at] === channels * block
}

const normalised = (axes: readonly number[], rank: number | undefined) =>
  axes.every((axis) => axis < 0) ? axes : rank === undefined ? undefined : axes.map((a) => (a < 0 ? a : a - rank))

/** @param axes that are taken away. */
function withoutAxes(axes: readonly number[] | undefined, place: Place, rank: number | undefined): Place | undefined {
  const gone = axes && normalised(axes, rank)
  if (!gone || gone.length === 0 || gone.includes(place.axis)) return undefined
  return { ...place, axis: place.axis + gone.filter((axis) => axis > place.axis).length }
}

function reduced(shapes: Shapes, node: NodeProto, place: Place, rank: number | undefined): Place | undefined {
  const rest = withoutAxes(shapes.axes(node), place, rank)
  return rest && (intAttribute(node, 'keepdims', 1) !== 0 ? place : rest)
}

/** The channels and what lies behind them become the last axis. */
function joined(shapes: Shapes, node: NodeProto, { axis, block }: Place): Place {
  const behind = shapes.behind(node.input[0]!, axis)
  return { axis: -1, block: behind === undefined || block === undefined ? undefined : block * behind }
}

function reshaped(shapes: Shapes, node: NodeProto, place: Place, channels: number): Place | undefined {
  const [data = ''] = node.input
  const target = shapes.target(node)
  if (!target) return undefined
  const rank = shapes.rank(data)
  const copies = intAttribute(node, 'allowzero', 0) === 0
  const behind = shapes.behind(data, place.axis)
  if (behind !== undefined && place.block !== undefined) {
    // The flat index modulo `whole` says the channel. It does so in the output as well where the last axes are as large.
    const whole = channels * place.block * behind
    const isCopied = (at: number) => copies && target[at] === 0 && rank !== undefined && at === rank + place.axis
    let last = target.length - 1
    while (behind === 1 && last > 0 && target[last] === 1) last--
    if (target[last] === whole || (behind === 1 && isCopied(last))) {
      return { axis: last - target.length, block: place.block * behind }
    }
  }
  // [batch, channels, …] → [batch, all]
  if (target.length !== 2 || rank === undefined || rank + place.axis !== 1) return undefined
  const [first] = target
  const keepsFirst =
    typeof first === 'object'
      ? first.tensor === data && first.axis === 0
      : first !== undefined && ((copies && first === 0) || first === shapes.declared(data, -rank))
  return keepsFirst ? joined(shapes, node, place) : undefined
}

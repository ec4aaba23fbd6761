/**
 * @file Nodes that hand channels on as they are: they move, copy, cut or sum up tokens, or multiply whole tokens, and the
 * channels stay along the last axis. Any rotation of the channels passes through them unchanged.
 */
import { intAttribute, intsAttribute } from '../onnx/attributes.ts'
import { isFloatType } from '../onnx/chain.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { isDefaultDomain } from '../onnx/ranks.ts'
import type { AxisFacts } from './axisFacts.ts'

interface Passage {
  /** Inputs that have channels, and outputs that have them then. */
  readonly inputs: readonly number[]
  readonly outputs: readonly string[]
  /**
   * False where tokens are multiplied or summed up: a norm's bias, which is the same for all tokens, would come out
   * differently.
   */
  readonly keepsConstants: boolean
}

/** A node that moves or splits the channel axis, with the words for it. */
interface Blocked {
  readonly does: string
}

/**
 * How channels pass a node.
 * @param width number of channels.
 * @returns undefined for nodes that are not of this kind.
 */
export function passageOf(facts: AxisFacts, node: NodeProto, width: number): Passage | Blocked | undefined {
  if (!isDefaultDomain(node.domain)) return undefined
  const [data = ''] = node.input
  const passes = { inputs: [0], outputs: node.output.slice(0, 1), keepsConstants: true }
  const unless = (touched: boolean | undefined, does: string): Passage | Blocked => {
    if (touched === false) return passes
    return { does: touched ? does : `works along an axis that the file does not tell` }
  }
  const along = (axes: readonly number[] | undefined, rank: number | undefined): boolean | undefined => {
    const last = axes?.map((axis) => facts.isLast(axis, rank))
    return last?.includes(undefined) ? undefined : last?.includes(true)
  }
  switch (node.opType) {
    case 'Identity':
    case 'Dropout':
      return passes
    case 'Cast':
      return isFloatType(intAttribute(node, 'to', 0)) ? passes : { does: 'turns the channels into integers' }
    case 'Transpose': {
      const perm = intsAttribute(node, 'perm')
      return unless(perm?.at(-1) !== (perm?.length ?? 0) - 1, 'moves the channels to another axis')
    }
    case 'Reshape':
    case 'Flatten': {
      const isTrivial = node.opType === 'Flatten' && facts.isLast(intAttribute(node, 'axis', 1), facts.rank(data))
      const last = isTrivial ? width : facts.last(node.output[0]!)
      return unless(last === undefined ? undefined : last !== width, 'splits or joins the channels')
    }
    case 'Squeeze': {
      const axes = facts.axes(node)
      // Without axes those of size one go, which the channels are not.
      return unless(axes || node.input[1] ? along(axes, facts.rank(data)) : false, 'takes the channel axis away')
    }
    case 'Unsqueeze':
      return unless(along(facts.axes(node), facts.rank(node.output[0]!)), 'moves the channels to another axis')
    case 'Gather':
      return unless(along([intAttribute(node, 'axis', 0)], facts.rank(data)), 'takes single channels')
    case 'Slice': {
      const axes = node.input[3] ? facts.integers(node.input[3]) : intsAttribute(node, 'axes')
      const starts = node.input[1] ? facts.last(node.input[1]) : intsAttribute(node, 'starts')?.length
      const hasNone = !node.input[3] && !axes && starts !== undefined
      const cut = hasNone ? Array.from({ length: starts }, (_, axis) => axis) : axes
      return unless(along(cut, facts.rank(data)), 'takes single channels')
    }
    case 'Expand': {
      const size = facts.last(data)
      return unless(size === undefined ? undefined : size !== width, 'repeats one number for all channels')
    }
    case 'Split': {
      const split = unless(along([intAttribute(node, 'axis', 0)], facts.rank(data)), 'splits the channels')
      return 'does' in split ? split : { ...split, outputs: node.output }
    }
    case 'Concat': {
      const joined = unless(
        along([intAttribute(node, 'axis', 0)], facts.rank(node.output[0]!)),
        'joins the channels with others',
      )
      return 'does' in joined ? joined : { ...joined, inputs: node.input.map((_, i) => i) }
    }
    case 'Tile': {
      const repeats = facts.integers(node.input[1])?.at(-1)
      return unless(repeats === undefined ? undefined : repeats !== 1, 'repeats the channels')
    }
    case 'ReduceMean':
    case 'ReduceSum': {
      const pooled = unless(
        along(facts.axes(node), facts.rank(data)),
        'sums over channels without being part of a norm',
      )
      return 'does' in pooled ? pooled : { ...pooled, keepsConstants: node.opType === 'ReduceMean' }
    }
    case 'Neg':
      return { ...passes, keepsConstants: false }
    case 'Mul':
    case 'Div':
      return scaling(facts, node, width)
  }
  return undefined
}

/** A product with a number for each token: what multiplies has a last axis of one. */
function scaling(facts: AxisFacts, node: NodeProto, width: number): Passage | undefined {
  const sizes = node.input.map((name) => facts.last(name))
  const outputs = node.output.slice(0, 1)
  if (sizes[1] === 1 && sizes[0] !== 1) return { inputs: [0], outputs, keepsConstants: false }
  if (node.opType === 'Mul' && sizes[0] === 1 && sizes[1] !== 1 && width > 1)
    return { inputs: [1], outputs, keepsConstants: false }
  return undefined
}

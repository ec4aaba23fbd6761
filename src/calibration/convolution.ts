/** @file Taps of convolutions. */
import { intAttribute, intsAttribute } from '../onnx/attributes.ts'
import { weightSlot } from '../onnx/operators.ts'
import { textAttribute } from '../onnx/opsetChanges.ts'
import type { NodeProto } from '../onnx/proto.ts'
import type { NoTap, TapDraft } from './tap.ts'
import type { ConvGeometry } from './unfold.ts'

/** Conv and FusedConv, any number of axes; weight [Cout, Cin/group, kernel…]. */
export function convTap(node: NodeProto, dims: readonly number[]): TapDraft {
  const groups = intAttribute(node, 'group', 1)
  const geometry = convGeometry(node, dims[1]! * groups, groups, dims.slice(2))
  const { kernel, strides, dilations, pads, autoPad } = geometry
  if ([...kernel, ...strides].every((n) => n === 1) && pads.every((n) => n === 0)) return channelTap(node, groups)
  return {
    blocks: groups,
    reads: [node.input[0]!],
    source: { kind: 'patches', geometry },
    identity: [groups, kernel, strides, dilations, pads, autoPad],
  }
}

/**
 * ConvTranspose whose weight [Cin, Cout/group, kernel…] is grouped along the input channels (operators.ts): each input
 * position sends W·x to several outputs. Where windows overlap, errors of neighbouring positions add up in one output;
 * that they correlate is not seen here.
 */
export function convTransposeTap(node: NodeProto, dims: readonly number[]): TapDraft | NoTap {
  const groups = intAttribute(node, 'group', 1)
  const view = weightSlot(node, 1, dims)?.view
  // Otherwise a row is one channel: the sum runs over places that many positions share, which no vector of inputs is.
  if (view?.outer !== groups || view.reduction * groups !== dims[0])
    return { reason: 'a ConvTranspose with few input channels per group is not a sum over them' }
  return channelTap(node, groups)
}

function channelTap(node: NodeProto, groups: number): TapDraft {
  return {
    blocks: groups,
    reads: [node.input[0]!],
    source: { kind: 'channels', groups },
    identity: [groups],
  }
}

function convGeometry(node: NodeProto, channels: number, groups: number, kernel: readonly number[]): ConvGeometry {
  const ones = kernel.map(() => 1)
  const zeros = [...kernel, ...kernel].map(() => 0)
  const wanted = textAttribute(node, 'auto_pad') ?? 'NOTSET'
  const isSame = wanted.startsWith('SAME') && kernel.some((n) => n > 1)
  return {
    channels,
    groups,
    kernel,
    strides: listed(node, 'strides') ?? ones,
    dilations: listed(node, 'dilations') ?? ones,
    pads: wanted === 'NOTSET' ? (listed(node, 'pads') ?? zeros) : zeros,
    autoPad: isSame ? wanted : 'NOTSET',
  }
}

/** A list that is empty stands for the default, as one that is not there does. */
function listed(node: NodeProto, name: string): readonly number[] | undefined {
  const values = intsAttribute(node, name)
  return values?.length ? values : undefined
}

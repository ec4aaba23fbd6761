/** @file Which input of a model takes images, and how its axes are laid out. */
import { QtoolError } from '../errors.ts'
import { requiredInputs } from './fillInputs.ts'
import { fixedDim, type ModelInput } from './modelInput.ts'
import { formatShape } from './ndArray.ts'

export type ImageLayout = 'nchw' | 'nhwc'

export interface ImageTarget {
  readonly input: ModelInput
  readonly layout: ImageLayout
  /** 1 = grey, 3 = red, green, blue. */
  readonly channels: 1 | 3
  /** Fixed sizes in pixels; undefined where the model takes any. */
  readonly height: number | undefined
  readonly width: number | undefined
}

const ELEMENT_TYPES = ['float', 'float16', 'double', 'uint8']
const CHANNEL_AXIS = { nchw: 1, nhwc: 3 } as const

/**
 * The one input [batch, channels, height, width] or [batch, height, width, channels] that only data can supply.
 *
 * @param layout  what the user says; without it the axis that has 1 or 3 entries, or is named so, is that of the channels.
 * @param notes   gets what was assumed.
 * @throws QtoolError `data` when no input, or more than one, takes images; `usage` when the layout does not fit or is needed.
 */
export function imageTarget(
  inputs: readonly ModelInput[],
  constants: Readonly<Record<string, number>>,
  layout: ImageLayout | undefined,
  notes: Set<string>,
): ImageTarget {
  const images = requiredInputs(inputs, constants).filter(
    (input) =>
      input.dims.length === 4 &&
      ELEMENT_TYPES.includes(input.elementType) &&
      (channelFit(input, 'nchw') >= 0 || channelFit(input, 'nhwc') >= 0),
  )
  const [input] = images
  if (!input || images.length > 1) {
    const list = inputs.map(({ name, elementType, dims }) => `${name} (${elementType} ${formatShape(dims)})`).join(', ')
    throw new QtoolError(
      'data',
      `the data are images, but ${images.length || 'no'} inputs of the model take images: ${list}`,
      {
        hint: 'images need one input of floats or uint8, [batch, 1 or 3, height, width] or [batch, height, width, 1 or 3]',
      },
    )
  }
  const chosen = layout ?? findLayout(input, notes)
  if (channelFit(input, chosen) < 0) {
    throw new QtoolError('usage', `layout ${chosen} does not fit input ${input.name} ${formatShape(input.dims)}`)
  }
  const channels = fixedDim(input, CHANNEL_AXIS[chosen])
  if (channels === undefined) notes.add(`${input.name}: the model does not say how many channels it takes; 3 are fed`)
  const rows = chosen === 'nchw' ? 2 : 1
  return {
    input,
    layout: chosen,
    channels: channels === 1 ? 1 : 3,
    height: fixedDim(input, rows),
    width: fixedDim(input, rows + 1),
  }
}

/** How well the channels fit on the layout's axis: 2 fixed, 1 by name, 0 open, −1 not at all. */
function channelFit(input: ModelInput, layout: ImageLayout): number {
  const dim = input.dims[CHANNEL_AXIS[layout]]
  if (typeof dim === 'number') return dim === 1 || dim === 3 ? 2 : -1
  return dim !== undefined && /chan|^c$/i.test(dim) ? 1 : 0
}

function findLayout(input: ModelInput, notes: Set<string>): ImageLayout {
  const [first, last] = [channelFit(input, 'nchw'), channelFit(input, 'nhwc')]
  if (first === last && first > 0) {
    throw new QtoolError(
      'usage',
      `input ${input.name} ${formatShape(input.dims)}: axis 1 or axis 3 may be the channels`,
      {
        hint: 'say which with the layout, nchw or nhwc',
      },
    )
  }
  if (first === last) notes.add(`${input.name}: its shape does not show the layout; nchw is assumed`)
  return last > first ? 'nhwc' : 'nchw'
}

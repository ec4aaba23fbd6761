/** @file What the window of a convolution sees, by the definition in ONNX's Conv, one number at a time. */

export interface Window {
  readonly groups: number
  readonly kernel: readonly number[]
  readonly strides: readonly number[]
  readonly dilations: readonly number[]
  /** Beginnings, then ends; of no effect with `autoPad`. */
  readonly pads: readonly number[]
  readonly autoPad: 'NOTSET' | 'VALID' | 'SAME_UPPER' | 'SAME_LOWER'
}

/** All index vectors below `dims`, row-major. */
export function indicesOf(dims: readonly number[]): number[][] {
  return dims.reduce<number[][]>(
    (found, size) => found.flatMap((head) => Array.from({ length: size }, (_, i) => [...head, i])),
    [[]],
  )
}

export function flatIndex(at: readonly number[], dims: readonly number[]): number {
  return at.reduce((flat, i, axis) => flat * dims[axis]! + i, 0)
}

function padding(size: number, axis: number, window: Window): { begin: number; out: number } {
  const stride = window.strides[axis]!
  const reach = (window.kernel[axis]! - 1) * window.dilations[axis]! + 1
  if (window.autoPad.startsWith('SAME')) {
    const out = Math.ceil(size / stride)
    const total = Math.max((out - 1) * stride + reach - size, 0)
    return { out, begin: window.autoPad === 'SAME_UPPER' ? Math.floor(total / 2) : Math.ceil(total / 2) }
  }
  const begin = window.autoPad === 'VALID' ? 0 : window.pads[axis]!
  const end = window.autoPad === 'VALID' ? 0 : window.pads[axis + window.kernel.length]!
  return { begin, out: Math.floor((size + begin + end - reach) / stride) + 1 }
}

/** Spatial dimensions of the output. */
export function windowPositions(spatial: readonly number[], window: Window): number[] {
  return spatial.map((size, axis) => padding(size, axis, window).out)
}

/**
 * @param image [N, C, …] row-major.
 * @returns x by group and position (images, then output positions row-major): channel of the group, then window, row-major.
 */
export function im2col(image: ArrayLike<number>, dims: readonly number[], window: Window): number[][][] {
  const [images, channels, ...spatial] = dims as [number, number, ...number[]]
  const own = channels / window.groups
  const begins = spatial.map((size, axis) => padding(size, axis, window).begin)
  return Array.from({ length: window.groups }, (_, group) =>
    indicesOf([images, ...windowPositions(spatial, window)]).map(([n, ...position]) =>
      indicesOf([own, ...window.kernel]).map(([c, ...tap]) => {
        const at = tap.map((k, a) => position[a]! * window.strides[a]! + k * window.dilations[a]! - begins[a]!)
        const isInside = at.every((i, a) => i >= 0 && i < spatial[a]!)
        return isInside ? image[flatIndex([n!, group * own + c!, ...at], dims)]! : 0
      }),
    ),
  )
}

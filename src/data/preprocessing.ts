/**
 * @file What happens to an image before it is fed: resize, crop, rescale, as Hugging Face's preprocessor_config.json says
 * it (both the older feature extractors and the image processors that replaced them).
 */
import { QtoolError } from '../errors.ts'
import type { ModelFile } from './modelFolder.ts'
import type { Normalization } from './normalize.ts'
import type { Kernel } from './resample.ts'

/** Height, width, in pixels. */
export type Size = readonly [height: number, width: number]

/** `exact` does not keep the aspect ratio. `edge`: the shortest edge becomes `shortest`, unless the longest would pass `longest`. */
export type Resize =
  | { readonly kind: 'exact'; readonly size: Size }
  | { readonly kind: 'edge'; readonly shortest: number | undefined; readonly longest: number | undefined }

export interface Preprocessing {
  readonly resize: Resize | undefined
  /** From the centre, after the resize; zeros where the image is smaller. */
  readonly crop: Size | undefined
  readonly kernel: Kernel
  /** Blue, green, red instead of red, green, blue. */
  readonly reversed: boolean
  readonly normalization: Normalization | undefined
}

/** By PIL's numbers. */
const KERNELS: readonly Kernel[] = ['nearest', 'lanczos', 'linear', 'cubic', 'box', 'hamming']

/** Nothing is known but, perhaps, the size that the model takes. */
export function plainPreprocessing(size: Size | undefined): Preprocessing {
  return {
    resize: size && { kind: 'exact', size },
    crop: undefined,
    kernel: 'linear',
    reversed: false,
    normalization: undefined,
  }
}

/**
 * Read a preprocessor_config.json. Keys that are absent have the defaults of the library that writes it.
 * @param modelSize  what the model takes, for a file that gives no size.
 * @throws QtoolError `data` for values that make no sense.
 */
export function readPreprocessing({ path, content }: ModelFile, modelSize: Size | undefined): Preprocessing {
  const number = (key: string, fallback: number) => {
    const value = content[key] ?? fallback
    if (typeof value === 'number' && Number.isFinite(value)) return value
    throw new QtoolError('data', `${path}: ${key} is no number`)
  }
  const numbers = (key: string): readonly number[] | undefined => {
    const value = content[key] ?? undefined
    const list = typeof value === 'number' ? [value] : value
    if (list === undefined || (Array.isArray(list) && list.every(Number.isFinite))) return list
    throw new QtoolError('data', `${path}: ${key} is no list of numbers`)
  }
  const crop = content.do_center_crop === false ? undefined : readSize(content.crop_size, path, 'crop_size')
  const does = content.do_resize !== false
  const resize = does ? readResize(content, path, crop !== undefined) : undefined
  const kernel = KERNELS[number('resample', 2)]
  if (!kernel) throw new QtoolError('data', `${path}: resample ${content.resample} is not known`)
  const scale = content.do_rescale === false ? 1 : number('rescale_factor', 1 / 255)
  // Some networks want −1 … 1: the offset of 1 comes off before the mean.
  const offset = content.rescale_offset === true && content.do_rescale !== false ? 1 : 0
  const isNormalized = content.do_normalize !== false
  const mean = ((isNormalized && numbers('image_mean')) || [0]).map((value) => value + offset)
  const std = (isNormalized && numbers('image_std')) || [1]
  const { size, crop: cropped } = cutPart(content, resize, crop)
  return {
    resize: size ?? (does && modelSize ? { kind: 'exact', size: modelSize } : undefined),
    crop: cropped,
    kernel,
    reversed: content.do_flip_channel_order === true,
    normalization: { scale, mean, std },
  }
}

/** `crop_pct` (ConvNeXt): sizes below 384 are the middle of an image resized to size / crop_pct. */
function cutPart(
  content: Readonly<Record<string, unknown>>,
  size: Resize | undefined,
  crop: Size | undefined,
): { size: Resize | undefined; crop: Size | undefined } {
  const share = content.crop_pct
  const edge = size?.kind === 'edge' ? size.shortest : size?.size[0]
  if (typeof share !== 'number' || !(share > 0) || !size || edge === undefined || crop) return { size, crop }
  if (edge >= 384) return { size: { kind: 'exact', size: [edge, edge] }, crop }
  return { size: { kind: 'edge', shortest: Math.floor(edge / share), longest: undefined }, crop: [edge, edge] }
}

function readResize(content: Readonly<Record<string, unknown>>, path: string, isCropped: boolean): Resize | undefined {
  const { size } = content
  // The older files give one number: the shortest edge where a crop follows, else both edges.
  if (typeof size === 'number' && isCropped)
    return { kind: 'edge', shortest: pixels(size, path, 'size'), longest: undefined }
  const { shortest_edge: shortest, longest_edge: longest } = (size ?? {}) as Record<string, unknown>
  if (shortest !== undefined || longest !== undefined) {
    return {
      kind: 'edge',
      shortest: shortest === undefined ? undefined : pixels(shortest, path, 'size.shortest_edge'),
      longest: longest === undefined ? undefined : pixels(longest, path, 'size.longest_edge'),
    }
  }
  const exact = readSize(size, path, 'size')
  return exact && { kind: 'exact', size: exact }
}

/** A number, [height, width], or {height, width}. */
function readSize(value: unknown, path: string, key: string): Size | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value === 'object') {
    const { height, width } = Array.isArray(value)
      ? { height: value[0], width: value[1] }
      : (value as Record<string, unknown>)
    return [pixels(height, path, key), pixels(width, path, key)]
  }
  return [pixels(value, path, key), pixels(value, path, key)]
}

function pixels(value: unknown, path: string, key: string): number {
  if (Number.isSafeInteger(value) && (value as number) > 0) return value as number
  throw new QtoolError('data', `${path}: ${key} is no size in pixels that is known here`, {
    hint: 'give the image size instead',
  })
}

/**
 * Size of an image after the resize. As Hugging Face rounds: the other edge is cut to whole pixels.
 */
export function resizedSize([height, width]: Size, resize: Resize): Size {
  if (resize.kind === 'exact') return resize.size
  const [short, long] = [Math.min(height, width), Math.max(height, width)]
  let shortest = resize.shortest ?? Number.POSITIVE_INFINITY
  const { longest } = resize
  if (longest !== undefined && (shortest * long) / short > longest) shortest = Math.round((longest * short) / long)
  const other = Math.max(
    1,
    longest !== undefined && resize.shortest === undefined ? longest : Math.floor((shortest * long) / short),
  )
  const edge = Math.max(1, shortest)
  return height <= width ? [edge, other] : [other, edge]
}

/**
 * @file Image files → samples of bytes, decoded by sharp, an optional dependency.
 *
 * All are decoded when the data are opened, one byte a value after resize and crop, because batches are made without
 * waiting and decoding needs to wait; so memory is samples · height · width · channels. Only images that are wanted are decoded.
 */
import { QtoolError } from '../errors.ts'
import { readDataFile } from './dataFile.ts'
import type { DatasetOptions } from './dataset.ts'
import { type ImageTarget, imageTarget } from './imageTarget.ts'
import { layOut } from './layout.ts'
import type { LoadedData } from './loadData.ts'
import { readModelFile } from './modelFolder.ts'
import type { NdArray } from './ndArray.ts'
import { checkNormalization } from './normalize.ts'
import { pickSamples } from './pickSamples.ts'
import { type Preprocessing, plainPreprocessing, readPreprocessing, resizedSize, type Size } from './preprocessing.ts'
import { type Pixels, resample } from './resample.ts'

/** Images decoded at a time. */
const PARALLEL = 8

type Sharp = typeof import('sharp').default

/**
 * Decode images, one sample a file.
 *
 * @param notes  gets what is done to them, and by whose word.
 * @throws QtoolError `data` when sharp is missing, or an image cannot be decoded or has a shape that the model does not take.
 */
export async function loadImages(
  files: readonly string[],
  inputs: Parameters<typeof imageTarget>[0],
  options: DatasetOptions,
  notes: Set<string>,
): Promise<LoadedData> {
  const { constants = {}, samples = 0, pickSeed } = options
  const target = imageTarget(inputs, constants, options.layout, notes)
  const preprocessing = choosePreprocessing(target, options, notes)
  const sharp = await loadSharp()
  const wanted = samples > 0 && samples < files.length ? pickSamples(files.length, samples, pickSeed) : undefined
  const chosen = wanted ? Array.from(wanted, (i) => files[i]!) : files
  const blocks = []
  for (let at = 0; at < chosen.length; at += PARALLEL) {
    const part = chosen.slice(at, at + PARALLEL)
    const arrays = await Promise.all(part.map((file) => decodeImage(sharp, file, target, preprocessing)))
    for (const [i, array] of arrays.entries()) blocks.push(layOut(new Map([[target.input, array]]), part[i]!))
  }
  const { normalization } = preprocessing
  return {
    blocks,
    ...(normalization ? { normalize: { [target.input.name]: normalization } } : {}),
    ...(wanted ? { part: { numbers: wanted, total: files.length } } : {}),
  }
}

/**
 * @param importer  only tests give one.
 * @throws QtoolError `data` when sharp is not installed, or not for this machine.
 */
export async function loadSharp(importer: () => Promise<{ default: Sharp }> = () => import('sharp')): Promise<Sharp> {
  try {
    return (await importer()).default
  } catch (cause) {
    throw new QtoolError(
      'data',
      `images are decoded by the package sharp, which cannot be loaded: ${(cause as Error).message}`,
      {
        hint: 'install it (npm install sharp), or give the images as uint8 arrays (.npy, .npz)',
        cause,
      },
    )
  }
}

/** The user's word, else that of preprocessor_config.json, else the model's own size and nothing more. */
function choosePreprocessing(
  { input, height, width, channels }: ImageTarget,
  { modelPath, size, normalize = {} }: DatasetOptions,
  notes: Set<string>,
): Preprocessing {
  const modelSize: Size | undefined = height && width ? [height, width] : undefined
  const file = readModelFile(modelPath, 'preprocessor_config.json')
  const said = file ? readPreprocessing(file, modelSize) : plainPreprocessing(modelSize)
  const chosen = size ? { ...said, resize: { kind: 'exact', size } as const, crop: undefined } : said
  const kept =
    input.elementType !== 'uint8' && !normalize[input.name] ? collapse(chosen.normalization, channels) : undefined
  if (kept) checkNormalization(input, kept)
  const steps = [
    ...(chosen.resize ? [describeResize(chosen)] : ['not resized']),
    ...(chosen.crop ? [`the middle ${chosen.crop.join('×')}`] : []),
    ...(chosen.reversed ? ['blue, green, red'] : []),
    ...(channels === 1 ? ['grey'] : []),
  ]
  const source = file
    ? `${file.path}${size ? ', and the given size' : ''}`
    : size
      ? 'the given size'
      : "the model's size"
  notes.add(`${input.name}: images ${steps.join(', ')} (${source})`)
  if (file && input.elementType === 'uint8') {
    notes.add(`${input.name}: takes uint8, so images are not rescaled, whatever ${file.path} says`)
  }
  return { ...chosen, normalization: kept }
}

/** A mean or std that is the same for all channels also holds for one. */
function collapse(normalization: Preprocessing['normalization'], channels: number): Preprocessing['normalization'] {
  if (!normalization || channels > 1) return normalization
  const single = (values: readonly number[] = []) =>
    values.every((value) => value === values[0]) ? values.slice(0, 1) : values
  return { ...normalization, mean: single(normalization.mean), std: single(normalization.std) }
}

function describeResize({ resize, kernel }: Preprocessing): string {
  if (resize?.kind === 'exact') return `resized to ${resize.size.join('×')} (${kernel})`
  const edges = [
    ...(resize?.shortest ? [`shortest edge ${resize.shortest}`] : []),
    ...(resize?.longest ? [`longest edge ${resize.longest}`] : []),
  ]
  return `resized to ${edges.join(', ')} (${kernel})`
}

/** One image as uint8 [1, channels, height, width] or [1, height, width, channels]. */
async function decodeImage(
  sharp: Sharp,
  file: string,
  { layout, channels }: ImageTarget,
  { resize, crop, kernel, reversed }: Preprocessing,
): Promise<NdArray> {
  const bytes = readDataFile(file)
  let pixels: Pixels
  try {
    // Colours are made equal first, and the image turned as its camera says; transparency is ignored, not blended.
    const whole = await sharp(bytes)
      .autoOrient()
      .toColourspace('srgb')
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true })
    const { width, height } = whole.info
    const data = new Uint8Array(whole.data)
    pixels = { data: channels === 1 ? toGrey(data) : data, width, height }
  } catch (cause) {
    throw new QtoolError('data', `image ${file}: it cannot be decoded (${(cause as Error).message})`, {
      hint: 'PNG, JPEG, WebP, GIF, TIFF and AVIF are known; convert others, such as BMP, to PNG',
      cause,
    })
  }
  if (resize) pixels = resample(pixels, channels, resizedSize([pixels.height, pixels.width], resize), kernel)
  const [height, width] = crop ?? [pixels.height, pixels.width]
  const data = arrange(pixels, { height, width, channels, reversed, planes: layout === 'nchw' })
  return {
    dtype: 'uint8',
    shape: layout === 'nchw' ? [1, channels, height, width] : [1, height, width, channels],
    data,
  }
}

/** Luma of ITU-R BT.601, in the same 16-bit arithmetic as PIL. */
function toGrey(colours: Uint8Array): Uint8Array {
  const grey = new Uint8Array(colours.length / 3)
  for (let i = 0; i < grey.length; i++) {
    const [red, green, blue] = [colours[3 * i]!, colours[3 * i + 1]!, colours[3 * i + 2]!]
    grey[i] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
  }
  return grey
}

/** The middle of an image, zeros where there is none, in planes (a channel after another) or pixel by pixel. */
function arrange(
  pixels: Pixels,
  to: { height: number; width: number; channels: number; reversed: boolean; planes: boolean },
): Uint8Array {
  const { height, width, channels, planes } = to
  const top = Math.floor((pixels.height - height) / 2)
  const left = Math.floor((pixels.width - width) / 2)
  const result = new Uint8Array(height * width * channels)
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [fromY, fromX] = [y + top, x + left]
      if (fromY < 0 || fromX < 0 || fromY >= pixels.height || fromX >= pixels.width) continue
      const from = (fromY * pixels.width + fromX) * channels
      const at = y * width + x
      for (let c = 0; c < channels; c++) {
        const value = pixels.data[from + (to.reversed ? channels - 1 - c : c)]!
        result[planes ? c * height * width + at : at * channels + c] = value
      }
    }
  }
  return result
}

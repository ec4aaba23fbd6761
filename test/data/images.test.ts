import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type DatasetOptions, openDataset } from '../../src/data/dataset.ts'
import { loadSharp } from '../../src/data/imageSource.ts'
import type { ModelInput } from '../../src/data/modelInput.ts'
import { readPreprocessing, resizedSize } from '../../src/data/preprocessing.ts'
import { CUBIC, resizeOracle } from '../oracles/resize.ts'
import { expectError, expectRejection } from './expectError.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'qtool-images-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

let made = 0
/** Write pixels as an image into a folder of its own, unless told which. */
async function image(
  name: string,
  pixels: readonly number[],
  [height, width, channels]: readonly [number, number, 1 | 3 | 4],
  directory = `images${made++}`,
): Promise<string> {
  mkdirSync(join(folder, directory), { recursive: true })
  const path = join(folder, directory, name)
  await sharp(Uint8Array.from(pixels), { raw: { height, width, channels } }).png().toFile(path)
  return path
}

/** A path beside which a preprocessor_config.json lies, when one is given. */
function model(preprocessor?: object): string {
  const root = join(folder, `model${made++}`)
  mkdirSync(join(root, 'onnx'), { recursive: true })
  if (preprocessor) writeFileSync(join(root, 'preprocessor_config.json'), JSON.stringify(preprocessor))
  return join(root, 'onnx', 'model.onnx')
}

function input(elementType: string, ...dims: ModelInput['dims']): ModelInput {
  return { name: 'pixels', elementType, dims }
}

/** Batches of the one input. */
async function read(paths: string | string[], target: ModelInput, options: DatasetOptions = {}, batchSize = 8) {
  const dataset = await openDataset([paths].flat(), [target], options)
  const batches = [...dataset.batches(batchSize)].map(({ feeds }) => {
    const { dims, data } = feeds.get('pixels')!
    return { dims: [...dims], data: Array.from(data as Float32Array) }
  })
  return { ...dataset, batches, first: batches[0]! }
}

/** Rounded to bytes once across and once down, and cut to bytes where a kernel overshoots. */
function expectNear(values: readonly number[], expected: readonly number[]): void {
  expect(values.length).toBe(expected.length)
  for (const [i, value] of values.entries()) {
    expect(Math.abs(value - Math.min(255, Math.max(0, expected[i]!)))).toBeLessThan(1.3)
  }
}

/** 2×2, three channels; all values differ. */
const COLOURS = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 250]
const [R, G, B] = [0, 1, 2].map((c) => [0, 1, 2, 3].map((i) => COLOURS[3 * i + c]!)) as [number[], number[], number[]]

describe('images', () => {
  it('are fed as bytes in the layout of the model, with a warning that nothing is rescaled', async () => {
    const path = await image('a.png', COLOURS, [2, 2, 3])
    const planes = await read(path, input('float', 'batch', 3, 'height', 'width'))
    expect(planes.first).toEqual({ dims: [1, 3, 2, 2], data: [...R, ...G, ...B] })
    expect(planes.notes.join()).toContain('NOT rescaled')
    const last = await read(path, input('uint8', 'batch', undefined, undefined, 3))
    expect(last.first).toEqual({ dims: [1, 2, 2, 3], data: COLOURS })
    expect(last.notes.join()).not.toContain('NOT rescaled')
    const open = input('float', 'batch', undefined, undefined, undefined)
    const guessed = await read(path, open)
    expect(guessed.first.dims).toEqual([1, 3, 2, 2])
    expect(guessed.notes.join()).toMatch(/nchw is assumed.*3 are fed|3 are fed.*nchw is assumed/)
    expect((await read(path, open, { layout: 'nhwc' })).first).toEqual({ dims: [1, 2, 2, 3], data: COLOURS })
    const named = input('float', 'batch', 'height', 'width', 'num_channels')
    expect((await read(path, named)).first.dims).toEqual([1, 2, 2, 3])
  })

  it('become grey as PIL makes them, and grey images become colours', async () => {
    const path = await image('a.png', COLOURS, [2, 2, 3])
    const grey = COLOURS.length / 3
    const expected = Array.from({ length: grey }, (_, i) => Math.round(0.299 * R[i]! + 0.587 * G[i]! + 0.114 * B[i]!))
    expect((await read(path, input('float', 1, 1, 2, 2))).first).toEqual({ dims: [1, 1, 2, 2], data: expected })
    const single = await image('g.png', [1, 2, 3, 4], [2, 2, 1])
    expect((await read(single, input('float', 1, 3, 2, 2))).first.data).toEqual([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4])
    expect((await read(single, input('float', 1, 1, 2, 2))).first.data).toEqual([1, 2, 3, 4])
  })

  it('are turned as the camera says, and transparency is ignored', async () => {
    const turned = join(folder, 'turned.png')
    const raw = { raw: { height: 1, width: 2, channels: 3 } } as const
    await sharp(Uint8Array.of(1, 2, 3, 4, 5, 6), raw)
      .withMetadata({ orientation: 6 })
      .png()
      .toFile(turned)
    expect((await read(turned, input('uint8', 1, 'h', 'w', 3))).first).toEqual({
      dims: [1, 2, 1, 3],
      data: [1, 2, 3, 4, 5, 6],
    })
    const clear = await image('c.png', [10, 20, 30, 0, 40, 50, 60, 128], [1, 2, 4])
    expect((await read(clear, input('uint8', 1, 'h', 'w', 3))).first.data).toEqual([10, 20, 30, 40, 50, 60])
  })

  it('are resized to the model, or to the size that the user gives', async () => {
    const pixels = Array.from({ length: 12 * 8 }, (_, i) => (i * 37) % 256)
    const path = await image('r.png', pixels, [12, 8, 1])
    for (const size of [
      [6, 4],
      [5, 7],
      [20, 9],
    ] as const) {
      const { first } = await read(path, input('uint8', 1, 1, ...size))
      expect(first.dims).toEqual([1, 1, ...size])
      expectNear(first.data, resizeOracle(pixels, [12, 8], size))
      expect((await read(path, input('uint8', 1, 1, 'h', 'w'), { size })).first).toEqual(first)
    }
    const cubic = { size: { height: 20, width: 3 }, resample: 3, do_rescale: false, do_normalize: false }
    const preprocessed = await read(path, input('float', 1, 1, 'h', 'w'), { modelPath: model(cubic) })
    expectNear(preprocessed.first.data, resizeOracle(pixels, [12, 8], [20, 3], CUBIC))
    const wrong = () => read(path, input('uint8', 1, 1, 5, 5), { size: [4, 5] })
    await expectRejection(wrong, 'data', 'r.png', '[1, 1, 5, 5]', '[1, 1, 4, 5]')
  })

  it('come in the order of their names, one sample a file, in batches of equal shape', async () => {
    for (const [i, name] of ['b.png', 'a.png', 'c.png', 'B.png'].entries()) {
      await image(name, [i, i, i, i], [2, 2, 1], 'order')
    }
    await image('d.png', [9], [1, 1, 1], 'order')
    writeFileSync(join(folder, 'order', 'readme.md'), 'no image')
    const grey = input('uint8', 'batch', 1, 'h', 'w')
    const all = await read(join(folder, 'order'), grey, {}, 3)
    expect(all.batches.map(({ dims, data }) => [dims[0], data[0], data.at(-1)])).toEqual([
      [3, 3, 0],
      [1, 2, 2],
      [1, 9, 9],
    ])
    expect((await read(join(folder, 'order', '[ab].png'), grey)).first.data.filter((_, i) => i % 4 === 0)).toEqual([
      1, 0,
    ])
    expect((await read(join(folder, '*', 'c.png'), grey, { samples: 1 })).count).toBe(1)
    const some = await read(join(folder, 'order'), grey, { samples: 2, pickSeed: 3 })
    expect(some.count).toBe(2)
    const values = [3, 1, 0, 2, 9]
    expect(some.batches.flatMap(({ data }) => [...new Set(data)])).toEqual(Array.from(some.order, (i) => values[i]))
    expect((await read(join(folder, 'order'), grey, { samples: 2 })).order).toEqual(Int32Array.of(0, 1))
  })

  it('are refused by models that take none, and when they are none', async () => {
    const path = await image('a.png', COLOURS, [2, 2, 3])
    await expectRejection(() => read(path, input('int64', 'batch', 'seq')), 'data', 'images', 'pixels (int64')
    await expectRejection(() => read(path, input('float', 'batch', 4, 8, 8)), 'data', 'images')
    await expectRejection(() => read(path, input('float', 1, 3, 8, 3)), 'usage', 'axis 1 or axis 3', 'layout')
    await expectRejection(() => read(path, input('float', 1, 3, 8, 8), { layout: 'nhwc' }), 'usage', 'nhwc')
    const broken = join(folder, 'broken.png')
    writeFileSync(broken, 'not a picture')
    await expectRejection(() => read([path, broken], input('float', 1, 3, 2, 2)), 'data', 'broken.png', 'decoded')
    writeFileSync(join(folder, 'x.npy'), '')
    await expectRejection(
      () => read([path, join(folder, 'x.npy')], input('float', 1, 3, 2, 2)),
      'data',
      'x.npy',
      'mixed',
    )
    await expectRejection(
      () => loadSharp(() => Promise.reject(new Error('Cannot find package'))),
      'data',
      'sharp',
      'npm install sharp',
    )
  })
})

describe('preprocessor_config.json', () => {
  const floats = input('float', 'batch', 3, 'h', 'w')

  it('rescales each channel: (value · factor − mean) / std', async () => {
    const path = await image('a.png', COLOURS, [2, 2, 3])
    const [mean, std] = [
      [0.485, 0.456, 0.406],
      [0.229, 0.224, 0.225],
    ]
    const preprocessor = { do_resize: false, do_normalize: true, image_mean: mean, image_std: std }
    const { first, notes } = await read(path, floats, { modelPath: model(preprocessor) })
    const expected = [R, G, B].flatMap((plane, c) => plane.map((v) => Math.fround((v / 255 - mean[c]!) / std[c]!)))
    for (const [i, value] of first.data.entries()) expect(value).toBeCloseTo(expected[i]!, 6)
    expect(notes.join()).not.toContain('NOT')
    expect(notes.join()).toContain('preprocessor_config.json')
    const last = await read(path, input('float', 1, 'h', 'w', 3), { modelPath: model(preprocessor) })
    for (const [i, value] of last.first.data.entries())
      expect(value).toBeCloseTo(expected[(i % 3) * 4 + Math.floor(i / 3)]!, 6)
  })

  it.each([
    ['nothing at all', {}, 51, 51 / 255],
    ['no normalization', { do_normalize: false, image_mean: [1], image_std: [2] }, 51, 51 / 255],
    ['no rescaling', { do_rescale: false, image_mean: [1, 1, 1], image_std: [2, 2, 2] }, 51, 25],
    ['another factor', { rescale_factor: 0.5, image_mean: 1, image_std: 0.25 }, 51, 98],
    ['an offset', { rescale_factor: 1 / 127.5, rescale_offset: true, do_normalize: false }, 255, 1],
  ])('may say %s', async (_, preprocessor, value, expected) => {
    const path = await image('v.png', [value, value, value], [1, 1, 3])
    const { first } = await read(path, floats, { modelPath: model(preprocessor) })
    for (const fed of first.data) expect(fed).toBeCloseTo(expected, 6)
  })

  it('gives way to the user, and to models that take bytes', async () => {
    const path = await image('a.png', COLOURS, [2, 2, 3])
    const modelPath = model({ image_mean: [0.5, 0.5, 0.5], image_std: [0.5, 0.5, 0.5], size: { height: 4, width: 4 } })
    const given = await read(path, floats, { modelPath, size: [2, 2], normalize: { pixels: { scale: 2 } } })
    expect(given.first).toEqual({ dims: [1, 3, 2, 2], data: [...R, ...G, ...B].map((v) => 2 * v) })
    const bytes = await read(path, input('uint8', 1, 3, 'h', 'w'), { modelPath, size: [2, 2] })
    expect(bytes.first.data).toEqual([...R, ...G, ...B])
    expect(bytes.notes.join()).toContain('takes uint8')
    expect((await read(path, input('float', 1, 1, 2, 2), { modelPath, size: [2, 2] })).first.data[0]).toBeCloseTo(
      (Math.round(0.299 * 10 + 0.587 * 20 + 0.114 * 30) / 255 - 0.5) / 0.5,
      5,
    )
  })

  it('crops from the middle, with zeros where there is nothing', async () => {
    const pixels = Array.from({ length: 4 * 6 }, (_, i) => i + 1)
    const path = await image('crop.png', pixels, [4, 6, 1])
    const crop = (crop_size: object) => {
      const preprocessor = { do_resize: false, do_center_crop: true, crop_size, do_rescale: false, do_normalize: false }
      return read(path, input('float', 1, 1, 'h', 'w'), { modelPath: model(preprocessor) })
    }
    expect((await crop({ height: 2, width: 2 })).first.data).toEqual([9, 10, 15, 16])
    const larger = await crop({ height: 5, width: 3 })
    // 4 rows in 5: the empty one comes first, as in Hugging Face's center_crop.
    expect(larger.first.data).toEqual([0, 0, 0, 2, 3, 4, 8, 9, 10, 14, 15, 16, 20, 21, 22])
    const reversed = await image('bgr.png', COLOURS, [2, 2, 3])
    const flip = { do_resize: false, do_flip_channel_order: true, do_rescale: false }
    expect((await read(reversed, floats, { modelPath: model(flip) })).first.data).toEqual([...B, ...G, ...R])
  })

  it('knows the ways in which sizes are written', () => {
    const plan = (content: Record<string, unknown>, modelSize?: readonly [number, number]) => {
      const { resize, crop, kernel } = readPreprocessing({ path: 'p.json', content }, modelSize)
      return {
        size: resize && resizedSize([480, 640], resize),
        tall: resize && resizedSize([640, 480], resize),
        crop,
        kernel,
      }
    }
    expect(plan({ size: { height: 224, width: 192 } })).toMatchObject({
      size: [224, 192],
      tall: [224, 192],
      crop: undefined,
    })
    expect(plan({ size: 224 })).toMatchObject({ size: [224, 224], kernel: 'linear' })
    // CLIP, before and after the change of format: shortest edge, then crop.
    for (const content of [
      { size: 224, crop_size: 224, do_center_crop: true, resample: 3 },
      { size: { shortest_edge: 224 }, crop_size: { height: 224, width: 224 }, do_center_crop: true, resample: 3 },
    ]) {
      expect(plan(content)).toEqual({ size: [224, 298], tall: [298, 224], crop: [224, 224], kernel: 'cubic' })
    }
    // DETR: 800, but the other edge at most 1000: 1000 · 480 / 640 = 750.
    expect(plan({ size: { shortest_edge: 800, longest_edge: 1000 } })).toMatchObject({
      size: [750, 1000],
      tall: [1000, 750],
    })
    expect(plan({ size: { shortest_edge: 300, longest_edge: 1000 } })).toMatchObject({ size: [300, 400] })
    expect(plan({ size: { longest_edge: 320 } })).toMatchObject({ size: [240, 320] })
    // ConvNeXt: 224 / 0.875 = 256, then the middle; from 384 on no crop.
    const convnext = { size: { shortest_edge: 224 }, crop_pct: 0.875 }
    expect(plan(convnext)).toMatchObject({ size: [256, 341], crop: [224, 224] })
    expect(plan({ size: { shortest_edge: 384 }, crop_pct: 0.875 })).toMatchObject({ size: [384, 384], crop: undefined })
    expect(plan({}, [32, 48])).toMatchObject({ size: [32, 48] })
    expect(plan({ do_resize: false, size: 224 }, [32, 48])).toMatchObject({ size: undefined })
    expect(plan({ size: 224, do_center_crop: false, crop_size: 200 })).toMatchObject({
      size: [224, 224],
      crop: undefined,
    })
    expectError(() => plan({ size: { max: 3 } }), 'data', 'p.json', 'size')
    expectError(() => plan({ size: 1, resample: 9 }), 'data', 'resample')
    expectError(() => plan({ image_mean: 'x' }), 'data', 'image_mean')
  })
})

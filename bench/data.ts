/**
 * @file Evaluation inputs in the form that each model takes, written once to bench/out/data.
 *
 * `npx tsx bench/data.ts` prepares them all; the other benchmarks prepare what they need.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { zipSync } from 'fflate'
import { elementCount, type NdArray } from '../src/data/ndArray.ts'
import { decodeNpy, encodeNpy } from '../src/data/npy.ts'
import { openNpz } from '../src/data/npz.ts'
import { makeRandom } from '../src/random.ts'
import { OUT, requirePath, runBenchmark, SHARED_MODELS } from './paths.ts'
import { printedNumbers, voicedSounds } from './syntheticInputs.ts'

type Arrays = Readonly<Record<string, NdArray>>

/** All arrays of a .npz, or the one of a .npy under the name `array`. */
export function readArrays(path: string): Arrays {
  const bytes = new Uint8Array(readFileSync(path))
  if (path.endsWith('.npy')) return { array: decodeNpy(bytes, path) }
  const npz = openNpz(bytes, path)
  return Object.fromEntries(npz.names.map((name) => [name, npz.read(name)]))
}

interface DataSet {
  /** Arrays by input name, samples along the first axis. */
  readonly inputs: Arrays
  /** Class of each sample. */
  readonly labels?: NdArray
}

const shared = (path: string): Arrays => readArrays(requirePath(join(SHARED_MODELS, path), 'real data is needed'))

const float32 = (shape: readonly number[], data: Float32Array): NdArray => ({ dtype: 'float32', shape, data })

/** uint8 images [n, 3, h, w] → (value / 255 − mean[c]) / std[c]. */
function normalise({ shape, data }: NdArray, mean: readonly number[], std: readonly number[]): NdArray {
  const plane = shape[2]! * shape[3]!
  const channels = shape[1]!
  const pixels = data as Uint8Array
  const values = new Float32Array(pixels.length)
  for (let i = 0; i < values.length; i++) {
    const c = Math.floor(i / plane) % channels
    values[i] = (pixels[i]! / 255 - mean[c]!) / std[c]!
  }
  return float32(shape, values)
}

function images(path: string, mean: readonly number[], std: readonly number[]): DataSet {
  const { images: pixels, labels } = shared(path)
  return { inputs: { input: normalise(pixels!, mean, std) }, labels: labels! }
}

function noise(shape: readonly number[], seed: number): NdArray {
  const random = makeRandom(seed)
  return float32(
    shape,
    Float32Array.from({ length: elementCount(shape) }, () => random.normal()),
  )
}

const zeros = (shape: readonly number[]): NdArray => float32(shape, new Float32Array(elementCount(shape)))

/** Token rows of a text, every second one: they cover all of it at half the cost. */
function everySecond({ dtype, shape, data }: NdArray, most: number): NdArray {
  const width = shape[1]!
  const rows = Math.min(most, Math.ceil(shape[0]! / 2))
  const ids = data as BigInt64Array
  const taken = Array.from({ length: rows }, (_, row) => [...ids.subarray(2 * row * width, (2 * row + 1) * width)])
  return { dtype, shape: [rows, width], data: BigInt64Array.from(taken.flat()) }
}

/** Chunks of sound for the voice detectors; each starts from an empty state, an array [2, 1, width] of its own. */
const SPEECH = 64
const SAMPLE_RATE: NdArray = { dtype: 'int64', shape: [], data: BigInt64Array.of(16000n) }

const SMOLLM2_TEST = join(OUT, 'smollm2', 'test.npy')

const IMAGENET_MEAN = [0.485, 0.456, 0.406]
const IMAGENET_STD = [0.229, 0.224, 0.225]

const SETS: Readonly<Record<string, () => DataSet>> = {
  'lm-3m': () => ({ inputs: { input_ids: shared('lm-3m/eval_input_ids.npy').array! } }),
  stories260K: () => ({ inputs: { input_ids: shared('stories260K/eval_input_ids.npy').array! } }),
  'char-lstm': () => ({ inputs: { input_ids: shared('char-lstm/eval_ids.npy').array! } }),
  'use-lite': () => {
    const { input_ids, attention_mask } = shared('use-lite/sts_dev_pairs.npz')
    return { inputs: { input_ids: input_ids!, attention_mask: attention_mask! } }
  },
  cifar10: () => images('cifar10/eval_u8.npz', IMAGENET_MEAN, IMAGENET_STD),
  'tiny-darknet': () => images('tiny-darknet/eval_u8.npz', [0, 0, 0], [1, 1, 1]),
  kws: () => {
    const { features, labels } = shared('kws/eval.npz')
    return { inputs: { input: features! }, labels: labels! }
  },
  // Sixteen cannot tell two quantizers apart: a tenth of the images makes most of the divergence.
  'ocr-rec': () => ({ inputs: { x: printedNumbers([96, 3, 48, 320], 1, 4) } }),
  // Other numbers than those that are judged on.
  'ocr-rec-calibration': () => ({ inputs: { x: printedNumbers([64, 3, 48, 320], 7, 4) } }),
  'ocr-det': () => ({ inputs: { x: printedNumbers([8, 3, 320, 320], 2, 3) } }),
  'ocr-cls': () => ({ inputs: { x: printedNumbers([16, 3, 48, 192], 3, 4) } }),
  vad: () => ({
    inputs: { input: voicedSounds([SPEECH, 512], 4), state: zeros([SPEECH, 2, 1, 128]), sr: SAMPLE_RATE },
  }),
  'vad-legacy': () => ({
    inputs: {
      input: voicedSounds([SPEECH, 1536], 5),
      h: zeros([SPEECH, 2, 1, 64]),
      c: zeros([SPEECH, 2, 1, 64]),
      sr: SAMPLE_RATE,
    },
  }),
  wakeword: () => ({ inputs: { 'onnx::Flatten_0': noise([64, 24, 96], 6) } }),
  // Scores of its 49,152 tokens are kept for all positions: 50 MB a row.
  smollm2: () => ({
    inputs: {
      input_ids: everySecond(readArrays(requirePath(SMOLLM2_TEST, 'bench/exportSmolLM2.py makes it')).array!, 32),
    },
  }),
}

/** Files of a prepared set. */
export interface PreparedData {
  /** .npz with one array per model input. */
  readonly inputs: string
  /** .npy with the class of each sample. */
  readonly labels: string | undefined
}

/** Write through a temporary name, so that an interrupted run leaves nothing that looks finished. */
function write(path: string, bytes: Uint8Array): void {
  writeFileSync(`${path}.part`, bytes)
  renameSync(`${path}.part`, path)
}

/**
 * The files of a data set, made on first use.
 * @throws Missing when its source is not here.
 */
export function prepareData(name: string): PreparedData {
  const make = SETS[name]
  if (!make) throw new Error(`no data set ${name}; there are ${Object.keys(SETS).join(', ')}`)
  const folder = join(OUT, 'data')
  const inputs = join(folder, `${name}.npz`)
  const labels = join(folder, `${name}.labels.npy`)
  if (!existsSync(inputs)) {
    const set = make()
    mkdirSync(folder, { recursive: true })
    if (set.labels) write(labels, encodeNpy(set.labels))
    const entries = Object.entries(set.inputs).map(([input, array]) => [`${input}.npy`, encodeNpy(array)])
    write(inputs, zipSync(Object.fromEntries(entries), { level: 0 }))
  }
  return { inputs, labels: existsSync(labels) ? labels : undefined }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await runBenchmark(async () => {
    for (const name of Object.keys(SETS)) console.log(`${name}: ${prepareData(name).inputs}`)
  })
}

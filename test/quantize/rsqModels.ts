/** @file Tiny transformers for method rsq: with outlier channels that a rotation spreads, and with weights that lie on grids. */
import fs from 'node:fs'
import path from 'node:path'
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import type { QuantizeConfig } from '../../src/config.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { indexModel } from '../../src/onnx/graph.ts'
import { decodeModel, encodeModel, type ModelProto } from '../../src/onnx/proto.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import type { RunOptions } from '../../src/progress.ts'
import { makeRandom } from '../../src/random.ts'
import { findStreams } from '../../src/rsq/findStreams.ts'
import { rotateStreams } from '../../src/rsq/rotateStreams.ts'
import { rotationOfMatrix } from '../../src/rsq/rotations.ts'
import { openSession } from '../../src/runtime/session.ts'
import { writeNpy } from '../oracles/npy.ts'
import { inlined, opened } from '../rsq/namedStreams.ts'
import { type StreamModelOptions, transformer } from '../rsq/streamModels.ts'

const VOCAB = 32
const TOKENS = 8
/** Quantizes these layers alone, which takes a fraction of the time. */
export const only = (...patterns: readonly string[]): QuantizeConfig['layers'] => [
  { pattern: '*', bits: 'skip' },
  ...patterns.map((pattern) => ({ pattern, bits: 3 }) as const),
]
const SIZES = { norm: 'simplified', blocks: 1, width: 32, heads: 2, hidden: 48, vocab: VOCAB } as const

export const tiny = (options: StreamModelOptions = {}): ModelProto => transformer({ ...SIZES, ...options })

const isReader = (name: string) => /(\/(q|k|v|gate|up)|^head|^logits)\.weight$/.test(name)
const isWriter = (name: string) => /(\/(o|down)\.weight|^embed)$/.test(name)

/** A copy with other numbers in the matrices [rows, cols]. */
function withMatrices(
  proto: ModelProto,
  change: (name: string, values: Float32Array, cols: number) => void,
): ModelProto {
  const copy = decodeModel(encodeModel(proto))
  for (const tensor of copy.graph!.initializer) {
    if (!isReader(tensor.name) && !isWriter(tensor.name)) continue
    const values = new Float32Array(new Uint8Array(tensor.rawData).buffer)
    change(tensor.name, values, Number(tensor.dims[1]))
    tensor.rawData = new Uint8Array(values.buffer)
  }
  return copy
}

/**
 * A network whose readers have one large direction, spread over all channels, that the stream hardly has; then turned
 * exactly so that this direction is one channel. Undoing that is what a rotation can gain.
 */
export function badBasis(): ModelProto {
  const { width } = SIZES
  const random = makeRandom(3)
  const direction = Float64Array.from({ length: width }, () => (random.below(2) ? 1 : -1) / Math.sqrt(width))
  const spread = withMatrices(tiny(), (name, values, cols) => {
    if (isReader(name)) {
      for (let col = 0; col < cols; col++) {
        const size = 4 * (1 + random.uniform())
        for (let row = 0; row < width; row++) values[row * cols + col]! += size * direction[row]!
      }
      return
    }
    for (let row = 0; row < values.length / cols; row++) {
      let share = 0
      for (let col = 0; col < cols; col++) share += values[row * cols + col]! * direction[col]!
      for (let col = 0; col < cols; col++) values[row * cols + col]! -= 0.9 * share * direction[col]!
    }
  })
  // The mirror that takes the direction to the first channel.
  const mirror = direction.map((value, i) => value - (i === 0 ? 1 : 0))
  const norm = mirror.reduce((sum, value) => sum + value * value, 0)
  const q = Float64Array.from({ length: width * width }, (_, at) => {
    const [row, col] = [Math.floor(at / width), at % width]
    return (row === col ? 1 : 0) - (2 * mirror[row]! * mirror[col]!) / norm
  })
  const found = findStreams(analyseMainGraph(indexModel(spread)))
  const rotations = new Map([[found.streams[0]!, rotationOfMatrix(q, width)]])
  return inlined(rotateStreams(opened(spread), found, rotations, { simplifyNorms: false }).model)
}

/** All weights are k/16 with k from −3 to 3, and gains are 1: 3 bits per channel hold them exactly, but not turned ones. */
export function onGrid(): ModelProto {
  const random = makeRandom(5)
  const proto = withMatrices(tiny(), (name, values, cols) => {
    for (let i = 0; i < values.length; i++) values[i] = (random.below(7) - 3) / 16
    // Each channel has the largest code, so that its scale is 1/16: columns of [in, out], rows of the table.
    const rows = values.length / cols
    if (name === 'embed') for (let row = 0; row < rows; row++) values[row * cols + (row % cols)] = 3 / 16
    else for (let col = 0; col < cols; col++) values[(col % rows) * cols + col] = 3 / 16
  })
  for (const tensor of proto.graph!.initializer) {
    if (tensor.name.endsWith('.gain')) tensor.rawData = new Uint8Array(new Float32Array(SIZES.width).fill(1).buffer)
  }
  return proto
}

/** The first matrix of the MLP is k/16 with k from 0 to 15: 4 bits per channel with a zero point hold it exactly, no table does. */
export function positiveGate(): ModelProto {
  const random = makeRandom(5)
  return withMatrices(tiny({ hidden: 128 }), (name, values, cols) => {
    if (!name.endsWith('gate.weight')) return
    for (let i = 0; i < values.length; i++) values[i] = random.below(16) / 16
    // Both ends of each channel.
    for (let col = 0; col < cols; col++) {
      values[col] = 0
      values[cols + col] = 15 / 16
    }
  })
}

function tokens(count: number, seed: number): bigint[] {
  const random = makeRandom(seed)
  return Array.from({ length: count * TOKENS }, () => BigInt(random.below(VOCAB)))
}

/** Logits of a model file on sequences that no run has seen. */
async function logitsOf(file: string): Promise<Float32Array> {
  const data = BigInt64Array.from(tokens(100, 999))
  const ids: FeedTensor = { type: 'int64', dims: [100, TOKENS], data }
  const session = await openSession(file, { threads: 1 })
  try {
    return (await session.run(new Map([['input_ids', ids]]))).get('logits')!.data as Float32Array
  } finally {
    await session.dispose()
  }
}

/** Mean KL of the softmaxes, in nats. */
function divergence(a: Float32Array, b: Float32Array): number {
  let sum = 0
  for (let from = 0; from < a.length; from += VOCAB) {
    const [p, q] = [a, b].map((logits) => {
      const shares = Array.from(logits.subarray(from, from + VOCAB), Math.exp)
      const whole = shares.reduce((all, share) => all + share, 0)
      return shares.map((share) => share / whole)
    })
    sum += p!.reduce((all, share, i) => all + share * Math.log(share / q![i]!), 0)
  }
  return sum / (a.length / VOCAB)
}

/** ‖a − b‖ / ‖a‖. */
function distance(a: Float32Array, b: Float32Array): number {
  let difference = 0
  let norm = 0
  a.forEach((value, i) => {
    difference += (value - b[i]!) ** 2
    norm += value ** 2
  })
  return Math.sqrt(difference / norm)
}

/** A folder of its own with a model and its data, and runs in it. */
export function caseOf(directory: string, proto: ModelProto, data: Buffer = tokenFile(40)) {
  const folder = fs.mkdtempSync(path.join(directory, 'rsq-'))
  const at = (file: string) => path.join(folder, file)
  fs.writeFileSync(at('model.onnx'), encodeModel(proto))
  fs.writeFileSync(at('data.npy'), data)
  const base = { bits: 3, groupSize: 'channel', symmetric: 'yes', accuracyLevel: 0 } as const
  const common = { ...base, method: 'rsq', threads: 1, verify: false, force: true, data: [at('data.npy')] } as const
  const run = (out: string | undefined, config: Partial<QuantizeConfig> = {}, options?: RunOptions) =>
    quantizeModel(at('model.onnx'), out && at(out), { ...common, ...config }, options)
  const files = () => fs.readdirSync(folder).sort()
  const bytes = (file: string) => fs.readFileSync(at(file)).toString('base64')
  const tensors = (file: string) =>
    Object.fromEntries(
      decodeModel(fs.readFileSync(at(file))).graph!.initializer.map(({ name, rawData, int64Data }) => [
        name,
        `${Buffer.from(rawData).toString('base64')} ${int64Data.join()}`,
      ]),
    )
  const wanted = () => logitsOf(at('model.onnx'))
  const errorOf = async (file: string) => distance(await wanted(), await logitsOf(at(file)))
  const lossOf = async (file: string) => divergence(await wanted(), await logitsOf(at(file)))
  return { at, run, files, bytes, tensors, errorOf, lossOf }
}

/** Sequences of token ids. */
const tokenFile = (count: number) => writeNpy('i8', [count, TOKENS], tokens(count, 1))

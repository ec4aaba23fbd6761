/** @file A model through quantizeModel and both versions through onnxruntime. */
import fs from 'node:fs'
import path from 'node:path'
import * as ort from 'onnxruntime-node'
import type { QuantizeConfig } from '../../src/config.ts'
import { decodeModel, encodeModel, type ModelProto, makeTensor, type TensorProto } from '../../src/onnx/proto.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import { makeRandom } from '../../src/random.ts'
import type { QuantizeReport } from '../../src/report.ts'

type Feeds = Readonly<Record<string, ort.Tensor>>

/** A float32 tensor of normal numbers times `scale`. */
export function normals(name: string, dims: readonly number[], scale = 1): TensorProto {
  const random = makeRandom(dims.reduce((a, b) => a * 31 + b, name.length))
  const count = dims.reduce((a, b) => a * b, 1)
  const rawData = new Uint8Array(Float32Array.from({ length: count }, () => random.normal() * scale).buffer)
  return makeTensor({ name, dims: dims.map(BigInt), dataType: 1, rawData })
}

/** Normal activations. */
export function activations(...dims: readonly number[]): ort.Tensor {
  const random = makeRandom(5)
  const count = dims.reduce((a, b) => a * b, 1)
  return new ort.Tensor(
    'float32',
    Float32Array.from({ length: count }, () => random.normal()),
    dims,
  )
}

async function runFile(file: string, feeds: Feeds): Promise<Record<string, Float32Array>> {
  const session = await ort.InferenceSession.create(file, { logSeverityLevel: 4, intraOpNumThreads: 1 })
  const results = await session.run(feeds)
  await session.release()
  return Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as Float32Array]))
}

/** ‖a − b‖ / ‖a‖ over all outputs. */
function distance(a: Record<string, Float32Array>, b: Record<string, Float32Array>): number {
  let difference = 0
  let norm = 0
  for (const [name, values] of Object.entries(a)) {
    values.forEach((v, i) => {
      difference += (v - b[name]![i]!) ** 2
      norm += v * v
    })
  }
  return Math.sqrt(difference / norm)
}

export interface RoundTrip {
  readonly report: QuantizeReport
  readonly written: ModelProto
  /** Relative distance of the outputs. */
  readonly distance: number
}

export async function roundTrip(
  directory: string,
  proto: ModelProto,
  feeds: Feeds,
  config: Partial<QuantizeConfig>,
): Promise<RoundTrip> {
  const source = path.join(directory, 'source.onnx')
  const out = path.join(directory, 'quantized.onnx')
  fs.writeFileSync(source, encodeModel(proto))
  const expected = await runFile(source, feeds)
  const report = await quantizeModel(source, out, { force: true, threads: 1, ...config })
  const written = decodeModel(fs.readFileSync(out))
  return { report, written, distance: distance(expected, await runFile(out, feeds)) }
}

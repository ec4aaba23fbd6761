/**
 * @file Small models opened for measuring, and what they lose with changed weights, by the slow obvious way: the edited model
 * in onnxruntime, sample by sample.
 */
import fs from 'node:fs'
import path from 'node:path'
import * as ort from 'onnxruntime-node'
import { CandidateStore, type Solved } from '../../src/analyze/candidateStore.ts'
import { type LayerOptions, layerOptions } from '../../src/analyze/measuredLayers.ts'
import { type CalibrationData, openCalibration } from '../../src/calibration/openCalibration.ts'
import { QUANTIZE_DEFAULTS, type QuantizeConfig } from '../../src/config.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { DataType, encodeModel, type ModelProto, makeNode, makeTensor } from '../../src/onnx/proto.ts'
import { SourceReader } from '../../src/onnx/sourceReader.ts'
import { dequantize } from '../../src/quant/quantizedWeight.ts'
import { groupedLayers } from '../../src/quantize/layerGroups.ts'
import { freedomOf } from '../../src/quantize/planModel.ts'
import { openProducts } from '../../src/runtime/products.ts'
import { createPool } from '../../src/threads/pool.ts'

/** The model with its output under another name, which may say that it holds class scores. */
export function withOutput(proto: ModelProto, name: string): ModelProto {
  const graph = proto.graph!
  const before = graph.output[0]!.name
  const renamed = (names: readonly string[]) => names.map((own) => (own === before ? name : own))
  const node = graph.node.map((own) => ({ ...own, output: renamed(own.output), input: renamed(own.input) }))
  return { ...proto, graph: { ...graph, node, output: graph.output.map((own) => ({ ...own, name })) } }
}

/** Write a model and its data. */
export function writeModel(directory: string, proto: ModelProto): { readonly model: string; readonly folder: string } {
  const folder = fs.mkdtempSync(path.join(directory, 'measured-'))
  const model = path.join(folder, 'model.onnx')
  fs.writeFileSync(model, encodeModel(proto))
  return { model, folder }
}

type Setting = Partial<QuantizeConfig> & { readonly threads?: number }

/** Everything that measuring takes, over a file and its data. To be closed. */
export async function openMeasured(file: string, data: readonly string[], setting: Setting = {}) {
  const config: QuantizeConfig = { ...QUANTIZE_DEFAULTS, data, threads: 1, ...setting }
  const model = loadModel(file)
  const found = modelLayers(model.proto)
  const reader = new SourceReader(model)
  const pool = createPool(config.threads)
  const products = openProducts(config.threads)
  const scratch = () => path.join(path.dirname(file), 'scratch')
  const calibration = await openCalibration(config, model, scratch, async () => new Float64Array())
  const layers = layerOptions(found.layers, freedomOf(model, found, config), config, undefined)
  const grouped = groupedLayers(
    found,
    layers.map(({ layer }) => layer),
  )
  const store = new CandidateStore(scratch)
  const close = async () => {
    store.close()
    reader.close()
    await products.dispose()
    await pool.close()
  }
  const tools = { pool, products, signal: undefined }
  return { config, found, source: { model, reader, pool }, data: calibration, layers, grouped, store, tools, close }
}

export type Opened = Awaited<ReturnType<typeof openMeasured>>

/** A layer with its solved candidate in place of it. */
export interface Change {
  readonly options: LayerOptions
  readonly solved: Solved
}

/**
 * The model with weights replaced, and the means that biases take back added after the layers' outputs; those of a
 * recurrent layer as a bias of its own.
 */
function edited(proto: ModelProto, changes: readonly Change[]): Uint8Array {
  const graph = proto.graph!
  let initializer = [...graph.initializer]
  let node = [...graph.node]
  for (const { options, solved } of changes) {
    const { name } = options.layer.constant
    const old = initializer.find((tensor) => tensor.name === name)!
    const dims = old.dims.map(Number)
    const reader = node.find(({ opType, input }) => opType !== 'Transpose' && input.includes(name))!
    const rows = dequantize(solved.weight)
    const isColumns =
      reader.opType === 'MatMul' ||
      (reader.opType === 'Gemm' && !reader.attribute.some((attribute) => attribute.name === 'transB'))
    const stored = isColumns ? transposed(rows, dims[1]!, dims[0]!) : rows
    initializer = initializer.map((tensor) => (tensor === old ? tensorOf(name, dims, stored) : tensor))
    const { correction } = solved
    if (!correction) continue
    const after = `${name}/mean`
    if (reader.opType === 'LSTM') {
      const bias = new Float32Array(2 * correction.length)
      bias.set(Float32Array.from(correction), name === 'R' ? correction.length : 0)
      const known = initializer.find((tensor) => tensor.name === 'B')
      if (known) for (const [i, value] of new Float32Array(known.rawData.slice().buffer).entries()) bias[i]! += value
      initializer = [...initializer.filter((tensor) => tensor !== known), tensorOf('B', [1, bias.length], bias)]
      node = node.map((own) => (own.name === reader.name ? { ...own, input: [...own.input.slice(0, 3), 'B'] } : own))
      continue
    }
    const shape = reader.opType === 'Conv' ? [1, correction.length, 1, 1] : [correction.length]
    initializer.push(tensorOf(after, shape, Float32Array.from(correction)))
    const [output] = reader.output
    const at = node.indexOf(reader)
    const moved = { ...reader, output: [`${name}/alone`] }
    node = [...node.slice(0, at), moved, makeNode('Add', [`${name}/alone`, after], [output!]), ...node.slice(at + 1)]
  }
  return encodeModel({ ...proto, graph: { ...graph, initializer, node } })
}

function transposed(rows: Float32Array, n: number, k: number): Float32Array {
  return Float32Array.from(rows, (_, i) => rows[(i % n) * k + Math.floor(i / n)]!)
}

function tensorOf(name: string, dims: readonly number[], values: Float32Array) {
  const rawData = new Uint8Array(Float32Array.from(values).buffer)
  return makeTensor({ name, dims: dims.map(BigInt), dataType: DataType.FLOAT, rawData })
}

/** Outputs of a model for each held-out sample by itself, with the mask of its tokens where there is one. */
async function outputsOf(bytes: Uint8Array, data: CalibrationData) {
  const session = await ort.InferenceSession.create(bytes, { logSeverityLevel: 4, intraOpNumThreads: 1 })
  const results: { values: Float32Array; dims: readonly number[]; mask: readonly boolean[] | undefined }[] = []
  for (const { feeds } of data.held.batches(1)) {
    const given = [...feeds].map(([name, { type, dims, data: own }]) => [
      name,
      new ort.Tensor((type === 'float' ? 'float32' : type) as 'float32', own as Float32Array, dims),
    ])
    const output = Object.values(await session.run(Object.fromEntries(given)))[0]!
    const mask = feeds.get('attention_mask')
    results.push({
      values: output.data as Float32Array,
      dims: output.dims,
      mask: mask && Array.from(mask.data as BigInt64Array, (value) => value !== 0n),
    })
  }
  await session.release()
  return results
}

/** Outputs of the changed model for each held-out sample by itself, in their order, with the numbers of the samples in the data. */
export async function heldOutScores(proto: ModelProto, data: CalibrationData, changes: readonly Change[]) {
  const rows = await outputsOf(edited(proto, changes), data)
  return rows.map(({ values }, i) => ({ values, number: data.held.order[i]! }))
}

/**
 * The mean over held-out samples of KL(softmax of the model ‖ softmax of the changed one), or of the squared error over the
 * squares; rows that are padding do not count.
 */
export async function lossOf(
  proto: ModelProto,
  data: CalibrationData,
  changes: readonly Change[],
  metric: 'kl' | 'relative',
): Promise<number> {
  const before = await outputsOf(encodeModel(proto), data)
  const after = await outputsOf(edited(proto, changes), data)
  let sum = 0
  for (const [s, { values, dims, mask }] of before.entries()) {
    const other = after[s]!.values
    const width = dims.at(-1)!
    let loss = 0
    let norm = 0
    for (let row = 0; row < values.length / width; row++) {
      if (mask?.[row] === false) continue
      const p = values.subarray(row * width, (row + 1) * width)
      const q = other.subarray(row * width, (row + 1) * width)
      if (metric === 'kl') {
        const [logP, logQ] = [logSoftmax(p), logSoftmax(q)]
        for (const [i, own] of logP.entries()) loss += Math.exp(own) * (own - logQ[i]!)
        norm++
      } else {
        p.forEach((value, i) => {
          loss += (value - q[i]!) ** 2
          norm += value ** 2
        })
      }
    }
    sum += loss / norm
  }
  return sum / before.length
}

export function logSoftmax(scores: Float32Array): number[] {
  const most = Math.max(...scores)
  const log = Math.log(scores.reduce((sum, value) => sum + Math.exp(value - most), 0))
  return Array.from(scores, (value) => value - most - log)
}

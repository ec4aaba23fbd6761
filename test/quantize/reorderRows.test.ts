/** Rows that share a table, put one after the other: the network computes the same, and no row has an index in the file. */
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import type { QuantizeConfig } from '../../src/config.ts'
import { resolveQuantizeConfig } from '../../src/configRules.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { DataType, decodeModel, encodeModel, type ModelProto, makeTensor } from '../../src/onnx/proto.ts'
import { runsBytes } from '../../src/onnx/represent/codebookForm.ts'
import { SourceReader } from '../../src/onnx/sourceReader.ts'
import { Temporaries } from '../../src/onnx/temporaries.ts'
import { tensorBytes } from '../../src/onnx/tensorData.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import { planFigures } from '../../src/quantize/planFigures.ts'
import { planModel } from '../../src/quantize/planModel.ts'
import { reorderNotes, reorderRows } from '../../src/quantize/reorderRows.ts'
import { makeRandom } from '../../src/random.ts'
import { createPool } from '../../src/threads/pool.ts'
import { inMemory, Net, run } from '../codebook/permuteModels.ts'
import { writeNpy } from '../oracles/npy.ts'

const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'reorder-'))
const pool = createPool(1)
afterAll(async () => {
  fs.rmSync(directory, { recursive: true })
  await pool.close()
})

const [INPUTS, HIDDEN] = [24, 160]
/** Levels of the rows of two kinds: four each, so that two tables of 2 bits hold them all. */
const LEVELS = [
  [-2, -1, 1, 2],
  [-8, -1, 1, 8],
] as const
const kindOf = (row: number) => (row % 3 === 0 ? 1 : 0)

/** Weights whose column n is made of the levels of its kind: a stored MatMul weight [INPUTS, HIDDEN]. */
function planted(name: string, seed: number) {
  const random = makeRandom(seed)
  const shifts = Array.from({ length: HIDDEN }, () => random.below(4))
  const values = Float32Array.from({ length: INPUTS * HIDDEN }, (_, i) => {
    const [k, n] = [Math.floor(i / HIDDEN), i % HIDDEN]
    // All levels of a row are alike often, so that rows of a kind have the same shape.
    return LEVELS[kindOf(n)]![(k + shifts[n]! + Math.floor(k / 4)) % 4]!
  })
  const dims = [INPUTS, HIDDEN].map(BigInt)
  return makeTensor({ name, dataType: DataType.FLOAT, dims, rawData: new Uint8Array(values.buffer) })
}

function mlp(gated = false): ModelProto {
  const net = new Net('integers')
  net.tensors.push(planted('fc1', 1))
  let hidden = net.op('Relu', [net.op('MatMul', ['x', 'fc1'])])
  if (gated) {
    net.tensors.push(planted('up', 2))
    hidden = net.op('Mul', [hidden, net.op('MatMul', ['x', 'up'])])
  }
  net.op('MatMul', [hidden, net.weight('fc2', [HIDDEN, 16])], {}, 'y')
  return net.model([undefined, INPUTS])
}

/** As the network of two kinds, but of all shapes. */
function anyRows(): ModelProto {
  const net = new Net('numbers')
  const hidden = net.op('Relu', [net.op('MatMul', ['x', net.weight('fc1', [INPUTS, HIDDEN])])])
  net.op('MatMul', [hidden, net.weight('fc2', [HIDDEN, 16])], {}, 'y')
  return net.model([undefined, INPUTS])
}

function broken(): ModelProto {
  const proto = mlp()
  new DataView(proto.graph!.initializer[0]!.rawData.buffer).setFloat32(40, Number.NaN, true)
  return proto
}

/** x → x + two products → y: the stream is that of every layer that it goes through. */
function residual(): ModelProto {
  const net = new Net('numbers')
  const stream = net.op('MatMul', ['x', net.weight('embed', [INPUTS, HIDDEN])])
  const own = net.op('MatMul', [stream, net.weight('own', [HIDDEN, HIDDEN])])
  net.op('MatMul', [net.op('Add', [stream, own]), net.weight('head', [HIDDEN, 8])], {}, 'y')
  return net.model([undefined, INPUTS])
}

let files = 0
function fileOf(proto: ModelProto): string {
  const file = path.join(directory, `${files++}.onnx`)
  fs.writeFileSync(file, encodeModel(proto))
  return file
}

const JLCM = { scales: 'float', method: 'codebook', codebook: 'jlcm', bits: 2, rowGroups: 2 } as const
const resolve = (values: object = {}) => resolveQuantizeConfig({ ...JLCM, ...values } as Partial<QuantizeConfig>)

async function reorder(proto: ModelProto, values: object = {}) {
  const model = loadModel(fileOf(proto))
  const original = { model, found: modelLayers(model.proto) }
  const temporaries = new Temporaries()
  const reader = new SourceReader(model)
  const scratch = () => temporaries.reserve(path.join(directory, 'scratch.onnx'))
  const setting = { source: { reader, pool }, config: { ...resolve(), ...values }, run: {}, scratch, temporaries }
  const made = await reorderRows(original, setting)
  reader.close()
  return { original, made, runs: Object.fromEntries(made.found.layers.map((l) => [l.constant.name, l.runs])) }
}

describe('rows of a kind', () => {
  const ones = Math.ceil(HIDDEN / 3)

  it('follow each other, each kind in its order, and the network computes the same', async () => {
    const { original, made, runs } = await reorder(mlp())
    expect(runs).toEqual({ fc1: [ones, HIDDEN - ones], fc2: undefined })
    const columns = (model: typeof original.model) => {
      const tensor = model.proto.graph!.initializer.find(({ name }) => name === 'fc1')!
      const bytes = tensorBytes(model, tensor).slice()
      const values = new Float32Array(bytes.buffer)
      return Array.from({ length: HIDDEN }, (_, n) => Array.from({ length: INPUTS }, (_, k) => values[k * HIDDEN + n]))
    }
    const before = columns(original.model)
    const kinds = [1, 0].flatMap((kind) => before.filter((_, row) => kindOf(row) === kind))
    expect(columns(made.model)).toEqual(kinds)
    expect(made.model.path).toBe(original.model.path)
    expect(made.model.files).toEqual(original.model.files)
    const [was, is] = [original, made].map(({ model }) => ({ ...inMemory(model.proto), payloads: model.payloads }))
    expect(await run(is!, [3, INPUTS], 'integers')).toEqual(await run(was!, [3, INPUTS], 'integers'))
  })

  it('are found by price, where that is asked for', async () => {
    expect((await reorder(mlp(), { rowGroups: 'auto' })).runs.fc1).toEqual([ones, HIDDEN - ones])
  })

  it('have one order in layers that are multiplied with each other', async () => {
    const { runs } = await reorder(mlp(true))
    expect(runs).toEqual({ fc1: [ones, HIDDEN - ones], up: [ones, HIDDEN - ones], fc2: undefined })
    const skipped = await reorder(mlp(true), { layers: [{ pattern: 'up', bits: 8 }] })
    expect(skipped.runs).toMatchObject({ fc1: [ones, HIDDEN - ones], up: undefined })
  })

  it.each([
    ['a stream that every layer goes through', residual(), {}],
    ['one table', mlp(), { rowGroups: 1 }],
    ['a table for each row', mlp(), { codebook: 'lut', rowGroups: 'auto' }],
    ['no codebook', mlp(), { method: 'rtn', codebook: 'auto', rowGroups: 'auto' }],
    ['statistics of the model in its own order', mlp(), { stats: ['s'] }],
    ['a layer that keeps its type', mlp(), { layers: [{ pattern: 'n/*', bits: 'skip' }] }],
    ['a width without tables', mlp(), { layers: [{ pattern: 'fc1', bits: 8 }] }],
    ['more tables than the rows are worth', anyRows(), { rowGroups: 16 }],
    ['weights that are no numbers', broken(), {}],
    ['weights that are no numbers, in any number of tables', broken(), { rowGroups: 'auto' }],
  ])('stay where they are: %s', async (_, proto, values) => {
    const { original, made } = await reorder(proto, values)
    expect(made).toBe(original)
  })
})

describe('the file', () => {
  it('has no index for each row, computes the same, and is smaller by what was planned', async () => {
    const proto = mlp()
    const { original, made } = await reorder(proto)
    const config = resolve()
    const figures = [original, made].map(({ model, found }) => {
      const plan = planModel(model, found, config)
      return planFigures(model, found, plan, plan.settled)
    })
    const saved = figures[0]!.outputBytes - figures[1]!.outputBytes
    expect(figures[0]!.weightBytes - figures[1]!.weightBytes).toBe(HIDDEN)
    expect(saved).toBeGreaterThanOrEqual(HIDDEN - runsBytes(2))
    const file = fileOf(proto)
    const out = path.join(directory, 'out.onnx')
    const sourceBytes = fs.readFileSync(file)
    const report = await quantizeModel(file, out, { ...JLCM, threads: 1 })
    expect(fs.readFileSync(file).equals(sourceBytes)).toBe(true)
    expect(report.output.totalBytes).toBe(figures[1]!.outputBytes)
    const [fc1, fc2] = report.layers
    expect(fc1).toMatchObject({ codebook: { tables: 2, permuted: false } })
    expect(fc2).toMatchObject({ codebook: { tables: 2, permuted: true } })
    // Codes of 2 bits, a half-precision scale for each row, two tables of four levels: nothing else.
    expect(fc1!.storedBytes).toBe((INPUTS * HIDDEN) / 4 + 2 * HIDDEN + 2 * 4)
    expect(fc2!.storedBytes).toBe((HIDDEN * 16) / 4 + 2 * 16 + 2 * 4 + 16)
    // Two tables hold all levels: what is left is the rounding of levels and scales.
    expect(fc1!.relativeError).toBeLessThan(1e-4)
    const written = decodeModel(fs.readFileSync(out)).graph!.initializer.map(({ name }) => name)
    expect(written.filter((name) => name.endsWith('/tableOf'))).toEqual(['qtool/1/tableOf'])
    expect(report.verified!.map(({ name }) => name)).toEqual(report.layers.map(({ name }) => name))
    // One table for both kinds is far worse.
    const single = await quantizeModel(file, undefined, { ...JLCM, rowGroups: 1, threads: 1, dryRun: true })
    expect(single.layers[0]!.relativeError).toBeGreaterThan(0.01)
    expect(fs.readdirSync(directory).filter((name) => name.includes('reordered'))).toEqual([])
  })

  it('of calibrated layers computes nearly the same, and the notes count them', async () => {
    const random = makeRandom(4)
    const data = path.join(directory, 'x.npy')
    const values = Array.from({ length: 48 * INPUTS }, () => random.normal())
    fs.writeFileSync(data, writeNpy('f4', [48, INPUTS], values))
    const out = path.join(directory, 'calibrated.onnx')
    const report = await quantizeModel(fileOf(mlp()), out, { ...JLCM, bits: 4, data: [data], threads: 1 })
    const { notes, outputs } = report.calibration!
    expect(notes).toContainEqual(expect.stringMatching(/^tables of rows: 1 layer re-ordered.*; 1 layer with an index/))
    expect(outputs[0]!.sqnr).toBeGreaterThan(20)
    expect(report.layers[0]).toMatchObject({ codebook: { permuted: false } })
  })

  it('is not spoken of where no layer has tables of rows', () => {
    expect(reorderNotes([], resolve())).toEqual([])
    expect(reorderNotes([], resolve({ codebook: 'lut', rowGroups: 'auto' }))).toEqual([])
  })
})

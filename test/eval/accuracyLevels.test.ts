import fs from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { type AccuracyLevels, compareAccuracyLevels, SLOW_SAMPLES } from '../../src/eval/accuracyLevels.ts'
import { compareModels } from '../../src/eval/compare.ts'
import { countFusedProducts } from '../../src/eval/products.ts'
import { profileRun } from '../../src/eval/profile.ts'
import { loadModel } from '../../src/onnx/load.ts'
import type { ModelProto, NodeProto, TensorProto } from '../../src/onnx/proto.ts'
import { openSession, type Session } from '../../src/runtime/session.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import {
  buildModel,
  codes,
  DataType,
  datasetOf,
  floatWeight,
  makeNode,
  matMulNBits,
  normalTensor,
  scale,
  valueInfo,
  writeModel,
} from './models.ts'

const directory = useTempDir()
const K = 64
const N = 32
const opened: Session[] = []
afterAll(() => Promise.all(opened.map((session) => session.dispose())))

function build(nodes: readonly NodeProto[], initializers: readonly TensorProto[]): ModelProto {
  const [inputs, outputs] = [[valueInfo('x', ['n', K])], [valueInfo('y', ['n', N])]]
  return buildModel({ inputs, outputs, nodes, initializers })
}

const float = build([makeNode('MatMul', ['x', 'w'], ['y'])], [floatWeight('w', [K, N], 8)])

/** Both levels of a candidate against a float model, and the comparison as it is. */
async function levelsOf(file: string, samples = 12) {
  const dataset = datasetOf({ x: normalTensor([samples, K], 4) })
  const reference = await openSession(writeModel(directory, 'float.onnx', float), { threads: 1 })
  const session = await openSession(file, { threads: 1 })
  opened.push(reference, session)
  const options = { batchSize: 8, logits: [] }
  const asIs = await compareModels(reference, session, dataset, options)
  const candidate = loadModel(file).proto
  const [batch] = dataset.batches(8)
  const executed = await profileRun(file, batch!.feeds, 1)
  const hasFusedProducts = countFusedProducts(candidate, executed) > 0
  const task = { reference, candidatePath: file, candidate, hasFusedProducts, dataset, options, asIs, threads: 1 }
  return { asIs, hasFusedProducts, ...(await compareAccuracyLevels(task)) }
}

const sqnrs = (levels: AccuracyLevels) => levels.map(({ level, outputs }) => [level, outputs[0]!.sqnr])

describe('compareAccuracyLevels', () => {
  it.each([0, 4] as const)('measures both levels of a candidate at %i, its own as it was', async (accuracyLevel) => {
    const { node, initializers } = matMulNBits('nb', 'x', 'y', K, N, { accuracyLevel })
    const { levels, asIs, warnings } = await levelsOf(writeModel(directory, 'nb.onnx', build([node], initializers)))
    expect(levels.map((l) => l.level)).toEqual([0, 4])
    expect(levels.find((l) => l.level === accuracyLevel)!.outputs).toEqual(asIs.outputs)
    expect(levels[0]!.outputs[0]!.sqnr).not.toBe(levels[1]!.outputs[0]!.sqnr)
    expect(warnings).toEqual([])
  })

  it('gives the same two results whichever level the candidate has', async () => {
    const results: unknown[] = []
    for (const accuracyLevel of [0, 4]) {
      const { node, initializers } = matMulNBits('nb', 'x', 'y', K, N, { accuracyLevel })
      const file = writeModel(directory, `nb${accuracyLevel}.onnx`, build([node], initializers))
      results.push(sqnrs((await levelsOf(file)).levels))
    }
    expect(results[0]).toEqual(results[1])
  })

  it('sets the level of products that the runtime makes of DequantizeLinear', async () => {
    const nodes = [makeNode('DequantizeLinear', ['W', 's'], ['w']), makeNode('MatMul', ['x', 'w'], ['y'])]
    const file = writeModel(directory, 'dq.onnx', build(nodes, [codes('W', [K, N], DataType.INT4, 3), scale('s')]))
    const { levels, asIs, hasFusedProducts } = await levelsOf(file)
    expect(hasFusedProducts).toBe(true)
    expect(levels[1]!.outputs).toEqual(asIs.outputs)
    expect(levels[0]!.outputs[0]!.sqnr).not.toBe(asIs.outputs[0]!.sqnr)
  })

  it('leaves external data where it is', async () => {
    const { node, initializers } = matMulNBits('nb', 'x', 'y', K, N)
    const inline = writeModel(directory, 'inline.onnx', build([node], initializers))
    const expected = sqnrs((await levelsOf(inline)).levels)
    const folder = fs.mkdtempSync(path.join(directory, 'external-'))
    fs.writeFileSync(path.join(folder, 'data.bin'), initializers[0]!.rawData)
    const [stored] = initializers
    stored!.rawData = new Uint8Array(0)
    stored!.dataLocation = 1
    stored!.externalData = [{ $typeName: 'onnx.StringStringEntryProto', key: 'location', value: 'data.bin' }]
    const file = writeModel(folder, 'm.onnx', build([node], initializers))
    expect(sqnrs((await levelsOf(file)).levels)).toEqual(expected)
    expect(fs.readdirSync(folder).sort()).toEqual(['data.bin', 'm.onnx'])
  })

  it('compares few samples, and says so, where level 0 is slow', async () => {
    const { node, initializers } = matMulNBits('nb', 'x', 'y', K, N, { bits: 8 })
    const file = writeModel(directory, 'nb8.onnx', build([node], initializers))
    const few = await levelsOf(file, SLOW_SAMPLES)
    expect(few.warnings).toEqual([])
    expect(few.levels[0]!.outputs[0]!.values).toBe(SLOW_SAMPLES * N)
    const many = await levelsOf(file, SLOW_SAMPLES + 20)
    expect(many.warnings.join()).toContain(`first ${SLOW_SAMPLES} samples`)
    expect(many.levels.map((l) => l.outputs[0]!.values)).toEqual([SLOW_SAMPLES * N, SLOW_SAMPLES * N])
  })

  it('has nothing to say about models without such products', async () => {
    expect(await levelsOf(writeModel(directory, 'plain.onnx', float))).toMatchObject({ levels: [], warnings: [] })
  })
})
